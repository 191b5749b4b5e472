"""Models with other products against the model itself."""

from dataclasses import replace

import pytest
import torch

from openherd.inference.engine import generate
from openherd.inference.reference import generate_greedy
from openherd.inference.repack import Int8Linear, int8, tiled
from openherd.inference.sampling import Sampling
from openherd.model.config import ModelConfig
from tiny import tiny_model

CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=48, vocabulary=50)


def test_int8_is_off_by_half_a_step_at_most():
    weight = torch.randn(7, 64) * torch.tensor([1e-30, 1e-3, 1, 50, 1e4, 1, 0])[:, None]
    made = Int8Linear(weight)
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((made.rows_FD * made.scale_F[:, None] - weight).abs() <= 0.5001 * step).all()
    assert torch.allclose(made(torch.eye(64)).T, made.rows_FD * made.scale_F[:, None])


@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_a_model_with_int8_weights(tied):
    model = tiny_model(replace(CONFIG, tied_embeddings=tied), 3)
    made = int8(model)
    assert sum(isinstance(m, Int8Linear) for m in made.modules()) == 2 * 7 + 1
    assert made.embed.weight is model.embed.weight
    tokens = torch.arange(40).view(2, 20)
    rounded = tiny_model(replace(CONFIG, tied_embeddings=False), 3)
    rounded.load_state_dict(model.state_dict())
    for own, other in zip(rounded.modules(), made.modules(), strict=True):
        if isinstance(other, Int8Linear):
            own.weight.data = other.rows_FD * other.scale_F[:, None]
    assert torch.allclose(made(tokens), rounded(tokens), atol=1e-5)
    assert not torch.allclose(made(tokens), model(tokens), atol=1e-5)


@pytest.mark.parametrize("made", [tiled, lambda model: tiled(int8(model))])
@torch.no_grad()
def test_rows_that_do_not_depend_on_each_other(made):
    model = tiny_model(CONFIG, 3)
    whole, parts = made(model).embed(torch.arange(40)[None]), []
    head = made(model).head
    for n in (1, 2, 37):
        parts.append(head(whole[:, sum(p.shape[1] for p in parts) :][:, :n]))
    assert torch.equal(torch.cat(parts, 1), head(whole))


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@torch.no_grad()
def test_rows_do_not_depend_on_how_threads_share_them(dtype, off):
    """Three threads begin in the middle of a vector."""
    shape = replace(CONFIG, d_feed_forward=1_408)
    own = tiny_model(shape, 3).to(dtype).layers["0"].feed_forward
    made = tiled(tiny_model(shape, 3).to(dtype)).layers["0"].feed_forward
    x = torch.randn(1, 257, 32).to(dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        whole, parts = made(x), [made(x[:, i : i + 1]) for i in range(257)]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat(parts, 1), whole)
    assert torch.allclose(whole, own(x), rtol=off, atol=off)


@torch.no_grad()
def test_the_engine_writes_with_int8_weights_what_they_mean():
    model = int8(tiny_model(CONFIG, 3))
    prompts = [[1, 2, 3], [4] * 20]
    wanted = [generate_greedy(model, prompt, 12, ()) for prompt in prompts]
    assert generate(model, prompts, Sampling(max_new_tokens=12), ()) == wanted

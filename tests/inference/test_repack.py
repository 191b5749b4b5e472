"""A model with packed weights against the model itself."""

from dataclasses import replace

import pytest
import torch

from openherd.inference.engine import generate
from openherd.inference.reference import generate_greedy
from openherd.inference.repack import PackedLinear, can_pack, repacked
from openherd.inference.sampling import Sampling
from openherd.model.config import ModelConfig
from tiny import tiny_model

CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=48, vocabulary=50)


@pytest.mark.skipif(not can_pack(torch.float32), reason="torch here has no oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
@torch.no_grad()
def test_packed_weights_compute_the_same(dtype, tied):
    model = tiny_model(replace(CONFIG, tied_embeddings=tied), 3).to(dtype)
    packed = repacked(model)
    linear = [m for m in packed.modules() if isinstance(m, torch.nn.Linear)]
    assert not linear
    assert sum(isinstance(m, PackedLinear) for m in packed.modules()) == 2 * 7 + 1
    assert packed.embed.weight is model.embed.weight
    tokens = torch.arange(40).view(2, 20)
    exact = tiny_model(replace(CONFIG, tied_embeddings=tied), 3)(tokens)
    allowed = 1e-5 if dtype == torch.float32 else 2 * float((model(tokens).float() - exact).abs().max())
    assert float((packed(tokens).float() - exact).abs().max()) < allowed


@torch.no_grad()
def test_the_engine_writes_the_same_with_packed_weights():
    model = tiny_model(CONFIG, 3)
    prompts = [[1, 2, 3], [4] * 20]
    wanted = [generate_greedy(model, prompt, 12, ()) for prompt in prompts]
    assert generate(repacked(model), prompts, Sampling(max_new_tokens=12), ()) == wanted

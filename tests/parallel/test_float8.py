"""FP8 products against a slow twin and by hand, their way back against plain products, and what is refused."""

from dataclasses import replace

import pytest
import torch

from openherd.core.errors import ConfigError
from openherd.model.config import SIZES, ModelConfig
from openherd.parallel.apply import Sharded
from openherd.parallel.float8 import (
    GRADIENTS,
    VALUES,
    Float8Linear,
    check_float8,
    float8_forward,
    float8_layers,
    product,
    product_slowly,
    quantise,
)  # fmt: skip
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World
from openherd.training.objective import NextToken
from openherd.training.parity import batch_of, weights_of

SHAPE = ModelConfig(n_layers=4, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=64, vocabulary=96)
CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]  # fmt: skip


def rows(m, n, seed, spread=6):
    """Rows whose sizes differ by decades."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator) * 10.0 ** torch.randint(-spread, spread, (m, 1), generator=generator)


def test_rows_by_hand():
    """The largest becomes 448 of e4m3, or 57,344 of e5m2; e4m3 has three bits after the leading one."""
    x = torch.tensor([[1.0, -0.5, 0.26], [0.0, 0.0, 0.0], [-7e6, 7e3, 3.5e6]])
    q, scale = quantise(x, VALUES)
    assert scale.flatten().tolist() == pytest.approx([1 / 448, 1e-12 / 448, 7e6 / 448])
    assert q.float().tolist() == [[448, -224, 120], [0, 0, 0], [-448, 0.4375, 224]]  # 116.48 lies between 112 and 120
    q, scale = quantise(x, GRADIENTS)
    assert scale.flatten().tolist() == pytest.approx([1 / 57_344, 1e-12 / 57_344, 7e6 / 57_344])
    assert q.float()[0].tolist() == [57_344, -28_672, 14_336]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [VALUES, GRADIENTS])
@pytest.mark.parametrize("sizes", [(64, 32, 48), (5, 16, 32), (32, 37, 16)])
def test_products_are_those_of_the_twin(device, dtype, sizes):
    """Within bf16's step of the result; what is summed over may have any length."""
    m, k, n = sizes
    a, b = rows(m, k, 0).to(device), rows(n, k, 1).to(device)
    fast, slow = product(a, b, dtype), product_slowly(a, b, dtype)
    assert fast.dtype == torch.bfloat16
    size = (a.abs() @ b.abs().T).float()  # what cancels leaves the rounding of its parts
    assert bool(((fast.float() - slow.float()).abs() <= 2**-8 * slow.float().abs() + 1e-5 * size).all())
    exact = a.double() @ b.double().T
    assert float(((fast.double() - exact).abs() / size).max()) < {VALUES: 2**-4, GRADIENTS: 2**-3}[dtype]
    alone = product(a[:2], b, dtype)  # a row's scale depends on no other row
    assert bool(((alone - fast[:2]).abs() <= 2**-7 * fast[:2].abs()).all())


def test_the_way_back_is_that_of_plain_products():
    """Within FP8's rounding: of the whole less than a part in ten, and no bias."""
    linear = torch.nn.Linear(64, 48, bias=False)
    linear.weight.data, x, ask = rows(48, 64, 0, 1), rows(80, 64, 1, 1).view(2, 40, 64), rows(80, 48, 2, 1).view(2, 40, 48)
    found = []
    for forward in (linear.forward, lambda x: float8_forward(linear, x)):
        given = x.clone().requires_grad_()
        linear.weight.grad = None
        out = forward(given)
        (out.float() * ask).sum().backward()
        found.append((out.detach().float(), given.grad, linear.weight.grad))
    for plain, low in zip(*found, strict=True):
        assert low.shape == plain.shape
        assert float((low - plain).norm() / plain.norm()) < 0.1
        assert float((low * plain).sum() / plain.square().sum()) == pytest.approx(1, abs=0.02)
    assert found[1][1].dtype == found[1][2].dtype == torch.float32  # as input and weight


def losses_of(float8, recompute="none"):
    model = Sharded(SHAPE, World(ParallelConfig(recompute=recompute), CPU), "bfloat16", float8)
    model.fill(weights_of(SHAPE))
    batch = batch_of(SHAPE, 0, 8, 32)
    loss = model.gradients(NextToken(), batch, NextToken().counts(batch), 8)["loss_nats"]
    return loss, model


def test_only_the_layers_asked_for_compute_in_fp8():
    """First and last do not; more of them are further from bf16, and all near it."""
    plain, _ = losses_of("none")
    inner, model = losses_of("feed_forward")
    every, _ = losses_of("every_feed_forward")
    assert len({plain, inner, every}) == 3
    assert [inner, every] == pytest.approx([plain, plain], abs=0.02)
    changed = [name for name, m in model.stages[0].model.named_modules() if isinstance(m, Float8Linear)]
    assert changed == [f"layers.{i}.feed_forward.{part}" for i in (1, 2) for part in ("gate", "up", "down")]
    assert [p.grad.dtype for _, p in model.trained()] == [torch.float32] * len(model.trained())
    assert [list(float8_layers(s, 4)) for s in ("none", "feed_forward", "every_feed_forward")] == [[], [1, 2], [0, 1, 2, 3]]


def test_a_model_by_the_twin_gives_the_same(monkeypatch):
    fast, _ = losses_of("every_feed_forward")
    monkeypatch.setattr("openherd.parallel.float8.product", product_slowly)
    slow, _ = losses_of("every_feed_forward")
    assert fast == pytest.approx(slow, abs=1e-3)


def test_fp8_and_recomputation():
    plain, model = losses_of("feed_forward")
    again, other = losses_of("feed_forward", recompute="full")
    assert plain == again
    assert all(torch.equal(p.grad, q.grad) for (_, p), (_, q) in zip(model.trained(), other.trained(), strict=True))


@pytest.mark.parametrize(
    ("shape", "layout", "precision", "message"),
    [
        ({}, {}, "float32", "float8 = 'feed_forward': precision = 'float32'; allowed: 'bfloat16'"),
        ({}, {}, "float16", "precision = 'float16'; allowed: 'bfloat16'"),
        ({}, {"tp": 8}, "bfloat16", "d_feed_forward = 64, tp = 8; allowed: multiples of 128"),
        ({"d_feed_forward": 72}, {}, "bfloat16", "d_feed_forward = 72; allowed: multiples of 16"),
        ({"d_model": 40}, {}, "bfloat16", "d_model = 40; allowed: multiples of 16"),
        ({"n_layers": 2}, {}, "bfloat16", "2 layers, of which the first and the last stay in bf16; take 'every_feed_forward'"),
    ],
)
def test_what_cannot_be_computed_is_refused(shape, layout, precision, message):
    with pytest.raises(ConfigError, match=message):
        check_float8("feed_forward", replace(SHAPE, **shape), ParallelConfig(**layout), CPU, precision)


def test_an_old_gpu_and_another_device_are_refused(monkeypatch):
    check_float8("feed_forward", SIZES["llama3-405b"], ParallelConfig(tp=8, pp=16), CPU, "bfloat16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ConfigError, match=r"a GPU of compute capability 8\.0; allowed: 8\.9 and above"):
        check_float8("feed_forward", SHAPE, ParallelConfig(), torch.device("cuda"), "bfloat16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_float8("feed_forward", SHAPE, ParallelConfig(), torch.device("cuda"), "bfloat16")
    with pytest.raises(ConfigError, match="device = 'mps'"):
        check_float8("feed_forward", SHAPE, ParallelConfig(), torch.device("mps"), "bfloat16")

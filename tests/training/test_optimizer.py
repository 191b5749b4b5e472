"""AdamW's moments in bf16 and in the processor's memory, and what weight decay takes, against plain AdamW and by hand."""

from dataclasses import replace

import pytest
import torch

from openherd.core.rundir import Output
from openherd.model.config import ModelConfig
from openherd.model.init import initial_weights
from openherd.parallel.apply import Sharded
from openherd.parallel.checkpoint import load_moments
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World
from openherd.parallel.stage import EMBED
from openherd.training.loop import train
from openherd.training.objective import NextToken
from openherd.training.optimizer import make_adamw, round_by_chance, set_learning_rate
from openherd.training.parity import batch_of
from openherd.training.settings import TrainingConfig

SHAPE = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_kv_heads=1, head_width=8, d_feed_forward=24, vocabulary=30)
CONFIG = TrainingConfig(precision="float32", device="cpu", micro_batch_sequences=8, checkpoint_steps=4)
SETTINGS = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-5, "weight_decay": 0.1}
MOMENTS = ("exp_avg", "exp_avg_sq")


def run(path, config, steps=10, stop=None, **more):
    """Train a small model; a run that stops is begun again."""
    path.mkdir(exist_ok=True)

    def part(step, place, n):
        if step == stop:
            raise KeyboardInterrupt
        return batch_of(SHAPE, step, 6, 12)

    for again in (True, False):
        model = Sharded(SHAPE, World(ParallelConfig(), torch.device("cpu")), "float32")
        model.fill(initial_weights(SHAPE, 1))
        try:
            metrics = train(
                model, NextToken(), part, lambda step: 1e-2 / (1 + step), steps, config, Output(path), what="test", **more
            )  # fmt: skip
        except KeyboardInterrupt:
            assert again
            stop = None
    return model, metrics


def same(a, b):
    return all(torch.equal(p, q) for (_, p), (_, q) in zip(a.trained(), b.trained(), strict=True))


def parameters(device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return [
        (name, torch.nn.Parameter(torch.randn(size, generator=generator).to(device)))
        for name, size in ((EMBED, (30, 7)), ("a", (5, 33)), ("norm", (13,)), ("b", (64, 8)))
    ]


def steps_of(optimizer, named, n=5, rate=1e-2):
    """Steps with gradients of seven decades."""
    generator = torch.Generator().manual_seed(1)
    for i in range(n):
        for _, p in named:
            p.grad = (torch.randn(p.shape, generator=generator) * 10.0 ** -(i % 7)).to(p.device)
        set_learning_rate(optimizer, rate / (i + 1))
        optimizer.step()
    return [p.detach().clone() for _, p in named]


@pytest.mark.parametrize("stop", [None, 6])
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_offload_changes_no_bit(tmp_path, moments, stop):
    """Whole or stopped and resumed."""
    config = replace(CONFIG, moments_dtype=moments)
    here, metrics = run(tmp_path / "here", config)
    there, again = run(tmp_path / "there", replace(config, optimizer_offload=True), stop=stop)
    assert same(here, there)
    assert metrics["final_loss_nats"] == again["final_loss_nats"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_offload_from_a_gpu(moments):
    """The moments lie pinned in the processor's memory, and the weights come out as on the processor alone."""
    here, there = parameters(), parameters("cuda")
    wanted = steps_of(make_adamw(here, moments_dtype=moments, **SETTINGS), here)
    optimizer = make_adamw(there, moments_dtype=moments, offload=True, **SETTINGS)
    found = steps_of(optimizer, there)
    assert all(state[name].is_pinned() for state in optimizer.state.values() for name in MOMENTS)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(wanted, found, strict=True))


def test_moments_in_bf16_are_half_as_large_and_the_weights_nearly_the_same():
    wide, narrow = parameters(), parameters()
    exact, rough = make_adamw(wide, **SETTINGS), make_adamw(narrow, moments_dtype="bfloat16", **SETTINGS)
    steps_of(exact, wide)
    steps_of(rough, narrow)

    def size(optimizer):
        return sum(state[name].nbytes for state in optimizer.state.values() for name in MOMENTS)

    assert 2 * size(rough) == size(exact)
    for (name, a), (_, b) in zip(wide, narrow, strict=True):
        assert not torch.equal(a, b)
        assert torch.allclose(a, b, atol=2e-4), name  # of steps that add up to 2e-2
        for moment in MOMENTS:
            assert torch.allclose(rough.state[b][moment].float(), exact.state[a][moment], rtol=0.03, atol=1e-4)


def test_rounding_by_chance_is_right_on_average():
    """A value between two of bf16 comes out as both, as often as it is near; one that bf16 holds stays."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.tensor([1 + 2**-9, -(1 + 2**-7 / 3), 3.0, 0.0, -1e-30])[:, None].expand(-1, 20_000).contiguous()
    target = torch.empty_like(exact, dtype=torch.bfloat16)
    round_by_chance(target, exact, generator)
    found = target.double()
    assert [sorted(set(row.tolist())) for row in found[:4]] == [[1, 1 + 2**-7], [-(1 + 2**-7), -1], [3], [0]]
    assert torch.allclose(found.mean(1), exact[:, 0].double(), rtol=1e-4, atol=0)


def test_a_second_moment_that_hardly_falls_does_not_stand_still():
    """With beta2 = 0.999 a step takes 0.1% of it, less than half of bf16's step: rounded to the nearest it would never fall."""
    p = torch.nn.Parameter(torch.ones(2_000, 1))
    optimizer = make_adamw([("a", p)], moments_dtype="bfloat16", **{**SETTINGS, "beta2": 0.999})
    optimizer.state[p]["exp_avg_sq"].fill_(1.0)
    for _ in range(500):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    assert float(optimizer.state[p]["exp_avg_sq"].float().mean()) == pytest.approx(0.999**500, rel=0.01)
    nearest = torch.ones((), dtype=torch.bfloat16)
    for _ in range(500):
        nearest = (nearest.float() * 0.999).bfloat16()
    assert nearest == 1


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_a_phase_takes_up_moments_of_another_dtype(tmp_path, moments):
    config = replace(CONFIG, moments_dtype=moments)
    model, _ = run(tmp_path / "before", config, steps=4)
    others = {"float32": "bfloat16", "bfloat16": "float32"}
    kept, other = (make_adamw(model.trained(), moments_dtype=dtype, **SETTINGS) for dtype in (moments, others[moments]))
    for optimizer in (kept, other):
        load_moments(tmp_path / "before" / "state", model, optimizer)
    for p in kept.state:
        for moment in MOMENTS:
            assert kept.state[p][moment].dtype == getattr(torch, moments)
            assert kept.state[p][moment].any()
            assert torch.equal(other.state[p][moment], kept.state[p][moment].to(getattr(torch, others[moments])))
        assert other.state[p]["step"] == 4


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("rate", [0.5 * 0.1, 0.5 * 0.2, 0.5 * 0.05]),
        ("rate_squared", [0.5 * 0.01, 0.5 * 0.04, 0.5 * 0.0025]),
        ("independent", [0.5 * 0.5, 0.5 * 1.0, 0.5 * 0.25]),
    ],
)
def test_what_a_step_decays(schedule, shares):
    """By hand, without a gradient, at rates 0.1, 0.2 and 0.05."""
    rates = [0.1, 0.2, 0.05]
    named = parameters()
    before = [p.detach().clone() for _, p in named]
    optimizer = make_adamw(named, **{**SETTINGS, "weight_decay": 0.5}, weight_decay_schedule=schedule, rates=iter(rates))
    left = 1.0
    for rate, share in zip(rates, shares, strict=True):
        for _, p in named:
            p.grad = torch.zeros_like(p)
        set_learning_rate(optimizer, rate)
        optimizer.step()
        left *= 1 - share
    for (name, p), start in zip(named, before, strict=True):
        assert torch.allclose(p, start if name == "norm" else start * left, rtol=1e-5), name


def test_in_a_run_the_peak_is_that_of_its_schedule(tmp_path):
    """Whose highest rate is 1e-2: a decay of 0.001 at the peak is a coefficient of 0.1."""
    coupled, _ = run(tmp_path / "coupled", CONFIG)
    independent, _ = run(tmp_path / "independent", replace(CONFIG, weight_decay_schedule="independent", weight_decay=1e-3))
    assert same(coupled, independent)

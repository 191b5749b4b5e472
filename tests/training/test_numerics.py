"""Precision of a step: fp16 and its loss scale, gradients accumulated in fp32, deterministic algorithms."""

import os
from dataclasses import replace

import pytest
import torch

from openherd.core.errors import OpenherdError
from openherd.core.rundir import Output
from openherd.model.config import ModelConfig
from openherd.model.device import choose_precision
from openherd.model.init import initial_weights
from openherd.parallel.apply import Sharded
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.loss_scale import DOUBLED_AFTER, FIRST, HIGHEST, LossScale
from openherd.parallel.mesh import World
from openherd.training.loop import train
from openherd.training.objective import NextToken
from openherd.training.optimizer import make_adamw, set_learning_rate
from openherd.training.parity import batch_of, weights_of
from openherd.training.settings import TrainingConfig

SHAPE = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_kv_heads=1, head_width=8, d_feed_forward=24, vocabulary=30)
CONFIG = TrainingConfig(device="cpu", micro_batch_sequences=8, checkpoint_steps=4)
SETTINGS = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-5, "weight_decay": 0.1}


def new_model(precision):
    model = Sharded(SHAPE, World(ParallelConfig(), torch.device("cpu")), precision)
    model.fill(initial_weights(SHAPE, 1))
    return model


def run(path, precision, objective=None, good=range(10), config=CONFIG, scale=None, part=None):
    """Train on the batches of `good`, at their rates; returns model, metrics and records."""
    path.mkdir(exist_ok=True)
    model = new_model(precision)
    if scale is not None:
        model.loss_scale = scale
    metrics = train(
        model,
        objective or NextToken(),
        part or (lambda step, place, n: batch_of(SHAPE, good[step], 6, 12)),
        lambda step: 1e-2 / (1 + good[step]),
        len(good),
        replace(config, precision=precision),
        Output(path),
        what="test",
    )
    return model, metrics, Output(path).metrics.read()


def same(a, b):
    return all(torch.equal(p, q) for (_, p), (_, q) in zip(a.trained(), b.trained(), strict=True))


@pytest.mark.parametrize("power", [-3, 5, 16])
def test_a_scale_alone_changes_no_bit(tmp_path, power):
    plain, _, records = run(tmp_path / "plain", "float32")
    scaled, _, others = run(tmp_path / "scaled", "float32", scale=LossScale(2.0**power))
    assert same(plain, scaled)
    for name in ("loss_nats", "gradient_norm"):
        assert [r[name] for r in records] == [r[name] for r in others]


def test_fp16_trains_as_fp32_does(tmp_path):
    """fp16 has eleven bits; the loss falls by 0.5."""
    _, _, wide = run(tmp_path / "fp32", "float32", good=range(30))
    _, _, narrow = run(tmp_path / "fp16", "float16", good=range(30))
    assert not any(r.get("overflow") for r in narrow)
    assert narrow[-1]["loss_nats"] != wide[-1]["loss_nats"]
    assert [r["loss_nats"] for r in narrow] == pytest.approx([r["loss_nats"] for r in wide], abs=3e-3)


def test_small_gradients_vanish_in_fp16_without_a_scale():
    """And do not with one: under a batch of ten million tokens most are below fp16's smallest number."""
    gradients = {}
    for name, precision, scale in (("fp32", "float32", 1.0), ("plain", "float16", 1.0), ("scaled", "float16", 2.0**16)):
        model = new_model(precision)
        model.fill(weights_of(SHAPE))
        model.loss_scale = LossScale(scale)
        model.gradients(NextToken(), batch_of(SHAPE, 0, 6, 12), {"loss_nats": 1e7}, 6)
        model.clip(1e9)
        gradients[name] = dict(model.trained())["layers.0.feed_forward.up.weight"].grad
    norm = gradients["fp32"].norm()
    assert (gradients["scaled"] - gradients["fp32"]).norm() < 0.01 * norm
    assert (gradients["plain"] - gradients["fp32"]).norm() > 0.5 * norm


class Overflowing(NextToken):
    """A finite loss whose gradient is infinite, in some steps (counted as they come)."""

    def __init__(self, *steps):
        self.steps, self.step = steps, -1

    def counts(self, batch):
        self.step += 1
        return super().counts(batch)

    def losses(self, hidden_BTD, head, batch):
        found = super().losses(hidden_BTD, head, batch)
        return {"loss_nats": Infinite.apply(found["loss_nats"])} if self.step in self.steps else found


class Infinite(torch.autograd.Function):
    """The loss, with an infinite gradient."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, torch.inf)


def test_an_overflow_lowers_the_scale_and_is_as_if_it_had_not_been(tmp_path):
    """More in a row than bad steps are allowed: they are none."""
    bad = (2, 3, 4, 5, 8)
    overflown, metrics, records = run(tmp_path / "a", "float16", Overflowing(*bad))
    good = [step for step in range(10) if step not in bad]
    plain, _, _ = run(tmp_path / "b", "float16", good=good, scale=LossScale(FIRST, moves=True))
    assert [r["step"] for r in records if r.get("overflow")] == list(bad)
    assert metrics["overflow_steps"] == 5
    assert not metrics.keys() & {"skipped_steps", "skipped"}, "no data are passed over on another way"
    assert records[-1]["loss_scale"] == FIRST / 2**5
    for (name, p), (_, q) in zip(overflown.trained(), plain.trained(), strict=True):
        assert torch.allclose(p, q, atol=2e-4), name  # at another scale fp16 rounds otherwise what is near its smallest numbers
    no_rounding, _, _ = run(tmp_path / "c", "float32", Overflowing(*bad), scale=LossScale(FIRST, moves=True))
    assert same(no_rounding, run(tmp_path / "d", "float32", good=good)[0])


def test_the_scale_goes_on_after_a_stop(tmp_path):
    """It is in the checkpoint, with the good steps; the outcome is the unbroken run's to the last bit."""

    def part_until(stop):
        def part(step, place, n):
            if step == stop:
                raise KeyboardInterrupt
            return batch_of(SHAPE, step, 6, 12)

        return part

    whole, _, records = run(tmp_path / "whole", "float16", Overflowing(1, 6), part=part_until(None))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", "float16", Overflowing(1, 6), part=part_until(5))
    parts, metrics, again = run(tmp_path / "parts", "float16", Overflowing(6 - 4), part=part_until(None))  # from step 4 on
    assert same(whole, parts)
    assert [r["loss_scale"] for r in again] == [r["loss_scale"] for r in records]
    assert metrics["overflow_steps"] == 2


def test_at_its_lowest_an_overflow_is_a_bad_step(tmp_path):
    with pytest.raises(OpenherdError, match=r"step 5: loss .*, gradient norm (inf|nan), after 3 such steps"):
        run(tmp_path, "float16", Overflowing(*range(10)), scale=LossScale(4.0, moves=True))
    records = Output(tmp_path).metrics.read()
    assert [r["loss_scale"] for r in records] == [2, 1, 1, 1, 1]
    assert [r.get("overflow", False) for r in records] == [True, True, False, False, False]
    assert all(r["skipped"] for r in records)


def test_a_run_of_overflows_alone_does_not_end_well(tmp_path):
    with pytest.raises(OpenherdError, match="no step had a finite loss and gradient"):
        run(tmp_path, "float16", Overflowing(0, 1), good=range(2))


def test_the_scale_by_hand():
    scale = LossScale.of("float16")
    assert scale.value == 65_536
    assert not scale.after(False, float("nan"))  # a loss that is not finite says nothing about the scale
    assert scale.after(True, float("inf"))
    assert scale.value == 32_768
    for _ in range(DOUBLED_AFTER - 1):
        assert not scale.after(True, 1.0)
    assert (scale.value, scale.good_steps) == (32_768, DOUBLED_AFTER - 1)
    other = LossScale.of("float16")
    other.take_up(scale.state())
    assert not other.after(True, 1.0)
    assert (other.value, other.good_steps) == (65_536, 0)
    top = LossScale(HIGHEST, DOUBLED_AFTER - 1, moves=True)
    top.after(True, 1.0)
    assert top.value == HIGHEST
    for precision in ("float32", "bfloat16"):
        fixed = LossScale.of(precision)
        assert not fixed.after(True, float("inf"))
        assert (fixed.value, fixed.state()) == (1.0, {})


@pytest.mark.parametrize("bf16", [True, False])
def test_fp16_is_chosen_where_a_gpu_has_no_bf16(monkeypatch, bf16):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    assert choose_precision("auto", torch.device("cuda")) == ("bfloat16" if bf16 else "float16")
    assert choose_precision("float32", torch.device("cuda")) == "float32"
    assert choose_precision("float16", torch.device("cpu")) == "float16"
    assert choose_precision("auto", torch.device("cpu")) != "float16"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_batch_of_32_equals_4_of_8_and_32_of_1(precision):
    """With other numbers of labels in each, in one of them none; loss, gradient norm and weights after three steps.

    In bf16 the products of a micro-batch round otherwise in other shapes, which the gradients' sums in fp32 do not add to.
    """
    allowed = {"float32": 1e-6, "bfloat16": 5e-3}[precision]
    found = {}
    for rows in (32, 8, 1):
        model = new_model(precision)
        optimizer = make_adamw(model.trained(), **SETTINGS)
        losses, norms = [], []
        for step in range(3):
            batch = batch_of(SHAPE, step, 32, 12)
            batch["labels_BT"][8:16] = -100
            per_part = [int((batch["labels_BT"][i : i + 8] != -100).sum()) for i in range(0, 32, 8)]
            assert len(set(per_part)) == 4
            losses.append(model.gradients(NextToken(), batch, NextToken().counts(batch), rows)["loss_nats"])
            norms.append(model.clip(0.5))
            set_learning_rate(optimizer, 1e-3)
            model.step(optimizer)
        found[rows] = losses, norms, dict(model.trained())
    for rows in (8, 1):
        assert found[rows][0] == pytest.approx(found[32][0], abs=allowed)
        assert found[rows][1] == pytest.approx(found[32][1], rel=allowed)
        for name, p in found[32][2].items():
            assert torch.allclose(p, found[rows][2][name], atol=3 * allowed), name


def test_deterministic_algorithms_are_on_in_training_and_off_after_it(tmp_path):
    seen = []

    def part(step, place, n):
        seen.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        if step == 2 and len(seen) < 4:
            raise KeyboardInterrupt
        return batch_of(SHAPE, step, 6, 12)

    config = replace(CONFIG, deterministic=True)
    before = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a", "float32", config=config, part=part)
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == before
    model, _, _ = run(tmp_path / "a", "float32", config=config, part=part)
    assert set(seen) == {(True, before or ":4096:8")}
    assert not torch.are_deterministic_algorithms_enabled()
    assert same(model, run(tmp_path / "b", "float32")[0])

"""The loop: against a plain PyTorch loop, whole against interrupted, one batch against micro-batches; ramps and schedules by
hand.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from openherd.core.errors import ConfigError, InputError, OpenherdError
from openherd.core.rundir import Output
from openherd.data.batches import IGNORED
from openherd.model.attention import CausalAttend
from openherd.model.config import SIZES, ModelConfig, RopeScaling
from openherd.model.init import initial_weights, initialise
from openherd.model.transformer import Transformer
from openherd.parallel.apply import Sharded
from openherd.parallel.checkpoint import load_moments, load_state
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World
from openherd.training.anneal import AnnealConfig, snapshot_steps
from openherd.training.long_context import LongContextConfig, rescaled
from openherd.training.loop import average_snapshots, checkpoints, train
from openherd.training.objective import NextToken
from openherd.training.optimizer import make_adamw, set_learning_rate
from openherd.training.pretrain import PretrainConfig, ramp
from openherd.training.schedule import linear_to_zero, warmup_cosine
from openherd.training.settings import TrainingConfig

SHAPE = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_kv_heads=1, head_width=8, d_feed_forward=24, vocabulary=30)
CONFIG = TrainingConfig(precision="float32", device="cpu", micro_batch_sequences=8, checkpoint_steps=4)


def new_model(tied=False):
    shape = replace(SHAPE, tied_embeddings=tied)
    model = Sharded(shape, World(ParallelConfig(), torch.device("cpu")), "float32")
    model.fill(initial_weights(shape, 1))
    return model


def alone(batches):
    """The part of a process that is alone: everything."""
    return lambda step, place, n: batches(step)


def plain_model(tied=False):
    model = Transformer(replace(SHAPE, tied_embeddings=tied))
    initialise(model, 1)
    return model


def batch_at(step, rows=6, length=12):
    rng = np.random.default_rng(step)
    tokens = torch.from_numpy(rng.integers(0, 30, (rows, length)))
    labels = torch.from_numpy(rng.integers(0, 30, (rows, length)))
    labels[torch.from_numpy(rng.random((rows, length)) < rng.random((rows, 1)))] = IGNORED  # uneven counts per row
    documents = torch.from_numpy(np.sort(rng.integers(0, 3, (rows, length)), axis=1))
    positions = torch.arange(length).expand(rows, -1)
    return {"tokens_BT": tokens, "labels_BT": labels, "positions_BT": positions, "documents_BT": documents}


def learning_rate_at(step):
    return 1e-2 / (1 + step)


def run(path, steps=10, config=CONFIG, batches=batch_at, tied=False, **more):
    model = new_model(tied)
    out = Output(path)
    path.mkdir(exist_ok=True)
    metrics = train(model, NextToken(), alone(batches), learning_rate_at, steps, config, out, what="test", **more)
    return model, metrics, out


def same(a, b):
    return all(torch.equal(p, q) for (_, p), (_, q) in zip(a.trained(), b.trained(), strict=True))


def test_the_loop_equals_a_plain_one(tmp_path):
    _, metrics, out = run(tmp_path / "a")
    plain = plain_model()
    matrices = [p for p in plain.parameters() if p.ndim > 1]
    norms = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-5)
    for step in range(10):
        batch = batch_at(step)
        logits = plain(batch["tokens_BT"], batch["positions_BT"], CausalAttend(batch["documents_BT"]))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels_BT"].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step)
        optimizer.step()
        assert out.metrics.read()[step]["loss_nats"] == pytest.approx(loss.item(), abs=2e-6)
    assert metrics["final_loss_nats"] == pytest.approx(loss.item(), abs=2e-6)
    assert metrics["tokens"] == 10 * 6 * 12


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("norms", "embeddings"), [(False, True), (False, False), (True, True), (True, False)])
def test_what_weight_decay_shrinks(norms, embeddings, tied):
    """Without a gradient, a step multiplies by 1 - rate * decay what decays, and leaves the rest."""
    model = new_model(tied=tied)
    before = {name: p.detach().clone() for name, p in model.trained()}
    optimizer = make_adamw(
        model.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.5, decay_norms=norms, decay_embeddings=embeddings
    )
    for _, p in model.trained():
        p.grad = torch.zeros_like(p)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    for name, p in model.trained():
        shrinks = norms if "norm" in name else embeddings if name == "embed.weight" else True
        assert torch.allclose(p, before[name] * (0.95 if shrinks else 1.0), rtol=1e-6), name


def test_micro_batches_do_not_change_the_step():
    gradients = []
    for rows in (6, 4, 1):
        model = new_model()
        losses = model.gradients(NextToken(), batch_at(0), NextToken().counts(batch_at(0)), rows)
        gradients.append((losses["loss_nats"], [p.grad.clone() for _, p in model.trained()]))
    for loss, found in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], abs=1e-6)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, gradients[0][1]))


@pytest.mark.parametrize("tied", [False, True])
def test_an_interrupted_run_ends_bit_for_bit_like_a_whole_one(tmp_path, tied):
    whole, metrics, _ = run(tmp_path / "whole", tied=tied)

    class Killed(BaseException):
        pass

    def dying(step):
        if step == stop:
            raise Killed
        return batch_at(step)

    (tmp_path / "parts").mkdir()
    for stop in (3, 6, 9):  # before the first checkpoint, between two, after the last
        with pytest.raises(Killed):
            run(tmp_path / "parts", batches=dying, tied=tied)
        torch.manual_seed(stop)  # nothing may depend on the process's own random state
    resumed, again, out = run(tmp_path / "parts", tied=tied)
    assert same(whole, resumed)
    assert again["final_loss_nats"] == metrics["final_loss_nats"]
    assert [r["step"] for r in out.metrics.read()] == list(range(10))
    assert checkpoints(out) == [out.path / "state"]
    finished, third, _ = run(tmp_path / "parts", batches=dying, tied=tied)  # killed after the loop: no step is done again
    assert same(whole, finished)
    assert third["loss_nats_last_5_percent"] == metrics["loss_nats_last_5_percent"]


def test_the_next_phase_takes_up_the_optimizer(tmp_path):
    one, _, _ = run(tmp_path / "one", steps=10)
    first, _, out = run(tmp_path / "first", steps=4)
    second = new_model()
    second.fill(dict(first.trained()).__getitem__)
    (tmp_path / "second").mkdir()
    train(
        second,
        NextToken(),
        alone(lambda step: batch_at(step + 4)),
        lambda step: learning_rate_at(step + 4),
        6,
        CONFIG,
        Output(tmp_path / "second"),
        what="test",
        optimizer_from=out.path / "state",
    )
    assert same(one, second)


def test_the_next_phase_keeps_its_weights_and_its_settings(tmp_path):
    _, _, out = run(tmp_path / "first", steps=4)
    other = new_model()  # as averaged weights are: not those of the state
    settings = {"beta1": 0.8, "beta2": 0.99, "epsilon": 1e-7, "weight_decay": 0.3}
    optimizer = make_adamw(other.trained(), **settings)
    load_moments(out.path / "state", other, optimizer)
    assert same(other, new_model())
    assert [(g["betas"], g["eps"], g["weight_decay"]) for g in optimizer.param_groups] == [
        ((0.8, 0.99), 1e-7, 0.3),
        ((0.8, 0.99), 1e-7, 0.0),
    ]
    whole = new_model()
    before = make_adamw(whole.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1)
    load_state(out.path / "state", whole, before, {"step": 0, "tokens": 0})
    for mine, its in zip(optimizer.state.values(), before.state.values(), strict=True):
        assert all(torch.equal(mine[name], its[name]) for name in ("exp_avg", "exp_avg_sq", "step"))
    assert optimizer.state[dict(other.trained())["embed.weight"]]["step"] == 4


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    def poisoned(step):
        return batch_at(step)

    def infinite(step):
        return float("inf") if step == 5 else 1e-3

    model = new_model()
    out = Output(tmp_path)
    config = replace(CONFIG, most_skipped_steps=1)
    with pytest.raises(
        OpenherdError, match=r"step 9: loss nan, gradient norm nan, .*; 1 rollbacks did not help; lower learning_rate"
    ):
        train(model, NextToken(), alone(poisoned), infinite, 12, replace(config, most_rollbacks=1), out, what="test")
    assert [r["step"] for r in out.metrics.read()] == list(range(9))
    assert [r.get("skipped", False) for r in out.metrics.read()] == [False] * 6 + [True] * 3
    assert [path.name for path in checkpoints(out)] == ["step-00000004"]  # none is written after the poison


def test_weights_that_break_at_the_end_do_not_pass(tmp_path):
    """Though fewer steps than may be skipped were left."""

    def infinite(step):
        return float("inf") if step == 8 else 1e-3

    with pytest.raises(OpenherdError, match="is not finite after 10 steps; lower learning_rate"):
        train(new_model(), NextToken(), alone(batch_at), infinite, 10, CONFIG, Output(tmp_path), what="test")
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "no checksums", "both"])
def test_a_damaged_checkpoint_is_passed_over(damage, tmp_path, capsys):
    whole, metrics, _ = run(tmp_path / "whole", steps=12)

    def dying(step):
        if step == 11:
            raise KeyboardInterrupt
        return batch_at(step)

    out = Output(tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", steps=12, batches=dying)
    assert [path.name for path in checkpoints(out)] == ["step-00000008", "step-00000004"]
    for path in checkpoints(out)[: 2 if damage == "both" else 1]:
        file = path / "checksums.json" if damage == "no checksums" else max(path.iterdir(), key=lambda f: f.stat().st_size)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        if damage in ("gone", "no checksums"):
            file.unlink()
        else:
            file.write_bytes(content[:-100] if damage == "cut" else content)
    if damage == "both":
        with pytest.raises(InputError, match=r"damaged: its SHA-256 is not the one written with it; remove .*step-00000004"):
            run(tmp_path / "parts", steps=12)
        return
    resumed, again, _ = run(tmp_path / "parts", steps=12)
    assert "going on from the checkpoint before" in capsys.readouterr().err
    assert same(whole, resumed)
    assert again["final_loss_nats"] == metrics["final_loss_nats"]


class PoisonedAt(NextToken):
    """Next-token loss that is NaN in a step."""

    def __init__(self, *steps):
        self.steps, self.step = steps, -1

    def counts(self, batch):
        self.step = int(batch["step"][0])
        return super().counts({name: t for name, t in batch.items() if name != "step"})

    def losses(self, hidden_BTD, head, batch):
        found = super().losses(hidden_BTD, head, batch)
        return {"loss_nats": found["loss_nats"] * (float("nan") if self.step in self.steps else 1.0)}


def with_step(step):
    batch = batch_at(step)
    return {**batch, "step": torch.full((len(batch["tokens_BT"]),), step)}


@pytest.mark.parametrize("stop", [None, 6])
def test_a_step_that_is_not_finite_is_not_applied(tmp_path, stop):
    """The outcome is that of a run which never had these steps, with the others' learning rates; stopped or not."""
    poisoned, out = new_model(), Output(tmp_path)

    def batches(step):
        if step == stop:
            raise KeyboardInterrupt
        return with_step(step)

    def go():
        return train(poisoned, PoisonedAt(3, 5), alone(batches), learning_rate_at, 10, CONFIG, out, what="test")

    if stop is not None:
        with pytest.raises(KeyboardInterrupt):
            go()
        poisoned, stop = new_model(), None
    metrics = go()
    good = [step for step in range(10) if step not in (3, 5)]
    plain, other = new_model(), Output(tmp_path / "plain")
    (tmp_path / "plain").mkdir()
    train(
        plain, NextToken(), alone(lambda i: batch_at(good[i])), lambda i: learning_rate_at(good[i]), 8, CONFIG, other, what="test",
    )  # fmt: skip
    assert same(poisoned, plain)
    assert metrics["skipped_steps"] == 2
    assert [r["step"] for r in out.metrics.read() if r.get("skipped")] == [3, 5]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[3])["loss_nats"] is None
    assert [r["tokens"] for r in out.metrics.read()] == [72 * sum(j <= i for j in good) for i in range(10)]


def test_a_run_of_bad_steps_alone_does_not_end_well(tmp_path):
    with pytest.raises(OpenherdError, match="no step had a finite loss and gradient"):
        train(
            new_model(), PoisonedAt(0, 1), alone(with_step), learning_rate_at, 2, CONFIG, Output(tmp_path), what="test",
        )  # fmt: skip
    assert not (tmp_path / "state").exists()


def test_snapshots_are_averaged(tmp_path):
    model, _, out = run(tmp_path / "a", snapshot_steps=(8, 10))
    at_8, _, _ = run(tmp_path / "b", steps=8)
    last = {n: p.detach().clone() for n, p in model.trained()}
    assert average_snapshots(model, out) == 2
    for name, parameter in model.trained():
        assert torch.allclose(parameter, (last[name] + dict(at_8.trained())[name]) / 2, atol=1e-7)
    assert snapshot_steps(100, 5, 0.25) == (80, 85, 90, 95, 100)
    assert snapshot_steps(3, 5, 0.25)[-1] == 3
    AnnealConfig(steps=10, averaged_checkpoints=2, average_over=0.25)
    AnnealConfig(steps=100, averaged_checkpoints=29, average_over=0.29)
    with pytest.raises(ConfigError, match=r"averaged_checkpoints = 5 in 0\.25 of 10 steps; allowed: one for each of these steps"):
        AnnealConfig(steps=10, averaged_checkpoints=5, average_over=0.25)


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    _, _, out = run(tmp_path / "a", steps=4)
    for file in (out.path / "state").glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(OpenherdError, match="damaged: its SHA-256 is not the one written with it"):
        run(tmp_path / "b", optimizer_from=out.path / "state")


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    _, _, out = run(tmp_path / "a", steps=4)
    shape = replace(SHAPE, n_layers=SHAPE.n_layers + 1)
    other = Sharded(shape, World(ParallelConfig(), torch.device("cpu")), "float32")
    optimizer = make_adamw(other.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1)
    with pytest.raises(InputError, match="not a checkpoint of this model"):
        load_state(out.path / "state", other, optimizer, {"step": 0, "tokens": 0})


def test_schedules_by_hand():
    rates = [warmup_cosine(s, peak=1.0, floor=0.1, warmup_steps=4, decay_steps=12) for s in (0, 3, 4, 8, 12, 99)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.55, 0.1, 0.1])
    assert [linear_to_zero(s, peak=2.0, steps=4) for s in range(4)] == [2.0, 1.5, 1.0, 0.5]


def test_the_papers_batch_ramp():
    pieces = ramp(PretrainConfig())
    assert [(p.sequence_length, p.batch_sequences * p.sequence_length) for p in pieces] == [
        (4_096, 4_194_304),
        (8_192, 8_388_608),
        (8_192, 16_777_216),
    ]
    seen = np.cumsum([p.tokens for p in pieces])
    assert 252e6 <= seen[0] < 252e6 + 4_194_304
    assert 2.87e12 <= seen[1] < 2.87e12 + 8_388_608
    assert seen[2] == pytest.approx(15.6e12, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ramp_tokens": (1, 2, 3)}, "one ramp_tokens fewer"),
        ({"sequence_lengths": (4096, 8192, 9000)}, "batch_tokens = 16777216; allowed: a multiple of the sequence length 9000"),
    ],
)
def test_a_ramp_that_does_not_fit_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ramp(PretrainConfig(**change))


def test_a_context_is_raised_again_and_again():
    short = replace(SHAPE, rope_theta=1e4, max_positions=256)
    once = rescaled(short, LongContextConfig(sequence_lengths=(384, 512), stage_steps=(1, 1), batch_tokens=1536, rope_factor=2.0))
    assert once == replace(short, rope_scaling=RopeScaling(factor=2.0, original_positions=256), max_positions=512)
    twice = rescaled(once, LongContextConfig(sequence_lengths=(1024,), stage_steps=(1,), rope_factor=4.0, rope_theta=8e6))
    assert twice.rope_scaling == RopeScaling(factor=4.0, original_positions=256)
    assert (twice.rope_theta, twice.max_positions) == (8e6, 1024)
    assert rescaled(twice, LongContextConfig(sequence_lengths=(1024,), stage_steps=(1,), rope_factor=1.0)) == twice
    llama = SIZES["llama3-8b"]  # going on at its own length changes nothing
    assert rescaled(llama, LongContextConfig()) == llama
    with pytest.raises(ConfigError, match="1, which leaves the base's 4, or at least that"):
        rescaled(twice, LongContextConfig(rope_factor=2.0))


def test_open_world_are_written_once_and_inherited(tmp_path):
    from openherd.training.settings import open_world

    out = Output(tmp_path)
    auto = replace(CONFIG, precision="auto")
    assert open_world(auto, out, {"device": "cpu", "precision": "bfloat16"})[1] == "bfloat16"
    assert open_world(replace(CONFIG, precision="float32"), out)[1] == "bfloat16"  # a resumed run keeps what it began with
    assert json.loads((tmp_path / "compute.json").read_text())["threads"] == torch.get_num_threads()

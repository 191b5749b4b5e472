"""Bad steps, rollbacks, good checkpoints, leaving when asked, a disk that refuses: the outcome is that of an undisturbed run."""

import itertools
import json
import os
import resource
import shutil
import signal
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.errors import InputError, LostError, OpenherdError, RequeueError
from openherd.core.metrics import MetricsLog
from openherd.core.rundir import Output
from openherd.data.batches import IGNORED
from openherd.data.token_shards import TokenShards
from openherd.model.config import ModelConfig
from openherd.model.init import initial_weights
from openherd.parallel.apply import Sharded
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World
from openherd.training.goodput import CLASSES, Pace, goodput, goodput_text
from openherd.training.loop import average_snapshots, checkpoints, own_tokens, step_of, train
from openherd.training.objective import NextToken
from openherd.training.phase import Piece, batches
from openherd.training.resilience import Watch, add_range, is_in, is_marked_good
from openherd.training.settings import TrainingConfig

SHAPE = ModelConfig(n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, head_width=8, d_feed_forward=24, vocabulary=24)
STEPS = 56
CONFIG = TrainingConfig(
    precision="float32", device="cpu", micro_batch_sequences=4, checkpoint_steps=8, spike_window=16, good_after_steps=6
)


def batch_at(step):
    """Counting upwards from random tokens: soon learnt."""
    start = torch.randint(0, 24, (4, 1), generator=torch.Generator().manual_seed(step))
    tokens = (start + torch.arange(13)) % 24
    positions = torch.arange(12).expand(4, -1)
    documents = torch.zeros(4, 12, dtype=torch.int64)
    return {"tokens_BT": tokens[:, :-1], "labels_BT": tokens[:, 1:], "positions_BT": positions, "documents_BT": documents}


def mislabelled(step):
    """The labels of another task: a spike once counting is learnt."""
    batch = batch_at(step)
    return {**batch, "labels_BT": (batch["labels_BT"] + 11) % 24}


def go(path, batches=batch_at, objective=None, config=CONFIG, rate=lambda step: 1e-2, **more):
    """Train up to STEPS, going on from what is there; returns (weights, metrics, output).

    `rate` is asked in the step itself, batches are made ahead.
    """
    model = Sharded(SHAPE, World(ParallelConfig(), torch.device("cpu")), "float32")
    model.fill(initial_weights(SHAPE, 1))
    path.mkdir(exist_ok=True)
    out = Output(path)
    metrics = train(
        model, objective or NextToken(), lambda step, place, n: batches(step), rate, STEPS, config, out, what="test",
        **more,
    )  # fmt: skip
    return [p.detach().clone() for _, p in model.trained()], metrics, out


def events(out):
    return MetricsLog(out.path / "events.jsonl").read()


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return go(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("behind", [False, True])
def test_a_spike_rolls_back_and_its_data_are_passed_over(tmp_path, behind):
    config = replace(CONFIG, checkpoint_behind=behind)
    weights, metrics, out = go(tmp_path / "a", lambda step: mislabelled(step) if step == 41 else batch_at(step), config=config)
    spike, rollback = events(out)
    assert (spike["event"], spike["step"]) == ("spike", 41)
    assert spike["loss_nats"] > spike["limit_nats"]
    # Step 40 is no good checkpoint yet; that of step 32 was followed by 9 clean steps.
    assert {k: rollback[k] for k in ("event", "step", "to_step", "skipped", "good")} == {
        "event": "rollback", "step": 41, "to_step": 32, "skipped": [41, 42], "good": True,
    }  # fmt: skip
    wanted, _, _ = go(tmp_path / "b", skips=[(41, 42)])
    assert same(weights, wanted)
    assert metrics["skipped"] == [(41, 42)]
    assert [r["step"] for r in out.metrics.read()] == list(range(STEPS))
    assert [r["step"] for r in out.metrics.read() if r.get("skipped")] == [41]


def test_weights_that_a_step_broke_are_given_up(tmp_path):
    """The loss does not come back after the spike: the second rollback passes over more."""

    def batches(step):
        return mislabelled(step) if 41 <= step < 44 else batch_at(step)

    weights, metrics, out = go(tmp_path / "a", batches)
    assert [e["event"] for e in events(out)].count("rollback") == 3
    assert metrics["skipped"] == [(41, 44)]
    assert same(weights, go(tmp_path / "b", skips=[(41, 44)])[0])
    # Where going back is not allowed any more, or there is nowhere to go, a spike costs its own step.
    again, _, out = go(tmp_path / "c", batches, config=replace(CONFIG, most_rollbacks=2))
    assert [e["event"] for e in events(out)].count("rollback") == 2
    assert same(again, weights)
    with pytest.raises(OpenherdError, match=r"step 44: loss .*, after 3 such steps; no checkpoint to go back to"):
        go(
            tmp_path / "d",
            lambda step: mislabelled(step) if step > 40 else batch_at(step),
            config=replace(CONFIG, checkpoint_steps=99),
        )


def test_snapshots_are_those_of_the_way_that_was_taken(tmp_path):
    """One is due behind a step that is passed over, one behind steps that a rollback gave up."""

    def batches(step):
        return mislabelled(step) if step in (41, 55) else batch_at(step)

    def kept(path):
        return sorted(p.name for p in (path / "snapshots").iterdir())

    weights, _, _ = go(tmp_path / "a", batches, snapshot_steps=(42, 56))
    wanted, _, _ = go(tmp_path / "b", skips=[(41, 42), (55, 56)], snapshot_steps=(42, 56))
    assert same(weights, wanted)
    assert kept(tmp_path / "a") == kept(tmp_path / "b") == ["step-00000042", "step-00000056"]
    means = []
    for name in "ab":
        model = Sharded(SHAPE, World(ParallelConfig(), torch.device("cpu")), "float32")
        model.fill(initial_weights(SHAPE, 1))
        assert average_snapshots(model, Output(tmp_path / name)) == 2
        means.append([p.detach().clone() for _, p in model.trained()])
    assert same(*means)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no snapshot to average"):
        average_snapshots(model, Output(tmp_path / "none"))


def test_a_rollback_passes_over_a_damaged_checkpoint(tmp_path, capsys):
    def batches(step):
        return mislabelled(step) if step == 41 else batch_at(step)

    def rate(step):
        if step == 41 - 1:
            file = max((tmp_path / "a" / ".checkpoints" / "step-00000032").iterdir(), key=lambda f: f.stat().st_size)
            os.truncate(file, 100)
        return 1e-2

    config = replace(CONFIG, checkpoint_behind=False, keep_checkpoints=3)
    weights, _, out = go(tmp_path / "a", batches, rate=rate, config=config)
    told = {e["event"]: e for e in events(out)}
    assert told["damaged checkpoint"]["path"] == "step-00000032"
    assert told["rollback"]["to_step"] == 24
    assert same(weights, go(tmp_path / "b", skips=[(41, 42)])[0])
    assert "going on from the checkpoint before" in capsys.readouterr().err


def test_a_damaged_checkpoint_never_displaces_a_whole_one(tmp_path, undisturbed):
    """Passed over on resume it is removed; else it would be marked good, and the whole one before it rotated away."""

    def until(last):
        def rate(step):
            if step == last:
                raise KeyboardInterrupt
            return 1e-2

        return rate

    config = replace(CONFIG, checkpoint_behind=False, keep_checkpoints=1)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, rate=until(18), config=config)
    damaged = tmp_path / ".checkpoints" / "step-00000016"
    os.truncate(max(damaged.iterdir(), key=lambda f: f.stat().st_size), 100)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, rate=until(24), config=replace(config, checkpoint_steps=20))
    found = [(path.name, is_marked_good(path)) for path in checkpoints(Output(tmp_path))]
    assert found == [("step-00000020", False), ("step-00000008", True)]
    weights, _, out = go(tmp_path, config=config)
    assert same(weights, undisturbed[0])
    assert [e["event"] for e in events(out)] == ["damaged checkpoint", "resumed", "resumed"]


@pytest.mark.parametrize("where", ["dcp.load", "file_sha256"])
def test_a_disk_that_does_not_answer_costs_no_checkpoint(tmp_path, undisturbed, monkeypatch, where):
    def rate(step):
        if step == 20:
            raise KeyboardInterrupt
        return 1e-2

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, rate=rate)
    with monkeypatch.context() as patched:

        def stale(*_, **__):
            raise OSError(116, "Stale file handle")

        patched.setattr(f"openherd.parallel.checkpoint.{where}", stale)
        with pytest.raises(LostError, match=r"step-00000016: not read \(.*Stale file handle.*it is kept: run again"):
            go(tmp_path)
    assert [path.name for path in checkpoints(Output(tmp_path))] == ["step-00000016", "step-00000008"]
    weights, _, out = go(tmp_path)
    assert same(weights, undisturbed[0])
    assert [(e["event"], e["step"]) for e in events(out)] == [("resumed", 16)]


def test_all_go_on_from_what_the_first_process_sees(tmp_path, undisturbed, monkeypatch):
    """Whose disk may not show the newest yet, though this one's does."""

    def rate(step):
        if step == 20:
            raise KeyboardInterrupt
        return 1e-2

    def gather(world, value):
        return [value[1:] if isinstance(value, list) else value, value]

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, rate=rate)
    with monkeypatch.context() as patched:
        patched.setattr(World, "gather", gather)
        weights, _, out = go(tmp_path)
    assert same(weights, undisturbed[0])
    assert [(e["event"], e["step"]) for e in events(out)] == [("resumed", 8)]


def test_a_rollback_that_is_cut_short_is_made_again(tmp_path, monkeypatch):
    """The update of step 38 breaks the weights once, a checkpoint of them is kept; the run ends when the rollback removes it."""
    broken, real = [], shutil.rmtree

    def rate(step):
        if step == 38 and not broken:
            broken.append(step)
            return 1.0
        return 1e-2

    def killed(path, *more, **options):
        if Path(path).name == "step-00000039" and (tmp_path / "a" / "events.jsonl").exists():
            raise KeyboardInterrupt
        real(path, *more, **options)

    config = replace(CONFIG, checkpoint_steps=13, checkpoint_behind=False)
    with monkeypatch.context() as patched:
        patched.setattr("openherd.training.loop.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "a", rate=rate, config=config)
    assert checkpoints(Output(tmp_path / "a"))[0].name == "step-00000039"
    weights, metrics, out = go(tmp_path / "a", rate=rate, config=config)
    assert [(e["event"], e["step"]) for e in events(out)] == [("spike", 39), ("resumed", 39), ("spike", 39), ("rollback", 39)]
    assert metrics["skipped"] == [(39, 40)]
    assert same(weights, go(tmp_path / "b", skips=[(39, 40)])[0])


def test_a_checkpoint_due_at_a_step_passed_over_follows_the_next(tmp_path):
    def rate(step):
        if step == 40:
            raise KeyboardInterrupt
        return 1e-2

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, rate=rate, skips=[(7, 8), (15, 16), (31, 33)], config=replace(CONFIG, keep_checkpoints=9))
    assert [step_of(path) for path in checkpoints(Output(tmp_path))] == [40, 34, 24, 17, 9]


def test_a_killed_run_remembers_what_it_passes_over(tmp_path):
    """Between a rollback and the next checkpoint nothing else would know of it."""

    def batches(step):
        if step == 36 and (tmp_path / "a" / "skips.json").exists() and not stopped:
            stopped.append(step)
            raise KeyboardInterrupt
        return mislabelled(step) if step == 41 else batch_at(step)

    stopped = []
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "a", batches)
    weights, _, out = go(tmp_path / "a", batches)
    assert [e["event"] for e in events(out)].count("spike") == 1
    assert same(weights, go(tmp_path / "b", skips=[(41, 42)])[0])


class Poisoned(NextToken):
    """NaN in a step, the first so many times that it is computed."""

    def __init__(self, step, times):
        self.step, self.times = step, times

    def counts(self, batch):
        self.here = int(batch["tokens_BT"][0, 0]) == int(batch_at(self.step)["tokens_BT"][0, 0])
        self.here = self.here and torch.equal(batch["tokens_BT"], batch_at(self.step)["tokens_BT"])
        return super().counts(batch)

    def losses(self, hidden_BTD, head, batch):
        found = super().losses(hidden_BTD, head, batch)
        if self.here and self.times > 0:
            self.times -= 1
            found["loss_nats"] = found["loss_nats"] * float("nan")
        return found


def test_a_fault_that_does_not_come_again_changes_nothing(tmp_path, undisturbed):
    weights, metrics, out = go(tmp_path, objective=Poisoned(20, times=1))
    assert [(e["event"], e["step"], e["first_loss_nats"]) for e in events(out)] == [("transient fault", 20, None)]
    assert same(weights, undisturbed[0])
    assert "skipped" not in metrics


def test_a_fault_that_stays_is_passed_over(tmp_path):
    weights, metrics, out = go(tmp_path / "a", objective=Poisoned(20, times=100))
    assert [(e["event"], e["step"]) for e in events(out)] == [("not finite", 20)]
    assert metrics["skipped"] == [(20, 21)]
    assert same(weights, go(tmp_path / "b", skips=[(20, 21)])[0])


def test_steps_in_a_row_that_are_not_finite_roll_back(tmp_path):
    """The update of step 20 breaks the weights, once: a flipped bit, not the data."""
    broken = []

    def rate(step):
        if step == 20 and not broken:
            broken.append(step)
            return float("inf")
        return 1e-2

    model = Sharded(SHAPE, World(ParallelConfig(), torch.device("cpu")), "float32")
    model.fill(initial_weights(SHAPE, 1))
    out = Output(tmp_path)
    metrics = train(model, NextToken(), lambda step, place, n: batch_at(step), rate, STEPS, CONFIG, out, what="test")
    assert [e["event"] for e in events(out)] == ["not finite"] * 4 + ["rollback"]
    assert events(out)[-1]["to_step"] == 8  # that of step 16 is none of the good ones
    assert metrics["skipped"] == [(21, 25)]


def test_the_last_good_checkpoint_stays(tmp_path):
    """Though newer ones push it out before they are good."""
    seen = []

    def rate(step):
        out = Output(tmp_path)
        seen.append([(int(p.name[5:]), is_marked_good(p)) for p in checkpoints(out)])
        if step == 50:
            raise KeyboardInterrupt
        return 1e-2

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, rate=rate, config=replace(CONFIG, checkpoint_behind=False, good_after_steps=20))
    assert seen[45] == [(40, False), (32, False), (24, True)]
    assert seen[24] == [(24, False), (16, False), (8, False)]  # the oldest will be the first good one
    assert seen[29] == [(24, False), (16, False), (8, True)]


def test_asked_to_leave_it_keeps_the_step_and_goes_on(tmp_path, undisturbed):
    before = signal.getsignal(signal.SIGTERM)

    def rate(step):
        if step == 21 and not (tmp_path / "asked").exists():
            (tmp_path / "asked").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return 1e-2

    with pytest.raises(RequeueError, match=r"asked to leave .* after step 23") as raised:
        go(tmp_path, rate=rate)
    assert raised.value.exit_code == 75
    assert [r["step"] for r in Output(tmp_path).metrics.read()] == list(range(23))
    weights, _, out = go(tmp_path, rate=rate)
    assert same(weights, undisturbed[0])
    assert signal.getsignal(signal.SIGTERM) == before
    assert goodput(out.path).keys() >= {"productive", "restart"}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(("asked_at", "kept"), [(20, "the one before, of step 16, is kept"), (5, "none is kept")])
def test_asked_to_leave_while_the_disk_refuses(tmp_path, undisturbed, behind, asked_at, kept):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def rate(step):
        if step == asked_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))
            os.kill(os.getpid(), signal.SIGTERM)
        return 1e-2

    config = replace(CONFIG, checkpoint_behind=behind)
    try:
        with pytest.raises(
            RequeueError, match=rf"asked to leave .* after step {asked_at + 2}, .*refused a checkpoint; {kept}; the same"
        ):
            go(tmp_path, rate=rate, config=config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    weights, _, _ = go(tmp_path, config=config)
    assert same(weights, undisturbed[0])


@pytest.mark.parametrize("behind", [False, True])
def test_a_disk_that_refuses_a_checkpoint_ends_nothing(tmp_path, undisturbed, capsys, behind):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def rate(step):
        if step in (14, 22):
            resource.setrlimit(resource.RLIMIT_FSIZE, (12_000 if step == 14 else soft, hard))
        return 1e-2

    try:
        weights, _, out = go(tmp_path, rate=rate, config=replace(CONFIG, checkpoint_behind=behind))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [e["event"] for e in events(out)] == ["checkpoint failed"]
    assert "File too large; the checkpoint before is kept" in capsys.readouterr().err
    assert same(weights, undisturbed[0])


def test_every_second_is_in_one_class(undisturbed):
    lines = MetricsLog(undisturbed[2].path / "goodput.jsonl").read()
    seconds = goodput(undisturbed[2].path)
    assert set(seconds) <= set(CLASSES)
    assert [line["step"] for line in lines if "step" in line] == list(range(STEPS))
    begun = lines[0]["at"] - lines[0]["s"]
    assert sum(seconds.values()) == pytest.approx(lines[-1]["at"] - begun, abs=0.02)
    assert goodput_text(seconds).startswith("effective ")
    for earlier, later in itertools.pairwise(lines):
        assert later["at"] - earlier["at"] == pytest.approx(later["s"], abs=2e-3)


def test_slow_processes_are_named(monkeypatch):
    """What three processes measured: the second computes slowly, the third is late."""
    products = {0: 0.010, 1: 0.030, 2: 0.011}
    late = {0: 0.001, 1: 0.002, 2: 0.050}

    class Three:
        mesh, device = object(), torch.device("cpu")

        def gather(self, mine):
            return [{"own": late[rank], "product": products[rank]} for rank in range(3)]

    monkeypatch.setattr("openherd.training.goodput.product_seconds", lambda device: products[0])
    pace = Pace(Three())
    pace.arrive()
    assert pace.own_s
    pace.leave()
    assert pace.slow() == [
        {"rank": 2, "of": "own", "s": 0.05, "usual_s": 0.002},
        {"rank": 1, "of": "product", "s": 0.03, "usual_s": 0.011},
    ]
    assert pace.own_s == []
    assert Pace(World(ParallelConfig(), torch.device("cpu"))).slow() == []


def watch(**more):
    return Watch(replace(CONFIG, spike_window=32, **more))


losses_given = st.lists(
    st.one_of(st.floats(2.9, 3.1), st.just(float("nan")), st.just(float("inf")), st.floats(50, 1e6)), min_size=33, max_size=120
)


@given(losses_given)
def test_neither_nan_nor_spike_shifts_the_limit(values):
    """Rejected as they are, they leave the limit where a run without them has it."""
    mixed, clean = watch(), watch()
    for step, value in enumerate(values):
        mixed_limit = mixed.limit()
        if value < 4:
            clean.accept(step, value, 1.0)
            mixed.accept(step, value, 1.0)
        elif mixed_limit is not None or not value < float("inf"):
            assert mixed.verdict(value, 1.0)
            mixed.reject(step)
    assert mixed.limit() == clean.limit()


def test_the_limit_by_hand():
    found = watch(spike_deviations=10.0)
    values = [3 + 0.1 * (i % 5) for i in range(32)]
    for step, value in enumerate(values[:-1]):
        found.accept(step, value, 1.0)
    assert found.limit() is None  # one too few
    found.accept(31, values[-1], 1.0)
    middle = statistics.median(values)
    # Four differences of 0.1, then one of 0.4: the median is 0.1.
    assert found.limit() == pytest.approx(middle + 10 * 1.4826 * 0.1 / 2**0.5)
    assert found.verdict(found.limit() + 1e-6, 1.0) == "spike"
    assert found.verdict(found.limit() - 1e-6, 1.0) == ""
    assert found.verdict(3.0, float("inf")) == "not finite"
    again = watch()
    again.read(found.text())
    assert again.limit() == found.limit()
    assert watch(spike_deviations=0.0).verdict(1e9, 1.0) == ""


def test_a_large_update_is_where_the_passing_over_begins():
    found = watch()
    for step in range(32):
        found.accept(step, 3.0, 1.0)
    assert not found.accept(32, 3.0, 1.9)
    assert found.accept(33, 3.0, 2.1)
    assert found.accept(34, 3.0, 2.5)
    found.reject(35)
    assert found.suspicious_since == 33
    for step in range(36, 41):
        found.accept(step, 3.0, 1.0)
    assert not found.is_good(30)
    found.accept(41, 3.0, 1.0)
    assert found.is_good(30)
    assert found.is_good(36)
    assert not found.is_good(37)


def test_only_applied_steps_make_a_checkpoint_good():
    """Steps that are passed over, or overflow, or were there before a rollback, say nothing of the weights since."""
    found = watch()
    for step in range(20):
        found.accept(step, 3.0, 1.0)
    assert found.is_good(14)
    for step in range(60, 65):  # 20 to 60 are passed over
        found.accept(step, 3.0, 1.0)
    assert not found.is_good(20)
    found.accept(90, 3.0, 1.0)  # so are 65 to 90
    assert found.is_good(20)
    again = watch()
    again.read(found.text())
    again.clean_since = 95  # a rollback from there: the steps up to it are done again
    for step in range(91, 100):
        again.accept(step, 3.0, 1.0)
    assert not again.is_good(91)
    again.accept(100, 3.0, 1.0)
    assert again.is_good(91)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), max_size=8))
def test_ranges_hold_what_was_added(given_ranges):
    ranges = []
    for first, n in given_ranges:
        ranges = add_range(ranges, first, first + n)
    inside = {step for first, n in given_ranges for step in range(first, first + n)}
    assert {step for step in range(40) if is_in(ranges, step)} == inside
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ranges))


def test_labels_are_never_shown_to_two_processes():
    """A batch that the processes do not divide: the last ones' rows overlap, their labels do not."""
    shards = TokenShards(Path(), 400, "", {"web": 400}, {"web": np.array([0])}, {"web": np.arange(400)})
    part = batches(shards, [Piece(4, 10, 3)], 0, "test", {"web": 1.0})
    whole = part(1, 0, 1)
    for n in (2, 3, 4, 7, 20):
        parts = [part(1, place, n) for place in range(n)]
        assert len({len(p["tokens_BT"]) for p in parts}) == 1
        assert sum(own_tokens(p) for p in parts) == 10 * 4
        labelled = sorted(tuple(row) for p in parts for row in p["labels_BT"].tolist() if any(label != IGNORED for label in row))
        assert labelled == sorted(tuple(row) for row in whole["labels_BT"].tolist() if any(label != IGNORED for label in row))


def test_events_are_json(tmp_path):
    _, _, out = go(tmp_path, lambda step: mislabelled(step) if step == 41 else batch_at(step))
    for line in (out.path / "events.jsonl").read_text().splitlines():
        assert json.loads(line)["at"] > 1.7e9

"""Metrics in other trackers' formats, read back by TensorBoard's own reader and by csv; of a run that goes on, or that resumed."""

import csv
import json
import threading
from pathlib import Path

import pytest

from openherd.cli import main
from openherd.core.errors import InputError
from openherd.core.rundir import Output
from openherd.report.tracking import EVENTS, Csv, TensorBoard, export, masked_crc, numbers


def read_back(folder):
    """(step, tag, value) that TensorBoard shows of a folder; its reader drops what was taken back."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return sorted((e.step, tag, e.value) for tag in found.Tags()["scalars"] for e in found.Scalars(tag))


def record(step, loss, **more):
    return {"step": step, "tokens": 100 * (step + 1), "loss_nats": loss, "time_s": 0.5, **more}


def log(path, *records):
    """An unfinished stage's directory."""
    out = Output(path)
    path.mkdir(parents=True, exist_ok=True)
    if not (path / "config.toml").exists():
        (path / "config.toml").write_text(f'stage = "{path.parent.name}"\n[settings]\nsteps = 3\n')
    for r in records:
        out.log(**r)
    return path


def flat(records):
    return sorted((r["step"], tag, pytest.approx(value, rel=1e-6)) for r in records for tag, value in numbers(r).items())


@pytest.fixture
def a_run(tmp_path):
    """A run that goes on: one stage that logs no steps, one that has finished, one that has not begun."""
    pretrain = log(tmp_path / "pretrain" / "a", *(record(i, 3.0 - i / 7) for i in range(300)))
    holdout = log(tmp_path / "holdout" / "b", {"documents": 3})
    document = {"stages": {"holdout": str(holdout), "pretrain": str(pretrain), "anneal": str(tmp_path / "anneal" / "c")}}
    (tmp_path / "run.unfinished.json").write_text(json.dumps(document))
    return tmp_path


def test_the_checksum_is_crc32c():
    """RFC 3720's check value of '123456789', 0xE3069283, masked by hand."""
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def test_tensorboard_reads_what_was_logged(a_run, capsys):
    assert main(["metrics", str(a_run), "--to", "tensorboard"]) == 0
    assert capsys.readouterr().out == f"300 steps of pretrain: tensorboard --logdir {a_run / 'tensorboard'}\n"
    records = [record(i, 3.0 - i / 7) for i in range(300)]
    assert read_back(a_run / "tensorboard" / "pretrain") == flat(records)
    once = (a_run / "tensorboard" / "pretrain" / EVENTS).read_bytes()
    assert main(["metrics", str(a_run), "--to", "tensorboard"]) == 0
    assert (a_run / "tensorboard" / "pretrain" / EVENTS).read_bytes() == once, "again is the same, not twice"


def test_times_are_the_stages_beginning_and_its_steps(a_run):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    export({"pretrain": a_run / "pretrain" / "a"}, TensorBoard(a_run / "tb"))
    times = [e.wall_time for e in EventFileLoader(str(a_run / "tb" / "pretrain" / EVENTS)).Load()]
    begun = (a_run / "pretrain" / "a" / "config.toml").stat().st_mtime
    assert times[:3] == pytest.approx([begun, begun + 0.5, begun + 1.0])


def test_a_step_that_was_not_applied_has_no_loss(tmp_path):
    path = log(tmp_path / "sft" / "a", record(0, 1.0), record(1, None, skipped=True), record(2, 0.5))
    export({"sft": path}, TensorBoard(tmp_path / "tb"))
    found = read_back(tmp_path / "tb" / "sft")
    assert [(s, v) for s, tag, v in found if tag == "loss_nats"] == [(0, 1.0), (2, 0.5)]
    assert [(s, v) for s, tag, v in found if tag == "skipped"] == [(1, 1.0)]


def test_csv_has_a_row_a_step(a_run):
    log(a_run / "anneal" / "c", record(0, 1.0), record(1, None, skipped=True))
    assert main(["metrics", str(a_run), "--to", "csv"]) == 0
    with (a_run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["stage", "step", "tokens", "loss_nats", "time_s", "skipped"]
    assert [(r["stage"], int(r["step"])) for r in rows] == [("pretrain", i) for i in range(300)] + [("anneal", 0), ("anneal", 1)]
    assert float(rows[299]["loss_nats"]) == 3.0 - 299 / 7
    assert rows[301]["loss_nats"] == ""
    assert rows[301]["skipped"] == "True"


def test_of_one_stage_it_is_written_beside_its_directory(a_run, capsys, monkeypatch):
    """In there it would become an output of a stage that goes on."""
    path = a_run / "pretrain" / "a"
    before = sorted(path.iterdir())
    assert main(["metrics", str(path), "--to", "csv"]) == 0
    assert capsys.readouterr().out == f"300 steps of pretrain: {path}-metrics.csv\n"
    monkeypatch.chdir(path)
    assert main(["metrics", ".", "--to", "tensorboard"]) == 0
    assert (a_run / "pretrain" / "a-tensorboard" / "pretrain" / EVENTS).exists()
    assert sorted(path.iterdir()) == before


@pytest.mark.parametrize("seen_short", [False, True])
def test_steps_that_were_taken_back_are_replaced(tmp_path, seen_short):
    """A run that resumed at step 2 of 5 does its steps again, with other numbers: perhaps another look falls between."""
    path = log(tmp_path / "pretrain" / "a", *(record(i, 9.0) for i in range(5)))
    sinks = [TensorBoard(tmp_path / "tb"), Csv(tmp_path / "metrics.csv")]
    after = [record(i, 9.0 if i < 2 else 5.0) for i in range(4)]
    for sink in sinks:
        sink.write("pretrain", path, [record(i, 9.0) for i in range(5)], 0)
        if seen_short:
            sink.write("pretrain", path, after[:2], 2)
        sink.write("pretrain", path, after, 2)
        sink.write("pretrain", path, [*after, record(4, 4.0)], 4)
    assert read_back(tmp_path / "tb" / "pretrain") == flat([*after, record(4, 4.0)])
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [float(r["loss_nats"]) for r in csv.DictReader(file)] == [9.0, 9.0, 5.0, 5.0, 4.0]


def test_following_ends_with_the_run(a_run):
    """Another thread trains on, resumes, and finishes."""
    place, turn = a_run / "anneal" / "c", threading.Event()
    sink = TensorBoard(a_run / "tb")
    seen = []

    class Watched:
        def write(self, stage, path, records, kept):
            sink.write(stage, path, records, kept)
            seen.append((stage, len(records), kept))
            turn.set()

        def close(self):
            return sink.close()

    def trains():
        for begin, end, loss in ((0, 4, 3.0), (2, 6, 2.0)):
            assert turn.wait(60)
            turn.clear()
            if begin:
                Output(place).metrics.rewind(lambda r: r["step"] < 2)
            log(place, *(record(i, loss) for i in range(begin, end)))
        assert turn.wait(60)
        for path in (place, a_run / "pretrain" / "a", a_run / "holdout" / "b"):
            (path / "manifest.json").write_text("{}")

    other = threading.Thread(target=trains)
    other.start()
    stages = json.loads((a_run / "run.unfinished.json").read_text())["stages"]
    told = export({name: Path(place) for name, place in stages.items()}, Watched(), 0.01)
    other.join()
    assert told.startswith("306 steps of pretrain, anneal: ")
    assert seen[0] == ("pretrain", 300, 0)
    assert seen[-1][:2] == ("anneal", 6)
    assert read_back(a_run / "tb" / "anneal") == flat(record(i, 3.0 if i < 2 else 2.0) for i in range(6))


def test_what_cannot_be_exported_is_refused(a_run, tmp_path, capsys):
    with pytest.raises(InputError, match="no stage here has logged a step; train first"):
        export({"holdout": a_run / "holdout" / "b"}, Csv(tmp_path / "x.csv"))
    for arguments, said in (
        ([str(tmp_path / "nowhere"), "--to", "csv"], "no run here"),
        ([str(a_run / "run.unfinished.json"), "--to", "csv"], "is not the folder of a run; say where to write: --out PATH"),
        ([str(a_run), "--to", "tensorboard", "--out", str(a_run / "run.unfinished.json")], "is a file; allowed: a folder"),
        ([str(a_run), "--to", "csv", "--follow", "--every", "0"], "--every: 0; allowed: more than 0"),
    ):
        assert main(["metrics", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_without_wandb_it_says_how_to_get_it(a_run, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    assert main(["metrics", str(a_run), "--to", "wandb"]) == 2
    assert capsys.readouterr().err == "openherd: --to wandb: wandb is not installed; pip install wandb, then wandb login\n"

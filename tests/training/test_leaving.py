"""A scheduler's SIGTERM, whatever a run is doing: nothing is lost, and the exit code asks to come again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from openherd.core.metrics import MetricsLog
from openherd.training import pretrain
from small_training import SMALL, told


@pytest.mark.slow
def test_a_run_of_two_processes_leaves_when_asked(made, tmp_path):
    out, steps = tmp_path / "out", 2_000
    command = ["pretrain", "--shards", made / "shards", "--tokenizer", made / "tokenizer", *SMALL, "--steps", steps]
    command += ["--most-epochs", "1000", "--checkpoint-steps", steps, "--parallel", "{dp_shard = 2}", "--out", out]
    run = subprocess.Popen([sys.executable, "-m", "openherd", *map(str, command)], stderr=subprocess.PIPE, text=True)
    try:
        log, until = out / "metrics.jsonl", time.monotonic() + 90
        while run.poll() is None and time.monotonic() < until and not (log.exists() and log.read_text().count("\n") > 2):
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=60)[1]
    finally:
        run.kill()
    assert run.returncode == 75, said
    done = len(MetricsLog(log).read())
    assert 2 < done < steps
    assert f"asked to leave (SIGTERM) after step {done}, which is kept; the same command goes on from there" in said
    assert [path.name for path in (out / ".checkpoints").iterdir()] == [f"step-{done:08d}"]
    assert json.loads((out / "compute.json").read_text())["device"] == "cpu"
    assert not (out / "manifest.json").exists()


@pytest.mark.parametrize("within", ["initial_weights", "train_phase", "write_trained"])
def test_a_process_alone_leaves_from_anywhere(within, made, tmp_path, monkeypatch, capsys):
    """While the model is made, before its first step, and while it is written; the same command ends with the same model."""
    command = ["pretrain", "--shards", made / "shards", "--tokenizer", made / "tokenizer", *SMALL, "--steps", "2", "--out"]
    plain = getattr(pretrain, within)

    def asked(*given, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(*given, **more)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(pretrain, within, asked)
    assert told(*command, tmp_path / "out") == 75
    assert "openherd pretrain: asked to leave (SIGTERM); the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr(pretrain, within, plain)
    assert told(*command, tmp_path / "out") == 0
    found, wanted = (json.loads((path / "manifest.json").read_text())["outputs"] for path in (tmp_path / "out", made / "pretrain"))
    assert found["model/model.safetensors"] == wanted["model/model.safetensors"]

"""A scheduler's SIGTERM to a run of two processes: the step is finished and kept, and the exit code asks to come again."""

import json
import signal
import subprocess
import sys
import time

import pytest

from openherd.core.metrics import MetricsLog
from small_training import SMALL


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

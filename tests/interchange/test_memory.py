"""Imports stream: they hold less than 1.3 of the largest file in memory, whatever the model. Linux only: /proc tells."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from interchange_models import META
from openherd.model.weights import save_model
from tiny import tiny_model

SCRIPT = """
import sys, threading, time
from pathlib import Path
import torch
from openherd.cli import main

def held():  # memory of the process's own: pages of mapped files can be dropped at any time
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

small, large, out, *words = sys.argv[1:]
main(["import", small, "--out", out + "-small", *words])  # modules and threads are in memory then, which are not the model's
before = largest = held()
done = threading.Event()

def watch():
    global largest
    while not done.is_set():
        largest = max(largest, held())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
code = main(["import", large, "--out", out, *words])
done.set()
watcher.join()
print("held", largest - before)
sys.exit(code)
"""
CONFIG = replace(META, n_layers=8, d_model=1024, n_heads=8, n_kv_heads=2, head_width=128, d_feed_forward=2816, vocabulary=3_000)


def held_by(small: Path, large: Path, out: Path, *words: str) -> int:
    command = [sys.executable, "-c", SCRIPT, *map(str, (small, large, out)), *words]
    exact = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "1000000"
    }  # glibc keeps some tens of MB of what is freed, whatever the model's size
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=exact)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.rsplit("held ", 1)[1])


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Several files of about 60 MB, by transformers."""
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("large")
    save_model(tiny_model(CONFIG), path / "plain")
    AutoModelForCausalLM.from_pretrained(path / "plain").save_pretrained(path / "shards", max_shard_size="60MB")
    save_model(tiny_model(META), path / "small")
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_an_import_holds_less_than_its_largest_file(source, tmp_path):
    sizes = sorted(file.stat().st_size for file in (source / "shards").glob("*.safetensors"))
    assert len(sizes) > 5
    held = held_by(source / "small", source / "shards", tmp_path / "run", "--dtype", "bfloat16")
    assert held < 1.3 * sizes[-1] < 0.25 * sum(sizes)

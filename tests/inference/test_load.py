"""Which type of weights a model is opened with."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from openherd.core.errors import ConfigError
from openherd.inference import load
from openherd.inference.load import measure, open_model, remembered
from openherd.inference.repack import Int8Linear
from openherd.model.config import ModelConfig
from openherd.model.weights import save_model
from tiny import tiny_model

CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=48, vocabulary=50)


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(load, "HEIGHT", 64)
    save_model(tiny_model(CONFIG, 0), tmp_path / "model")
    return tmp_path / "model"


def test_the_faster_type_is_measured_once_and_remembered(directory, monkeypatch):
    monkeypatch.setattr(load.library, "error", "not in this test")  # which then times torch's products
    monkeypatch.setattr(load.library, "functions", None)
    monkeypatch.setattr(load.library, "stopped", True)
    measure()
    assert remembered() == ""
    monkeypatch.setattr(load.library, "stopped", False)
    first = open_model(directory)
    first.thread.join()
    assert first.model.embed.weight.dtype == torch.float32  # the file's own
    assert remembered() in ("float32", "bfloat16")
    monkeypatch.setattr(load, "answer_seconds", lambda dtype: {torch.float32: 2.0, torch.bfloat16: 1.0}[dtype])
    measure()
    assert open_model(directory).model.embed.weight.dtype == torch.bfloat16
    monkeypatch.setattr(load, "answer_seconds", lambda dtype: {torch.float32: 1.0, torch.bfloat16: 2.0}[dtype])
    measure()
    assert open_model(directory).model.embed.weight.dtype == torch.float32


@pytest.mark.parametrize("left", ["", "[1]", "{}", '{"machine": "another", "dtype": "bfloat16"}'])
def test_what_was_measured_elsewhere_or_is_broken_does_not_count(directory, left):
    measure()
    load._memory().write_text(left)
    assert remembered() == ""
    measure()
    found = json.loads(load._memory().read_text())
    assert remembered() == found["dtype"]


def test_types_that_are_asked_for(directory):
    assert open_model(directory, "bfloat16").model.embed.weight.dtype == torch.bfloat16
    int8 = open_model(directory, "int8").wait()
    assert isinstance(int8.head, Int8Linear)
    assert remembered() == ""
    with pytest.raises(ConfigError, match="weights: 'int4'"):
        open_model(directory, "int4")


def test_a_process_ends_at_once_and_well_while_work_goes_on_in_the_background(directory, tmp_path):
    program = f"""
from pathlib import Path
from openherd.inference import load, native
native.COMPILE = "import time; time.sleep(600)"
model = load.open_model(Path({str(directory)!r}), "float32")
assert model.thread.is_alive()
while native.library.compiler is None:
    pass
"""
    save_model(tiny_model(replace(CONFIG, d_model=64, n_heads=2, head_width=64, d_feed_forward=64, n_kv_heads=1), 0), directory)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)

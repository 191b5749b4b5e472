"""A model to answer with: on which device, in which type of weights (paper 6)."""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal, get_args

import torch

from openherd.core.errors import ConfigError
from openherd.core.machine import cache_folder, processor
from openherd.inference.native import Compiling, NativeLinear, library
from openherd.inference.repack import int8
from openherd.model.device import choose_device, choose_precision
from openherd.model.layers import Linear
from openherd.model.weights import load_model

Weights = Literal["auto", "float32", "bfloat16", "int8"]
WIDTH, HEIGHT = 1_024, 32_768  # of the matrix that is timed: larger than caches are
READ, WRITTEN = 64, 64  # tokens of the answer that is timed


def open_model(directory: Path, weights: str = "auto", device: str = "auto") -> Compiling:
    """A model directory's model, which answers at once and soon faster.

    `weights` 'auto' is, on a processor, what was faster there when it was measured: in the background of the first start, which
    takes the file's own type; on a GPU, what training takes there. Raises ConfigError, and InputError as `load_model`.
    """
    if weights not in get_args(Weights):
        raise ConfigError("weights", repr(weights), allowed=", ".join(get_args(Weights)))
    where = choose_device(device)
    if weights == "int8" and where.type != "cpu":
        raise ConfigError("weights", f"'int8' on {where.type}", allowed="int8 is for processors; bfloat16, float32")
    if weights == "auto":
        chosen = remembered() if where.type == "cpu" else choose_precision("auto", where)
    else:
        chosen = "bfloat16" if weights == "int8" else weights
    model = load_model(directory, str(where), getattr(torch, chosen) if chosen else None)
    model = int8(model) if weights == "int8" else model
    return Compiling(model, (lambda: None) if chosen else measure)


def machine() -> str:
    """What a measurement holds for."""
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def remembered() -> str:
    """The faster type on this machine; empty where it was not measured."""
    try:
        found = json.loads(_memory().read_text(encoding="utf-8"))
        return str(found["dtype"]) if found["machine"] == machine() and found["dtype"] in get_args(Weights) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def measure() -> None:
    """Time a short answer in either type, and remember the faster."""
    seconds = {name: answer_seconds(dtype) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}
    found = {"machine": machine(), "dtype": min(seconds, key=lambda name: seconds[name]), "seconds": seconds}
    if library.stopped:  # the process ends, and torch's products were timed, not the kernel's
        return
    path = _memory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(found, file, indent=1)
        os.replace(file.name, path)
    except OSError:  # a home that cannot be written to: measured again next time
        pass


@torch.no_grad()
def answer_seconds(dtype: torch.dtype) -> float:
    """Seconds of one product for a prompt and for each token behind it, medians of five."""
    linear = Linear(WIDTH, HEIGHT)
    linear.weight.data = torch.randn(HEIGHT, WIDTH).to(dtype)
    product = NativeLinear(linear) if library.load() else linear
    given = torch.float32 if isinstance(product, NativeLinear) else dtype

    def seconds(rows: int) -> float:
        x, found = torch.randn(rows, WIDTH).to(given), []
        for _ in range(6):
            start = time.perf_counter()
            product(x)
            found.append(time.perf_counter() - start)
        return statistics.median(found[1:])

    return seconds(READ) + WRITTEN * seconds(1)


def _memory() -> Path:
    return cache_folder() / "inference.json"

"""Where and in which precision to compute (paper 3.3.2: bf16), chosen by looking and by measuring."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch

from openherd.core.errors import ConfigError
from openherd.core.machine import cores
from openherd.core.rundir import Output

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16", "float16"]
CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WORTH_IT = 1.1  # bf16 must be this much faster than fp32 to be chosen


def choose_device(name: str) -> torch.device:
    """The device of a setting: 'auto' is CUDA, else Apple's GPU, else the processor. Raises ConfigError for one not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name, False):
        raise ConfigError(
            "device", f"{name!r} is not available", allowed=", ".join(n for n in ("auto", *available) if available.get(n, True))
        )
    return torch.device(name)


def announce(out: Output, device: torch.device) -> None:
    """Tell the run directory where its stage computes: the device's name, and torch's threads."""
    out.device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    out.threads = torch.get_num_threads()


def step_seconds(device: torch.device, precision: Precision, repeats: int = 5) -> float:
    """Median seconds of a forward and backward pass of a small feed-forward block."""
    x = torch.randn(2048, 256, device=device)
    first = torch.randn(768, 256, device=device, requires_grad=True)
    second = torch.randn(256, 768, device=device, requires_grad=True)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            y = torch.nn.functional.linear(torch.nn.functional.silu(torch.nn.functional.linear(x, first)), second)
        y.float().square().sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])[repeats // 2]


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Where wanted, only algorithms that give the same bits again, until the end of the block; an operation without one raises."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    tuned, workspace = torch.backends.cudnn.benchmark, os.environ.get(CUBLAS_WORKSPACE)
    # cuBLAS has no other way to be asked; torch refuses its products without. The size is the one that NVIDIA names.
    os.environ[CUBLAS_WORKSPACE] = workspace or ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = tuned
        if workspace is None:
            del os.environ[CUBLAS_WORKSPACE]


def choose_precision(setting: str, device: torch.device) -> Precision:
    """The precision of a setting; 'auto' is bf16 on CUDA, fp16 where that GPU only emulates it; on the processor it measures bf16
    and fp32 for under a second and takes bf16 where it is clearly faster."""
    if setting != "auto":
        return cast(Precision, setting)
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "mps":
        return "float32"  # bf16 autocast there has broken peers' optimizers (nanochat #143 and after)
    return "bfloat16" if step_seconds(device, "float32") > WORTH_IT * step_seconds(device, "bfloat16") else "float32"


OPTIONAL = {  # package: what it is for, and how it is installed
    "s3fs": ("reading s3:// inputs", "pip install 'openherd[remote]'"),
    "aiohttp": ("reading https:// inputs", "pip install 'openherd[remote]'"),
    "llguidance": ("output by JSON schema or regular expression", "pip install 'openherd[constrained]'"),
    "transformers": ("the tests' oracle", "make install-dev"),
}


def doctor_text() -> str:
    """What this machine offers, in words: device, precision, threads, memory, disk, missing extras."""
    import importlib.util
    import platform
    import shutil
    import sys

    device = choose_device("auto")
    lines = [f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; torch {torch.__version__}"]
    if sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)):
        lines.append("This Python is not supported: use 3.11, 3.12 or 3.13.")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        lines.append(f"It computes on {torch.cuda.get_device_name()}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free.")
    elif device.type == "mps":
        lines.append("It computes on Apple's GPU (mps).")
    else:
        lines.append("It computes on the processor: no CUDA or Apple GPU is seen.")
    fp32, bf16 = step_seconds(device, "float32"), step_seconds(device, "bfloat16")
    chosen = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[choose_precision("auto", device)]
    lines.append(
        f"A small step takes {1e3 * fp32:.1f} ms in fp32 and {1e3 * bf16:.1f} ms in bf16: precision = 'auto' means {chosen} here."
    )
    lines.append(f"{cores()} cores are open to it; torch uses {torch.get_num_threads()} threads.")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        enough = "enough" if memory >= 4 * 2**30 else "little"
        lines.append(f"{memory / 2**30:.1f} GiB of memory; recipes/laptop.toml asks for 4: {enough}.")
    lines.append(f"{shutil.disk_usage('.').free / 2**30:.1f} GiB are free on this disk; the laptop run writes under 1.")
    for package, (use, command) in OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            lines.append(f"Not installed: {package} ({use}). When you need it: {command}")
    return "\n".join(lines)

"""What devices reach of their peaks, and what programs cost beside: fitted to measured runs, few, one row per device and dtype.

The rows are what `openherd.planning.calibrate` finds on the fitted half of the measured sets (decision 21): every second row
of each file, beginning with the first. A test fits them again where the data are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Of a kind of device and a dtype. What was not fitted has the value that is named here."""

    matmul: float = 0.75  # share of the peak that large products reach
    pad: float = 300.0  # elements that each width of a product costs beyond its own
    attention: float = 0.3  # share of bf16's peak that FlashAttention-2 reaches, of the pairs that a causal mask leaves
    whole_attention: float = 0.5  # the same of all pairs, where a program computes them all
    contention: float = 0.3  # share of overlapped communication that computation loses by it
    host_s: float = 1e-4  # the host's time to issue a layer's way forward; as much again for its way back
    latency_s: float = 1e-5  # of each hop of a collective
    network: float = 0.8  # share of the adapters' bandwidth
    # Never fitted: sets tell them badly from the rest.
    nvlink: float = 0.8  # share of NVLink's bandwidth
    memory: float = 0.9  # share of the memory's
    step_s: float = 5e-3  # of a step, whatever its size


Key = tuple[str, str]  # kind of device, dtype

# What is fitted first, where there are few rows: one constant for every four.
ORDER = ("matmul", "pad", "attention", "whole_attention", "contention", "host_s", "latency_s", "network")
START = {"host_s": 1e-3}  # where a fit begins, if not at what there is: less would not be felt
ROWS_EACH = 4
LEAST = dict.fromkeys(ORDER, 1e-9) | {"matmul": 0.1, "pad": 1.0, "attention": 0.05, "whole_attention": 0.05, "network": 0.2}
MOST = {
    "matmul": 0.95, "pad": 2_000.0, "attention": 0.8, "whole_attention": 0.8, "contention": 1.0, "host_s": 1e-2, "latency_s": 1e-3,
    "network": 0.95,
}  # fmt: skip

# Of what a key takes what it does not fit: an 8-bit dtype of the same device's bf16, Blackwell of Hopper.
BASE: dict[Key, Key] = {
    ("h100", "bf16"): ("a100", "bf16"),
    ("h100", "fp16"): ("h100", "bf16"),
    ("h100", "fp8"): ("h100", "bf16"),
    ("gb200", "bf16"): ("h100", "bf16"),
    ("gb300", "bf16"): ("h100", "bf16"),
    ("b200", "bf16"): ("h100", "bf16"),
    ("b300", "bf16"): ("h100", "bf16"),
    **{("gb200", dtype): ("h100", "fp8") for dtype in ("fp8", "mxfp8", "nvfp4")},
    **{("gb300", dtype): ("h100", "fp8") for dtype in ("fp8", "mxfp8", "nvfp4")},
    **{("b200", dtype): ("gb200", dtype) for dtype in ("fp16", "fp8", "mxfp8", "nvfp4")},
    **{("b300", dtype): ("gb300", dtype) for dtype in ("fp16", "fp8", "mxfp8", "nvfp4")},
    ("gb200", "fp16"): ("gb200", "bf16"),
    ("gb300", "fp16"): ("gb300", "bf16"),
}

Table = dict[Key, dict[str, float]]

FITTED: Table = {
    ("a100", "bf16"): {"matmul": 0.8703, "pad": 262.1, "whole_attention": 0.6321, "contention": 1.0, "network": 0.7957},
    ("a100", "fp16"): {"matmul": 0.892, "pad": 115.5, "host_s": 0.001168, "latency_s": 4.908e-05, "network": 0.6338},
    ("h100", "bf16"): {"matmul": 0.7363, "pad": 390.5, "attention": 0.2284, "whole_attention": 0.3571, "contention": 0.6235},
    ("h100", "fp8"): {"matmul": 0.7483},
    ("gb200", "fp8"): {"matmul": 0.6196},
    ("gb200", "mxfp8"): {"matmul": 0.5703},
    ("gb200", "nvfp4"): {"matmul": 0.4267},
    ("gb300", "fp8"): {"matmul": 0.7772},
    ("gb300", "mxfp8"): {"matmul": 0.7047},
    ("gb300", "nvfp4"): {"matmul": 0.4348},
}


def constants(key: Key, table: Mapping[Key, Mapping[str, float]] = FITTED) -> tuple[Constants, Key | None]:
    """The constants of a key, and the key that they were fitted for: its own, or the nearest; None where none was."""
    own = table.get(key, {})
    below, of = constants(BASE[key], table) if key in BASE else (Constants(), None)
    return replace(below, **own), key if own else of

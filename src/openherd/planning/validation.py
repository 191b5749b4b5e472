"""How far predictions are off measured runs that nothing was fitted on: what `openherd plan` prints beside its figures.

Held-out halves of the measured sets, by device and dtype; the papers' runs whole, since no constant was fitted on them (decision
21). A test reckons the table again where the data are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openherd.planning.check import errors, half
from openherd.planning.constants import FITTED, Table
from openherd.planning.measured import Measured
from openherd.planning.search import Job
from openherd.planning.workload import Step


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Absolute relative errors of one set of rows."""

    name: str
    kind: str
    low: bool  # products of 8 bits or fewer
    pipeline: bool
    billions: float  # parameters, the median
    rows: int
    time: float | None  # median
    time_p90: float | None
    memory: float | None  # median

    def text(self, of_memory: bool = False) -> str:
        """As it stands under a plan."""
        found = f"{self.time:.1%} (median), {self.time_p90:.1%} (nine of ten)" if not of_memory else f"{self.memory:.1%} (median)"
        return f"{found} off {self.name}, {self.rows} rows"


def _set(name: str, kind: str, low: bool, pipeline: bool, billions: float, rows: int, *errors: float | None) -> Validation:
    time, p90, memory = errors
    return Validation(
        name=name, kind=kind, low=low, pipeline=pipeline, billions=billions, rows=rows, time=time, time_p90=p90, memory=memory
    )  # fmt: skip


VALIDATION = (
    _set("vTrain, one node", "a100", False, True, 0.36, 360, 0.0544, 0.1662, None),
    _set("vTrain, several nodes", "a100", False, True, 39.1, 27, 0.0508, 0.2068, None),
    _set("llm-foundry A100", "a100", False, False, 1.31, 37, 0.0221, 0.0847, None),
    _set("llm-foundry H100", "h100", False, False, 12.85, 14, 0.0183, 0.0798, None),
    _set("llm-foundry H100 FP8", "h100", True, False, 1.33, 3, 0.0839, 0.1144, None),
    _set("Megatron-Bridge H100 FP8", "h100", True, True, 70.55, 1, 0.0084, 0.0084, None),
    _set("Megatron-Bridge GB200", "gb200", True, True, 405.85, 11, 0.0604, 0.1103, None),
    _set("Megatron-Bridge GB300", "gb300", True, True, 405.85, 5, 0.0114, 0.0496, None),
    _set("torchtitan H100", "h100", False, False, 8.03, 3, 0.0227, 0.0491, 0.0172),
    _set("torchtitan H100 FP8", "h100", True, False, 39.29, 2, 0.0569, 0.0689, 0.0551),
    _set("Korthikanti et al., memory", "a100", False, True, 275.84, 6, None, None, 0.0),
    _set("Korthikanti et al., time", "a100", False, True, 275.84, 4, 0.0345, 0.0593, None),
    _set("Llama 3, Table 4", "h100", False, True, 405.85, 3, 0.0162, 0.0508, None),
)

MEASURED = ("a100-40g", "a100-80g", "h100", "h100-96g", "gb200", "gb300")  # devices that the sets have runs of

# Which held-out rows make a set: of which file, device and dtype.
SETS: tuple[tuple[str, str, Callable[[Measured], bool]], ...] = (
    ("vTrain, one node", "vtrain_single_node_a100.csv", lambda run: True),
    ("vTrain, several nodes", "vtrain_multi_node_a100.csv", lambda run: True),
    ("llm-foundry A100", "llm_foundry_fsdp.csv", lambda run: run.key == ("a100", "bf16")),
    ("llm-foundry H100", "llm_foundry_fsdp.csv", lambda run: run.key == ("h100", "bf16")),
    ("llm-foundry H100 FP8", "llm_foundry_fsdp.csv", lambda run: run.key == ("h100", "fp8")),
    ("Megatron-Bridge H100 FP8", "megatron_bridge_llama.csv", lambda run: run.key[0] == "h100"),
    ("Megatron-Bridge GB200", "megatron_bridge_llama.csv", lambda run: run.key[0] == "gb200"),
    ("Megatron-Bridge GB300", "megatron_bridge_llama.csv", lambda run: run.key[0] == "gb300"),
    ("torchtitan H100", "torchtitan.csv", lambda run: run.precision == "bf16"),
    ("torchtitan H100 FP8", "torchtitan.csv", lambda run: run.precision == "fp8"),
    ("Korthikanti et al., memory", "published_tables.csv", lambda run: run.memory_gib is not None),
    ("Korthikanti et al., time", "published_tables.csv", lambda run: run.key[0] == "a100" and run.seconds is not None),
    ("Llama 3, Table 4", "published_tables.csv", lambda run: run.key[0] == "h100"),
)


def validations(files: Mapping[str, Sequence[Measured]], fitted: Table = FITTED) -> tuple[Validation, ...]:
    """The table, of the rows of each file."""
    found = []
    for name, file, chosen in SETS:
        runs = [run for run in half(files[file], "held out") if chosen(run)]
        time, held = (np.abs(e[~np.isnan(e)]) for e in errors(runs, fitted))
        found.append(
            Validation(
                name=name,
                kind=runs[0].key[0],
                low=runs[0].precision not in ("bf16", "fp16"),
                pipeline=bool(np.median([run.step.pp for run in runs]) > 1),
                billions=round(float(np.median([float(run.step.parameters) for run in runs])) / 1e9, 2),
                rows=len(runs),
                time=round(float(np.median(time)), 4) if len(time) else None,
                time_p90=round(float(np.quantile(time, 0.9)), 4) if len(time) else None,
                memory=round(float(np.median(held)), 4) if len(held) else None,
            )
        )
    return tuple(found)


def nearest_validation(job: Job, step: Step, of_memory: bool = False) -> Validation:
    """The set nearest to a planned run: by device, then width of dtype, then pipeline or none, then size."""
    low, billions = job.precision not in ("bf16", "fp16"), float(step.parameters) / 1e9

    def distance(v: Validation) -> tuple[bool, bool, bool, float]:
        return v.kind != job.hardware.kind, v.low != low, v.pipeline != (step.pp > 1), abs(math.log(v.billions / billions))

    return min((v for v in VALIDATION if (v.memory if of_memory else v.time) is not None), key=distance)

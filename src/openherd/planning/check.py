"""Measured runs against predictions: `openherd plan check` (decision 21).

Errors are relative; where they are summed up, absolute: |predicted / measured - 1|.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openherd.planning.constants import FITTED, Table, constants
from openherd.planning.engines import Engine
from openherd.planning.hardware import HARDWARE, is_low
from openherd.planning.measured import Measured, read
from openherd.planning.memory import GIB, Memory, memory
from openherd.planning.step_time import Clock, step_time
from openherd.planning.workload import Step, by_pipeline

HALVES = ("fitted", "held out")


def predict(runs: Sequence[Measured], fitted: Table = FITTED) -> tuple[Any, Any]:
    """Seconds, and GiB of the part that was measured, of every run."""
    seconds, gib = np.full(len(runs), np.nan), np.full(len(runs), np.nan)
    groups: dict[Any, list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault((run.hardware, run.precision, run.engine), []).append(i)
    for (hardware, precision, engine), members in groups.items():
        clock = Clock(HARDWARE[hardware], precision, constants((HARDWARE[hardware].kind, precision), fitted)[0])
        for numbers, table in by_pipeline([runs[i].step for i in members]):
            chosen = [members[n] for n in numbers]
            seconds[chosen] = step_time(table, clock, engine).step[:, 0]
            if any(runs[i].memory_gib for i in chosen):
                held = memory(table, engine, is_low(precision))
                for row, i in enumerate(chosen):
                    gib[i] = part_of(held, table, runs[i].part, engine)[row].max() / GIB
    return seconds, gib


def part_of(held: Memory, table: Step, part: str, engine: Engine) -> Any:
    """A part of memory, (n, PP): in all, of activations, or of the layers' weights, gradients and optimizer."""
    if part == "layer_states":
        matrices = table.layers * table.layer_matrices / table.tp
        return matrices * (engine.weights + engine.gradients + engine.optimizer)
    return held.activations if part == "activations" else held.total


def errors(runs: Sequence[Measured], fitted: Table = FITTED) -> tuple[Any, Any]:
    """Relative errors with their signs of time and of memory; NaN where it was not measured."""
    seconds, gib = predict(runs, fitted)
    measured = np.array([[run.seconds or np.nan, run.memory_gib or np.nan] for run in runs]).reshape(-1, 2)
    return seconds / measured[:, 0] - 1, gib / measured[:, 1] - 1


def summary(found: Any) -> dict[str, float] | None:
    """Median, mean and 90th percentile of absolute errors; None where there are none."""
    known = np.abs(found[~np.isnan(found)])
    if not len(known):
        return None
    return {"median": float(np.median(known)), "mean": float(known.mean()), "p90": float(np.quantile(known, 0.9))}


def check(file: Path, fitted: Table = FITTED, which: str = "all") -> dict[str, Any]:
    """A file's errors, of all its rows or of one half, as `openherd plan check` prints them. Raises InputError as `read`."""
    found = read(file)
    runs = found.rows if which == "all" else half(found.rows, which)
    time, held = errors(runs, fitted)
    return {
        "file": str(file),
        "rows_used": len(runs),
        "rows_skipped": dict(sorted(found.skipped.items())),
        "time": summary(time),
        "memory": summary(held),
    }


def half(runs: Sequence[Measured], which: str) -> list[Measured]:
    """The half that constants are fitted on, or the other; of published tables there is no first one."""
    return [run for run in runs if run.fitted == (which == "fitted")]

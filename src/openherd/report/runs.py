"""What the report asks of a set of runs: those of a stage, their names, where they lie."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openherd.core.metrics import format_metric, is_estimate
from openherd.core.rundir import Run

Runs = Sequence[Run]


def of_stage(runs: Runs, *stages: str) -> list[Run]:
    """The runs of these stages, in the order given."""
    return [run for run in runs if run.manifest["stage"] in stages]


def names(runs: Runs) -> dict[str, str]:
    """Digest to name: the stage, with the run's short digest where there are several of it."""
    stages = [run.manifest["stage"] for run in runs]
    return {run.digest: s if stages.count(s) == 1 else f"{s} {run.digest[:6]}" for run, s in zip(runs, stages, strict=True)}


def places(runs: Runs) -> list[str]:
    """Where each run lies, from the folder that holds them all: `stage/digest` where a recipe made them."""
    top = os.path.commonpath([run.path.resolve().parent.parent for run in runs]) if runs else ""
    return [str(run.path.resolve().relative_to(top)) for run in runs]


def file_of(run: Run, name: str) -> Path | None:
    """An output, or None where this run has none of that name."""
    return run.file(name) if name in run.manifest["outputs"] else None


def scalars(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The metrics that are one value each, as a person reads them."""
    return [
        (name.replace("_", " "), format_metric(value))
        for name, value in metrics.items()
        if isinstance(value, (int, float, str)) or is_estimate(value)
    ]


def si(number: float) -> str:
    """'2.1 million', '15.6 trillion'."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"

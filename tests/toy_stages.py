"""Stages small enough to reason about, for the tests of recipes and run directories."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from openherd.core.metrics import mean_estimate
from openherd.core.rundir import Output, Run, Source
from openherd.data.engine import EngineConfig, EngineSetting
from openherd.stages import Stage

STAGES = {
    "toy-read": Stage("toy-read", "3.1", "toy_stages:toy_read", 1, "read a file", ""),
    "toy-scale": Stage("toy-scale", "3.4", "toy_stages:toy_scale", 1, "multiply", ""),
    "toy-join": Stage("toy-join", "5", "toy_stages:toy_join", 1, "add all", ""),
}


def use_toy_stages(monkeypatch):
    """Make the toy stages known to recipes."""
    monkeypatch.setattr("openherd.runner.BY_NAME", STAGES)


def note(out: Output) -> None:
    """Leave a trace of each execution outside the run directories."""
    with (Path(os.environ["TOY_TRACE"])).open("a") as file:
        file.write(out.path.parent.name + "\n")


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """Settings of toy-read."""

    plus: Annotated[int, Field(description="added to the number", ge=0)] = 0


def toy_read(config: ReadConfig, *, numbers: Source, out: Output) -> dict:
    note(out)
    value = int(Path(numbers.files()[0]).read_text()) + config.plus
    with out.write("value.txt") as path:
        path.write_text(str(value))
    return {"value": value}


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    """Settings of toy-scale."""

    factor: Annotated[float, Field(description="what to multiply by", gt=0)] = 2.0
    name: Annotated[str, Field(description="a label")] = "x"
    steps: Annotated[int, Field(description="how many times it says so")] = 3
    engine: EngineSetting = field(default_factory=EngineConfig)
    die_at: Annotated[int, Field(description="the step at which the process is killed; -1 never")] = -1
    seed: Annotated[int, Field(description="seed")] = 0


def toy_scale(config: ScaleConfig, *, value: Run, out: Output) -> dict:
    note(out)
    done = len(out.metrics.read())
    for step in range(done, config.steps):
        if step == config.die_at and done == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        out.log(step=step, loss_nats=1.0 / (step + 1))
    result = int(value.file("value.txt").read_text()) * config.factor
    with out.write("folder/value.txt") as path:
        path.write_text(str(result))
    return {"value": result, "score": mean_estimate([0.0, 1.0, 1.0, 1.0])}


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """Settings of toy-join."""


def toy_join(config: JoinConfig, *, values: tuple[Run, ...], out: Output) -> dict:
    note(out)
    total = sum(float(run.file("folder/value.txt").read_text()) for run in values)
    return {"total": total}

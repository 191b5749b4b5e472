"""The runs of a ladder (paper 3.2.1) as a recipe: budgets, sizes, batch and learning rate, on the data of another recipe.

The paper's: budgets of 6e18 to 1e22 FLOPs, a fixed batch for each, 250K to 4M tokens, growing with it; learning rates of 4e-4 to
2e-4, falling with size; linear warm-up over 2,000 steps, cosine to a tenth; weight decay of 0.1 times the rate. It gives the ends
of these ranges and not what lies between: here it is a power law through both ends.
"""

import math
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openherd.core.config import nearest, read_toml
from openherd.core.errors import ConfigError
from openherd.model.config import SIZES
from openherd.model.flops import parameters

PAPER_FLOPS = (6e18, 1e22)
PAPER_BATCH = (250e3, 4e6)  # tokens, at the smallest and the largest budget
PAPER_SIZES = (40e6, 16e9)
PAPER_RATES = (4e-4, 2e-4)  # at the smallest and the largest size
WARMUP_STEPS, MOST_WARMUP = 2_000, 0.1  # the paper's, and the share of a short run that it may take; ours
FLOOR = 0.1  # of the peak; the paper's
LEAST_STEPS = 50
DATA_ENDS = "token-shards"
SET_HERE = ("size", "steps", "sequence_lengths", "batch_tokens", "ramp_tokens", "learning_rate", "decay_steps")


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One training run of a ladder."""

    name: str
    size: str
    flops: float
    steps: int
    batch_tokens: int
    learning_rate: float


def between(x: float, xs: tuple[float, float], ys: tuple[float, float]) -> float:
    """The power law through two points."""
    exponent = math.log(ys[1] / ys[0]) / math.log(xs[1] / xs[0]) if xs[1] != xs[0] else 0.0
    return ys[0] * (x / xs[0]) ** exponent


def rungs(
    flops: Sequence[float],
    held_out: Sequence[float],
    sizes: Sequence[str],
    sequence_length: int,
    sizes_per_budget: int = 4,
    tokens_per_parameter: float = 20.0,
    batch_tokens: tuple[float, float] = PAPER_BATCH,
    learning_rates: tuple[float, float] = PAPER_RATES,
    rate_sizes: tuple[float, float] = PAPER_SIZES,
) -> list[Rung]:
    """The runs: for each budget the sizes about the one that has `tokens_per_parameter`; for a budget held out, that size alone.

    `batch_tokens` are those of the smallest and the largest budget, held out or not. Raises ConfigError.
    """
    for name in sizes:
        if name not in SIZES:
            raise ConfigError("--sizes", f"unknown size {name!r}", do=nearest(name, SIZES))
    if len(sizes) < sizes_per_budget or len(set(sizes)) < len(sizes):
        raise ConfigError("--sizes", ", ".join(sizes), allowed=f"{sizes_per_budget} different sizes or more")
    if held_out and min(held_out) <= max(flops):  # the stage that fits them leaves out the last ones
        found_held = f"{min(held_out):g}, not larger than {max(flops):g} of --flops"
        raise ConfigError("--held-out", found_held, allowed="budgets that are larger than all of --flops")
    counted = sorted((float(parameters(SIZES[name])), name) for name in sizes)
    every = sorted({*flops, *held_out})
    ends = PAPER_FLOPS if batch_tokens == PAPER_BATCH else (every[0], every[-1])
    found = []
    for i, budget in enumerate(every, 1):
        wanted = math.sqrt(budget / 6 / tokens_per_parameter)
        n_chosen = 1 if budget in held_out else sizes_per_budget
        near = sorted(counted, key=lambda row: abs(math.log(row[0] / wanted)))[:n_chosen]
        sequences = max(round(between(budget, ends, batch_tokens) / sequence_length), 1)
        for n, name in sorted(near):
            steps = round(budget / (6 * n * sequences * sequence_length))
            if steps < LEAST_STEPS:
                found_steps = f"budget {budget:g} is {steps} steps of {sequences * sequence_length:,} tokens for {name}"
                raise ConfigError("--flops", found_steps, allowed=f"{LEAST_STEPS} or more", do="give a smaller --batch-tokens")
            rate = float(f"{between(n, rate_sizes, learning_rates):.3g}")
            found.append(
                Rung(
                    name=f"c{i}-{name.replace('.', '-')}",
                    size=name,
                    flops=budget,
                    steps=steps,
                    batch_tokens=sequences * sequence_length,
                    learning_rate=rate,
                )
            )
    return found


def ladder_recipe(
    base: Path, runs: Sequence[Rung], held_out: Sequence[float], sequence_length: int, changes: Sequence[str], name: str
) -> dict[str, Any]:
    """The recipe as a table for TOML: the data stages of `base`, a stage for each run, one that fits them, and the report.

    `changes` are 'SETTING=VALUE' of every run, and 'STAGE.SETTING=VALUE' of a data stage. Raises ConfigError.
    """
    document = read_toml(base)
    stages = document.get("stage")
    if not isinstance(stages, list):
        raise ConfigError(
            base, "no stages of its own", allowed="a recipe with [[stage]] tables", do="give the one that it is based on"
        )
    names = [stage.get("name", stage.get("use")) for stage in stages]
    if not {"tokenizer", DATA_ENDS, "holdout"} <= set(names):
        raise ConfigError(base, f"stages {', '.join(map(str, names))}", allowed=f"a recipe with holdout, tokenizer and {DATA_ENDS}")
    data = [dict(stage) for stage in stages[: names.index(DATA_ENDS) + 1]]
    more: dict[str, Any] = {}
    for change in changes:
        stage, setting, value = value_of(change)
        if stage and stage not in names[: len(data)]:
            raise ConfigError("--set", f"no data stage {stage!r} in {base}", do=nearest(stage, names[: len(data)]))
        (data[names.index(stage)] if stage else more)[setting] = value
    training = [
        {
            "use": "pretrain",
            "name": run.name,
            "inputs": {"shards": DATA_ENDS, "tokenizer": "tokenizer"},
            "size": run.size,
            "steps": run.steps,
            "sequence_lengths": [sequence_length],
            "batch_tokens": [run.batch_tokens],
            "ramp_tokens": [],
            "learning_rate": run.learning_rate,
            "final_learning_rate": float(f"{FLOOR * run.learning_rate:.3g}"),
            "warmup_steps": min(WARMUP_STEPS, round(MOST_WARMUP * run.steps)),
            "decay_steps": run.steps,
            **more,
        }
        for run in runs
    ]
    models = [run.name for run in runs]
    held = [run.name for run in runs if run.flops in held_out]
    fit = {"use": "scaling-ladder", "inputs": {"models": models, "documents": "holdout"}, "held_out_models": len(held)}
    report = {"use": "report", "inputs": {"runs": [*names[: len(data)], *models, "scaling-ladder"]}}
    return {"name": name, "seed": document.get("seed", 0), "stage": [*data, *training, fit, report]}


def recipe_text(recipe: Mapping[str, Any], command: str, about: str) -> str:
    """The recipe as TOML, with the command that wrote it."""
    import tomli_w

    lines = textwrap.wrap(command, 120, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    head = "\n".join(f"# {line}" for line in (*textwrap.wrap(about, 128), "Written by:", *lines))
    return f"{head}\n{tomli_w.dumps(dict(recipe))}"


def value_of(text: str) -> tuple[str, str, Any]:
    """'setting=value' or 'stage.setting=value' as stage, setting and a TOML value, else text. Raises ConfigError."""
    key, equals, value = text.partition("=")
    stage, _, name = key.rpartition(".")
    if not equals or not name or (not stage and name in SET_HERE):
        allowed = f"stage.setting=value, or setting=value of pretrain, but for {', '.join(SET_HERE)}"
        raise ConfigError("--set", f"{text!r}", allowed=allowed)
    try:
        return stage, name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return stage, name, value

"""The ladder read back (paper 3.2.1): held-out loss of each run, both laws, and how well they foretell runs that were larger.

The last `held_out_models` runs are in no fit. They are foretold by the parametric law; the interval resamples the runs and adds the
scatter of single runs about the law, so that it is one for a run, not for a mean.
"""

import csv
import json
import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Output, Run
from openherd.evaluation.text import choose_texts
from openherd.inference.engine import bits_of
from openherd.model.device import Device, announce, choose_device
from openherd.model.weights import load_model, model_of
from openherd.scaling.fit import N_PARAMETERS, Fit, fit_parametric, interval, loss_at, usable
from openherd.scaling.isoflop import budgets_of, curves, fit_isoflop, lines, noise_of
from openherd.scaling.runs import POSSIBLE, Runs
from openherd.tokenizer.tokenizer import Tokenizer

RUNS, FITS = "runs.csv", "fits.json"
COLUMNS = ("run", "size", "parameters", "tokens", "flops", "loss", "held_out")


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """Settings of `scaling-ladder`; all ours."""

    held_out_models: Annotated[int, Field(description="the last models, which no law is fitted to: they are foretold", ge=0)] = 1
    max_heldout_bytes: Annotated[int, Field(description="held-out text scored, whole documents, at least one; 0 = all", ge=0)] = 0
    draws: Annotated[int, Field(description="bootstrap samples behind an interval", ge=100)] = 1_000
    device: Annotated[Device, Field(description="where to compute; auto: CUDA, else mps, else cpu")] = "auto"
    seed: Annotated[int, Field(description="seed of the bootstrap and of the choice of documents")] = 0


def measured(run: Run, texts: list[str], device: str) -> dict[str, Any]:
    """A row of the table: what was trained, and its held-out loss in nats per token."""
    directory, _ = model_of(run)
    model, tokenizer = load_model(directory, device), Tokenizer.load(directory)
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
    loss = sum(bits_of(model, tokenizer, texts, run.path.parent.name)) * math.log(2) / tokens
    n, d = run.metrics["parameters"], run.metrics["tokens"]
    size = run.manifest["settings"].get("size", "")
    return {"run": run.path.parent.name, "size": size, "parameters": n, "tokens": d, "flops": 6 * n * d, "loss": loss}


def as_runs(rows: list[dict[str, Any]], where: str) -> Runs:
    """Rows as runs that a law is fitted to."""
    columns = {name: np.array([float(row[name]) for row in rows]) for name in ("parameters", "tokens", "flops", "loss")}
    return Runs(where=where, group={}, left_out={}, deviation=np.full(len(rows), np.nan), **columns)


def foretold(fit: Fit, runs: Runs, row: dict[str, Any], seed: int) -> dict[str, Any]:
    """What the parametric law says of a run that it did not see, and whether the run's loss is within."""
    n, d = np.float64(row["parameters"]), np.float64(row["tokens"])
    draws = usable(fit.draws)
    noise = np.random.default_rng(seed).standard_normal(len(draws["E"]))
    with np.errstate(all="ignore"):  # a law that the runs leave open may be no number
        off = np.log(runs.loss) - np.log(loss_at(fit.values, runs.parameters, runs.tokens))
        scatter = float(np.sqrt((off**2).sum() / (len(runs) - N_PARAMETERS)))
        low, high = interval(np.clip(loss_at(draws, n, d) * np.exp(scatter * noise), *POSSIBLE["loss"][:2]))
    value = float(loss_at(fit.values, n, d))
    if not np.isfinite([value, low, high]).all():
        return {"not_foretold": "the fitted law gives no number for it", "loss": row["loss"], "within_interval": False}
    return {
        "foretold": {"value": value, "low": low, "high": high, "n": len(runs)},
        "loss": row["loss"],
        "relative_error": value / row["loss"] - 1,
        "within_interval": bool(low <= row["loss"] <= high),
    }


def drawn(runs: Runs, rows: list[dict[str, Any]], parametric: Fit, isoflop: Fit | None) -> dict[str, Any]:
    """Both fits, and what the report draws."""
    every = as_runs(rows, runs.where)
    off = every.loss / loss_at(parametric.values, every.parameters, every.tokens) - 1
    allocation = (
        {}
        if isoflop is None
        else {
            "isoflop": isoflop.plain(),
            "curves": curves(runs, isoflop, "parabola"),
            "lines": lines(isoflop, np.geomspace(every.flops.min(), every.flops.max(), 20)),
        }
    )
    return {
        "parametric": parametric.plain(),
        **allocation,
        "residuals": [
            {"flops": row["flops"], "relative": float(r), "seen": i < len(runs), "note": row["run"]}
            for i, (row, r) in enumerate(zip(rows, off, strict=True))
        ],
    }


def scaling_ladder(config: LadderConfig, *, models: tuple[Run, ...], documents: Run, out: Output) -> dict[str, Any]:
    """Measure the runs, fit both laws to all but the last, foretell these; writes `runs.csv` and `fits.json`."""
    n_fitted = len(models) - config.held_out_models
    if n_fitted <= N_PARAMETERS:
        raise ConfigError("scaling-ladder", f"{n_fitted} runs to fit", allowed=f"more than {N_PARAMETERS}")
    shared = {run.manifest["inputs"].get("shards", {}).get("digest") for run in models}
    if len(shared) > 1:
        raise InputError("scaling-ladder", "runs on different data", allowed="runs on one set of token shards")
    device = choose_device(config.device)
    announce(out, device)
    texts = choose_texts(documents.file("heldout.parquet"), config.max_heldout_bytes, config.seed)
    rows = [measured(run, texts, str(device)) for run in models]
    runs = as_runs(rows[:n_fitted], str(out.path))
    parametric = fit_parametric(runs, config.draws, config.seed)
    try:
        isoflop = fit_isoflop(runs, "parabola", noise_of(budgets_of(runs)), config.draws, config.seed)
        told = isoflop.plain()
    except InputError as error:  # the runs are worth keeping all the same, and the other law foretells
        isoflop, told = None, {"law": "isoflop", "not_fitted": str(error)}
    predictions = {row["run"]: foretold(parametric, runs, row, config.seed) for row in rows[n_fitted:]}
    off = [abs(found["relative_error"]) for found in predictions.values() if "relative_error" in found]
    with out.write(RUNS) as path, path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows({**row, "held_out": int(i >= n_fitted)} for i, row in enumerate(rows))
    with out.write(FITS) as path:
        path.write_text(json.dumps(drawn(runs, rows, parametric, isoflop), indent=1) + "\n", encoding="utf-8")
    return {
        "runs": len(rows),
        "parametric": parametric.plain(),
        "isoflop": told,
        "foretold": predictions,
        "runs_foretold": len(predictions),
        "within_interval": sum(found["within_interval"] for found in predictions.values()),
        **({"largest_relative_error": max(off)} if off else {}),
        "heldout_documents": len(texts),
    }

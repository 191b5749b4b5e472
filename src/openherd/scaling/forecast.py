"""Foretelling a benchmark's score in two stages (paper 3.2.1): FLOPs to the normalised NLL of the right answer, that to accuracy.

Stage one is a line over log FLOPs, through the scaling runs alone. Stage two is a sigmoid through these and any other models
whose NLL and accuracy are known: the paper adds Llama 2's, which need no FLOPs here. NLL is in nats per character of the right
answer; where the sigmoid starts is chance, where it ends 1, and neither is fitted: a dozen points would not hold four parameters.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from openherd.core.errors import ConfigError, InputError
from openherd.scaling.fit import DRAWS, Array, interval
from openherd.scaling.minimise import minimise
from openherd.scaling.runs import NAMES, read_csv

NLL = ("nll", "normalised_nll", "normalized_nll", "nll_per_character")
ACCURACY = ("accuracy", "acc", "score")
LEAST = 3  # points of either stage
DECADES = 4.0  # that the paper extrapolates over


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Models by row; NaN where a number is not known. FLOPs, nats per character, share of right answers."""

    where: str
    flops: Array
    nll: Array
    accuracy: Array


def read_scores(path: Path) -> Scores:
    """Models from a CSV file with a column of NLL, and of FLOPs or accuracy or both. Raises InputError."""
    header, rows = read_csv(path)
    lower = {name.lower(): name for name in header}
    columns = {}
    for what, names in (("flops", NAMES["flops"]), ("nll", NLL), ("accuracy", ACCURACY)):
        known = [lower[name] for name in names if name in lower]
        if not known:
            allowed = f"a column named {', '.join(names)}"
            raise InputError(path, f"no column of {what}", allowed=allowed, do=f"the header has: {', '.join(header)}")
        columns[what] = known[0]
    limits = {"flops": (1e6, 1e30), "nll": (1e-6, 100.0), "accuracy": (0.0, 1.0)}
    table: dict[str, list[float]] = {what: [] for what in columns}
    for line, row in enumerate(rows, 2):
        for what, column in columns.items():
            low, high = limits[what]
            try:
                value = float(row[column]) if row[column] else math.nan
            except ValueError:
                raise InputError(f"{path}, line {line}", f"{column} = {row[column]!r}", allowed="a number, or nothing") from None
            if not math.isnan(value) and not low <= value <= high:
                raise InputError(f"{path}, line {line}", f"{column} = {value:g}", allowed=f"{low:g} to {high:g}")
            table[what].append(value)
    return Scores(where=str(path), **{what: np.array(values) for what, values in table.items()})


def sigmoid(x: Array, chance: float) -> Array:
    """From chance to 1."""
    return chance + (1 - chance) / (1 + np.exp(-np.clip(x, -500, 500)))


def fit_line(x_N: Array, y_N: Array, weights_SN: Array) -> tuple[Array, Array]:
    """Weighted least squares, one line for each row of weights: intercept and slope."""
    total = weights_SN.sum(1)
    mean_x, mean_y = weights_SN @ x_N / total, weights_SN @ y_N / total
    c = x_N - mean_x[:, None]
    spread = (weights_SN * c**2).sum(1)
    slope = np.where(spread > 0, (weights_SN * c * (y_N - mean_y[:, None])).sum(1) / np.where(spread > 0, spread, 1), np.nan)
    return mean_y - slope * mean_x, slope


def fit_sigmoid(nll_N: Array, accuracy_N: Array, weights_SN: Array, chance: float) -> Array:
    """(offset, slope) of accuracy = sigmoid(offset - slope (nll - mean)) by least squares, for each row of weights."""
    x = nll_N - nll_N.mean()

    def objective(p_SP: Array, which: Any) -> tuple[Array, Array]:
        inner = p_SP[:, :1] - p_SP[:, 1:] * x
        share = sigmoid(inner, chance)
        rise = (share - chance) * (1 - share) / (1 - chance)
        off = (share - accuracy_N) * weights_SN[which]
        return ((share - accuracy_N) ** 2 * weights_SN[which]).sum(-1) / 2, np.stack(
            [(off * rise).sum(-1), -(off * rise * x).sum(-1)], axis=-1
        )

    n = len(weights_SN)
    starts = [np.tile([[0.0, slope / max(float(x.std()), 1e-12)]], (n, 1)) for slope in (0.5, 2.0, 8.0)]
    found = [minimise(objective, start) for start in starts]
    best = np.argmin([f.value_S for f in found], axis=0)
    return np.stack([f.x_SP for f in found])[best, np.arange(n)]


def forecast(scores: Scores, flops: list[float], chance: float, draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Both fits, and accuracy at each of `flops` with its interval: models resampled, and scatter about either fit added.

    Raises ConfigError or InputError.
    """
    if not 0 <= chance < 1:
        raise ConfigError("--chance", f"{chance:g}", allowed="0 up to, not with, 1; 0.25 for four choices")
    first = np.isfinite(scores.flops) & np.isfinite(scores.nll)
    second = np.isfinite(scores.accuracy) & np.isfinite(scores.nll)
    for what, rows, values in (("FLOPs and NLL", first, scores.flops), ("NLL and accuracy", second, scores.nll)):
        if len(np.unique(values[rows])) < LEAST:
            raise InputError(scores.where, f"{int(rows.sum())} different models with {what}", allowed=f"{LEAST} or more")
    x, y = np.log10(scores.flops[first]), scores.nll[first]
    rng = np.random.default_rng(seed)

    def resampled(n: int) -> Array:
        counts = rng.multinomial(n, np.full(n, 1 / n), size=draws)
        few = (counts > 0).sum(1) < LEAST
        counts[few] = 1
        return np.concatenate([np.ones((1, n)), counts])

    intercept, slope = fit_line(x, y, resampled(len(x)))
    nll, accuracy = scores.nll[second], scores.accuracy[second]
    shape = fit_sigmoid(nll, accuracy, resampled(len(nll)), chance)
    off_line = y - intercept[0] - slope[0] * x
    off_curve = accuracy - sigmoid(shape[0, 0] - shape[0, 1] * (nll - nll.mean()), chance)
    scatter_line = float(np.sqrt((off_line**2).sum() / max(len(y) - 2, 1)))
    scatter_curve = float(np.sqrt((off_curve**2).sum() / max(len(nll) - 2, 1)))
    warnings = []
    if slope[0] >= 0:
        warnings.append("NLL does not fall with FLOPs: nothing can be foretold from these runs")
    if shape[0, 1] <= 0:
        warnings.append("accuracy does not rise as NLL falls: nothing can be foretold from these models")
    foretold = []
    for c in flops:
        beyond = math.log10(c) - float(x.max())
        line = intercept + slope * math.log10(c)
        noise = np.concatenate([[0.0], rng.standard_normal(draws)])
        at = line + scatter_line * noise
        noise = np.concatenate([[0.0], rng.standard_normal(draws)])
        share = np.clip(sigmoid(shape[:, 0] - shape[:, 1] * (at - nll.mean()), chance) + scatter_curve * noise, 0, 1)
        foretold.append(
            {
                "flops": c,
                "nll": float(line[0]),
                "nll_interval": list(interval(at[1:])),
                "accuracy": float(share[0]),
                "accuracy_interval": list(interval(share[1:])),
                "decades_beyond": beyond,
            }
        )
        if beyond > DECADES:
            warnings.append(f"{c:.3g} FLOPs are {beyond:.1f} decades beyond the runs; the paper went {DECADES:g}")
    at_zero = shape[0, 0] + shape[0, 1] * nll.mean()
    return {
        "runs": int(first.sum()),
        "models": int(second.sum()),
        "nll_at_1_flop": float(intercept[0]),
        "nll_per_decade": float(slope[0]),
        "nll_per_decade_interval": list(interval(slope[1:])),
        "sigmoid_slope": float(shape[0, 1]),
        "sigmoid_middle_nll": float(at_zero / shape[0, 1]) if shape[0, 1] else None,
        "chance": chance,
        "forecast": foretold,
        "warnings": warnings,
    }

"""IsoFLOPs (paper 3.2.1): for each budget the size of the least loss, and a power law through these optima.

The paper fits a polynomial of second degree to each budget's losses over log tokens: `minimum = "parabola"`, here to the runs
around the best one. Porian et al. (arXiv 2406.19146) interpolate by Akima's spline, perturb the losses by the noise between
seeds, and weigh each optimum by how far that moves it: `minimum = "akima"`, which their own exponents are reproduced with. Both
over log sizes, and once more over log tokens.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from openherd.core.errors import InputError
from openherd.scaling.fit import DRAWS, Array, Fit, interval
from openherd.scaling.runs import Runs

Minimum = Literal["akima", "parabola"]

SAME_BUDGET = 1.1  # FLOPs within this factor are one budget
SAME_SIZE = 1.03  # sizes within this factor are one: a spline through both would swing
AROUND = 7  # runs around the best one that a parabola is laid through; a wider one is pulled off by the far arms
LEAST_SIZES = 4  # of a budget
LINE_POINTS = 60  # of a drawn curve
GRID = 25  # interpolated points between two sizes; Porian et al.
NOISE_NATS = 0.002  # between seeds; Porian et al. for RefinedWeb
LEAST_SPREAD = 0.33 * GRID  # of an optimum, in steps of the grid: a third of the distance between two sizes; theirs


class Budget(NamedTuple):
    """The runs of one budget, by size, the best of each; losses in nats."""

    flops: float
    parameters: Array
    tokens: Array
    loss: Array


class Optima(NamedTuple):
    """The optimum of each budget: one row a budget, NaN where it is at the edge; draws with noise in columns."""

    flops_K: Array
    ln_x_K: Array
    deviation_K: Array
    loss_K: Array
    ln_x_KS: Array


def budgets_of(runs: Runs) -> list[Budget]:
    """The budgets, from the smallest on; of sizes that are the same, or as good as, the one with the least loss."""
    order = np.argsort(runs.flops, kind="stable")
    edges = np.flatnonzero(np.diff(np.log(runs.flops[order])) > np.log(SAME_BUDGET)) + 1
    found = []
    for rows in np.split(order, edges):
        by_size = rows[np.argsort(runs.parameters[rows], kind="stable")]
        steps = np.flatnonzero(np.diff(np.log(runs.parameters[by_size])) > np.log(SAME_SIZE)) + 1
        chosen = np.array([same[np.argmin(runs.loss[same])] for same in np.split(by_size, steps)])
        flops = float(np.exp(np.log(runs.flops[chosen]).mean()))
        found.append(Budget(flops, runs.parameters[chosen], runs.tokens[chosen], runs.loss[chosen]))
    return found


def akima(x_M: Array, y_SM: Array, at_T: Array) -> Array:
    """Akima's spline through each row of y, at points within x; derivatives as in his paper of 1970."""
    slope = np.diff(y_SM, axis=1) / np.diff(x_M)
    first, last = slope[:, :1], slope[:, -1:]
    second, previous = (slope[:, 1:2], slope[:, -2:-1]) if slope.shape[1] > 1 else (first, last)
    m = np.concatenate([3 * first - 2 * second, 2 * first - second, slope, 2 * last - previous, 3 * last - 2 * previous], axis=1)
    left, right = np.abs(m[:, 3:] - m[:, 2:-1]), np.abs(m[:, 1:-2] - m[:, :-3])
    both = left + right
    tied = both < 1e-12
    t = np.where(tied, (m[:, 1:-2] + m[:, 2:-1]) / 2, (left * m[:, 1:-2] + right * m[:, 2:-1]) / np.where(tied, 1.0, both))
    i = np.clip(np.searchsorted(x_M, at_T, side="right") - 1, 0, len(x_M) - 2)
    h, s = np.diff(x_M)[i], at_T - x_M[i]
    steep, t0, t1 = slope[:, i], t[:, i], t[:, i + 1]
    return y_SM[:, i] + s * (t0 + s * ((3 * steep - 2 * t0 - t1) / h + s * (t0 + t1 - 2 * steep) / h**2))


def around_best(budget: Budget, x_M: Array) -> slice:
    """The runs that a parabola is laid through."""
    best, n = int(np.argmin(budget.loss)), min(AROUND, len(x_M))
    low = min(max(best - AROUND // 2, 0), len(x_M) - n)
    return slice(low, low + n)


def minima(x_M: Array, loss_SM: Array, minimum: Minimum) -> tuple[Array, Array]:
    """ln x of the least loss for each row of losses, and that loss; NaN where it is at the edge or beyond."""
    if minimum == "akima":
        at = np.linspace(x_M[0], x_M[-1], GRID * (len(x_M) - 1))
        curve = akima(x_M, np.log(loss_SM), at)
        where = curve.argmin(1)
        inside = (where > 0) & (where < len(at) - 1)
        return np.where(inside, at[where], np.nan), np.where(inside, np.exp(curve.min(1)), np.nan)
    middle = x_M.mean()
    c0, c1, c2 = np.polynomial.polynomial.polyfit(x_M - middle, loss_SM.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = middle - c1 / (2 * c2)
        inside = (c2 > 0) & (vertex > x_M[0]) & (vertex < x_M[-1])
        return np.where(inside, vertex, np.nan), np.where(inside, c0 - c1**2 / (4 * c2), np.nan)


def noise_of(budgets: list[Budget]) -> float:
    """Noise of a loss in nats, from how far the runs lie from their parabolas; for runs without seeds to compare.

    Raises InputError where no budget has more runs than a parabola goes through.
    """
    squares, freedom = 0.0, 0
    for budget in budgets:
        x = np.log(budget.parameters)
        near = around_best(budget, x)
        if (n := len(x[near])) > 3:
            fitted = np.polynomial.Polynomial.fit(x[near], budget.loss[near], 2)
            squares, freedom = squares + float(((fitted(x[near]) - budget.loss[near]) ** 2).sum()), freedom + n - 3
    if not freedom:
        raise InputError("isoflop", "no budget with more than three runs", allowed=f"{LEAST_SIZES} sizes or more at the same FLOPs")
    return float(np.sqrt(squares / freedom))


def optima_of(budgets: list[Budget], over: str, minimum: Minimum, noise_nats: float, draws: int, seed: int) -> Optima:
    """The optimum of each budget over "parameters" or "tokens": the median over draws with noise, and how far they spread."""
    rng = np.random.default_rng(seed)
    rows = []
    for budget in budgets:
        x = np.log(getattr(budget, over))
        order = np.argsort(x)
        x, loss = x[order], budget.loss[order]
        if minimum == "parabola":
            near = around_best(Budget(budget.flops, budget.parameters, budget.tokens, loss), x)
            x, loss = x[near], loss[near]
        noisy = np.maximum(loss + noise_nats * rng.standard_normal((draws, len(loss))), 1e-3)
        centre, least = minima(x, loss[None], minimum)
        ln_x, _ = minima(x, noisy, minimum)
        valid = np.isfinite(ln_x)
        share = valid.mean()
        if share < 0.5 or np.isnan(centre[0]):
            rows.append((budget.flops, np.nan, np.nan, np.nan, np.full(draws, np.nan)))
            continue
        floor = LEAST_SPREAD * (x[-1] - x[0]) / (GRID * (len(x) - 1) - 1)
        spread = max(float(ln_x[valid].std()), floor) / share
        rows.append((budget.flops, float(np.median(ln_x[valid])), spread, float(least[0]), ln_x))
    flops, ln_x, deviation, losses, of_draws = (np.array(column) for column in zip(*rows, strict=True))
    return Optima(flops, ln_x, deviation, losses, of_draws)


def power_law(flops_K: Array, ln_x_SK: Array, deviation_K: Array) -> tuple[Array, Array]:
    """Exponent and ln coefficient of x = A C^a through each row's optima, weighted by 1 / deviation^2; NaN are left out."""
    ln_c = np.broadcast_to(np.log(flops_K), ln_x_SK.shape)
    known = np.isfinite(ln_x_SK)
    weights = np.where(known, 1 / np.broadcast_to(deviation_K, ln_x_SK.shape) ** 2, 0.0)
    y = np.where(known, ln_x_SK, 0.0)
    total = np.where(known.sum(1) >= 2, weights.sum(1), np.nan)  # one optimum makes no line
    mean_c, mean_y = (weights * ln_c).sum(1) / total, (weights * y).sum(1) / total
    c = ln_c - mean_c[:, None]
    exponent = (weights * c * (y - mean_y[:, None])).sum(1) / (weights * c**2).sum(1)
    return exponent, mean_y - exponent * mean_c


def given_optima(runs: Runs, budgets: list[Budget], over: str, draws: int, seed: int) -> Optima:
    """Where each budget has one row, that row is its optimum; its deviation is the file's, or from the scatter about a line."""
    ln_x = np.log(np.array([getattr(b, over)[0] for b in budgets]))
    flops, loss = np.array([b.flops for b in budgets]), np.array([b.loss[0] for b in budgets])
    deviation = runs.deviation[np.argsort(runs.flops, kind="stable")]
    if not np.isfinite(deviation).all():
        exponent, ln_a = power_law(flops, ln_x[None], np.ones(len(ln_x)))
        off = ln_x - exponent[0] * np.log(flops) - ln_a[0]
        deviation = np.full(len(ln_x), max(float(np.sqrt((off**2).sum() / max(len(off) - 2, 1))), 1e-12))
    noise = np.random.default_rng(seed).standard_normal((draws, len(ln_x)))
    return Optima(flops, ln_x, deviation, loss, (ln_x + deviation * noise).T)


def curves(runs: Runs, fit: Fit, minimum: Minimum) -> list[dict[str, Any]]:
    """For a picture: each budget's losses over tokens, the line that was laid through them, and its optimum or None."""
    optima = {budget["flops"]: budget for budget in fit.more["budgets"]}
    found = []
    for budget in budgets_of(runs):
        if len(budget.loss) < LEAST_SIZES:
            continue
        order = np.argsort(budget.tokens)
        x, loss = np.log(budget.tokens[order]), budget.loss[order]
        near = (
            around_best(Budget(budget.flops, budget.parameters, budget.tokens, loss), x) if minimum == "parabola" else slice(None)
        )
        at = np.linspace(x[near][0], x[near][-1], LINE_POINTS)
        if minimum == "parabola":
            line = np.polynomial.Polynomial.fit(x[near], loss[near], 2)(at)
        else:
            line = np.exp(akima(x, np.log(loss)[None], at)[0])
        best = optima.get(budget.flops)
        found.append(
            {
                "flops": budget.flops,
                "tokens": np.exp(x).tolist(),
                "loss": loss.tolist(),
                "line_tokens": np.exp(at).tolist(),
                "line_loss": line.tolist(),
                "optimum": [best["tokens"], best["loss"]] if best else None,
            }
        )
    return found


def lines(fit: Fit, flops: Array) -> dict[str, list[dict[str, float]]]:
    """For a picture: the power laws of parameters and tokens at some FLOPs, with their 95% intervals."""
    found = {}
    for what, prefix in (("parameters", ""), ("tokens", "tokens_")):
        names = f"{prefix}exponent", f"{prefix}coefficient"
        exponent, coefficient = (fit.values[name] for name in names)
        exponents, coefficients = (fit.draws[name] for name in names)
        rows = []
        for c in flops:
            low, high = interval(coefficients * c**exponents)
            rows.append({"flops": float(c), "value": float(coefficient * c**exponent), "low": low, "high": high})
        found[what] = rows
    return found


def fit_isoflop(runs: Runs, minimum: Minimum = "akima", noise_nats: float = NOISE_NATS, draws: int = DRAWS, seed: int = 0) -> Fit:
    """The power laws N = coefficient C^exponent and D likewise. Raises InputError where fewer than two budgets have an optimum."""
    budgets = budgets_of(runs)
    if all(len(b.loss) == 1 for b in budgets):
        chosen, few = budgets, []
        found = {over: given_optima(runs, budgets, over, draws, seed) for over in ("parameters", "tokens")}
    else:
        chosen = [b for b in budgets if len(b.loss) >= LEAST_SIZES]
        few = [b for b in budgets if len(b.loss) < LEAST_SIZES]
        if len(chosen) < 2:
            sizes = ", ".join(f"{b.flops:.3g}: {len(b.loss)}" for b in budgets[:8])
            allowed = f"two budgets or more, each of {LEAST_SIZES} sizes or more (or one row each: their optima)"
            raise InputError(runs.where, f"sizes by budget {sizes}", allowed=allowed, do="train more sizes at the same FLOPs")
        found = {over: optima_of(chosen, over, minimum, noise_nats, draws, seed) for over in ("parameters", "tokens")}
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    of_draws: dict[str, Array] = {}
    for over, prefix in (("parameters", ""), ("tokens", "tokens_")):
        optima = found[over]
        known = np.isfinite(optima.ln_x_K)
        if known.sum() < 2:
            allowed = "two budgets or more whose best size is between others"
            raise InputError(runs.where, f"{int(known.sum())} budgets with an optimum", allowed=allowed, do="train other sizes")
        flops, deviation = optima.flops_K[known], optima.deviation_K[known]
        exponent, ln_a = power_law(flops, optima.ln_x_K[None, known], deviation)
        exponents, ln_as = power_law(flops, optima.ln_x_KS[known].T, deviation)
        values |= {f"{prefix}exponent": float(exponent[0]), f"{prefix}coefficient": float(np.exp(ln_a[0]))}
        of_draws |= {f"{prefix}exponent": exponents, f"{prefix}coefficient": np.exp(ln_as)}
        intervals |= {f"{prefix}{what}": interval(of_draws[f"{prefix}{what}"]) for what in ("exponent", "coefficient")}
    by_size, by_tokens = found["parameters"], found["tokens"]
    at_edge = [b.flops for b, x in zip(chosen, by_size.ln_x_K, strict=True) if np.isnan(x)]
    warnings = [f"the best size of budget {flops:.3g} is the smallest or largest: left out" for flops in at_edge]
    warnings += [f"budget {b.flops:.3g} has {len(b.loss)} sizes, fewer than {LEAST_SIZES}: left out" for b in few[:3]]
    warnings += [f"and {len(few) - 3} more such budgets"] * (len(few) > 3)
    if len(chosen) - len(at_edge) == 2:
        warnings.append("two budgets make a line, not a test of one")
    rows = zip(chosen, by_size.ln_x_K, by_tokens.ln_x_K, by_size.loss_K, strict=True)
    return Fit(
        law="isoflop",
        group=runs.group,
        runs_used=sum(len(b.loss) for b in chosen),
        left_out=runs.left_out,
        values=values,
        intervals=intervals,
        warnings=tuple(warnings),
        more={
            "budgets": [
                {"flops": b.flops, "parameters": float(np.exp(n)), "tokens": float(np.exp(d)), "loss": float(loss)}
                for b, n, d, loss in rows
                if np.isfinite(n) and np.isfinite(d)
            ]
        },
        draws=of_draws,
    )

"""The parametric law L(N, D) = E + A / N^alpha + B / D^beta, fitted as Hoffmann et al. and Epoch AI do.

Huber loss (1e-3) on the logarithm of the loss, summed over the runs, not averaged: the sum is what keeps a minimiser's tolerance
from ending the fit early (Besiroglu et al. 2024, arXiv 2404.10102). Gradients are analytic, and sizes and tokens are centred,
because A and alpha, B and beta, otherwise move together. Llama 3's paper fits no such law (it has IsoFLOPs alone, 3.2.1); this
one tells what over-training costs.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openherd.core.errors import InputError
from openherd.scaling.minimise import minimise
from openherd.scaling.runs import Runs

Array = NDArray[np.float64]

HUBER_DELTA = 1e-3  # of ln loss; Hoffmann et al.
SCALE = 1e3  # the minimiser sees the objective so many times larger: its first steps are then neither tiny nor huge
DRAWS = 1_000  # bootstrap samples
LEVEL = 95.0  # percent that an interval holds
# Starts, a grid as wide as Hoffmann et al.'s; the best of them are followed to the end.
GRID = {
    "log_a": np.arange(0.0, 30.0, 5.0),
    "log_b": np.arange(0.0, 30.0, 5.0),
    "log_e": np.arange(-1.0, 1.5, 0.5),
    "alpha": np.arange(0.0, 2.5, 0.5),
    "beta": np.arange(0.0, 2.5, 0.5),
}
FOLLOWED = 32
DRAW_STEPS = 200  # of the minimiser from the fit to a bootstrap sample's; Chinchilla's need 51
N_PARAMETERS = 5
FEW = 30  # runs; of fewer, many a bootstrap sample holds no law, and sizes and lengths were chosen, not drawn
WIDE = 2.0  # an interval whose ends differ by such a factor says little of its parameter
CORRELATED = 0.95


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A fitted law: its values with 95% intervals, on what, and what is to be known about it."""

    law: str
    group: Mapping[str, str]
    runs_used: int
    left_out: Mapping[str, int]
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    warnings: tuple[str, ...]
    more: Mapping[str, Any] = field(default_factory=dict)
    draws: Mapping[str, Array] = field(default_factory=dict)  # of each value, by bootstrap sample

    def plain(self) -> dict[str, Any]:
        """As one JSON object; what is no number is null."""

        def known(value: float) -> float | None:
            return value if np.isfinite(value) else None

        return {
            "law": self.law,
            "group": dict(self.group),
            "runs_used": self.runs_used,
            "runs_left_out": dict(self.left_out),
            **{name: known(value) for name, value in self.values.items()},
            "intervals": {name: [known(low), known(high)] for name, (low, high) in self.intervals.items()},
            "warnings": list(self.warnings),
            **self.more,
        }


def interval(draws: Array) -> tuple[float, float]:
    """The middle 95% of bootstrap draws."""
    if not np.isfinite(draws).any():
        return np.nan, np.nan
    low, high = np.nanpercentile(draws, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return float(low), float(high)


def exp(x: Array) -> Array:
    """e^x, as far as floats go: what runs do not determine may run away."""
    return np.exp(np.clip(x, -700, 700))


def usable(draws: Mapping[str, Array]) -> dict[str, Array]:
    """Draws of a parametric law under which loss falls with size and with tokens; runs that determine little have others too."""
    names = ("E", "A", "B", "alpha", "beta")
    keep = np.all([np.isfinite(draws[n]) & (draws[n] > 0) for n in names], axis=0)
    return {n: draws[n][keep] for n in names}


def loss_at(values: Mapping[str, Any], parameters: Any, tokens: Any) -> Any:
    """L(N, D) in nats per token; arrays broadcast, so `values` may be bootstrap draws."""
    with np.errstate(all="ignore"):  # what the runs leave open may be no number
        return values["E"] + values["A"] / parameters ** values["alpha"] + values["B"] / tokens ** values["beta"]


def optimum_at(values: Mapping[str, Any], flops: Any) -> tuple[Any, Any]:
    """Parameters and tokens of the least loss with C = 6 N D (Hoffmann et al., equation 4)."""
    alpha, beta = values["alpha"], values["beta"]
    balance = (alpha * values["A"] / (beta * values["B"])) ** (1 / (alpha + beta))
    parameters = balance * (flops / 6) ** (beta / (alpha + beta))
    return parameters, flops / 6 / parameters


def ln_terms(x_SP: Array, ln_n: Array, ln_d: Array) -> Array:
    """ln of A / N^alpha, B / D^beta and E of each run, for (ln A, ln B, ln E, alpha, beta) in each row of x; shape (3, S, runs).

    A and alpha may be beyond floats where their term is not.
    """
    a, b, e, alpha, beta = (x_SP[:, i, None] for i in range(N_PARAMETERS))
    return np.stack(np.broadcast_arrays(a - alpha * ln_n, b - beta * ln_d, e))


def huber_on_log(x_SP: Array, ln_n: Array, ln_d: Array, ln_loss: Array, weights: Array | float) -> tuple[Array, Array]:
    """Summed Huber loss of ln L and its gradient, for parameters (ln A, ln B, ln E, alpha, beta) in each row of x.

    `weights` count each run, and `ln_loss` is its loss: one row for each of x, or the same for all.
    """
    parts = ln_terms(x_SP, ln_n, ln_d)
    most = parts.max(0)
    shares = np.exp(parts - most)
    total = shares.sum(0)
    shares /= total
    residual = most + np.log(total) - ln_loss
    far = np.abs(residual)
    huber = np.where(far <= HUBER_DELTA, residual**2 / 2, HUBER_DELTA * (far - HUBER_DELTA / 2))
    slope = np.clip(residual, -HUBER_DELTA, HUBER_DELTA) * weights * shares
    gradient = [slope[0].sum(-1), slope[1].sum(-1), slope[2].sum(-1), -(slope[0] * ln_n).sum(-1), -(slope[1] * ln_d).sum(-1)]
    return (huber * weights).sum(-1), np.stack(gradient, axis=-1)


def fit_parametric(runs: Runs, draws: int = DRAWS, seed: int = 0) -> Fit:
    """Fit the law; intervals by resampling the runs, or, of few runs, by noise on the fitted losses as large as their scatter.

    Raises InputError for runs that cannot hold five parameters.
    """
    sizes, lengths = len(np.unique(runs.parameters)), len(np.unique(runs.tokens))
    if len(runs) <= N_PARAMETERS or sizes < 3 or lengths < 3:
        found = f"{len(runs)} runs of {sizes} sizes and {lengths} lengths"
        allowed = f"more than {N_PARAMETERS} runs, of 3 sizes and 3 numbers of tokens or more, for five parameters"
        raise InputError(runs.where, found, allowed=allowed, do="train more, or fit --law isoflop")
    ln_n, ln_d, ln_loss = np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)
    centre_n, centre_d = ln_n.mean(), ln_d.mean()
    rng = np.random.default_rng(seed)

    def objective(x_SP: Array, weights: Array | float = 1.0, target: Array = ln_loss) -> tuple[Array, Array]:
        value, gradient = huber_on_log(x_SP, ln_n - centre_n, ln_d - centre_d, target, weights)
        return value * SCALE, gradient * SCALE

    starts = np.array(list(itertools.product(*GRID.values())))
    starts[:, 0] -= starts[:, 3] * centre_n
    starts[:, 1] -= starts[:, 4] * centre_d
    at_start = np.concatenate([objective(part)[0] for part in np.array_split(starts, 10)])
    best = minimise(lambda x, _: objective(x), starts[np.argsort(at_start)[:FOLLOWED]])
    winner = int(np.argmin(best.value_S))

    def named(x_SP: Array) -> dict[str, Array]:
        a, b, e, alpha, beta = x_SP.T
        found = {"E": exp(e), "A": exp(a + alpha * centre_n), "B": exp(b + beta * centre_d)}
        return {**found, "alpha": alpha, "beta": beta, "exponent": beta / (alpha + beta)}

    values = {name: float(value[0]) for name, value in named(best.x_SP[winner : winner + 1]).items()}
    start = np.tile(best.x_SP[winner], (draws, 1))
    if len(runs) < FEW:
        fitted = np.logaddexp.reduce(ln_terms(best.x_SP[winner : winner + 1], ln_n - centre_n, ln_d - centre_d))[0]
        scatter = np.sqrt(((ln_loss - fitted) ** 2).sum() / (len(runs) - N_PARAMETERS))
        targets = fitted + scatter * rng.standard_normal((draws, len(runs)))
        again = minimise(lambda x, which: objective(x, target=targets[which]), start, DRAW_STEPS)
    else:
        counts = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=draws).astype(float)
        again = minimise(lambda x, which: objective(x, counts[which]), start, DRAW_STEPS)
    of_draws = named(again.x_SP)
    intervals = {name: interval(value) for name, value in of_draws.items()}
    return Fit(
        law="parametric",
        group=runs.group,
        runs_used=len(runs),
        left_out=runs.left_out,
        values={**values, "objective": float(best.value_S[winner] / SCALE)},
        intervals=intervals,
        warnings=ill_conditioned(values, intervals, of_draws, (("A", "alpha"), ("B", "beta"))),
        draws=of_draws,
    )


def ill_conditioned(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    draws: Mapping[str, Array],
    pairs: tuple[tuple[str, str], ...],
) -> tuple[str, ...]:
    """What the runs do not determine: coefficients that move with their exponents, exponents of a wide interval."""
    told = []
    for coefficient, exponent in pairs:
        low, high = intervals[coefficient]
        with np.errstate(all="ignore"):  # draws that are all alike go together with nothing
            together = np.corrcoef(np.log(np.maximum(draws[coefficient], 1e-300)), draws[exponent])[0, 1]
        if high > WIDE * low and abs(together) > CORRELATED:
            told.append(
                f"{coefficient} is ill-conditioned: its interval spans a factor of {high / max(low, 1e-300):.3g}, and it moves "
                f"with {exponent} (correlation {together:.3f}); use the law as a whole, not {coefficient} by itself"
            )
        low, high = intervals[exponent]
        if low <= 0 or high - low > abs(values[exponent]):
            told.append(f"{exponent} is hardly determined: {low:.3g} to {high:.3g}; the runs span too little")
    return tuple(told)

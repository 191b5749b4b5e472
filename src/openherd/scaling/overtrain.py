"""The law of over-training, L(C, M) = E + (a M^eta + b M^-eta) C^-eta, M tokens per parameter, C = 6 N D (Gadre et al. 2024).

Fitted as they do, by least squares on the loss of five small runs: the four smallest sizes at 20 tokens per parameter, and the
smallest once more at 320 (16 times Chinchilla's). Five runs tell nothing of their own noise; it is taken from how far all runs of
the group lie from the law.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from openherd.core.errors import InputError
from openherd.scaling.fit import DRAWS, Array, Fit, exp, ill_conditioned, interval
from openherd.scaling.minimise import minimise
from openherd.scaling.runs import Runs

SIZES = 4
RATIO, OVERTRAINED = 20.0, 320.0  # tokens per parameter; Gadre et al.: Chinchilla's, and 16 times that
NEAR = 1.1  # a ratio may be off by this factor: sizes are counted with or without embeddings
N_PARAMETERS = 4
NORMAL = 1.4826  # median absolute deviation to standard deviation
GRID = ([0.5, 1.0, 2.0], [-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], [0.05, 0.1, 0.2, 0.3])  # E, ln of both terms at the centre, eta


def loss_at(values: dict[str, Array] | dict[str, float], flops: Array | float, ratio: Array | float) -> Array | float:
    """L(C, M) in nats per token; arrays broadcast."""
    e, a, b, eta = (values[name] for name in ("E", "a", "b", "eta"))
    return e + (a * ratio**eta + b * ratio**-eta) * flops**-eta


def smallest(runs: Runs) -> NDArray[np.bool_]:
    """Which runs the law is fitted to. Raises InputError where the four sizes, or the over-trained run, are not there."""
    ratio = runs.tokens / runs.parameters

    def near(wanted: float) -> NDArray[np.bool_]:
        return np.abs(np.log(ratio / wanted)) < np.log(NEAR)

    sizes = np.unique(runs.parameters[near(RATIO)])[:SIZES]
    chosen = near(RATIO) & np.isin(runs.parameters, sizes)
    over = near(OVERTRAINED) & (runs.parameters == runs.parameters.min())
    if len(sizes) < SIZES or not over.any():
        found = f"{len(sizes)} sizes at {RATIO:g} tokens per parameter, {int(over.sum())} of the smallest at {OVERTRAINED:g}"
        allowed = f"{SIZES} sizes and one over-trained run, as Gadre et al. fit"
        raise InputError(runs.where, found, allowed=allowed, do="give --all-runs to fit to every run")
    return chosen | over


def fit_overtrain(runs: Runs, all_runs: bool = False, draws: int = DRAWS, seed: int = 0) -> Fit:
    """Fit the law to the smallest runs, or to all; intervals by adding noise to the fitted losses. Raises InputError."""
    chosen = np.ones(len(runs), dtype=bool) if all_runs else smallest(runs)
    if chosen.sum() <= N_PARAMETERS:
        raise InputError(runs.where, f"{int(chosen.sum())} runs", allowed=f"more than {N_PARAMETERS} for four parameters")
    ln_c, ln_m = np.log(6 * runs.parameters * runs.tokens), np.log(runs.tokens / runs.parameters)
    centre_c, centre_m = ln_c[chosen].mean(), ln_m[chosen].mean()
    u, v = ln_m - centre_m, ln_c - centre_c

    def residual(x_SP: Array, target: Array, of: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
        e, p, q, eta = (x_SP[:, i, None] for i in range(N_PARAMETERS))
        up = np.exp(np.minimum(p + eta * (u[of] - v[of]), 50.0))
        down = np.exp(np.minimum(q - eta * (u[of] + v[of]), 50.0))
        return e + up + down - target, up, down

    def objective(x_SP: Array, target: Array) -> tuple[Array, Array]:
        r, up, down = residual(x_SP, target, chosen)
        slopes = [r, r * up, r * down, r * (up * (u - v)[chosen] - down * (u + v)[chosen])]
        return (r**2).sum(-1) / 2, np.stack([s.sum(-1) for s in slopes], axis=-1)

    starts = np.array(list(itertools.product(*GRID)))
    loss = runs.loss[chosen]
    best = minimise(lambda x, _: objective(x, loss), starts, tolerance=1e-14)
    winner = int(np.argmin(best.value_S))
    x = best.x_SP[winner : winner + 1]
    off = residual(x, runs.loss, np.ones(len(runs), dtype=bool))[0][0] / runs.loss
    spread = float(NORMAL * np.median(np.abs(off)) * np.sqrt(len(runs) / (len(runs) - N_PARAMETERS)))
    noise = spread * np.random.default_rng(seed).standard_normal((draws, int(chosen.sum())))
    targets = (loss + residual(x, loss, chosen)[0][0]) * (1 + noise)
    again = minimise(lambda x, which: objective(x, targets[which]), np.tile(x, (draws, 1)), tolerance=1e-14)

    def named(x_SP: Array) -> dict[str, Array]:
        e, p, q, eta = x_SP.T
        return {
            "E": e,
            "a": exp(p + eta * (centre_c - centre_m)),
            "b": exp(q + eta * (centre_c + centre_m)),
            "eta": eta,
        }

    values = {name: float(value[0]) for name, value in named(x).items()}
    of_draws = named(again.x_SP)
    intervals = {name: interval(value) for name, value in of_draws.items()}
    others = np.abs(off[~chosen])
    return Fit(
        law="overtrain",
        group=runs.group,
        runs_used=int(chosen.sum()),
        left_out={**runs.left_out, **({"not among the smallest, foretold": len(others)} if len(others) else {})},
        values=values,
        intervals=intervals,
        warnings=ill_conditioned(values, intervals, of_draws, (("a", "eta"), ("b", "eta"))),
        more={
            "noise_relative": spread,
            "median_error_of_others": float(np.median(others)) if len(others) else None,
            "largest_error_of_others": float(others.max()) if len(others) else None,
        },
        draws=of_draws,
    )

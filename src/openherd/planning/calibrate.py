"""Constants from measured runs: `openherd plan calibrate`, and how the planner's own were found (decision 21).

Least absolute errors of the logarithm of time, by Levenberg-Marquardt on reweighted squares; constants stay positive and within
what is physical. As many are fitted as rows allow, one for four, in a set order; what rows do not feel is left out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from openherd.planning.check import predict
from openherd.planning.constants import BASE, LEAST, MOST, ORDER, ROWS_EACH, START, Key, Table, constants
from openherd.planning.measured import Measured

ITERATIONS = 60
SLOPE = 1e-4  # of a logarithm
FELT = 2e-3  # of a row's logarithm, by a tenth of a constant's
FLOOR = 0.02  # errors below count as this where they are weighed


def least_absolute(residuals: Callable[[Any], Any], start: Any, least: Any, most: Any) -> Any:
    """The arguments with the smallest mean absolute residual, near `start`."""
    x, damping = np.array(start, float), 1e-2
    r = residuals(x)
    for _ in range(ITERATIONS):
        slopes = np.stack([(residuals(x + SLOPE * unit) - r) / SLOPE for unit in np.eye(len(x))], axis=1)
        weights = 1 / np.maximum(np.abs(r), FLOOR)
        squares, gradient = slopes.T @ (weights[:, None] * slopes), slopes.T @ (weights * r)
        before = np.abs(r).mean()
        for _ in range(8):
            step = np.linalg.solve(squares + damping * np.diag(np.diag(squares) + 1e-9), -gradient)
            tried = np.clip(x + np.clip(step, -0.5, 0.5), least, most)
            new = residuals(tried)
            if np.abs(new).mean() < before:
                x, r, damping = tried, new, max(damping / 3, 1e-6)
                break
            damping *= 4
        if before - np.abs(r).mean() < 1e-6:
            break
    return x


def fit_key(runs: Sequence[Measured], key: Key, below: Table) -> dict[str, float]:
    """Constants of one kind of device and dtype, of runs on it; what is not fitted is taken from `below`."""
    start = constants(key, below)[0]
    measured = np.array([run.seconds for run in runs], float)

    def of(names: Sequence[str], x: Any) -> Any:
        chosen = {**below.get(key, {}), **{name: float(np.exp(v)) for name, v in zip(names, x, strict=True)}}
        return np.log(predict(runs, {**below, key: chosen})[0] / measured)

    def logs(names: Sequence[str], values: Any) -> Any:
        return np.log([values[name] for name in names])

    begin = {name: min(max(START.get(name, getattr(start, name)), LEAST[name]), MOST[name]) for name in ORDER}

    def feels(name: str) -> bool:
        at = float(np.log(begin[name]))
        return bool(np.abs(of([name], [at - 0.1]) - of([name], [at])).max() > FELT)

    felt = [name for name in ORDER if feels(name)]
    names = felt[: max(1, len(runs) // ROWS_EACH)]
    x = least_absolute(lambda x: of(names, x), logs(names, begin), logs(names, LEAST), logs(names, MOST))
    return {name: float(f"{v:.4g}") for name, v in zip(names, np.exp(x), strict=True)}


def calibrate(runs: Sequence[Measured], below: Table) -> Table:
    """Constants for every kind of device and dtype in the runs that have a time, where `below` has what is not fitted.

    The planner's own were found with nothing below. 8-bit dtypes come after bf16, which they rest on.
    """
    timed = [run for run in runs if run.seconds is not None]
    found: Table = {}
    for key in sorted({run.key for run in timed}, key=depth):
        fitted = fit_key([run for run in timed if run.key == key], key, {**below, **found})
        found[key] = {**below.get(key, {}), **fitted}
    return found


def depth(key: Key) -> tuple[int, Key]:
    """How many others a key's constants rest on."""
    n, at = 0, key
    while at in BASE:
        n, at = n + 1, BASE[at]
    return n, key

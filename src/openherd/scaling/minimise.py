"""Minimising many small smooth functions at once: BFGS over a batch of starts.

A law has three to five parameters and is minimised from many starts, and again for every bootstrap sample; one batch of 5 x 5
matrices takes all of them through the same arrays, where a library's minimiser would be called a thousand times.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# (x_SP, which problem each row of it is) to value_S and gradient_SP; S starts or samples, P parameters
Objective = Callable[[Array, NDArray[np.intp]], tuple[Array, Array]]

SUFFICIENT, CURVATURE = 1e-4, 0.9  # Wolfe's conditions, Nocedal and Wright's values
MOST_TRIALS = 30  # steps tried along one direction


class Minima(NamedTuple):
    """Where each start arrived."""

    x_SP: Array
    value_S: Array
    gradient_SP: Array


def minimise(objective: Objective, start_SP: Array, most_steps: int = 500, tolerance: float = 1e-12) -> Minima:
    """Minimise from every start; a row stops where a step gains less than `tolerance` of its value."""
    x = np.array(start_SP, dtype=float)
    n, n_parameters = x.shape
    active = np.arange(n)
    value, gradient = objective(x, active)
    inverse = np.tile(np.eye(n_parameters), (n, 1, 1))  # of the Hessian
    fresh = np.ones(n, dtype=bool)  # no curvature is known yet
    for _ in range(most_steps):
        g, h = gradient[active], inverse[active]
        direction = -np.einsum("spq,sq->sp", h, g)
        upward = np.einsum("sp,sp->s", direction, g) >= 0
        h[upward] = np.eye(n_parameters)
        unscaled = fresh[active] | upward
        steepest = -g[unscaled]
        direction[unscaled] = steepest / np.maximum(np.linalg.norm(steepest, axis=1, keepdims=True), 1.0)
        new_x, new_value, new_gradient = _search(objective, x[active], value[active], g, direction, active)
        step, change = new_x - x[active], new_gradient - g
        curvature = np.einsum("sp,sp->s", step, change)
        known = curvature > 0
        first = unscaled & known
        h[first] = np.eye(n_parameters) * (curvature[first] / (change[first] ** 2).sum(1))[:, None, None]
        rho = 1 / np.where(known, curvature, 1.0)
        away = np.eye(n_parameters) - rho[:, None, None] * step[:, :, None] * change[:, None, :]
        updated = np.einsum("spq,sqr,str->spt", away, h, away) + rho[:, None, None] * step[:, :, None] * step[:, None, :]
        h[known] = updated[known]
        gained = value[active] - new_value
        x[active], value[active], gradient[active], inverse[active] = new_x, new_value, new_gradient, h
        # A start without curvature that gains nothing is at its end; one with it is first tried along the gradient again.
        stuck = gained <= tolerance * np.abs(new_value)
        again = stuck & ~unscaled
        fresh[active] = again
        active = active[~stuck | again]
        if not len(active):
            break
    return Minima(x, value, gradient)


def _search(
    objective: Objective, x: Array, value: Array, gradient: Array, direction: Array, which: NDArray[np.intp]
) -> tuple[Array, Array, Array]:
    """A step along each direction that meets Wolfe's weak conditions, by doubling and halving; where none does, the best found."""
    slope = np.einsum("sp,sp->s", direction, gradient)
    length, low, high = np.ones(len(x)), np.zeros(len(x)), np.full(len(x), np.inf)
    best_x, best_value, best_gradient = x.copy(), value.copy(), gradient.copy()
    open_rows = np.arange(len(x))
    for _ in range(MOST_TRIALS):
        trial = x[open_rows] + length[open_rows, None] * direction[open_rows]
        v, g = objective(trial, which[open_rows])
        enough = v <= value[open_rows] + SUFFICIENT * length[open_rows] * slope[open_rows]
        flat = np.einsum("sp,sp->s", g, direction[open_rows]) >= CURVATURE * slope[open_rows]
        better = open_rows[enough]
        best_x[better], best_value[better], best_gradient[better] = trial[enough], v[enough], g[enough]
        too_far, too_near = open_rows[~enough], open_rows[enough & ~flat]
        high[too_far], low[too_near] = length[too_far], length[too_near]
        open_rows = open_rows[~(enough & flat)]
        if not len(open_rows):
            break
        doubled = np.isinf(high[open_rows])
        length[open_rows] = np.where(doubled, 2 * length[open_rows], (low[open_rows] + np.where(doubled, 0, high[open_rows])) / 2)
    return best_x, best_value, best_gradient

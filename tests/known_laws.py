"""Runs made from a scaling law that is known."""

import numpy as np

from openherd.scaling.runs import Runs


def runs_of(parameters, tokens, loss) -> Runs:
    """Runs from arrays."""
    n, d, loss = (np.asarray(x, dtype=float) for x in (parameters, tokens, loss))
    columns = {"parameters": n, "tokens": d, "flops": 6 * n * d, "loss": loss, "deviation": np.full(len(n), np.nan)}
    return Runs(where="test", group={}, left_out={}, **columns)


TRUE = {"E": 1.7, "A": 420.0, "B": 900.0, "alpha": 0.34, "beta": 0.31}


def made(noise: float, seed: int = 0) -> Runs:
    """A ladder of 8 sizes on 8 lengths, of a known law, with relative noise."""
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 8)))
    loss = TRUE["E"] + TRUE["A"] / n ** TRUE["alpha"] + TRUE["B"] / d ** TRUE["beta"]
    return runs_of(n, d, loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n))))

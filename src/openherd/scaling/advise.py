"""What size and how many tokens to train, for a budget that may serve tokens as well; what over-training costs and saves.

Training costs 6 N D FLOPs, a token that is served 2 N (Sardana et al. 2024 count so). The law is the parametric one: fitted to
runs, whose bootstrap draws give the intervals, or a published one, which has none.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openherd.core.config import nearest
from openherd.core.errors import ConfigError
from openherd.scaling.fit import Fit, interval, loss_at, optimum_at, usable

Array = NDArray[np.float64]

# Published fits; they disagree on tokens per parameter. Hoffmann et al.'s does not follow from their own runs (arXiv 2404.10102).
PUBLISHED: dict[str, dict[str, float]] = {
    "epoch": {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    "hoffmann": {"E": 1.6934, "A": 406.4, "B": 410.7, "alpha": 0.3392, "beta": 0.2849},
}
# Llama 3, 3.2.1: tokens = 0.29 C^0.53, and what is printed for 3.8e25 FLOPs. The rounded pair gives 10.46T there, not 16.55T.
LLAMA_3_PAIR = (0.29, 0.53)
LLAMA_3_FLOPS, LLAMA_3_TOKENS, LLAMA_3_PARAMETERS = 3.8e25, 16.55e12, 402e9
SEARCHED = 400  # sizes looked at, over eight decades about the optimum without serving


@dataclass(frozen=True, kw_only=True)
class Law:
    """A parametric law with its name, and draws of its values where it was fitted."""

    name: str
    values: dict[str, float]
    draws: dict[str, Array] | None = None

    @classmethod
    def published(cls, name: str) -> "Law":
        """Raises ConfigError for an unknown name."""
        if name not in PUBLISHED:
            raise ConfigError("--law", f"{name!r}", do=nearest(name, [*PUBLISHED, "llama3"]))
        return cls(name=name, values=PUBLISHED[name])

    @classmethod
    def fitted(cls, fit: Fit, name: str) -> "Law":
        """From a parametric fit."""
        draws = usable(fit.draws)
        values = {n: fit.values[n] for n in draws}
        if values["alpha"] <= 0 or values["beta"] <= 0:
            found = f"alpha {values['alpha']:.3g}, beta {values['beta']:.3g}"
            raise ConfigError(name, found, allowed="a law whose loss falls with size and tokens", do="fit it to more runs")
        return cls(name=name, values=values, draws=draws)

    def columns(self) -> dict[str, Array]:
        """The values in a row of their own before the draws: arrays of 1 + draws."""
        none = np.zeros(0)
        return {n: np.concatenate([[v], self.draws[n] if self.draws else none]) for n, v in self.values.items()}


def best_with_serving(columns: dict[str, Array], flops: float, served: float) -> tuple[Array, Array]:
    """Parameters and tokens of the least loss where 6 N D + 2 N served = flops, for each row of the law."""
    parameters, tokens = optimum_at(columns, flops)
    if not served:
        return parameters, tokens
    reach = np.logspace(-8, 0.3, SEARCHED)
    for _ in range(3):  # each round looks between the neighbours of the best one
        n = parameters[:, None] * reach
        d = (flops / n - 2 * served) / 6
        law = {name: value[:, None] for name, value in columns.items()}
        with np.errstate(invalid="ignore", divide="ignore"):
            loss = np.where(d > 0, loss_at(law, n, np.maximum(d, 1e-9)), np.inf)
        if not np.isfinite(loss).any(1).all():
            found = f"{served:.3g} of {flops:.3g} FLOPs"
            raise ConfigError("--served-tokens", found, allowed="fewer: 2 N FLOPs each leave nothing to train with")
        best = np.clip(loss.argmin(1), 1, reach.shape[-1] - 2)
        rows = np.arange(len(n))
        low, high = n[rows, best - 1], n[rows, best + 1]
        parameters, reach = np.ones(len(n)), np.exp(np.linspace(np.log(low), np.log(high), SEARCHED, axis=1))
    n = reach[np.arange(len(best)), best]
    return n, (flops / n - 2 * served) / 6


def flops_for(columns: dict[str, Array], loss: Array) -> Array:
    """The least FLOPs that train to a loss; NaN where the law never gets there. By halving in ln C."""
    low, high = np.full(len(loss), np.log(1e6)), np.full(len(loss), np.log(1e40))
    for _ in range(100):
        middle = (low + high) / 2
        above = loss_at(columns, *optimum_at(columns, np.exp(middle))) > loss
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(loss > columns["E"], np.exp(high), np.nan)


def told(values: Array) -> dict[str, Any]:
    """The law's own answer, and the interval over its draws where there are any."""
    return {"value": float(values[0]), "interval": list(interval(values[1:])) if len(values) > 1 else None}


def advise(law: Law, flops: float, served: float = 0.0) -> dict[str, Any]:
    """The size and tokens of the least loss for so many FLOPs, of training and of serving `served` tokens."""
    columns = law.columns()
    n, d = best_with_serving(columns, flops, served)
    plain_n, _ = optimum_at(columns, flops)
    return {
        "law": law.name,
        "flops": flops,
        "served_tokens": served,
        "parameters": told(n),
        "tokens": told(d),
        "tokens_per_parameter": told(d / n),
        "loss": told(loss_at(columns, n, d)),
        "training_share": told(6 * n * d / flops),
        "parameters_without_serving": told(plain_n),
    }


def compare(law: Law, parameters: float, tokens: float) -> dict[str, Any]:
    """A model of a size on so many tokens beside the compute-optimal one of the same loss: what over-training costs and saves."""
    columns = law.columns()
    flops = 6 * parameters * tokens
    loss = loss_at(columns, parameters, tokens)
    optimal_flops = flops_for(columns, loss)
    n, d = optimum_at(columns, optimal_flops)
    best_n, best_d = optimum_at(columns, flops)
    with np.errstate(invalid="ignore", divide="ignore"):
        even = (flops - optimal_flops) / (2 * (n - parameters))  # served tokens from which the smaller model is the cheaper one
    return {
        "law": law.name,
        "parameters": parameters,
        "tokens": tokens,
        "tokens_per_parameter": tokens / parameters,
        "flops": flops,
        "loss": told(loss),
        "same_loss": {"parameters": told(n), "tokens": told(d), "flops": told(optimal_flops)},
        "training_cost_times": told(flops / optimal_flops),
        "serving_cost_times": told(parameters / n),
        "even_at_served_tokens": told(np.where(n > parameters, even, np.nan)),
        "same_flops": {"parameters": told(best_n), "tokens": told(best_d), "loss": told(loss_at(columns, best_n, best_d))},
    }


def llama_3(flops: float) -> dict[str, Any]:
    """Llama 3's own law for optimal tokens: by the pair as printed, and by its exponent through the printed optimum.

    The two differ because 0.29 and 0.53 are rounded; neither is asserted to be what Meta used.
    """
    coefficient, exponent = LLAMA_3_PAIR
    printed = coefficient * flops**exponent
    through = LLAMA_3_TOKENS * (flops / LLAMA_3_FLOPS) ** exponent
    return {
        "law": "llama3",
        "flops": flops,
        "tokens_by_printed_pair": printed,
        "parameters_by_printed_pair": flops / 6 / printed,
        "tokens_through_printed_optimum": through,
        "parameters_through_printed_optimum": flops / 6 / through,
        "note": "the paper prints tokens = 0.29 C^0.53, and 402B parameters on 16.55T tokens for 3.8e25 FLOPs; its rounded pair "
        "gives 10.46T there; see decision 22",
    }

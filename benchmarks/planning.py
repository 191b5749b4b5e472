"""What fits and simulations take, without torch: Chinchilla's law with its bootstrap, and 10,000 runs of 54 days that fail.

Peers in the same run: the fit's objective in plain Python, for one evaluation's time; the simulation's slow twin, for one run's.
"""

import json
import math
import time
from collections.abc import Callable

import numpy as np

from openherd.planning.causes import paper_causes
from openherd.planning.failures import RunPlan, simulate
from openherd.planning.failures_reference import one_run
from openherd.scaling.fit import fit_parametric, huber_on_log
from openherd.scaling.runs import Runs

RUNS = 10_000


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def made() -> Runs:
    """As many runs as Chinchilla's table has, of the law that Epoch AI found."""
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(math.log(5e7), math.log(1.6e10), 240)), np.exp(rng.uniform(math.log(5e8), math.log(5e11), 240))
    loss = (1.8172 + 482 / n**0.3478 + 2085 / d**0.3658) * np.exp(0.005 * rng.standard_normal(240))
    columns = {"parameters": n, "tokens": d, "flops": 6 * n * d, "loss": loss, "deviation": np.full(240, np.nan)}
    return Runs(where="made", group={}, left_out={}, **columns)


def slow_objective(runs: Runs) -> float:
    """The objective of one start, a run at a time."""
    total = 0.0
    for n, d, loss in zip(runs.parameters.tolist(), runs.tokens.tolist(), runs.loss.tolist(), strict=True):
        r = math.log(math.exp(0.6) + math.exp(6.2) / n**0.35 + math.exp(7.6) / d**0.37) - math.log(loss)
        total += r * r / 2 if abs(r) <= 1e-3 else 1e-3 * (abs(r) - 5e-4)
    return total


def main() -> None:
    runs, causes, plan = made(), paper_causes(), RunPlan()
    x = np.tile([6.2, 7.6, 0.6, 0.35, 0.37], (1_000, 1))
    logs = [np.log(c) for c in (runs.parameters, runs.tokens, runs.loss)]
    found = simulate(plan, causes, RUNS)
    figures = {
        "fit_with_1000_bootstrap_samples_s": seconds(lambda: fit_parametric(runs)),
        "objective_and_gradient_us": seconds(lambda: huber_on_log(x, *logs, 1.0)) * 1e3,
        "slow_objective_us": seconds(lambda: [slow_objective(runs) for _ in range(20)]) / 20 * 1e6,
        "simulate_10000_runs_of_54_days_s": seconds(lambda: simulate(plan, causes, RUNS)),
        "slow_twin_one_run_s": seconds(lambda: [one_run(plan, causes, i, 3, 0) for i in range(3)]) / 3,
        "goodput": {
            "mean": float(found.goodput.mean()),
            "low": float(np.percentile(found.goodput, 2.5)),
            "high": float(np.percentile(found.goodput, 97.5)),
        },
    }
    figures["simulation_over_slow_twin"] = figures["slow_twin_one_run_s"] * RUNS / figures["simulate_10000_runs_of_54_days_s"]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

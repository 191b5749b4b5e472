"""What failures cost a run, how often to save, and what one change buys (paper 3.3.4); `openherd plan failures`.

Young's interval is sqrt(2 pause MTBF), Daly's the same to higher order (2006). Both count a synchronous checkpoint and nothing
but rework; the simulated optimum counts all that the plan does. Plans are compared on the same draws of failures, so that their
difference is known far better than either.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from openherd.planning.causes import Cause
from openherd.planning.failures import CLASSES, DAY, MINUTE, Array, Outcome, RunPlan, rate, simulate

COMPARED_RUNS = 1_000  # of each plan that is compared with another
SEARCHED = np.exp(np.linspace(-math.log(8), math.log(8), 13))  # intervals looked at, as multiples of Young's
FITTED = 5  # of them, about the best, through which a parabola is laid
LEAST_INTERVAL_MINUTES = 0.05
LEVELS = (2.5, 50.0, 97.5)


def young_s(pause_s: float, mtbf_s: float) -> float:
    """Young's interval of work between checkpoints, in seconds (1974)."""
    return math.sqrt(2 * pause_s * mtbf_s)


def daly_s(pause_s: float, mtbf_s: float) -> float:
    """Daly's interval, in seconds (2006, equation 37): Young's to higher order, and the mean time itself where pauses are long."""
    if pause_s >= 2 * mtbf_s:
        return mtbf_s
    x = pause_s / (2 * mtbf_s)
    return young_s(pause_s, mtbf_s) * (1 + math.sqrt(x) / 3 + x / 9) - pause_s


def spread(values: Array) -> dict[str, float]:
    """Mean, median and the middle 95% of simulated runs, and how well the mean is known."""
    low, median, high = np.percentile(values, LEVELS)
    error = 1.96 * float(values.std()) / math.sqrt(len(values))
    return {"mean": float(values.mean()), "mean_error": error, "median": float(median), "low": float(low), "high": float(high)}


def best_interval(plan: RunPlan, causes: Sequence[Cause], runs: int, seed: int) -> dict[str, Any]:
    """The checkpoint interval of the highest simulated goodput, beside Young's and Daly's; minutes of work."""
    failures = rate(causes, plan.nodes, "unexpected")
    if failures == 0 or plan.pause_s == 0:
        return {"simulated_minutes": None, "young_minutes": None, "daly_minutes": None, "tried": []}
    young, daly = young_s(plan.pause_s, 1 / failures) / MINUTE, daly_s(plan.pause_s, 1 / failures) / MINUTE
    tried = np.maximum(young * SEARCHED, LEAST_INTERVAL_MINUTES)
    goodput = np.array([simulate(replace(plan, checkpoint_minutes=float(t)), causes, runs, seed).goodput.mean() for t in tried])
    first = min(max(int(goodput.argmax()) - FITTED // 2, 0), len(tried) - FITTED)
    near = slice(first, first + FITTED)
    x = np.log(tried[near] / tried[first])
    c2, c1, _ = np.polyfit(x, goodput[near], 2)
    peak = float(np.clip(-c1 / (2 * c2), x[0], x[-1])) if c2 < 0 else float(x[goodput[near].argmax()])
    return {
        "simulated_minutes": float(tried[first] * math.exp(peak)),
        "young_minutes": young,
        "daly_minutes": daly,
        "tried": [{"minutes": float(t), "goodput": float(g)} for t, g in zip(tried, goodput, strict=True)],
    }


def changes_of(plan: RunPlan, best_minutes: float | None) -> dict[str, RunPlan]:
    """Plans with one thing changed, by what is changed."""
    found = {
        "restart in half the time": replace(plan, restart_minutes=plan.restart_minutes / 2),
        "detection in half the time": replace(plan, detect_minutes=plan.detect_minutes / 2),
        "checkpoints twice as often": replace(plan, checkpoint_minutes=plan.checkpoint_minutes / 2),
        "checkpoints half as often": replace(plan, checkpoint_minutes=plan.checkpoint_minutes * 2),
        "hot spares": replace(plan, spare_minutes=0.0),
        "twice the spares": replace(plan, spares=max(2 * plan.spares, 1)),
        "no spares": replace(plan, spares=0),
        "stragglers found in half the time": replace(plan, straggler_minutes=plan.straggler_minutes / 2),
    }
    if plan.write_s:
        text = f"synchronous checkpoints, {plan.pause_s + plan.write_s:g} s each"
        found[text] = replace(plan, pause_s=plan.pause_s + plan.write_s, write_s=0.0)
    if best_minutes:
        found[f"checkpoints every {best_minutes:.3g} minutes, the simulated optimum"] = replace(
            plan, checkpoint_minutes=best_minutes
        )
    return {text: changed for text, changed in found.items() if changed != plan}


def difference(before: Outcome, after: Outcome) -> dict[str, Any]:
    """What a change buys: goodput in points, and days of the run where its work is fixed; means with their 95% intervals."""
    gained = {"goodput_points": 100 * (after.goodput - before.goodput), "days": after.days - before.days}
    return {name: {"mean": float(v.mean()), "error": 1.96 * float(v.std()) / math.sqrt(len(v))} for name, v in gained.items()}


def assess(plan: RunPlan, causes: Sequence[Cause], runs: int, seed: int, compare: bool = True) -> dict[str, Any]:
    """All that `openherd plan failures` says."""
    outcome = simulate(plan, causes, runs, seed)
    failures = rate(causes, plan.nodes, "unexpected")
    fewer = min(runs, COMPARED_RUNS)
    best = best_interval(plan, causes, fewer, seed) if compare else None
    changes = {}
    if compare and best is not None:
        base = simulate(plan, causes, fewer, seed)
        has_stragglers = rate(causes, plan.nodes, "straggler") > 0
        for text, changed in changes_of(plan, best["simulated_minutes"]).items():
            if has_stragglers or not text.startswith("stragglers"):
                changes[text] = difference(base, simulate(changed, causes, fewer, seed))
    stops = {kind: spread(n) for kind, n in outcome.stops.items()}
    lost = float((outcome.days - outcome.productive_days).sum())
    all_stops = float(sum(n.sum() for n in outcome.stops.values()))
    return {
        "runs": runs,
        "nodes": plan.nodes,
        "plan": {name: getattr(plan, name) for name in plan.__dataclass_fields__},
        "mtbf_hours": 1 / failures / 3_600 if failures else None,
        "goodput": spread(outcome.goodput),
        "days": spread(outcome.days),
        "productive_days": spread(outcome.productive_days),
        "stops": stops,
        "share_of_time": {name: float((outcome.time[name] / outcome.days).mean()) for name in CLASSES},
        "minutes_lost_a_stop": lost * DAY / MINUTE / max(all_stops, 1.0),
        "interval": best,
        "changes": changes,
    }


def reliability_text(found: dict[str, Any], causes: Sequence[Cause]) -> str:
    """The assessment as a person reads it."""
    plan, goodput, days = found["plan"], found["goodput"], found["days"]
    per_day = {kind: 24 * 3_600 * rate(causes, found["nodes"], kind) for kind in ("unexpected", "planned", "straggler")}
    lines = [
        f"{found['runs']:,} simulated runs on {found['nodes']:,} nodes; a day has "
        + ", ".join(f"{n:.3g} {kind}" for kind, n in per_day.items() if n)
        + (f"; one unexpected stop every {found['mtbf_hours']:.3g} h" if found["mtbf_hours"] else ""),
        f"  effective time   {goodput['mean']:.2%}, 95% of runs between {goodput['low']:.2%} and {goodput['high']:.2%}",
        f"  days             {days['mean']:.2f} [{days['low']:.2f}, {days['high']:.2f}], of them "
        f"{found['productive_days']['mean']:.2f} of work that is kept",
        "  stops            "
        + ", ".join(f"{s['mean']:.1f} [{s['low']:.0f}, {s['high']:.0f}] {k}" for k, s in found["stops"].items() if s["high"]),
        "  the time         " + ", ".join(f"{name} {share:.2%}" for name, share in found["share_of_time"].items() if share > 5e-6),
        f"  lost a stop      {found['minutes_lost_a_stop']:.1f} minutes",
        "assumed: " + ", ".join(f"{name} {value:g}" for name, value in plan.items() if name not in ("nodes", "days", "work_days")),
    ]
    if (best := found["interval"]) and best["simulated_minutes"]:
        lines.append(
            f"checkpoint interval: simulated optimum {best['simulated_minutes']:.3g} minutes, Young {best['young_minutes']:.3g}, "
            f"Daly {best['daly_minutes']:.3g}; the plan has {plan['checkpoint_minutes']:g}"
        )
    if found["changes"]:
        lines.append("one change buys (mean over the same failures):")
    for text, gain in found["changes"].items():
        points, fewer = gain["goodput_points"], gain["days"]
        more = f", {fewer['mean']:+.2f} days" if plan["work_days"] else ""
        lines.append(f"  {points['mean']:+6.2f} ± {points['error']:.2f} points{more}  {text}")
    return "\n".join(lines)

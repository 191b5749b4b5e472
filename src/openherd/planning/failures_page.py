"""The pictures of simulated failures as one self-contained page: `openherd plan failures --page`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openherd.planning.causes import Cause
from openherd.planning.failures import RunPlan
from openherd.planning.failures_reference import one_run
from openherd.planning.reliability import reliability_text
from openherd.report.failures import interval_curve, run_calendar
from openherd.report.markup import document, element, figure, join, paragraph


def write_failures_page(path: Path, found: dict[str, Any], plan: RunPlan, causes: Sequence[Cause], seed: int) -> None:
    """Write what `assess` found, one run as a calendar, and goodput by checkpoint interval."""
    story: list[dict[str, Any]] = []
    one = one_run(plan, causes, 0, found["runs"], seed, story)
    share = one["productive_days"] / one["days"]
    caption = f"The first of the simulated runs, a line a day: {share:.1%} effective, {one['unexpected']:.0f} unexpected stops"
    sections = [
        ("figures", "Figures", element("pre", reliability_text(found, causes))),
        ("calendar", "One run", figure(run_calendar(story), caption)),
    ]
    if (best := found["interval"]) and best["tried"]:
        marks = {
            "simulated optimum": best["simulated_minutes"],
            "Young": best["young_minutes"],
            "Daly": best["daly_minutes"],
            "the plan": plan.checkpoint_minutes,
        }
        picture = figure(interval_curve(best["tried"], marks), "Effective time by the interval between checkpoints")
        sections.append(("interval", "Checkpoint interval", picture))
    header = join([element("h1", "A run that fails"), paragraph(f"{found['runs']:,} simulated runs, openherd.")])
    path.write_text(document("A run that fails", sections, header), encoding="utf-8")

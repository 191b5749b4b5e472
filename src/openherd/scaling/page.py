"""The pictures of fits as one self-contained page: `openherd scaling fit --page`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openherd.report.markup import Html, document, element, figure, join, paragraph
from openherd.report.scaling import isoflop_curves, optimal_allocation, residuals
from openherd.scaling import fit as parametric
from openherd.scaling import overtrain
from openherd.scaling.fit import Fit
from openherd.scaling.isoflop import Minimum, curves, lines
from openherd.scaling.runs import Runs
from openherd.scaling.told import count, fit_text


def write_page(path: Path, fits: Sequence[tuple[Runs, Fit]], minimum: Minimum) -> None:
    """Write one section a group of runs. `minimum` is how IsoFLOP optima were found."""
    sections = []
    for i, (runs, fit) in enumerate(fits, 1):
        title = ", ".join(fit.group.values()) or fit.law
        sections.append((f"fit-{i}", title, join([element("pre", fit_text(fit)), *pictures(runs, fit, minimum)])))
    header = join([element("h1", "Scaling laws"), paragraph(f"The law “{fits[0][1].law}”, fitted by openherd.")])
    path.write_text(document("Scaling laws", sections, header), encoding="utf-8")


def pictures(runs: Runs, fit: Fit, minimum: Minimum) -> list[Html]:
    """The figures of one fit."""
    if fit.law == "isoflop":
        reach = np.geomspace(runs.flops.min(), runs.flops.max() * 10, 20)
        laid = "the parabola" if minimum == "parabola" else "Akima's spline"
        drawn = curves(runs, fit, minimum)
        first = (
            [figure(isoflop_curves(drawn), f"Loss over tokens by budget, {laid} through its runs, its optimum")] if drawn else []
        )
        law = figure(optimal_allocation(fit.more["budgets"], lines(fit, reach)), "Optimal parameters and tokens over FLOPs")
        return [*first, law]
    if fit.law == "parametric":
        expected, seen = parametric.loss_at(fit.values, runs.parameters, runs.tokens), np.ones(len(runs), dtype=bool)
    else:
        expected = overtrain.loss_at(dict(fit.values), 6 * runs.parameters * runs.tokens, runs.tokens / runs.parameters)
        seen = overtrain.smallest(runs) if fit.runs_used < len(runs) else np.ones(len(runs), dtype=bool)
    points = [
        {"flops": float(c), "relative": float(r), "seen": bool(s), "note": f"{count(n)} on {count(d)} tokens"}
        for c, r, s, n, d in zip(runs.flops, runs.loss / expected - 1, seen, runs.parameters, runs.tokens, strict=True)
    ]
    return [figure(residuals(points), "How far each run's loss lies from the law")]

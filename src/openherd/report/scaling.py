"""Figures of scaling laws (paper 3.2.1), and the report's part on a ladder: losses by budget, optimal allocation, residuals.

Pure functions from numbers to Plotly figures. N are parameters, D tokens, C FLOPs; losses are nats per token.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from openherd.core.metrics import format_metric
from openherd.report.figures import BLUE, GREEN, GREY, PURPLE, VERMILION, dressed
from openherd.report.markup import Html, figure, join, paragraph, table
from openherd.report.runs import Runs, file_of, of_stage, si

BAND = "rgba(36, 136, 200, 0.2)"  # blue, under a line
BUDGET_COLOURS = [[0, BLUE], [0.4, GREEN], [0.75, PURPLE], [1, VERMILION]]
NARROW = 100.0  # a range of fewer than two decades has ticks between them


def log_axis(title: str, values: Iterable[float], counts: bool = False) -> dict[str, Any]:
    """A logarithmic axis over these values: ticks at powers of ten, and where that is little, at 2 and 5 as well.

    `counts` have the field's letters, 10B for one.
    """
    low, high = min(values := list(values)), max(values)
    steps = (1, 2, 5) if high < NARROW * low else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    axis = {"title_text": title, "type": "log", "tickvals": [a * 10.0**b for b in powers for a in steps]}
    if counts:
        return {**axis, "exponentformat": "B"}
    if len(steps) == 1:
        return {**axis, "ticktext": [f"10<sup>{b}</sup>" for b in powers]}
    return {**axis, "tickformat": ".0e"}


def isoflop_curves(budgets: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Loss over tokens, one curve a budget: its runs as points, what is laid through them as a line, the optimum as a diamond.

    A budget has `flops`, `tokens`, `loss`, `line_tokens`, `line_loss`, `optimum` (tokens, loss) or None.
    """
    colours = sample_colorscale(BUDGET_COLOURS, [i / max(len(budgets) - 1, 1) for i in range(len(budgets))])
    drawing = go.Figure()
    for budget, colour in zip(budgets, colours, strict=True):
        name = f"{budget['flops']:.3g}"
        shown = {"legendgroup": name, "name": name}
        drawing.add_scatter(
            **shown, x=budget["line_tokens"], y=budget["line_loss"], mode="lines", line={"color": colour, "width": 2},
            showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        drawing.add_scatter(
            **shown, x=budget["tokens"], y=budget["loss"], mode="markers", marker={"color": colour, "size": 7},
            hovertemplate=f"{name} FLOPs<br>%{{x:.4~s}} tokens<br>loss %{{y:.4f}}<extra></extra>",
        )  # fmt: skip
        if budget["optimum"]:
            tokens, loss = budget["optimum"]
            drawing.add_scatter(
                **shown, x=[tokens], y=[loss], mode="markers", showlegend=False,
                marker={"color": colour, "size": 13, "symbol": "diamond-open", "line": {"width": 2.5}},
                hovertemplate=f"optimum of {name} FLOPs<br>%{{x:.4~s}} tokens<br>loss %{{y:.4f}}<extra></extra>",
            )  # fmt: skip
    drawing.update_xaxes(**log_axis("training tokens", [t for b in budgets for t in b["tokens"]], counts=True))
    drawing.update_yaxes(title_text="loss (nats per token)")
    return dressed(drawing, 460, legend_title_text="FLOPs")


def optimal_allocation(
    optima: Sequence[Mapping[str, float]],
    lines: Mapping[str, Sequence[Mapping[str, float]]],
    chosen: Sequence[Mapping[str, float]] = (),
) -> go.Figure:
    """Optimal parameters and tokens over FLOPs: a point a budget, the power law with its 95% band, and models that were `chosen`.

    `optima` and `chosen` have `flops`, `parameters`, `tokens`; a point of a line has `flops`, `value`, `low`, `high`.
    """
    drawing = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
    for column, what in enumerate(("parameters", "tokens"), 1):
        line = lines[what]
        x = [p["flops"] for p in line]
        drawing.add_scatter(
            row=1, col=column, x=[*x, *x[::-1]], y=[*(p["low"] for p in line), *(p["high"] for p in line[::-1])], mode="lines",
            fill="toself", fillcolor=BAND, line={"width": 0}, name="95% interval", showlegend=column == 1, hoverinfo="skip",
        )  # fmt: skip
        drawing.add_scatter(
            row=1, col=column, x=x, y=[p["value"] for p in line], mode="lines", line={"color": BLUE, "width": 2},
            name="power law", showlegend=column == 1, hovertemplate=f"%{{x:.3g}} FLOPs<br>%{{y:.4~s}} {what}<extra></extra>",
        )  # fmt: skip
        for points, name, look in (
            (optima, "optima of budgets", {"color": BLUE, "size": 8}),
            (chosen, "trained for the test", {"color": VERMILION, "size": 10, "symbol": "diamond"}),
        ):
            if points:
                drawing.add_scatter(
                    row=1, col=column, x=[p["flops"] for p in points], y=[p[what] for p in points], mode="markers", marker=look,
                    name=name, showlegend=column == 1, hovertemplate=f"%{{x:.3g}} FLOPs<br>%{{y:.4~s}} {what}<extra></extra>",
                )  # fmt: skip
        drawing.update_xaxes(**log_axis("training FLOPs", x), row=1, col=column)
        ends = [p[end] for p in line for end in ("low", "high")]
        drawing.update_yaxes(**log_axis(f"optimal {what}", ends, counts=True), row=1, col=column)
    return dressed(drawing, 400)


def residuals(points: Sequence[Mapping[str, Any]]) -> go.Figure:
    """How far each run's loss lies from a law, in percent, over FLOPs; those that the law did not see are diamonds.

    A point has `flops`, `relative` (measured / foretold - 1), `seen`, and `note` for the one who points at it.
    """
    drawing = go.Figure()
    for seen, name, look in (
        (True, "fitted", {"color": BLUE, "size": 7}),
        (False, "not fitted", {"color": VERMILION, "size": 10, "symbol": "diamond"}),
    ):
        of_kind = [p for p in points if p["seen"] == seen]
        if of_kind:
            drawing.add_scatter(
                x=[p["flops"] for p in of_kind], y=[100 * p["relative"] for p in of_kind], mode="markers", marker=look, name=name,
                customdata=[p["note"] for p in of_kind],
                hovertemplate="%{customdata}<br>%{x:.3g} FLOPs<br>%{y:+.2f}%<extra></extra>",
            )  # fmt: skip
    drawing.add_hline(y=0, line={"color": GREY, "width": 1})
    drawing.update_xaxes(**log_axis("training FLOPs", [p["flops"] for p in points]))
    drawing.update_yaxes(title_text="loss over the law's (%)")
    return dressed(drawing, 360, showlegend=any(not p["seen"] for p in points))


def ladder(runs: Runs) -> Html | None:
    """The report's part on a ladder, or None where there was none."""
    parts = []
    for run in of_stage(runs, "scaling-ladder"):
        file, table_file = file_of(run, "fits.json"), file_of(run, "runs.csv")
        if file is None or table_file is None:
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        with table_file.open(encoding="utf-8", newline="") as text:
            rows = list(csv.DictReader(text))
        foretold = run.metrics["foretold"]
        told = [
            f"{name}: not foretold ({f['not_foretold']}), measured {f['loss']:.4f} nats."
            if "not_foretold" in f
            else f"{name}: foretold {format_metric(f['foretold'])}, measured {f['loss']:.4f} nats "
            f"({'within' if f['within_interval'] else 'outside'} the interval)."
            for name, f in foretold.items()
        ]
        cells = [
            (r["run"], si(float(r["parameters"])), si(float(r["tokens"])), f"{float(r['flops']):.3g}", f"{float(r['loss']):.4f}")
            for r in rows
        ]
        chosen = [{k: float(r[k]) for k in ("flops", "parameters", "tokens")} for r in rows if r["held_out"] == "1"]
        parts.append(paragraph(" ".join(told)))
        if "isoflop" in found:
            caption = "Optimal parameters and tokens by budget, and the power law through them"
            parts += [
                figure(isoflop_curves(found["curves"]), "Held-out loss over training tokens, a parabola for each budget"),
                figure(optimal_allocation(found["isoflop"]["budgets"], found["lines"], chosen), caption),
            ]
        else:
            parts.append(paragraph("No optimum by budget: ", run.metrics["isoflop"]["not_fitted"]))
        parts += [
            figure(residuals(found["residuals"]), "How far each run lies from the parametric law"),
            table("Runs of the ladder", ("run", "parameters", "tokens", "FLOPs", "held-out loss"), cells, right=range(1, 5)),
        ]
    return join(parts) if parts else None

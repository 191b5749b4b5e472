"""Figures of the report: pure functions from numbers to Plotly figures (the paper's own are of sections 3.2 to 5).

Colours are Okabe and Ito's, which colour-blind readers tell apart, the blue a little lighter, so that all are readable on light and
on dark; the page gives the colour of the text. Names that come from data are escaped, because Plotly reads some markup in text.
"""

import html
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from openherd.core.metrics import Estimate, format_metric

BLUE, VERMILION, GREEN, PURPLE = "#2488C8", "#D55E00", "#009E73", "#CC79A7"
GREY = "#8A919A"
DARK = ("#B54F00", "#5B6470", "#1B6FA8")  # vermilion, grey, blue under white numbers: contrast over 4.5
HATCH = {"fillmode": "overlay", "fgcolor": "white", "fgopacity": 0.6, "size": 7}
GRID = "rgba(128, 128, 128, 0.25)"
MOST_POINTS = 1_000  # of one line; a screen shows no more


class Curve(NamedTuple):
    """What one training phase logged; lists of equal length, one entry a step."""

    name: str
    tokens: Sequence[float]  # seen since the first phase began
    loss_nats: Sequence[float]
    learning_rate: Sequence[float]
    gradient_norm: Sequence[float]


class Score(NamedTuple):
    """One bar: a score, perhaps with its interval."""

    label: str
    value: Estimate | float
    is_baseline: bool = False


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Mean over `reach` values to either side; near the start over as many as stand before, which keeps a steep fall steep."""
    sums = list(accumulate(values, initial=0.0))
    windows = [(i - min(i, reach), min(i + min(i, reach) + 1, len(values))) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in windows]


def extremes(values: Sequence[float], most: int = MOST_POINTS) -> list[int]:
    """Indices of the lowest and the highest value of each of `most` / 2 equal stretches, in order: no spike is lost."""
    if len(values) <= most:
        return list(range(len(values)))
    edges = [len(values) * i // (most // 2) for i in range(most // 2 + 1)]
    return sorted({pick(range(a, b), key=values.__getitem__) for a, b in pairwise(edges) for pick in (min, max)})


def spread(n: int, most: int = MOST_POINTS) -> list[int]:
    """At most `most` indices below `n`, evenly spread, the first and the last among them."""
    return list(range(n)) if n <= most else [i * (n - 1) // max(most - 1, 1) for i in range(most)]


def funnel_bars(stages: Sequence[str], parts: Mapping[str, Sequence[float]], notes: Sequence[str], unit: str) -> go.Figure:
    """One horizontal bar a stage, from the first above to the last below, made of `parts`: what stays, then what goes.

    `notes` is shown for each stage when one points at it.
    """
    looks = [(BLUE, ""), (VERMILION, "/"), (PURPLE, ".")]
    drawing = go.Figure()
    for (name, values), (colour, shape) in zip(parts.items(), looks, strict=False):
        drawing.add_bar(
            name=name,
            y=[html.escape(s) for s in stages],
            x=list(values),
            orientation="h",
            marker={"color": colour, "pattern": {"shape": shape, **HATCH}},
            customdata=[_lines(note) for note in notes],
            hovertemplate=f"<b>%{{y}}</b><br>{name}: %{{x:,}} {unit}<br>%{{customdata}}<extra></extra>",
        )
    drawing.update_xaxes(title_text=unit, tickformat="~s")
    drawing.update_yaxes(autorange="reversed", showgrid=False)
    return dressed(drawing, 110 + 34 * len(stages), barmode="stack", legend_traceorder="normal")


def training_curves(curves: Sequence[Curve]) -> go.Figure:
    """Loss (faint: each step; strong: smoothed), learning rate and gradient norm over the tokens of all phases."""
    drawing = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.04, row_heights=[0.56, 0.22, 0.22])
    reach = max(sum(len(curve.tokens) for curve in curves) // 50, 1)
    for curve, colour in zip(curves, _phase_colours(len(curves)), strict=True):
        name = html.escape(curve.name)
        raw, even = extremes(curve.loss_nats), spread(len(curve.tokens))
        smoothed = smooth(curve.loss_nats, min(reach, len(curve.loss_nats) // 4))
        norm = extremes(curve.gradient_norm)
        for row, what, at, values, width, opacity in (
            (1, "loss", raw, curve.loss_nats, 1, 0.5),
            (1, "smoothed loss", even, smoothed, 2.5, 1.0),
            (2, "learning rate", even, curve.learning_rate, 2, 1.0),
            (3, "gradient norm", norm, curve.gradient_norm, 1, 0.8),
        ):
            drawing.add_scatter(
                row=row,
                col=1,
                name=name,
                legendgroup=name,
                showlegend=what == "smoothed loss",
                x=[curve.tokens[i] for i in at],
                y=[values[i] for i in at],
                mode="lines",
                opacity=opacity,
                line={"color": colour, "width": width},
                hoverinfo="skip" if what == "loss" else None,
                hovertemplate=None if what == "loss" else f"{name}<br>%{{x:.4~s}} tokens<br>{what} %{{y:.4~g}}<extra></extra>",
            )
    for border in sorted({curve.tokens[-1] for curve in curves if curve.tokens})[:-1]:
        drawing.add_vline(x=border, line={"color": GREY, "width": 1, "dash": "dot"})
    for row, title in enumerate(("loss (nats per token)", "learning rate", "gradient norm"), 1):
        drawing.update_yaxes(title_text=title, row=row, col=1, exponentformat="power")
    drawing.update_xaxes(title_text="tokens seen", tickformat="~s", row=3, col=1)
    return dressed(drawing, 620)


def score_bars(scores: Sequence[Score], axis: str, end: float | None = None) -> go.Figure:
    """One horizontal bar a score with its number and its 95% interval; baselines are grey and hatched. The axis goes to `end`."""
    labels = [html.escape(s.label) for s in scores]
    values = [s.value["value"] if isinstance(s.value, dict) else s.value for s in scores]
    intervals = [(label, s.value) for label, s in zip(labels, scores, strict=True) if isinstance(s.value, dict)]
    reached = [s.value["high"] if isinstance(s.value, dict) else s.value for s in scores]
    drawing = go.Figure()
    for is_baseline, colour, shape in ((False, BLUE, ""), (True, GREY, "/")):
        of_kind = [i for i, s in enumerate(scores) if s.is_baseline == is_baseline]
        drawing.add_bar(
            y=[labels[i] for i in of_kind],
            x=[values[i] for i in of_kind],
            orientation="h",
            marker={"color": colour, "pattern": {"shape": shape, **HATCH}},
            customdata=[format_metric(scores[i].value) for i in of_kind],
            hovertemplate="<b>%{y}</b><br>%{customdata}<extra></extra>",
        )
    drawing.add_scatter(
        name="intervals",
        y=[y for label, _ in intervals for y in (label, label, None)],
        x=[x for _, e in intervals for x in (e["low"], e["high"], None)],
        mode="lines",
        line={"color": VERMILION, "width": 3},
        hoverinfo="skip",
    )
    drawing.add_scatter(
        name="numbers",
        y=labels,
        x=reached,
        mode="text",
        text=[f"  {v:.3f}" for v in values],
        textposition="middle right",
        hoverinfo="skip",
        cliponaxis=False,
    )
    drawing.update_xaxes(title_text=axis, range=[0, end or 1.25 * max(reached, default=1.0)])
    drawing.update_yaxes(categoryorder="array", categoryarray=labels, autorange="reversed", showgrid=False)
    return dressed(drawing, 90 + 36 * len(scores), barmode="overlay", showlegend=False)


def grouped_bars(groups: Sequence[str], parts: Mapping[str, Sequence[float]], axis: str) -> go.Figure:
    """Horizontal bars side by side: one group a row, one bar in it for each of `parts`."""
    drawing = go.Figure()
    for (name, values), colour in zip(parts.items(), _phase_colours(len(parts)), strict=True):
        drawing.add_bar(
            name=html.escape(name),
            y=[html.escape(group) for group in groups],
            x=list(values),
            orientation="h",
            marker={"color": colour},
            hovertemplate=f"<b>%{{y}}</b><br>{html.escape(name)}: %{{x:.3f}}<extra></extra>",
        )
    drawing.update_xaxes(title_text=axis, rangemode="tozero")
    drawing.update_yaxes(autorange="reversed", showgrid=False)
    return dressed(drawing, 110 + (12 + 14 * len(parts)) * len(groups), barmode="group", legend_traceorder="normal")


def heat_map(columns: Sequence[str], rows: Sequence[str], shares: Sequence[Sequence[float]], axes: tuple[str, str]) -> go.Figure:
    """A field of shares from 0 to 1, each written in its cell: one list for each of `rows`, the first above."""
    drawing = go.Figure()
    drawing.add_heatmap(
        x=[html.escape(column) for column in columns],
        y=[html.escape(row) for row in rows],
        z=[list(row) for row in shares],
        zmin=0,
        zmax=1,
        colorscale=[[i / 2, colour] for i, colour in enumerate(DARK)],
        showscale=False,
        texttemplate="%{z:.2f}",
        textfont={"color": "white"},
        xgap=2,
        ygap=2,
        hovertemplate=f"{axes[0]} %{{x}}<br>{axes[1]} %{{y}}<br>%{{z:.3f}}<extra></extra>",
    )
    drawing.update_xaxes(title_text=axes[0], type="category", showgrid=False)
    drawing.update_yaxes(title_text=axes[1], title_standoff=14, type="category", autorange="reversed", showgrid=False)
    return dressed(drawing, 120 + 34 * len(rows))


def _lines(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _phase_colours(n: int) -> list[str]:
    return [(BLUE, VERMILION, GREEN, PURPLE)[i % 4] for i in range(n)]


def dressed(drawing: go.Figure, height: int, **layout: object) -> go.Figure:
    """A figure in the page's looks, which leaves the colour of text to it."""
    drawing.update_layout(
        template="none",
        height=height,
        margin={"l": 10, "r": 20, "t": 10, "b": 10},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        dragmode="zoom",
        **layout,
    )
    drawing.update_xaxes(automargin=True, title_font_size=13, gridcolor=GRID, zerolinecolor=GRID)
    drawing.update_yaxes(automargin=True, title_font_size=13, gridcolor=GRID, zerolinecolor=GRID, ticklabelstandoff=6)
    return drawing

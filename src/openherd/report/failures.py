"""Figures of simulated failures (paper 3.3.4): a run as a calendar, goodput by checkpoint interval. Pure functions of numbers."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from openherd.report.figures import BLUE, GREEN, GREY, PURPLE, VERMILION, dressed

KINDS = {"work": (BLUE, "work that is kept"), "lost": (VERMILION, "work lost"), "down": (GREY, "down")}
DAY_PIXELS, LEAST_PIXELS = 9, 120


def run_calendar(stretches: Sequence[Mapping[str, Any]]) -> go.Figure:
    """One run, a line a day: what it did at which hour. A stretch has `kind`, `start` and `end` in days, and `cause`."""
    days = max((s["end"] for s in stretches), default=0.0)
    drawing = go.Figure()
    for kind, (colour, name) in KINDS.items():
        pieces = [p for s in stretches if s["kind"] == kind for p in _by_day(s)]
        drawing.add_bar(
            name=name,
            y=[day for day, _, _, _ in pieces],
            base=[start for _, start, _, _ in pieces],
            x=[hours for _, _, hours, _ in pieces],
            orientation="h",
            width=0.8,
            marker={"color": colour, "line": {"width": 0}},
            customdata=[cause for _, _, _, cause in pieces],
            hovertemplate=f"day %{{y}}, from %{{base:.2f}} h<br>{name}: %{{x:.2f}} h<br>%{{customdata}}<extra></extra>",
        )
    drawing.update_xaxes(title_text="hour of the day", range=[0, 24], dtick=4)
    drawing.update_yaxes(title_text="day", autorange="reversed", showgrid=False)
    return dressed(drawing, LEAST_PIXELS + int(DAY_PIXELS * days), barmode="overlay", legend_traceorder="normal")


def _by_day(stretch: Mapping[str, Any]) -> list[tuple[int, float, float, str]]:
    """A stretch cut at midnight: day from 1, hour it starts at, hours, cause."""
    found, start = [], float(stretch["start"])
    while start < stretch["end"]:
        end = min(float(int(start) + 1), float(stretch["end"]))
        found.append((int(start) + 1, 24 * (start - int(start)), 24 * (end - start), html.escape(str(stretch["cause"]))))
        start = end
    return found


def interval_curve(tried: Sequence[Mapping[str, float]], marks: Mapping[str, float]) -> go.Figure:
    """Simulated goodput over the minutes between checkpoints, with intervals worth a line: Young's, Daly's, the plan's."""
    drawing = go.Figure()
    drawing.add_scatter(
        x=[t["minutes"] for t in tried],
        y=[100 * t["goodput"] for t in tried],
        mode="lines+markers",
        line={"color": BLUE, "width": 2},
        hovertemplate="every %{x:.3g} minutes<br>%{y:.2f}% effective<extra></extra>",
        showlegend=False,
    )
    low, high = 100 * min(t["goodput"] for t in tried), 100 * max(t["goodput"] for t in tried)
    for (name, minutes), (colour, dash) in zip(
        marks.items(), ((VERMILION, "solid"), (GREEN, "dash"), (PURPLE, "dot"), (GREY, "dashdot")), strict=False
    ):
        drawing.add_scatter(
            x=[minutes, minutes], y=[low, high], mode="lines", line={"color": colour, "width": 2, "dash": dash},
            name=f"{html.escape(name)}: {minutes:.3g}", hoverinfo="name",
        )  # fmt: skip
    ticks = [a * 10.0**b for b in range(-2, 5) for a in (1, 2, 5)]
    labels = [f"{t:g}" for t in ticks]
    drawing.update_xaxes(title_text="minutes of work between checkpoints", type="log", tickvals=ticks, ticktext=labels)
    drawing.update_yaxes(title_text="effective time (%)")
    return dressed(drawing, 360)

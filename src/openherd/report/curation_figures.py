"""Pictures of what curation measured: pure functions from numbers to Plotly figures."""

import html
import itertools
from collections.abc import Sequence

import plotly.graph_objects as go

from openherd.report.figures import BLUE, HATCH, VERMILION, dressed

NARROW = 210  # height of one of many small pictures


def measure_bars(
    name: str, edges: Sequence[float], kept: Sequence[int], dropped: Sequence[int], limits: Sequence[float | None]
) -> go.Figure:
    """Kept and dropped documents by a measure, on a logarithmic axis, with a line at each limit that lies in the picture."""
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    drawing = go.Figure()
    looks = (
        ("kept", kept, BLUE, "", 1.0),
        ("dropped by this stage", dropped, VERMILION, "/", 0.6),
    )  # narrower: none hides the other
    for label, counts, colour, shape, share in looks:
        drawing.add_bar(
            name=label,
            x=middles,
            y=[n or None for n in counts],  # a logarithmic axis has no zero
            width=[share * (high - low) for low, high in itertools.pairwise(edges)],
            marker={"color": colour, "pattern": {"shape": shape, **HATCH}},
            customdata=[f"{low:.4g} to {high:.4g}" for low, high in itertools.pairwise(edges)],
            hovertemplate=f"{label}: %{{y:,}}<br>%{{customdata}}<extra></extra>",
        )
    for limit in limits:
        if limit is not None and edges[0] <= limit <= edges[-1]:
            drawing.add_vline(x=limit, line={"color": VERMILION, "width": 2, "dash": "dash"})
    drawing.update_xaxes(title_text=html.escape(name.replace("_", " ")))
    drawing.update_yaxes(type="log", dtick=1, tickformat="~s", title_text="documents")
    return dressed(drawing, NARROW, barmode="overlay", bargap=0, showlegend=False)


def share_bars(groups: Sequence[str], kept: Sequence[int], gone: Sequence[int], unit: str) -> go.Figure:
    """One bar a group: what is left at the end, and what went on the way."""
    drawing = go.Figure()
    for label, values, colour, shape in (("kept to the end", kept, BLUE, ""), ("dropped on the way", gone, VERMILION, "/")):
        drawing.add_bar(
            name=label,
            y=[html.escape(group) for group in groups],
            x=list(values),
            orientation="h",
            marker={"color": colour, "pattern": {"shape": shape, **HATCH}},
            hovertemplate=f"<b>%{{y}}</b><br>{label}: %{{x:,}} {unit}<extra></extra>",
        )
    drawing.update_xaxes(title_text=unit, tickformat="~s")
    drawing.update_yaxes(autorange="reversed", showgrid=False)
    return dressed(drawing, 110 + 26 * len(groups), barmode="stack", legend_traceorder="normal")

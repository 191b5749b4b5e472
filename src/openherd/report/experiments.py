"""The report's part on experiments with data: the score of mixes by small models, the value of data sets by annealing (paper 3.1.2,
3.1.3)."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from openherd.core.metrics import format_metric
from openherd.core.rundir import Run
from openherd.report.figures import BLUE, GREEN, PURPLE, VERMILION, Score, dressed, score_bars
from openherd.report.markup import Html, element, figure, join, paragraph, prose, table
from openherd.report.runs import Runs, file_of, of_stage
from openherd.report.scaling import log_axis

COLOURS = (BLUE, VERMILION, GREEN, PURPLE)


def mix_lines(runs: Sequence[Mapping[str, Any]], foretold: Mapping[str, Mapping[str, Any]], target_flops: float) -> go.Figure:
    """Score over FLOPs, one colour a mix: its runs, and what the small ones foretell, with its interval, as a diamond.

    A run has `mix`, `flops` and `score`.
    """
    drawing = go.Figure()
    for mix, colour in zip(foretold, COLOURS * len(foretold), strict=False):
        of = sorted((r for r in runs if r["mix"] == mix), key=lambda r: r["flops"])
        told = foretold[mix]["foretold"]
        name = html.escape(mix)
        drawing.add_scatter(
            x=[r["flops"] for r in of], y=[r["score"] for r in of], name=name, legendgroup=name, mode="lines+markers",
            line={"color": colour, "width": 1.5}, hovertemplate=f"{name}<br>%{{x:.3g}} FLOPs<br>%{{y:.4f}}<extra></extra>",
        )  # fmt: skip
        drawing.add_scatter(
            x=[target_flops], y=[told["value"]], name=f"{name}, foretold", legendgroup=name, showlegend=False, mode="markers",
            marker={"color": colour, "size": 12, "symbol": "diamond-open"},
            error_y={"type": "data", "array": [told["high"] - told["value"]], "color": colour},
            hovertemplate=f"{name}, foretold<br>%{{y:.4f}}<extra></extra>",
        )  # fmt: skip
    drawing.update_xaxes(**log_axis("training FLOPs", [r["flops"] for r in runs]))
    drawing.update_yaxes(title_text="held-out bits per byte")
    return dressed(drawing, 420)


def experiments(runs: Runs) -> Html | None:
    """The part on both experiments, or None where neither was made."""
    found = [part for run in of_stage(runs, "mix-experiment") if (part := _mixes(run))]
    found += [_values(run) for run in of_stage(runs, "data-value")]
    return join(found) if found else None


def _mixes(run: Run) -> Html | None:
    file = file_of(run, "mixes.json")
    if file is None:
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    weights = found["target_weights"]
    total = sum(weights.values())
    points = [{**r, "score": sum(w * r["bits_per_byte"][s] for s, w in weights.items()) / total} for r in found["runs"]]
    rows = [
        (prose(mix), format_metric(of["foretold"]), "" if of["measured"] is None else f"{of['measured']:.4f}")
        for mix, of in sorted(found["mixes"].items(), key=lambda row: row[1]["foretold"]["value"])
    ]
    m = run.metrics
    order = f"; {m['pairs_in_order']} of {m['pairs']} pairs of mixes are in the right order" if "pairs" in m else ""
    best = f"The best mix as foretold is {m['best_foretold']}"
    best += f", as measured {m['best_measured']}{order}." if "best_measured" in m else "."
    return join([
        element("h3", "Mixes, scored by small models"),
        paragraph(best),
        figure(mix_lines(points, found["mixes"], found["target_flops"]), "Score of each mix over compute; diamonds are foretold"),
        table("Mixes", ("mix", "foretold bits per byte", "measured"), rows, right=(1, 2)),
    ])  # fmt: skip


def _values(run: Run) -> Html:
    m = run.metrics
    bars = [Score("default mix", m["default_bits_per_byte"], is_baseline=True)]
    bars += [Score(name, of["bits_per_byte"]) for name, of in m["values"].items()]
    rows = [
        (prose(name), format_metric(of["value_bits_per_byte"]), *(format_metric(e) for e in of["change_by_source"].values()))
        for name, of in m["values"].items()
    ]
    sources = next(iter(m["values"].values()))["change_by_source"] if m["values"] else {}
    head = ("data set", "value, bits per byte", *(f"change on {source}" for source in sources))
    return join([
        element("h3", "Data sets, scored by annealing"),
        paragraph(
            "Each was a part of an annealing from one half-trained model; the value is by how much it lowers held-out bits per "
            "byte against the default mix alone, document by document, with a 95% interval."
        ),
        figure(score_bars(bars, "bits per byte"), "Held-out bits per byte after annealing; the default is hatched"),
        table("Value of data sets", head, rows, right=range(1, len(head))),
    ])  # fmt: skip

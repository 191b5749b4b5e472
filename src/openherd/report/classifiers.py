"""The report's part on classifiers (paper 3.1.1): ROC curves, reliability, distributions of scores; pure functions of numbers."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from openherd.core.rundir import Run
from openherd.report.figures import BLUE, GREEN, GREY, HATCH, PURPLE, VERMILION, dressed
from openherd.report.markup import Html, element, figure, join, paragraph, side_by_side, table
from openherd.report.runs import Runs, file_of, names, of_stage

EVALUATION = "evaluation.json"
TRAINED = ("train-classifier", "train-transformer")
COLOURS = (BLUE, VERMILION, GREEN, PURPLE)


def roc_curves(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> go.Figure:
    """True over false positive rate, one line a name; the diagonal is chance. Pointing at a line shows the threshold."""
    drawing = go.Figure()
    drawing.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="chance", line={"color": GREY, "dash": "dot"}, hoverinfo="skip")
    for (name, curve), colour in zip(curves.items(), COLOURS * len(curves), strict=False):
        drawing.add_scatter(
            x=list(curve["false_positive_rate"]),
            y=list(curve["true_positive_rate"]),
            customdata=list(curve["threshold"]),
            mode="lines",
            name=html.escape(name),
            line={"color": colour, "width": 2.5},
            hovertemplate="false positives %{x:.3f}<br>true positives %{y:.3f}<br>threshold %{customdata:.3f}<extra></extra>",
        )
    drawing.update_xaxes(title_text="false positive rate", range=[0, 1])
    drawing.update_yaxes(title_text="true positive rate", range=[0, 1.01])
    return dressed(drawing, 380)


def reliability_diagram(rows: Sequence[Mapping[str, float]]) -> go.Figure:
    """Share of positives over mean score, a point a stretch of score as large as it has texts; on the diagonal a score is right."""
    most = max((row["n"] for row in rows), default=1)
    drawing = go.Figure()
    drawing.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"color": GREY, "dash": "dot"}, hoverinfo="skip")
    drawing.add_scatter(
        x=[row["mean_score"] for row in rows],
        y=[row["positive_share"] for row in rows],
        customdata=[row["n"] for row in rows],
        mode="lines+markers",
        name="held-out texts",
        line={"color": BLUE, "width": 2},
        marker={"size": [8 + 16 * (row["n"] / most) ** 0.5 for row in rows]},
        hovertemplate="score %{x:.3f}<br>share of positives %{y:.3f}<br>%{customdata:,} texts<extra></extra>",
    )
    drawing.update_xaxes(title_text="mean score", range=[0, 1])
    drawing.update_yaxes(title_text="share of positives", range=[0, 1.01])
    return dressed(drawing, 380)


def score_histogram(counts: Mapping[str, Sequence[int]], threshold: float | None, axis: str = "score") -> go.Figure:
    """Texts by score from 0 to 1 in equal stretches, one colour a name, with the threshold drawn."""
    drawing = go.Figure()
    for (name, values), colour, shape in zip(
        counts.items(), COLOURS * len(counts), ("", "/", ".", "x") * len(counts), strict=False
    ):
        n = len(values)
        drawing.add_bar(
            x=[(i + 0.5) / n for i in range(n)],
            y=list(values),
            width=1 / n,
            name=html.escape(name),
            marker={"color": colour, "pattern": {"shape": shape, **HATCH}},
            hovertemplate=f"{html.escape(name)}<br>{axis} %{{x:.3f}}<br>%{{y:,}} texts<extra></extra>",
        )
    if threshold is not None:
        drawing.add_vline(x=threshold, line={"color": VERMILION, "width": 2, "dash": "dash"})
    drawing.update_xaxes(title_text=axis, range=[0, 1])
    drawing.update_yaxes(title_text="texts", rangemode="tozero")
    return dressed(drawing, 320, barmode="stack")


def classifiers(runs: Runs) -> Html | None:
    """The part on classifiers and what they filtered, or None where there was neither."""
    name = names(runs)
    found = [_classifier(name[run.digest], run) for run in of_stage(runs, *TRAINED)]
    found += [_filtered(name[run.digest], run) for run in of_stage(runs, "quality")]
    return join(found) if found else None


def _filtered(label: str, run: Run) -> Html:
    m, settings = run.metrics, run.manifest["settings"]
    threshold = settings["threshold"] if settings["mode"] in ("threshold", "soft") else None
    least = m.get("least_score_by_language", {})
    rows = [
        (language or "not known", f"{mean:.4f}", f"{least[language]:.4f}" if language in least else "")
        for language, mean in m["mean_score_by_language"].items()
    ]
    return join([
        element("h3", f"Scores of {label}"),
        figure(score_histogram({"documents": m["score_histogram"]}, threshold), f"Documents by their score as {m['label']}"),
        table("By language", ("language", "mean score", "least score that stays"), rows, right=(1, 2)),
    ])  # fmt: skip


def _classifier(label: str, run: Run) -> Html:
    file = file_of(run, EVALUATION)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file else {}
    m = run.metrics
    facts = [("labels", ", ".join(m.get("labels", []))), ("held-out texts", f"{m.get('heldout_texts', 0):,}")]
    parts = [element("h3", label), table(label, (label, ""), facts)]
    if roc := found.get("roc"):
        area = found["auc"]
        parts.append(paragraph(f"Area under the curve {area['value']:.4f}, 95% interval {area['low']:.4f} to {area['high']:.4f}."))
        parts.append(
            side_by_side(
                figure(roc_curves({"held-out texts": roc}), "ROC curve on held-out texts"),
                figure(reliability_diagram(found["reliability"]), "How often a score is right"),
            )
        )
    if histogram := found.get("histogram"):
        parts.append(figure(score_histogram(histogram, None), "Held-out texts by score"))
    if thresholds := found.get("thresholds"):
        rows = [
            (f"{r['threshold']:.2f}", *(f"{r[k]:.3f}" for k in ("share", "precision", "recall", "false_positive_rate")))
            for r in thresholds
        ]
        head = ("threshold", "share above", "precision", "recall", "false positives")
        parts.append(table("Thresholds", head, rows, right=range(5)))
    if by_label := found.get("by_label"):
        rows = [(n, f"{r['texts']:,}", f"{r['precision']:.3f}", f"{r['recall']:.3f}") for n, r in by_label.items()]
        parts.append(table("By label", ("label", "texts", "precision", "recall"), rows, right=(1, 2, 3)))
    if by_language := found.get("by_language"):
        rows = [
            (n, f"{r['texts']:,}", f"{r['auc']['value']:.4f}" if r.get("auc") else "", f"{r['calibration_error']:.3f}")
            for n, r in by_language.items()
        ]
        parts.append(table("By language", ("language", "texts", "AUC", "calibration error"), rows, right=(1, 2, 3)))
    return join(parts)

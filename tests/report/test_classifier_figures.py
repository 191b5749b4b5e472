"""Figures of classifiers and of experiments with data: what stands in them is what was given."""

from pathlib import Path

import pytest

from openherd.core.rundir import Run
from openherd.report.classifiers import classifiers, reliability_diagram, roc_curves, score_histogram
from openherd.report.experiments import experiments, mix_lines

CURVE = {"false_positive_rate": [0.0, 0.5, 1.0], "true_positive_rate": [0.0, 0.9, 1.0], "threshold": [0.9, 0.5, 0.1]}


def test_a_roc_curve_shows_its_thresholds():
    drawing = roc_curves({"a <b>": CURVE, "other": CURVE})
    assert [trace.name for trace in drawing.data] == ["chance", "a &lt;b&gt;", "other"]
    assert list(drawing.data[1].y) == CURVE["true_positive_rate"]
    assert list(drawing.data[1].customdata) == CURVE["threshold"]


def test_reliability_points_grow_with_their_texts():
    rows = [{"n": n, "mean_score": s, "positive_share": p} for n, s, p in ((100, 0.1, 0.2), (4, 0.9, 0.8))]
    points = reliability_diagram(rows).data[1]
    assert list(points.x) == [0.1, 0.9]
    assert list(points.y) == [0.2, 0.8]
    assert points.marker.size[0] > points.marker.size[1]
    assert len(reliability_diagram([]).data) == 2


@pytest.mark.parametrize("threshold", [None, 0.25])
def test_a_histogram_with_the_threshold_drawn(threshold):
    drawing = score_histogram({"good": [1, 2, 3, 4], "bad": [4, 3, 2, 1]}, threshold)
    assert list(drawing.data[0].x) == [0.125, 0.375, 0.625, 0.875]
    assert list(drawing.data[1].y) == [4, 3, 2, 1]
    assert [shape.x0 for shape in drawing.layout.shapes] == ([] if threshold is None else [0.25])


def test_lines_of_mixes_have_their_runs_and_a_diamond():
    told = {"a 50%": {"foretold": {"value": 2.0, "low": 1.9, "high": 2.1}}}
    runs = [{"mix": "a 50%", "flops": c, "score": s} for c, s in ((2e12, 2.5), (1e12, 3.0))]
    line, diamond = mix_lines(runs, told, 1e13).data
    assert list(line.x) == [1e12, 2e12]
    assert list(diamond.x) == [1e13]
    assert diamond.error_y.array[0] == pytest.approx(0.1)


@pytest.mark.parametrize("mode", ["threshold", "top"])
def test_what_a_filter_did(mode):
    metrics = {"label": "good", "score_histogram": [3, 2, 1], "mean_score_by_language": {"en": 0.25, "": 0.5}}
    metrics |= {"least_score_by_language": {"en": 0.125}} if mode == "top" else {}
    manifest = {"stage": "quality", "digest": "d", "metrics": metrics, "settings": {"mode": mode, "threshold": 0.6}, "outputs": {}}
    page = str(classifiers([Run(Path("runs/quality"), manifest)]))
    assert "Scores of quality" in page
    assert ("0.1250" in page) == (mode == "top")


def test_without_such_runs_there_is_no_part():
    assert classifiers([]) is None
    assert experiments([]) is None

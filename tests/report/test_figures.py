"""Figures: the numbers in them, and the thinning and smoothing behind them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.metrics import mean_estimate
from openherd.report.figures import Curve, Score, extremes, funnel_bars, heat_map, score_bars, smooth, spread, training_curves

NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200)


@given(NUMBERS, st.integers(0, 30))
def test_smooth_is_the_mean_of_a_window(values, reach):
    for i, found in enumerate(smooth(values, reach)):
        before = min(i, reach)
        window = values[i - before : i + before + 1]
        assert found == pytest.approx(sum(window) / len(window), abs=1e-6)


@given(NUMBERS, st.integers(2, 40))
def test_extremes_lose_no_spike(values, most):
    kept = extremes(values, most)
    assert kept == sorted(set(kept))
    assert len(kept) <= most
    assert max(values[i] for i in kept) == max(values)
    assert min(values[i] for i in kept) == min(values)


@given(st.integers(1, 500), st.integers(2, 40))
def test_spread_has_first_and_last(n, most):
    kept = spread(n, most)
    assert kept == sorted(set(kept))
    assert len(kept) == min(n, most)
    assert (kept[0], kept[-1]) == (0, n - 1)


def test_spread_of_few():
    assert spread(10, 1) == [0]
    assert spread(10, 0) == spread(0, 3) == []


def test_funnel_bars_hold_the_counts():
    drawing = funnel_bars(["extraction", "<b>x"], {"kept": [9, 7], "dropped": [1, 2]}, ["short: 1", "a<b: 1\nc: 1"], "documents")
    kept, dropped = drawing.data
    assert (kept.name, list(kept.x), list(dropped.x)) == ("kept", [9, 7], [1, 2])
    assert list(kept.y) == ["extraction", "&lt;b&gt;x"]
    assert list(dropped.customdata) == ["short: 1", "a&lt;b: 1<br>c: 1"]
    assert drawing.layout.barmode == "stack"


def curve(name, start, losses):
    n = len(losses)
    return Curve(name, [start + 10 * (i + 1) for i in range(n)], losses, [0.1] * n, [1.0] * n)


def test_training_curves_hold_the_phases_one_after_the_other():
    drawing = training_curves([curve("pretrain", 0, [4.0, 3.0, 2.0]), curve("anneal", 30, [2.0, 1.0])])
    raw, smoothed, rate, norm, *_ = drawing.data
    assert (list(raw.x), list(raw.y)) == ([10, 20, 30], [4.0, 3.0, 2.0])
    assert list(smoothed.y) == [4.0, 3.0, 2.0]
    assert (list(rate.y), list(norm.y)) == ([0.1] * 3, [1.0] * 3)
    assert list(drawing.data[4].x) == [40, 50]
    assert {line.x0 for line in drawing.layout.shapes} == {30}
    assert [trace.name for trace in drawing.data if trace.showlegend] == ["pretrain", "anneal"]
    assert len({trace.line.color for trace in drawing.data}) == 2


def test_training_curves_stay_small():
    losses = [float(i % 7) for i in range(50_000)]
    drawing = training_curves([curve("pretrain", 0, losses)])
    assert all(len(trace.x) == len(trace.y) <= 1_000 for trace in drawing.data)


def test_score_bars_hold_values_and_intervals():
    estimate = mean_estimate([1.0, 2.0, 3.0])
    drawing = score_bars([Score("anneal", estimate), Score("xz", 2.5, is_baseline=True), Score("<i>", 1.5)], "bits per byte")
    models, baselines, intervals, numbers = drawing.data
    assert (list(models.y), list(models.x)) == (["anneal", "&lt;i&gt;"], [2.0, 1.5])
    assert (list(baselines.y), list(baselines.x)) == (["xz"], [2.5])
    assert list(intervals.x) == [estimate["low"], estimate["high"], None]
    assert [text.strip() for text in numbers.text] == ["2.000", "2.500", "1.500"]
    assert list(drawing.layout.yaxis.categoryarray) == ["anneal", "xz", "&lt;i&gt;"]
    assert models.marker.color != baselines.marker.color
    assert drawing.layout.xaxis.range[1] > estimate["high"]


def test_a_heat_map_holds_a_share_a_cell():
    drawing = heat_map(["96", "<b>x"], ["0%", "50%", "100%"], [[1.0, 0.0], [0.5, 1.0], [1.0, 0.25]], ("tokens", "depth"))
    (field,) = drawing.data
    assert (list(field.x), list(field.y)) == (["96", "&lt;b&gt;x"], ["0%", "50%", "100%"])
    assert [list(row) for row in field.z] == [[1.0, 0.0], [0.5, 1.0], [1.0, 0.25]]
    assert (field.zmin, field.zmax) == (0, 1)
    assert drawing.layout.yaxis.autorange == "reversed", "the text's beginning is above"

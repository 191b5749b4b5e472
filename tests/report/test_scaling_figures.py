"""Figures of scaling laws and of failures hold the numbers they were given."""

import pytest

from openherd.report.failures import interval_curve, run_calendar
from openherd.report.scaling import isoflop_curves, optimal_allocation, residuals


def test_a_calendar_has_every_hour_once():
    story = [
        {"kind": "work", "start": 0.0, "end": 1.6, "cause": ""},
        {"kind": "lost", "start": 1.6, "end": 1.7, "cause": "GPU <b>"},
        {"kind": "down", "start": 1.7, "end": 2.2, "cause": "GPU <b>"},
    ]
    drawn = run_calendar(story)
    bars = {bar.name: bar for bar in drawn.data}
    assert list(bars["work that is kept"].y) == [1, 2]
    assert list(bars["down"].y) == [2, 3]
    assert sum(sum(bar.x) for bar in bars.values()) == pytest.approx(2.2 * 24)
    assert bars["work lost"].base[0] == pytest.approx(0.6 * 24)
    assert "<b>" not in bars["work lost"].customdata[0]


def test_intervals_are_marked():
    tried = [{"minutes": m, "goodput": g} for m, g in ((1, 0.8), (4, 0.9), (20, 0.85))]
    drawn = interval_curve(tried, {"Young": 4.3, "the plan": 10})
    assert list(drawn.data[0].y) == [80, 90, 85]
    assert [(line.x[0], line.name) for line in drawn.data[1:]] == [(4.3, "Young: 4.3"), (10, "the plan: 10")]


def test_scaling_figures():
    budget = {"flops": 1e18, "tokens": [1e9, 2e9], "loss": [3.1, 3.0], "line_tokens": [1e9, 2e9], "line_loss": [3.1, 3.0]}
    drawn = isoflop_curves([{**budget, "optimum": (1.5e9, 2.9)}, {**budget, "flops": 1e19, "optimum": None}])
    assert [trace.mode for trace in drawn.data] == ["lines", "markers", "markers", "lines", "markers"]
    line = [{"flops": c, "value": c / 2, "low": c / 3, "high": c} for c in (1e18, 1e19)]
    optima = [{"flops": 1e18, "parameters": 1e8, "tokens": 2e9}]
    drawn = optimal_allocation(optima, {"parameters": line, "tokens": line}, optima)
    assert [trace.y[0] for trace in drawn.data if trace.mode == "markers"] == [1e8, 1e8, 2e9, 2e9]
    drawn = residuals(
        [
            {"flops": 1e18, "relative": 0.01, "seen": True, "note": "a"},
            {"flops": 1e19, "relative": -0.02, "seen": False, "note": "b"},
        ]
    )
    assert [trace.y[0] for trace in drawn.data] == [1.0, -2.0]

"""The planner's pictures: the numbers in them."""

import pytest

from openherd.report.planning import check_page, decades, plan_page, predicted_measured, stacked_parts


def test_held_out_rows_are_filled():
    points = [("a<b", "one", 1.0, 1.1, False), ("a<b", "two", 2.0, 1.9, True), ("c", "three", 4.0, 4.0, True)]
    drawing = predicted_measured(points, "seconds")
    marks = [trace for trace in drawing.data if trace.mode == "markers"]
    assert [(m.name, m.marker.symbol) for m in marks] == [
        ("a&lt;b, fitted", "circle-open"), ("a&lt;b, held out", "circle"), ("c, held out", "square"),
    ]  # fmt: skip
    assert (list(marks[1].x), list(marks[1].y)) == ([2.0], [1.9])
    lines = [trace for trace in drawing.data if trace.mode == "lines"]
    assert [line.y[0] / line.x[0] for line in lines] == pytest.approx([1, 1.15, 1 / 1.15])


def test_ticks_of_decades():
    assert decades([0.5, 30])["tickvals"] == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500])
    assert decades([0.01, 1_000])["ticktext"] == ["0.01", "0.1", "1", "10", "100", "1000"]


def test_parts_are_stacked_to_the_limit():
    drawing = stacked_parts(["x", "y"], {"weights": [1, 2], "activations": [3, 4]}, "GiB", (8.0, "8 GiB"))
    assert [list(bar.x) for bar in drawing.data] == [[1, 2], [3, 4]]
    assert drawing.layout.barmode == "stack"
    assert drawing.layout.shapes[0].x0 == 8.0
    assert len({(bar.marker.color, bar.marker.pattern.shape) for bar in drawing.data}) == 2


def test_pages_hold_what_they_are_given():
    layout = {
        "layout": {"tp": 8, "cp": 1, "pp": 2, "dp": 4, "virtual_stages": 1, "recompute": "full"},
        "memory_bytes": {"weights": 2**30, "logits": 0, "total": 2**30},
        "memory_bytes_by_place": [2**30, 2**29],
        "layers_by_place": [3, 2],
        "step_s_parts": {"compute": 1.0, "cp": 0.0, "overlapped": 9.0},
        "step_s": 1.0, "tokens_per_s_per_gpu": 1_234.0, "mfu_attention_in_full": 0.4, "days": 3.0, "energy_gwh": 1.5,
    }  # fmt: skip
    plan = {
        "model": "<m>", "gpus": 64, "hardware": "h100", "precision": "bf16", "engine": "ours", "sequence_length": 8,
        "batch_tokens": 8, "layouts": [layout],
    }  # fmt: skip
    page = plan_page(plan, 80.0)
    assert "&lt;m&gt; on 64 h100" in page
    assert "TP8 CP1 PP2 DP4 V1, full" in page
    assert "place 0, 3 layers" in page
    assert '"logits"' not in page
    rows = [{"label": "r", "held_out": True, "seconds": [1.0, 2.0], "gib": None}]
    assert "Memory" not in check_page([{"file": "f", "rows": rows}])

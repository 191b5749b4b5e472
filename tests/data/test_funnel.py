"""The funnel's rows are the stages' own counts."""

from itertools import pairwise

from openherd.core.rundir import Run
from openherd.data.dedup_documents import DedupDocumentsConfig, dedup_documents
from openherd.data.dedup_lines import DedupLinesConfig, dedup_lines
from openherd.data.funnel import funnel_rows, reasons
from openherd.data.holdout import HoldoutConfig, holdout


def test_each_stage_takes_in_what_the_one_before_let_out(documents_run, run_stage, tmp_path):
    given_run = documents_run([f"page number {i} of many with words w{i}" for i in range(30)] + ["a copy of itself"] * 3)
    first = run_stage(dedup_documents, DedupDocumentsConfig(), documents=given_run)
    second = run_stage(dedup_lines, DedupLinesConfig(), documents=first)
    third = run_stage(holdout, HoldoutConfig(share=0.3), documents=second)
    rows = funnel_rows([given_run, first, second, third])
    assert [row["stage"] for row in rows] == ["dedup-documents", "dedup-lines", "holdout"]
    assert [(row["documents_in"], row["documents_out"]) for row in rows] == [(33, 31), (31, 31), (31, 31)]
    for before, after in pairwise(rows):
        assert before["bytes_out"] == after["bytes_in"]
    assert reasons(rows) == [("dedup-documents", "exact duplicate", 2, 2 * len("a copy of itself"))]


def test_reasons_come_in_the_order_of_stages_then_of_size(tmp_path):
    def run(stage, dropped):
        metrics = {"documents_in": 9, "documents_out": 1, "bytes_in": 90, "bytes_out": 10, "dropped": dropped}
        return Run(tmp_path, {"stage": stage, "metrics": metrics})

    few, many = {"documents": 1, "bytes": 50}, {"documents": 4, "bytes": 20}
    rows = funnel_rows([run("z", {"b": few, "a": few, "c": many}), run("a", {"d": few})])
    assert reasons(rows) == [("z", "c", 4, 20), ("z", "a", 1, 50), ("z", "b", 1, 50), ("a", "d", 1, 50)]

"""Stages on batches of documents: what is kept and dropped."""

from functools import partial

import pytest

from openherd.core.rundir import Output
from openherd.data.documents import DROPPED, LANGUAGE_SCHEMA, Drop, Judged, judge_rows
from openherd.data.engine import EngineConfig, judge_documents


def prepare_toy(unwanted):
    return judge_rows(
        LANGUAGE_SCHEMA, lambda row: ({**row, "title": row["text"]}, Drop(unwanted) if unwanted in row["text"] else None)
    )


def test_every_document_is_kept_or_dropped_in_order(documents_run, run_stage, rows_of):
    texts = [f"document {i}" for i in range(150)]

    def stage(config, *, documents, out):
        return judge_documents("toy", partial(prepare_toy, "7"), documents, out, EngineConfig(), lambda judged: seen.append(judged))

    seen = []
    run = run_stage(stage, None, documents=documents_run(texts))
    assert [row["title"] for row in rows_of(run)] == [text for text in texts if "7" not in text]
    assert [(row["text"], row["reason"]) for row in rows_of(run, DROPPED)] == [(text, "7") for text in texts if "7" in text]
    assert run.metrics["documents_in"] == 150
    assert sum(len(judged.drops) for judged in seen) == 150


def test_a_row_without_a_decision_is_found(documents_run, tmp_path):
    def prepare():
        return lambda batch: Judged(batch.slice(1), [None] * len(batch.slice(1)))

    with pytest.raises(AssertionError, match="2 documents in, 1 accounted for"):
        judge_documents("toy", prepare, documents_run(["a", "b"]), Output(tmp_path), EngineConfig())

"""Guarded processes: what kills one loses its document alone, with a reason."""

import subprocess
from functools import partial

import pyarrow as pa
import pytest

import toy_judges
from openherd.core.errors import ConfigError
from openherd.core.machine import resident_bytes
from openherd.data.documents import LANGUAGE_SCHEMA, judged_of
from openherd.data.guard import Guard


def batch_of(texts):
    rows = [{"id": f"{i:032x}", "text": text} for i, text in enumerate(texts)]
    return pa.RecordBatch.from_pylist(rows, schema=LANGUAGE_SCHEMA)


def judged_by(texts, prepare=toy_judges.prepare_toy, timeout_s=20.0, memory_bytes=0):
    """What a guard makes of the texts, as pairs of text and (reason, detail)."""
    with Guard(partial(prepare), LANGUAGE_SCHEMA, timeout_s, memory_bytes) as guard:
        judged = judged_of(guard(batch_of(texts)))
    drops = [drop and (drop.reason, drop.detail) for drop in judged.drops]
    return list(zip(judged.batch.column("text").to_pylist(), drops, strict=True))


def test_a_crash_loses_its_document_alone():
    assert judged_by(["a", "exit", "b"]) == [("a", None), ("exit", ("crashed", "code 3")), ("b", None)]


@pytest.mark.slow
def test_signals_limits_of_time_and_memory():
    texts = ["a", "segfault", "b", "spin", "c", "fill", "d"]
    found = dict(judged_by(texts, timeout_s=1.5, memory_bytes=600_000_000))
    assert [found[text] for text in "abcd"] == [None] * 4
    assert found["segfault"] == ("crashed", "SIGSEGV")
    assert found["spin"] == ("timed out", "more than 1.5 s of processor time")
    assert found["fill"] in (("out of memory", "more than 0.6 GB"),)


@pytest.mark.slow
def test_what_only_waits_is_ended_by_the_clock():
    assert judged_by(["sleep", "a"], timeout_s=0.3) == [("sleep", ("timed out", "more than 3 s of clock time")), ("a", None)]


@pytest.mark.slow
def test_a_document_is_not_lost_for_what_another_did():
    prepare = partial(toy_judges.prepare_after, "harm")
    assert judged_by(["a", "harm", "b", "c"], prepare) == [(text, None) for text in ("a", "harm", "b", "c")]


def test_a_process_leaves_in_silence_when_who_asked_was_killed(capfd):
    with Guard(partial(toy_judges.prepare_toy), LANGUAGE_SCHEMA, 20, 0) as guard:
        guard(batch_of(["a"]))
        guard._connection.send(guard.room.put_batch(batch_of(["a"])))
        assert guard._connection.poll(20)
        guard._connection.close()  # with an answer that nobody reads: the other end is reset
        assert guard._process.wait() == 0
        guard._process = None
    assert capfd.readouterr().err == ""


def test_too_little_memory_for_the_stage_alone_is_told():
    with pytest.raises(ConfigError, match="for the stage alone; raise memory_gb"):
        judged_by(["a"], memory_bytes=10_000_000)


def test_a_stage_that_cannot_be_made_is_our_bug():
    with (
        Guard(partial(toy_judges.prepare_toy, no_such="x"), LANGUAGE_SCHEMA, 9, 0) as guard,
        pytest.raises(RuntimeError, match="no_such"),
    ):
        guard(batch_of(["a"]))


def test_a_process_that_starts_while_the_engine_ends_is_ended_too(monkeypatch):
    start = subprocess.Popen
    with Guard(partial(toy_judges.prepare_toy), LANGUAGE_SCHEMA, 9, 0) as guard:

        def ended(*given, **more):
            guard.end()
            return start(*given, **more)

        monkeypatch.setattr(subprocess, "Popen", ended)
        with pytest.raises(InterruptedError, match="stopped"):
            guard(batch_of(["a"]))


def test_no_process_is_left():
    with Guard(partial(toy_judges.prepare_toy), LANGUAGE_SCHEMA, 9, 0) as guard:
        guard(batch_of(["a"]))
        process = guard._process
        assert resident_bytes(process.pid) > 10_000_000
    assert process.returncode is not None
    assert resident_bytes(process.pid) == 0

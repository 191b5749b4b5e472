"""The engine: the same rows whoever judges, resume inside a run, every document kept or dropped with its reason."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy_judges
from openherd.core.errors import InputError
from openherd.core.rundir import Output, Run
from openherd.data import document_shards
from openherd.data.document_shards import SHARD_ROWS, read_rows, shards_of
from openherd.data.documents import DOCUMENTS, DROPPED, LANGUAGE_SCHEMA, MEASURES
from openherd.data.engine import EngineConfig, judge_documents, mark_of, measure_documents
from toy_judges import make_toy

HERE = EngineConfig(processes=1)
TEXTS = [f"document {i} " + "x" * (i % 50) for i in range(3 * SHARD_ROWS + 100)]
FILES = (DOCUMENTS, DROPPED, MEASURES)


@pytest.fixture(scope="module")
def large(documents_run):
    """A run of several shards."""
    return documents_run(TEXTS)


@pytest.fixture(scope="module")
def undisturbed(large, tmp_path_factory):
    """What one process makes of it."""
    return make_toy(large.path, tmp_path_factory.mktemp("undisturbed"), engine=HERE)


def content(run):
    return [run.file(name).read_bytes() for name in FILES]


def stopping_at(n, monkeypatch):
    """Have judging stop at the n-th document, once; returns the documents as they are judged."""
    judged = []

    def stops(row):
        judged.append(row)
        if len(judged) == n:
            raise InputError("here", "stopped")

    monkeypatch.setattr(toy_judges, "act", stops)
    return judged


def test_documents_are_kept_or_dropped_in_order(undisturbed, rows_of):
    assert [row["title"] for row in rows_of(undisturbed)] == [text.upper() for text in TEXTS if "7" not in text]
    dropped = rows_of(undisturbed, DROPPED)
    assert [(row["text"], row["reason"], row["detail"]) for row in dropped] == [(t, "unwanted", t) for t in TEXTS if "7" in t]
    measured = rows_of(undisturbed, MEASURES)
    assert [row["characters"] for row in measured] == [len(text) for text in TEXTS]
    assert [row["reason"] for row in measured] == ["unwanted" if "7" in text else "" for text in TEXTS]
    metrics = undisturbed.metrics
    assert metrics["documents_in"] == len(TEXTS) == metrics["documents_out"] + metrics["dropped"]["unwanted"]["documents"]
    assert metrics["bytes_in"] == sum(map(len, TEXTS)) == metrics["bytes_out"] + metrics["dropped"]["unwanted"]["bytes"]
    assert sorted(path.name for path in undisturbed.path.iterdir()) == sorted(["config.toml", "manifest.json", *FILES])


def test_two_processes_give_the_same_bytes(large, undisturbed, tmp_path):
    run = make_toy(large.path, tmp_path / "run", engine=EngineConfig(processes=2))
    assert content(run) == content(undisturbed)
    assert run.metrics == undisturbed.metrics


def test_a_stopped_run_goes_on_where_it_was(large, undisturbed, tmp_path, monkeypatch):
    judged = stopping_at(SHARD_ROWS + 200, monkeypatch)
    with pytest.raises(InputError, match="stopped"):
        make_toy(large.path, tmp_path / "run", engine=HERE)
    run = make_toy(large.path, tmp_path / "run", engine=HERE)
    assert content(run) == content(undisturbed)
    assert len(judged) == SHARD_ROWS + 200 + len(TEXTS) - SHARD_ROWS


def test_what_is_measured_of_all_documents_goes_on_too_and_loses_what_fails(large, documents_run, monkeypatch):
    def lengths(given, engine=HERE):
        out = Output(given.path, digest=f"{engine.processes}")
        measured = measure_documents("lengths", partial(toy_judges.prepare_toy), given, out, engine)
        return [n for batch in measured for n in batch.column("characters").to_pylist()]

    some = documents_run(["a", "raise", "bbb"])
    assert lengths(some) == lengths(some, EngineConfig(processes=2)) == [1.0, 3.0]
    judged = stopping_at(SHARD_ROWS + 1, monkeypatch)
    with pytest.raises(InputError, match="stopped"):
        lengths(large)
    assert lengths(large) == [float(len(text)) for text in TEXTS]
    assert len(judged) == len(TEXTS) + 1


def test_a_mark_of_other_settings_or_a_damaged_one_is_not_taken(large, tmp_path):
    def shards(mark):
        return shards_of(large, tmp_path, mark)

    for shard in shards("a"):
        shard.do(lambda batch: batch)
    assert all(shard.is_done() for shard in shards("a"))
    assert not any(shard.is_done() for shard in shards("b"))
    first = shards("a")[0]
    first.done.write_bytes(first.done.read_bytes()[:-10])
    assert [shard.is_done() for shard in shards("a")] == [False, True, True, True]
    first.done.write_bytes(b"")
    assert not first.is_done()


def test_a_mark_tells_of_settings_inputs_and_job(large):
    other = Run(large.path, {**large.manifest, "digest": "another"})

    def mark(unwanted="7", documents=large, digest="d"):
        prepare = partial(toy_judges.prepare_toy, toy_judges.ToyConfig(unwanted=unwanted))
        return mark_of("toy", prepare, documents, Output(large.path, digest=digest))

    assert len({mark(), mark("8"), mark(documents=other), mark(digest="e")}) == 4
    assert mark() == mark()


@settings(max_examples=40)
@given(groups=st.lists(st.integers(0, 150), max_size=6), first=st.integers(0, 400), n=st.integers(0, 400))
def test_any_range_of_rows_is_read_whatever_the_row_groups(tmp_path_factory, groups, first, n):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    total = sum(groups)
    table = pa.table({"i": list(range(total))}, schema=pa.schema([("i", pa.int64())]))
    with pq.ParquetWriter(path, table.schema) as writer:
        at = 0
        for size in groups:
            writer.write_table(table.slice(at, size))
            at += size
    found = [i for batch in read_rows(path, first, first + n) for i in batch.column("i").to_pylist()]
    assert found == list(range(total))[first : first + n]


def test_shards_cover_every_row_once(documents_run, tmp_path, monkeypatch):
    for rows, n, most in ((0, 0, 9), (1, 1, 9), (512, 1, 9), (513, 2, 9), (1100, 2, 2)):
        monkeypatch.setattr(document_shards, "MOST_SHARDS", most)
        shards = shards_of(documents_run(["a"] * rows), tmp_path, "m")
        assert [i for shard in shards for i in range(shard.first, shard.end)] == list(range(rows))
        assert len(shards) == n


def test_a_run_without_documents(documents_run, tmp_path, rows_of):
    for name, processes in (("one", 1), ("two", 2)):
        run = make_toy(documents_run([]).path, tmp_path / name, engine=EngineConfig(processes=processes))
        assert rows_of(run) == rows_of(run, DROPPED) == []
        assert pq.read_schema(run.file(DOCUMENTS)) == LANGUAGE_SCHEMA


@pytest.mark.parametrize("prepare", [toy_judges.prepare_short, toy_judges.prepare_reversed])
def test_lost_and_mixed_up_rows_are_found(documents_run, tmp_path, prepare):
    given = documents_run(["a", "b"])
    with pytest.raises(AssertionError, match="2 documents in"):
        judge_documents("toy", partial(prepare), given, Output(tmp_path), HERE)


def test_what_a_person_can_mend_is_no_documents_fault(documents_run, tmp_path):
    for name, processes in (("one", 1), ("two", 2)):
        with pytest.raises(InputError, match="a list: missing"):
            make_toy(documents_run(["a", "mend"]).path, tmp_path / name, engine=EngineConfig(processes=processes))


def test_exceptions_lose_their_document_alone(documents_run, tmp_path, rows_of):
    texts = ["a", "raise", "b", "memory error", "raise"]
    for name, processes in (("one", 1), ("two", 2)):
        run = make_toy(documents_run(texts).path, tmp_path / name, engine=EngineConfig(processes=processes))
        assert [row["text"] for row in rows_of(run)] == ["a", "b"]
        dropped = rows_of(run, DROPPED)
        assert [(row["text"], row["reason"], row["detail"]) for row in dropped] == [
            ("raise", "failed: ValueError", "a bad document"),
            ("memory error", "out of memory", ""),
            ("raise", "failed: ValueError", "a bad document"),
        ]
        assert run.metrics["dropped"]["failed: ValueError"] == {"documents": 2, "bytes": 10}


PROGRAM = "import sys; from toy_judges import EngineConfig, make_toy; make_toy(*sys.argv[1:3], {}engine=EngineConfig(processes={}))"


def killed_until_done(run, given, processes, random):
    """Run it in a process that is killed at random points until it is done; returns how often it was."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROGRAM.format("slow_s=0.002, ", processes), str(given), str(run)]
    for n in range(100):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        end = time.monotonic() + random.uniform(1.5, 4.5 if n else 2.5)  # the first is killed before it can be done
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        if process.poll() is not None:
            assert process.returncode == 0
            return n
        process.send_signal(signal.SIGKILL)
        process.wait()
    raise AssertionError("it never ended")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_kill_9_at_random_points_gives_the_same_bytes(large, undisturbed, tmp_path, processes):
    run = tmp_path / "run"
    assert killed_until_done(run, large.path, processes, random.Random()) > 0
    assert content(make_toy(large.path, run)) == content(undisturbed)
    assert not (run / ".work").exists()


def test_settings_keep_to_the_memory():
    engine = EngineConfig(memory_gb=4.5)
    assert engine.workers() * engine.process_bytes() <= 4e9
    assert EngineConfig(memory_gb=0.6).workers() == 1
    assert EngineConfig(processes=3, memory_gb=3.5).process_bytes() == 10**9
    assert 0 < EngineConfig().memory() < 1e6
    assert Path("/proc").exists() is False or EngineConfig().memory() > 0.5

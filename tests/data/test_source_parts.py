"""Files are read in parts: stopped work goes on inside a file, and what a record does harms no other."""

import bz2
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import toy_sources
from openherd.core.errors import InputError
from openherd.core.progress import Progress
from openherd.data import source_parts
from openherd.data.documents import DOCUMENTS, DROPPED
from openherd.data.locations import NamedFile
from openherd.data.source_parts import PART_RECORDS, units_of
from source_files import wiki_dump, wiki_page
from warc_records import gzipped, page

N = 3 * PART_RECORDS + 100


def rows(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def content(run):
    return [run.file(name).read_bytes() for name in (DOCUMENTS, DROPPED)], run.metrics


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A file of four parts, others of other kinds, and small ones."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(rows(f"row {i}" for i in range(N))))
    (folder / "b.warc.gz").write_bytes(gzipped([page(i) for i in range(200)]))
    (folder / "c.xml.bz2").write_bytes(bz2.compress(wiki_dump(*(wiki_page(f"T{i}", f"text {i}") for i in range(600)))))
    for i in range(20):
        (folder / f"d{i:02d}.txt").write_text(f"text {i}")
    (folder / "e.png").write_bytes(b"e")
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """The rows of one process that was not stopped."""
    return toy_sources.make(corpus, tmp_path_factory.mktemp("undisturbed") / "run")


def test_two_processes_give_the_same_bytes(corpus, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(source_parts, "UNIT_BYTES", 1)  # each file is a unit
    assert content(toy_sources.make(corpus, tmp_path / "run", processes=2)) == content(undisturbed)
    assert undisturbed.metrics["documents_in"] == N + 200 + 600 + 21


def test_stopped_work_goes_on_inside_a_file(corpus, undisturbed, tmp_path, monkeypatch):
    class Stopped(BaseException):
        pass

    def stop(self, *given):
        if given[0].number == 2:
            raise Stopped
        return whole(self, *given)

    whole = source_parts.UnitReader.__call__
    monkeypatch.setattr(source_parts.UnitReader, "__call__", stop)
    with pytest.raises(Stopped):
        toy_sources.make(corpus, tmp_path / "run")
    monkeypatch.setattr(source_parts.UnitReader, "__call__", whole)
    assert list(toy_sources.READ) == [f"row {i}" for i in range(2 * PART_RECORDS)]
    run = toy_sources.make(corpus, tmp_path / "run")
    assert toy_sources.READ[: N - 2 * PART_RECORDS] == [f"row {i}" for i in range(2 * PART_RECORDS, N)]
    assert content(run) == content(undisturbed)
    assert not (run.path / ".work").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_kill_9_inside_a_file(corpus, undisturbed, tmp_path, processes):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = "import sys, toy_sources; toy_sources.make(*sys.argv[1:3], int(sys.argv[3]), slow_s=0.001)"
    command = [sys.executable, "-c", program, str(corpus), str(tmp_path / "run"), str(processes)]
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and not list((tmp_path / "run").glob(".work/*/*-00001.arrow")):
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = toy_sources.make(corpus, tmp_path / "run")
    assert 0 < len(toy_sources.READ) <= undisturbed.metrics["documents_in"] - 2 * PART_RECORDS
    assert content(run) == content(undisturbed)


def test_another_setting_takes_no_parts(corpus, tmp_path):
    def units(mark):
        return units_of([NamedFile(str(corpus / "a.jsonl.gz"), "a")], tmp_path, mark)

    [unit] = units("a")
    unit.do(source_parts.UnitReader(toy_sources.prepare(0, toy_sources.SourcesConfig())))
    assert [one.is_done() for one in (*units("a"), *units("b"))] == [True, False]
    last = unit.part(3)
    last.write_bytes(last.read_bytes()[:-10])
    assert [part.next.place.skip for part in units("a")[0].done_parts()] == [512, 1024, 1536]


def test_parts_that_do_not_follow_each_other_are_read_again(corpus, tmp_path):
    """As a process leaves them that outlives its engine: what it was asked for was cut elsewhere."""
    [unit] = units_of([NamedFile(str(corpus / "a.jsonl.gz"), "a")], tmp_path, "m")

    def read(ask):
        return source_parts.UnitReader(toy_sources.prepare(0, toy_sources.SourcesConfig()))(ask)

    for most in (100, 2 * PART_RECORDS):
        unit.do(read)
        whole = [unit.part(number).read_bytes() for number in range(4)]
        first = next(unit.done_parts())
        read(source_parts.Ask(unit, 1, first.next, first.at, most))
        assert not unit.is_done()
        with pytest.raises(AssertionError, match="not the end"):
            list(unit.accounts())
        unit.do(read)
        offsets = [row["offset"] for account in unit.accounts() for row in account.column("document").to_pylist()]
        assert offsets == list(range(1, N + 1))
        for number, part in enumerate(whole):
            unit.part(number).write_bytes(part)


def test_files_of_other_sizes_are_read_anew(tmp_path, monkeypatch):
    """A list of paths is the same input whatever lies there; which files are read together follows from their sizes."""
    monkeypatch.setattr(source_parts, "UNIT_BYTES", 30)
    files = [NamedFile(str(tmp_path / f"{i}.jsonl"), str(i)) for i in range(3)]
    for file in files:
        (tmp_path / f"{file.name}.jsonl").write_bytes(rows([file.name]))
    read = source_parts.UnitReader(toy_sources.prepare(0, toy_sources.SourcesConfig()))
    units = units_of(files, tmp_path, "m")
    assert [len(unit.files) for unit in units] == [2, 1]
    units[0].do(read)
    monkeypatch.setattr(source_parts, "UNIT_BYTES", 100)
    (tmp_path / "0.jsonl").write_bytes(rows(["0", "1"]))
    [unit] = units_of(files, tmp_path, "m")
    unit.do(read)
    assert sum(len(account) for account in unit.accounts()) == 4


def test_errors_lose_their_record_or_the_rest_of_their_file(tmp_path, rows_of):
    (tmp_path / "a.jsonl").write_bytes(rows(["a", "raise", "b", "memory error", "c", "lose", "d"]))
    (tmp_path / "b.jsonl").write_bytes(rows(["e"]))
    for processes in (1, 2):
        run = toy_sources.make(tmp_path / "*.jsonl", tmp_path / f"run{processes}", processes)
        assert [row["content"] for row in rows_of(run)] == [b"a", b"b", b"c", b"lose", b"e"]
        assert [(row["offset"], row["reason"], row["detail"]) for row in rows_of(run, DROPPED)] == [
            (2, "failed: ValueError", "a bad document"),
            (4, "out of memory", ""),
            (6, "failed: KeyError", "the rest of the file ('where')"),
        ]
    with pytest.raises(InputError, match=r"a\.jsonl, line 6: failed: KeyError: the rest of the file"):
        toy_sources.make(tmp_path / "*.jsonl", tmp_path / "stop", on_damage="stop")


@pytest.mark.slow
def test_what_ends_a_process_loses_its_record_or_the_rest_of_its_file(tmp_path, rows_of):
    (tmp_path / "a.jsonl").write_bytes(rows(["a", "exit", "b", "spin", "c", "leave", "d"]))
    (tmp_path / "b.jsonl").write_bytes(rows(["e", "segfault"]))
    run = toy_sources.make(tmp_path / "*.jsonl", tmp_path / "run", 2, timeout_s=1.0)
    assert [row["content"] for row in rows_of(run)] == [b"a", b"b", b"c", b"leave", b"e"]
    assert [(row["offset"], row["reason"], row["detail"]) for row in rows_of(run, DROPPED)] == [
        (2, "crashed", "code 3"),
        (4, "timed out", "more than 1 s of processor time"),
        (6, "crashed", "the rest of the file (code 5)"),
        (2, "crashed", "SIGSEGV"),
    ]
    with pytest.raises(InputError, match=r"a\.jsonl, line 6: crashed: the rest of the file \(code 5\)"):
        toy_sources.make(tmp_path / "*.jsonl", tmp_path / "stop", 2, on_damage="stop", timeout_s=1.0)


def test_a_crash_loses_its_record_alone(tmp_path, rows_of):
    (tmp_path / "a.jsonl").write_bytes(rows(["exit", "a"]))
    run = toy_sources.make(tmp_path / "a.jsonl", tmp_path / "run", 2)
    assert [row["content"] for row in rows_of(run)] == [b"a"]
    assert [(row["reason"], row["detail"]) for row in rows_of(run, DROPPED)] == [("crashed", "code 3")]


def test_progress_counts_what_is_read_of_what_is_listed(corpus, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Progress, "advance", lambda self, n=1, note="": told.append((self.total, self.unit, n)))
    toy_sources.make(corpus / "*.gz", tmp_path / "run")
    size = sum(-(-(corpus / name).stat().st_size // 1000) for name in ("a.jsonl.gz", "b.warc.gz"))
    assert {(total, unit) for total, unit, _ in told} == {(size, "kB")}
    assert sum(n for _, _, n in told) == size
    assert len(told) == 4


def test_small_files_are_read_together(tmp_path, monkeypatch):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_bytes(b"x" * 400)
    monkeypatch.setattr(source_parts, "UNIT_BYTES", 1000)
    files = [NamedFile(str(tmp_path / f"{i}.txt"), str(i)) for i in range(5)]
    units = units_of([*files, NamedFile("https://a.test/a.txt", "a")], tmp_path, "m")
    assert [[file.name for file in unit.files] for unit in units] == [["0", "1"], ["2", "3"], ["4"], ["a"]]
    assert not units[0].in_kb
    assert [unit.sizes for unit in units_of(files, tmp_path, "m")] == [(1, 1), (1, 1), (1,)]

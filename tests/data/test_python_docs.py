"""The documentation of the running Python as a WARC file: valid, the same every time, and without what belongs to this machine."""

import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import uuid
from itertools import pairwise
from pathlib import Path

import pytest
from fastwarc.warc import ArchiveIterator
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.core.rundir import Outside
from openherd.data import pydoc_worker
from openherd.data.python_docs import PythonDocsConfig, evenly, machine_paths, mask, module_names, python_docs, topic_pages
from openherd.data.sources import SourcesConfig, sources

LIBRARY = Outside("python://stdlib")


@pytest.fixture(scope="module")
def run(run_stage):
    """Thirty pages by one worker."""
    return run_stage(python_docs, PythonDocsConfig(pages=30, workers=1), library=LIBRARY)


def test_the_file_does_not_depend_on_the_workers(run, run_stage):
    again = run_stage(python_docs, PythonDocsConfig(pages=30, workers=3, page_timeout_s=60), library=LIBRARY)
    assert again.file("pages.warc.gz").read_bytes() == run.file("pages.warc.gz").read_bytes()
    assert again.metrics == run.metrics


def test_records_as_a_crawler_writes_them(run):
    data = run.file("pages.warc.gz").read_bytes()
    found = [
        (r.stream_pos, {k: v for k, v in r.headers}, r.http_headers, r.reader.read())  # noqa: C416
        for r in ArchiveIterator(io.BytesIO(data))
    ]
    kinds = [head["WARC-Type"] for _, head, _, _ in found]
    assert kinds == ["warcinfo"] + ["request", "response"] * run.metrics["pages"]
    assert data[:4] == b"\x1f\x8b\x08\0"
    assert all(data[start : start + 3] == b"\x1f\x8b\x08" and data[start + 4 : start + 8] == bytes(4) for start, *_ in found)
    assert len({head["WARC-Record-ID"] for _, head, _, _ in found}) == len(found)
    assert all(uuid.UUID(head["WARC-Record-ID"][10:-1]).version == 5 for _, head, _, _ in found)
    assert len({tuple(head) for _, head, _, _ in found}) == 3
    for (_, request, asked, _), (_, response, answered, body) in zip(found[1::2], found[2::2], strict=True):
        assert request["WARC-Target-URI"] == response["WARC-Target-URI"]
        assert request["WARC-Concurrent-To"] == response["WARC-Record-ID"]
        path = response["WARC-Target-URI"].removeprefix("https://docs.python.invalid")
        assert asked.status_line == f"GET {path} HTTP/1.1"
        assert (answered.status_code, answered["Content-Length"]) == (200, str(len(body)))
        name = re.fullmatch(r"/(?:module|topic)/([\w.-]+)\.html", path)
        assert name
        assert re.search(rf"<title>(Python: )?(module )?{re.escape(name[1])}</title>".encode(), body)


def test_all_of_it_is_read(run, run_stage, rows_of):
    patterns = {"topics": "/topic/", "modules": "/module/"}
    read = run_stage(sources, SourcesConfig(source_patterns=patterns), pages=(run,))
    kept = rows_of(read)
    assert len(kept) == run.metrics["pages"]
    assert sum(row["source"] == "topics" for row in kept) == run.metrics["topics"] > 0
    assert sum(row["source"] == "modules" for row in kept) == run.metrics["pages"] - run.metrics["topics"] > 0
    assert sum(len(row["content"]) for row in kept) == run.metrics["bytes"]
    assert run.metrics["pages"] + sum(run.metrics["skipped"].values()) == 30


def test_pages_that_show_the_machine_are_masked(run_stage, rows_of, monkeypatch):
    monkeypatch.setattr("openherd.data.python_docs.module_names", lambda: ["sys", "os", "sysconfig", "ctypes", "no_such_module"])
    monkeypatch.setattr("openherd.data.python_docs.topic_pages", dict)
    run = run_stage(python_docs, PythonDocsConfig(workers=1), library=LIBRARY)
    assert run.metrics["skipped"] == {"ModuleNotFoundError": 1}
    pages = {row["url"]: row["content"].decode() for row in rows_of(run_stage(sources, SourcesConfig(), pages=(run,)))}
    assert len(pages) == 4
    for page in pages.values():
        for path in (sys.prefix, sysconfig.get_path("stdlib"), str(Path(pydoc_worker.__file__).parent)):
            assert path not in page
        assert not re.search(r"0x[0-9a-f]{6,}|handle [0-9a-f]+|file:/", page)
        assert str(os.environ.get("PATH")) not in page


def test_masks_by_hand():
    library = sysconfig.get_path("stdlib")
    text = f'<a href="file:{library}/json/decoder.py">{library}/json/decoder.py</a> &lt;object at 0x7f00aa&gt; {library}2 0x1f'
    assert mask(text, machine_paths()) == f"json/decoder.py &lt;object at 0x...&gt; {mask(library + '2', machine_paths())} 0x1f"
    assert mask("handle 7f24b68902e0, pid=4711", machine_paths()) == "handle ..., pid=..."


HANGS_AND_DIES = {
    "fine": "'''Fine & good.'''\ntimes = globals().get('times', 0) + 1",
    "hangs": "import time\ntime.sleep(1000)",
    "dies": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "leaves": "raise SystemExit(3)",
    "fails": "1 / 0",
    "reads": "print(input())",
    "prints": "import os, warnings\nprint('a')\nos.write(1, b'b')\nwarnings.warn('c')",
    "changes": "import fine\nfine.changed = 'changed'",
}


def test_a_module_that_hangs_or_dies_takes_its_page_alone(tmp_path):
    for name, code in HANGS_AND_DIES.items():
        (tmp_path / f"{name}.py").write_text(code)
    names = [*HANGS_AND_DIES, "fine"]
    done = subprocess.run(
        [sys.executable, pydoc_worker.__file__],
        input="\n".join(["1", *names]),
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [page["name"] for page in found] == names
    assert [page.get("reason", "made") for page in found] == [
        "made",
        "took too long",
        "the process died",
        "SystemExit: 3",
        "ZeroDivisionError: division by zero",
        "EOFError: EOF when reading a line",
        "made",
        "made",
        "made",
    ]
    assert found[0] == found[-1]
    assert "Fine&nbsp;&amp;&nbsp;good." in found[0]["html"]
    assert done.stderr == ""


def test_names_of_modules():
    names = module_names()
    assert len(names) == len(set(names))
    assert {"json", "json.decoder", "sys", "xml.dom.minidom", "email.mime.text"} <= set(names)
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    unwanted = r"^_|(^|\.)tests?(\.|$)|__main__|^(idlelib|turtledemo|lib2to3|antigravity|this)\b"
    assert [name for name in names if re.search(unwanted, name)] == []


def test_topics_are_pages_of_text():
    pages = topic_pages()
    page = pages["https://docs.python.invalid/topic/lambda.html"]
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>lambda</title>" in page
    assert "&lt;" in pages["https://docs.python.invalid/topic/comparisons.html"]


@given(st.integers(1, 60), st.integers(0, 60))
def test_a_part_is_spread_evenly(n_items, n):
    part = evenly(range(n_items), n)
    assert len(part) == (min(n, n_items) or n_items)
    gaps = {after - before for before, after in pairwise(part)}
    assert part[0] == 0
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_another_library_is_refused(run_stage):
    with pytest.raises(InputError, match=r"python://numpy: .*allowed: python://stdlib"):
        run_stage(python_docs, PythonDocsConfig(), library=Outside("python://numpy"))

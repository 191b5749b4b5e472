"""Daft on a Ray cluster that the test starts: the rows of one process, row for row, of real stages and whatever a document does."""

import importlib.util
import os
import subprocess
import sys

import pytest

from openherd.core.errors import ConfigError
from openherd.data.daft_ray import check_answers
from openherd.data.documents import DOCUMENTS, DROPPED, MEASURES
from openherd.data.engine import EngineConfig
from real_stages import curated, real_pages
from toy_judges import make_toy

THERE = all(importlib.util.find_spec(name) for name in ("daft", "ray"))
PROGRAM = """
import sys
from openherd.data.engine import EngineConfig
from toy_judges import make_toy

if __name__ == "__main__":
    engine = EngineConfig(kind="daft-ray", processes=2, timeout_s=5.0)
    for given, out in zip(sys.argv[1::2], sys.argv[2::2]):
        make_toy(given, out, engine=engine)
"""
REAL_PROGRAM = """
import sys
from pathlib import Path
from openherd.core.rundir import Run
from openherd.data.engine import EngineConfig
from real_stages import curated

if __name__ == "__main__":
    curated(Run.open(sys.argv[1]), Path(sys.argv[2]), EngineConfig(kind="daft-ray", processes=2))
"""


def run_program(program, folder, *arguments):
    """Run a program of its own, as the driver of a cluster is; Ray stays out of this process."""
    (folder / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(folder / "program.py"), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not THERE, reason="needs daft and ray: pip install 'openherd[ray]'")
def test_the_rows_of_one_process(documents_run, tmp_path, rows_of):
    large = documents_run([f"document {i} " + "x" * (i % 50) for i in range(1700)])
    harmful = documents_run(["a", "exit", "b", "raise", "spin", "c"])
    run_program(PROGRAM, tmp_path, large.path, tmp_path / "large", harmful.path, tmp_path / "harmful")

    alone = make_toy(large.path, tmp_path / "alone", engine=EngineConfig(processes=1))
    there = make_toy(large.path, tmp_path / "large")  # done: it is opened
    for name in (DOCUMENTS, DROPPED, MEASURES):
        assert there.file(name).read_bytes() == alone.file(name).read_bytes()
    assert there.metrics == alone.metrics

    run = make_toy(harmful.path, tmp_path / "harmful")
    assert [row["text"] for row in rows_of(run)] == ["a", "b", "c"]
    dropped = [(row["text"], row["reason"]) for row in rows_of(run, DROPPED)]
    assert dropped == [("exit", "crashed"), ("raise", "failed: ValueError"), ("spin", "timed out")]


@pytest.mark.slow
@pytest.mark.skipif(not THERE, reason="needs daft and ray: pip install 'openherd[ray]'")
def test_the_rows_of_real_stages(shared_data, tmp_path, capsys):
    """Extraction, language, heuristics and personal data over real pages: the same bytes, of what is kept, dropped and measured."""
    pages = real_pages(shared_data("warc").parent, tmp_path, times=9)
    run_program(REAL_PROGRAM, tmp_path, pages.path, tmp_path / "there")
    here = curated(pages, tmp_path / "here", EngineConfig(processes=1))
    there = curated(pages, tmp_path / "there", EngineConfig())  # done: they are opened
    for mine, theirs in zip(here, there, strict=True):
        assert theirs.manifest["outputs"].keys() == mine.manifest["outputs"].keys() >= {DOCUMENTS, DROPPED}
        for name in mine.manifest["outputs"]:
            if name.endswith(".parquet"):
                assert theirs.file(name).read_bytes() == mine.file(name).read_bytes(), (mine.path.name, name)
        assert theirs.metrics == mine.metrics
    n_in, n_out = (here[i].metrics[key] for i, key in ((0, "documents_in"), (-1, "documents_out")))
    assert n_in > 512  # two shards
    assert 0 < n_out < n_in
    assert here[-1].metrics["documents_with"]["email"] > 50
    with capsys.disabled():
        print(f"\n{n_in} pages, {n_out} documents, all rows equal")


def test_without_its_packages_it_says_what_to_install(documents_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "daft", None)
    with pytest.raises(ConfigError, match=r"kind = 'daft-ray' without daft; pip install 'openherd\[ray\]'"):
        make_toy(documents_run(["a"]).path, tmp_path / "run", engine=EngineConfig(kind="daft-ray"))


def test_an_address_where_nothing_answers_is_told_at_once():
    with pytest.raises(ConfigError, match=r"engine: address = '127\.0\.0\.1:1': .* refused; start the cluster"):
        check_answers("127.0.0.1:1")
    check_answers("")
    check_answers("auto")

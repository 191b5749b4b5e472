"""Daft on a Ray cluster that the test starts: the rows of one process, row for row, whatever a document does there."""

import importlib.util
import os
import subprocess
import sys

import pytest

from openherd.core.errors import ConfigError
from openherd.data.documents import DOCUMENTS, DROPPED, MEASURES
from openherd.data.engine import EngineConfig
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


@pytest.mark.slow
@pytest.mark.skipif(not THERE, reason="needs daft and ray: pip install 'openherd[ray]'")
def test_the_rows_of_one_process(documents_run, tmp_path, rows_of):
    large = documents_run([f"document {i} " + "x" * (i % 50) for i in range(1700)])
    harmful = documents_run(["a", "exit", "b", "raise", "spin", "c"])
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [str(large.path), str(tmp_path / "large"), str(harmful.path), str(tmp_path / "harmful")]
    done = subprocess.run([sys.executable, str(program), *arguments], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr

    alone = make_toy(large.path, tmp_path / "alone", engine=EngineConfig(processes=1))
    there = make_toy(large.path, tmp_path / "large")  # done: it is opened
    for name in (DOCUMENTS, DROPPED, MEASURES):
        assert there.file(name).read_bytes() == alone.file(name).read_bytes()
    assert there.metrics == alone.metrics

    run = make_toy(harmful.path, tmp_path / "harmful")
    assert [row["text"] for row in rows_of(run)] == ["a", "b", "c"]
    dropped = [(row["text"], row["reason"]) for row in rows_of(run, DROPPED)]
    assert dropped == [("exit", "crashed"), ("raise", "failed: ValueError"), ("spin", "timed out")]


@pytest.mark.skipif(THERE, reason="daft and ray are here")
def test_without_its_packages_it_says_what_to_install(documents_run, tmp_path):
    with pytest.raises(ConfigError, match=r"kind = 'daft-ray' without daft; pip install 'openherd\[ray\]'"):
        make_toy(documents_run(["a"]).path, tmp_path / "run", engine=EngineConfig(kind="daft-ray"))

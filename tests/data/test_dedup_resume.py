"""Deduplication that is stopped, or killed, goes on and gives the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miniature import environment
from openherd.core import rundir
from openherd.core.records import read_parquet
from openherd.core.rundir import Job, Run
from openherd.data import signed_parts
from openherd.data.dedup_documents import DUPLICATES, DedupDocumentsConfig, dedup_documents
from openherd.data.dedup_lines import DROPPED_LINES, DedupLinesConfig, dedup_lines
from openherd.data.documents import DOCUMENTS, DROPPED

STAGES = {
    "dedup-documents": (dedup_documents, DedupDocumentsConfig(), (DOCUMENTS, DROPPED, DUPLICATES)),
    "dedup-lines": (dedup_lines, DedupLinesConfig(max_occurrences=3), (DOCUMENTS, DROPPED, DROPPED_LINES)),
}


def texts(n):
    draw = random.Random(3)
    found = []
    for i in range(n):
        words = [f"w{draw.randrange(10**6)}" for _ in range(60)]
        near = found[i - 3].split() if i % 4 == 3 else words
        near[draw.randrange(1, len(near))] = "other"
        found.append("\n".join(" ".join(near[k : k + 10]) for k in range(0, len(near), 10)) + f"\nmenu entry {i % 40}")
    return found


def rows(run, names):
    return [list(read_parquet(run.file(name))) for name in names]


class StoppedError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_is_stopped_goes_on(name, documents_run, run_stage, tmp_path, monkeypatch):
    stage, config, outputs = STAGES[name]
    given = documents_run(texts(60), rows_per_group=10)
    monkeypatch.setattr(signed_parts, "PART_ROWS", 10)
    expected = rows(run_stage(stage, config, documents=given), outputs)
    replace, made = os.replace, []
    left = 1

    def stop(a, b):
        nonlocal left
        left -= 1
        if left < 0:
            raise StoppedError
        replace(a, b)
        made.append(b)

    monkeypatch.setattr(os, "replace", stop)  # what gives parts and outputs their names
    times = 0
    while True:
        try:
            run, _ = rundir.make(Job(name, "3.1", 1, {}, {}, {}), tmp_path / "run", stage, config, {"documents": given})
            break
        except StoppedError:
            times += 1
            left = times  # ever more
    monkeypatch.undo()
    assert times > 2
    parts = [b for b in made if b.name.isdigit()]
    assert len(parts) == len(set(parts)) >= 6  # none was made twice
    assert rows(run, outputs) == expected
    assert not (run.path / rundir.WORK).exists()


PROGRAM = """
import sys
from pathlib import Path
from openherd.core import rundir
from openherd.core.rundir import Job, Run
from openherd.data import signed_parts
sys.path[:0] = sys.argv[4:]
from test_dedup_resume import STAGES
signed_parts.PART_ROWS = 50
stage, config, _ = STAGES[sys.argv[1]]
print("begun", flush=True)
job = Job(sys.argv[1], "3.1", 1, {}, {}, {})
rundir.make(job, Path(sys.argv[3]), stage, config, {"documents": Run.open(sys.argv[2])})
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_is_killed_goes_on(name, documents_run, run_stage, tmp_path):
    stage, config, outputs = STAGES[name]
    given = documents_run(texts(6_000), rows_per_group=50)
    expected = rows(run_stage(stage, config, documents=given), outputs)
    draw = random.Random(0)
    here = Path(__file__).parent
    command = [sys.executable, "-c", PROGRAM, name, str(given.path), str(tmp_path / "run"), str(here), str(here.parent)]
    n_killed = 0
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
            assert process.stdout.readline() == "begun\n"
            if n_killed < 6:
                time.sleep(draw.uniform(0.05, 1.0))
                process.send_signal(signal.SIGKILL)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        n_killed += 1
    assert n_killed > 0
    assert rows(Run.open(tmp_path / "run"), outputs) == expected

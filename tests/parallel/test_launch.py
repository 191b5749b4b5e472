"""What a started process says itself, and what it leaves to the process that started it."""

import json
import os
import time

import pytest
import torch

from openherd.cli import interrupted
from openherd.cli.arguments import EXIT_INTERRUPTED
from openherd.core.errors import InputError, LostError, OpenherdError
from openherd.core.machine import BEGUN
from openherd.parallel.launch import ERROR_FILE, launch, leave_error, left_error
from openherd.parallel.mesh import flight_record

LOST, DAMAGED = LostError("here", "process 0 lost others"), InputError("web.bin", "changed", do="make it again")
ONE_OF_TWO = {"MASTER_ADDR": "localhost", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}


@pytest.fixture
def error_file(tmp_path, monkeypatch):
    """As for one of two processes that were started here."""
    for name, value in {**ONE_OF_TWO, ERROR_FILE: str(tmp_path / "error.json")}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "error.json"


def test_that_others_are_lost_is_no_news_where_one_left_an_error(error_file):
    assert not leave_error(LOST)
    assert not error_file.exists()
    assert leave_error(DAMAGED)
    assert leave_error(LOST)
    assert str(left_error(error_file)) == str(DAMAGED)


def test_the_first_error_is_the_cause(error_file):
    assert leave_error(DAMAGED)
    assert leave_error(InputError("books.bin", "changed"))
    assert str(left_error(error_file)) == str(DAMAGED)


def test_a_process_on_its_own_says_it(monkeypatch, tmp_path):
    for name in ONE_OF_TWO:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(ERROR_FILE, str(tmp_path / "error.json"))
    assert not leave_error(DAMAGED)


def test_ctrl_c_is_said_once(error_file, monkeypatch, capsys):
    assert interrupted() == EXIT_INTERRUPTED
    assert capsys.readouterr().err == ""
    monkeypatch.delenv(ERROR_FILE)
    assert interrupted() == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "\nopenherd: stopped; the same command resumes\n"


@pytest.mark.parametrize(("group", "told"), [("undefined", ""), ("", ""), ("mesh_tp", " of group mesh_tp")])
def test_the_last_collective_in_words(group, told, tmp_path, monkeypatch):
    entry = {"profiling_name": "gloo:all_reduce", "input_sizes": [[3]], "collective_seq_id": 105, "process_group": ["0", group]}
    entries = [{**entry, "time_created_ns": 2}, {**entry, "time_created_ns": 1, "collective_seq_id": 104}]
    dump = json.dumps({"entries": entries}).encode()
    monkeypatch.setattr(torch._C._distributed_c10d, "_dump_fr_trace_json", lambda: dump, raising=False)
    assert flight_record(tmp_path / "0.json") == f"gloo:all_reduce of [[3]], number 105{told}"


@pytest.mark.slow
def test_restarts_without_getting_further_are_counted(tmp_path):
    """A process that dies in each of five starts, and gets further with every second: two restarts in a row are
    enough, not without."""
    script, starts = tmp_path / "dies.py", tmp_path / "starts"
    script.write_text(f"import os, sys\nopen({str(starts)!r}, 'a').write(os.environ[{BEGUN!r}] + '\\n')\n"
                      f"sys.exit(len(open({str(starts)!r}).readlines()) < 6)\n")  # fmt: skip

    def reached():
        return len(starts.read_text().splitlines()) // 2 if starts.exists() else 0

    began = time.time()
    launch([str(script)], 1, 2, tmp_path / "error.json", "here", reached=reached)
    told = [float(line) for line in starts.read_text().splitlines()]
    assert len(told) == 6
    assert len(set(told)) == 1  # the work began once
    assert began <= told[0] <= time.time()
    assert BEGUN not in os.environ
    starts.unlink()
    with pytest.raises(OpenherdError, match=r"process 0 of 1 died \(exit code 1\), and 2 restarts did not help"):
        launch([str(script)], 1, 2, tmp_path / "error.json", "here")
    assert len(starts.read_text().splitlines()) == 3

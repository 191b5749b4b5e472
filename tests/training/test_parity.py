"""`openherd parity`: real processes, what it prints, and its exit code."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from openherd.cli import main
from openherd.parallel.layout import ParallelConfig
from openherd.training.parity import ALLOWED, Difference, parity_table

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
RECIPE = str(RECIPES / "1b.toml")  # none of its data is here: nothing of it is asked for
SAME = Difference(loss=1e-7, norm=2e-7, gradient=3e-8, weight=ALLOWED, seconds=12.34)


def test_two_processes_train_as_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["parity", str(RECIPES / "laptop.toml"), "--set", "parallel.dp_shard=2"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["layout", "loss", "norm", "gradient", "weight", "seconds"]
    assert [row.split()[0] for row in rows] == ["DP2"]
    assert all(0 <= float(figure) <= ALLOWED for figure in rows[0].split()[1:5])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", [{"loss": 2.1e-6}, {"norm": float("nan")}, {"gradient": 1.0}, {"weight": float("inf")}])
def test_a_difference_is_told_and_ends_with_1(fault, capsys, monkeypatch):
    wrong = replace(SAME, **fault)
    results = [(ParallelConfig(dp_shard=2), SAME), (ParallelConfig(tp=2), wrong)]

    def launch(arguments, n, *more):
        job = json.loads(Path(arguments[-1]).read_text())
        assert n == 4
        assert ParallelConfig(**job["parallel"][0]) == ParallelConfig(tp=2, dp_shard=2)
        Path(job["out"]).write_text(json.dumps([[asdict(layout), asdict(found)] for layout, found in results]))

    monkeypatch.setattr("openherd.parallel.launch.launch", launch)
    assert main(["parity", RECIPE, "--set", "parallel.dp_shard=2", "--set", "parallel.tp=2"]) == 1
    _, good, bad = capsys.readouterr().out.splitlines()
    assert good.split() == ["DP2", "1.0e-07", "2.0e-07", "3.0e-08", "2.0e-06", "12.3"]
    assert bad.endswith("differs: over 2e-06")
    assert parity_table(results).splitlines()[1:] == [good, bad]


def test_a_recipe_of_one_process_has_nothing_to_compare(capsys):
    assert main(["parity", RECIPE]) == 2
    assert "no stage has a layout of several processes" in capsys.readouterr().err

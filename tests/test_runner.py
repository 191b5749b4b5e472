"""Recipes on toy stages: what runs again, what is shared, what is refused; and what a killed process leaves."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openherd.core import rundir
from openherd.core.errors import ConfigError, InputError, OpenherdError, StaleError
from openherd.core.rundir import Run
from openherd.report.terminal import diff_text, show_run, sweep_table
from openherd.runner import Recipe, clean, open_stage, read_run_file, run_recipe, single_stage, sweep, unused
from toy_stages import STAGES, use_toy_stages

RECIPE = """
name = "toy"
seed = 5
[[stage]]
use = "toy-read"
inputs = {{ numbers = "{numbers}" }}
[[stage]]
use = "toy-scale"
inputs = {{ value = "toy-read" }}
factor = 3
[[stage]]
name = "half"
use = "toy-scale"
inputs = {{ value = "toy-read" }}
factor = 0.5
[[stage]]
use = "toy-join"
inputs = {{ values = ["toy-scale", "half"] }}
require = "total >= 10"
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    use_toy_stages(monkeypatch)
    monkeypatch.setenv("TOY_TRACE", str(tmp_path / "trace"))
    (tmp_path / "numbers.txt").write_text("4")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(numbers=tmp_path / "numbers.txt"))

    class Toy:
        out = tmp_path / "out"
        file = tmp_path / "recipe.toml"
        numbers = tmp_path / "numbers.txt"

        def recipe(self, *changes):
            return Recipe.read(self.file, changes)

        def run(self, *changes):
            (tmp_path / "trace").write_text("")
            done = run_recipe(self.recipe(*changes), self.out, quiet=True)
            return (tmp_path / "trace").read_text().split(), {step.name: run for step, run, _ in done}

    return Toy()


def test_a_recipe_runs_once(toy):
    ran, runs = toy.run()
    assert ran == ["toy-read", "toy-scale", "half", "toy-join"]
    assert runs["toy-join"].metrics["total"] == 14.0
    assert runs["half"].manifest["seed"] == 5
    assert runs["half"].manifest["outputs"]["folder/value.txt"]["bytes"] == 3
    assert toy.run()[0] == []
    assert {n: p.resolve() for n, p in read_run_file(toy.out).items()} == {n: r.path.resolve() for n, r in runs.items()}


def test_a_changed_setting_runs_that_stage_and_what_follows(toy):
    toy.run()
    ran, runs = toy.run("half.factor=1.0")
    assert ran == ["half", "toy-join"]
    assert runs["toy-join"].metrics["total"] == 16.0
    assert toy.run()[0] == []  # the old runs are still there


def test_a_changed_input_file_runs_everything(toy):
    toy.run()
    toy.numbers.write_text("44")
    assert toy.run()[0] == ["toy-read", "toy-scale", "half", "toy-join"]


def test_a_raised_version_runs_that_stage_and_what_follows(toy, monkeypatch):
    toy.run()
    monkeypatch.setitem(STAGES, "toy-scale", STAGES["toy-scale"]._replace(version=2))
    assert toy.run()[0] == ["toy-scale", "half", "toy-join"]


def test_a_gate_stops_the_run_and_keeps_it(toy):
    with pytest.raises(OpenherdError, match=r"gate is not met: total is 9; allowed: total >= 10"):
        toy.run("toy-scale.factor=1.75")
    assert "toy-join" in read_run_file(toy.out)


def test_a_gate_may_be_a_score(toy):
    toy.file.write_text(toy.file.read_text().replace("factor = 0.5", 'factor = 0.5\nrequire = "score >= 0.7"'))
    assert "toy-join" in toy.run()[1]
    toy.file.write_text(toy.file.read_text().replace("score >= 0.7", "scoer >= 0.7"))
    with pytest.raises(ConfigError, match=r"require names no metric of it: 'scoer'; did you mean 'score'\?"):
        toy.run()


def test_a_run_that_fails_takes_nothing_from_the_last_whole_one(toy):
    _, runs = toy.run()
    with pytest.raises(OpenherdError, match="gate is not met"):
        toy.run("toy-scale.factor=1.75")
    assert open_stage(toy.out, "toy-join").path == runs["toy-join"].path
    assert unused(toy.out) == []  # neither those of the whole run, nor what the other one finished
    toy.run("half.factor=1.0")
    assert {place.parent.name for place in unused(toy.out)} == {"toy-scale", "half", "toy-join"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("factor = 3", "facter = 3", r"stage 'toy-scale': unknown setting 'facter'; did you mean 'factor'\?"),
        ("factor = 3", 'factor = "3"', r"factor = \"3\"; allowed: a valid number; \(what to multiply by\)"),
        ("factor = 3", "factor = -1", r"factor = -1; allowed: greater than 0"),
        ("factor = 3", "steps = 1.5", r"steps = 1.5; allowed: a valid integer"),
        ("factor = 3", "factor = nan", r"factor = nan; allowed: finite numbers"),
        ('use = "toy-join"', 'use = "toy-jion"', r"unknown stage 'toy-jion'; did you mean 'toy-join'\?"),
        ('values = ["toy-scale", "half"]', 'values = ["toy-scale", "halff"]', r"no earlier stage 'halff'.*did you mean 'half'\?"),
        ('values = ["toy-scale", "half"]', 'values = "half"', "allowed: a list of stages"),
        ('value = "toy-read"', 'valeu = "toy-read"', r"no input 'valeu'; did you mean 'value'\?"),
        ('value = "toy-read"', 'value = "./there"', r"allowed: an earlier stage"),
        ("require", "name = 'half'\nrequire", "this name was used before"),
        ("total >= 10", "total = 10", "allowed: 'metric >= number'"),
        ("numbers.txt", "missing.txt", "no such file"),
        ("seed = 5", 'seed = "5"', "allowed: an integer"),
        ("seed = 5", "sede = 5", r"unknown key 'sede'; did you mean 'seed'\?"),
        ("[[stage]]", "[[stage", "not valid TOML"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(toy, old, new, message):
    toy.file.write_text(toy.file.read_text().replace(old, new, 1))
    with pytest.raises((ConfigError, InputError), match=message) as error:
        toy.run()
    assert "\n" not in str(error.value)
    assert not toy.out.exists()


def test_who_judges_is_no_part_of_what_is_made_but_its_time_limit_is(toy, tmp_path):
    toy.file.write_text(toy.file.read_text() + "\n[engine]\nprocesses = 3\n")
    runs = toy.run()[1]
    assert runs["half"].manifest["settings"]["timeout_s"] == 60
    assert "processes" not in json.dumps(runs["half"].manifest["settings"])
    assert "processes = 3" in (runs["half"].path / "config.toml").read_text()
    assert toy.run("engine.processes=2", "engine.memory_gb=3.5", "engine.kind=daft-ray")[0] == []
    assert toy.run("engine.timeout_s=7.5")[0] == ["toy-scale", "half", "toy-join"]
    assert toy.run("half.engine={ timeout_s = 3.5 }")[0] == ["half", "toy-join"]
    other = tmp_path / "other.toml"
    other.write_text('base = "recipe.toml"\n[engine]\ntimeout_s = 7.5\n')
    toy.file = other
    assert toy.run()[0] == []
    config = toy.recipe().resolve(toy.out)[1].config
    assert (config.engine.processes, config.engine.timeout_s) == (3, 7.5)
    with pytest.raises(ConfigError, match=r"no setting 'procesess' in \[engine\]; did you mean 'processes'"):
        toy.run("engine.procesess=1")
    other.write_text('base = "recipe.toml"\nengine = 3\n')
    with pytest.raises(ConfigError, match=r"engine = 3; allowed: a table \[engine\]"):
        toy.run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("half.factro=1", r"no setting 'factro'; did you mean 'factor'\?"),
        ("hlaf.factor=1", r"no stage 'hlaf'.*did you mean 'half'\?"),
        ("half.table.part=3", r"half.table.part is part of a table; give the table: --set 'half.table={ part = 3 }'"),
        ("half.factor", "allowed: stage.setting=value"),
        ("seed=x", "allowed: an integer"),
    ],
)
def test_set_is_checked(toy, change, message):
    with pytest.raises(ConfigError, match=message):
        toy.run(change)


def test_a_recipe_may_change_another(toy, tmp_path):
    toy.run()
    other = tmp_path / "other.toml"
    other.write_text('base = "recipe.toml"\nseed = 5\n[change.half]\nfactor = 1.0\n')
    steps = {step.name: step for step in Recipe.read(other).resolve(toy.out)}
    assert steps["half"].config.factor == 1.0
    other.write_text('base = "recipe.toml"\n')
    assert Recipe.read(other).seed == 5  # the base's
    assert steps["toy-scale"].path == toy.recipe().resolve(toy.out)[1].path  # shared
    for text, message in (
        ('base = "recipe.toml"\n[change.hlaf]\nfactor = 1.0', "did you mean 'half'"),
        ('base = "recipe.toml"\n[[stage]]\nuse = "toy-read"', "a base and stages of its own"),
        ('base = "none.toml"', "none.toml: no such file"),
        ("[change.half]\nfactor = 1.0", "changes without a base"),
    ):
        other.write_text(text)
        with pytest.raises(ConfigError, match=message):
            Recipe.read(other)


def test_sweep_shares_what_does_not_differ(toy, monkeypatch):
    (Path(os.environ["TOY_TRACE"])).write_text("")
    runs = sweep(toy.recipe(), toy.out, {"half.factor": ["1.0", "2.0"]}, seeds=[5, 6])
    ran = Path(os.environ["TOY_TRACE"]).read_text().split()
    assert list(runs) == [(f"half.factor={f}", seed) for seed in (5, 6) for f in ("1.0", "2.0")]
    assert (ran.count("toy-read"), ran.count("toy-scale"), ran.count("half")) == (1, 2, 4)
    told = {key: [(step.name, run) for step, run, _ in done] for key, done in runs.items()}
    of_one_seed = sweep_table({key: done for key, done in told.items() if key[1] == 5}).splitlines()
    assert of_one_seed[of_one_seed.index("half score") + 1] == "  half.factor=1.0  0.75 [0.3256, 1]"
    assert "half score\n  half.factor=1.0  0.75 ± 0 (0.75, 0.75)\n" in sweep_table(told)
    n_before = len(list(toy.out.glob("*/*/config.toml")))
    assert clean(toy.out)[0] == 0  # every variant is still named by its run file
    (toy.out / "sweeps" / "half.factor=1.0,seed=6.json").unlink()
    places = unused(toy.out)
    assert len(places) == 2  # that variant's half and toy-join; its toy-scale is shared
    with (places[0] / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert unused(toy.out) == places[1:]  # a process works in the other
    assert clean(toy.out)[0] == 2
    assert len(list(toy.out.glob("*/*/config.toml"))) == n_before - 2


def test_show_and_diff(toy):
    first = toy.run()[1]
    second = toy.run("half.factor=1.0")[1]
    text = diff_text(first, second)
    assert "toy-scale: the same run" in text
    outputs = {name: {**entry, "sha256": "0" * 64} for name, entry in first["half"].manifest["outputs"].items()}
    elsewhere = Run(first["half"].path, {**first["half"].manifest, "outputs": outputs})  # as another device makes it
    assert "output  folder/value.txt" in diff_text(first, {**first, "half": elsewhere})
    rows = [line.split() for line in text.splitlines()]
    assert ["setting", "factor", "0.5", "1", "+0.5"] in rows
    assert ["metric", "value", "2", "4", "+2"] in rows
    assert "intervals overlap" not in text  # the score is the same in both
    shown = show_run(second["toy-join"])
    assert "values.1 <- " in shown
    assert "numbers <- " in shown
    assert "CHANGED" not in shown


def test_a_single_stage_refuses_another_run_and_says_what_differs(toy, tmp_path):
    runs = toy.run()[1]
    place, inputs = tmp_path / "single", {"value": str(runs["toy-read"].path)}
    assert single_stage("toy-scale", {"factor": 2.5}, inputs, place)[1] is False
    assert single_stage("toy-scale", {"factor": 2.5}, inputs, place)[1] is True
    with pytest.raises(StaleError, match=r"holds another run: factor = 2.5 there, 4.0 asked; give another --out"):
        single_stage("toy-scale", {"factor": 4.0}, inputs, place)
    with pytest.raises(StaleError, match="holds a whole run"):
        single_stage("toy-scale", {}, inputs, toy.out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(StaleError, match="not empty"):
        single_stage("toy-scale", {}, inputs, tmp_path / "mine")
    with pytest.raises(InputError, match="no finished run directory"):
        single_stage("toy-scale", {}, {"value": str(tmp_path / "mine")}, tmp_path / "other")


def test_damage_is_one_line(toy):
    runs = toy.run()[1]
    manifest = runs["half"].path / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a corrupt manifest .*remove .*manifest.json and run the same command again"):
        toy.run()
    manifest.unlink()
    assert toy.run()[0] == ["half"]
    (runs["half"].path / "folder" / "value.txt").write_text("x")
    with pytest.raises(InputError, match="damaged: 1 bytes where the manifest says 3"):
        toy.run()
    (toy.out / "run.json").write_text("{")
    with pytest.raises(InputError, match="a corrupt run file"):
        open_stage(toy.out, "toy-join")


KILLED = """
import sys; sys.path.insert(0, {tests!r})
import toy_stages, openherd.runner
openherd.runner.BY_NAME = toy_stages.STAGES
from pathlib import Path
from openherd.runner import Recipe, run_recipe
run_recipe(Recipe.read(Path(sys.argv[1]), ["half.die_at=2"]), Path(sys.argv[2]), quiet=True)
"""


def test_kill_9_then_the_same_command(toy):
    command = [sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parent)), str(toy.file), str(toy.out)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    killed = next((toy.out / "half").iterdir())
    assert not (killed / "manifest.json").exists()
    with pytest.raises(InputError, match="an unfinished run"):
        Run.open(killed)
    (killed / ".folder.tmp").mkdir()  # as a kill in the middle of a write leaves it
    assert subprocess.run(command, check=False).returncode == 0
    records = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [0, 1, 2]  # two before the kill, one after
    assert not (killed / ".folder.tmp").exists()
    assert Path(os.environ["TOY_TRACE"]).read_text().split().count("toy-read") == 1


def test_two_processes_do_not_share_a_directory(toy):
    step = toy.recipe().resolve(toy.out)[0]
    step.path.mkdir(parents=True)
    with (step.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StaleError, match="another process is working here"):
            toy.run()
    assert toy.run()[0][0] == "toy-read"


def test_a_stage_that_another_process_finished_meanwhile_is_not_run_again(toy, monkeypatch):
    prepare = rundir.prepare

    def late(job, path):
        monkeypatch.setattr(rundir, "prepare", prepare)
        toy.recipe().resolve(toy.out)[0].run()
        return prepare(job, path)

    monkeypatch.setattr(rundir, "prepare", late)
    assert toy.recipe().resolve(toy.out)[0].run()[1]
    assert Path(os.environ["TOY_TRACE"]).read_text().split() == ["toy-read"]

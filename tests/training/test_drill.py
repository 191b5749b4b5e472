"""Drills: real processes, real faults. The ordinary one is one process and its launcher; the slow ones are several."""

import itertools
import json
from dataclasses import replace

import pytest

from miniature import ROOT, openherd
from openherd.cli import main
from openherd.model.config import SIZES
from openherd.parallel.layout import ParallelConfig
from openherd.training.drill import APART, BEGIN, CHECKPOINT_STEPS, FAULTS, drill_table, plan, schedule_of, suited

RECIPE = str(ROOT / "recipes" / "laptop.toml")


def drilled(tmp_path, *arguments):
    done = openherd(tmp_path, "drill", RECIPE, "--out", "drill", "--json", *arguments)
    assert done.stdout, done.stderr
    return done, json.loads(done.stdout.splitlines()[-1])


def by_kind(report):
    return {row["kind"]: row for row in report["faults"]}


@pytest.mark.slow
def test_a_killed_process(tmp_path, capsys):
    done, report = drilled(tmp_path, "--faults", "nan,kill")
    found = by_kind(report)
    assert all(row["detected"] for row in found.values()), report
    assert report["skipped"] == [[found["nan"]["step"], found["nan"]["step"] + 1]]
    assert report["same_bits"]
    assert report["goodput_s"]["restart"] > 0
    assert report["goodput_s"]["recompute"] > 0
    assert done.returncode == 0
    assert main(["drill", RECIPE, "--out", str(tmp_path / "drill")]) == 2
    assert "a drill was here before" in capsys.readouterr().err
    assert "passed" in drill_table(report)
    worse = {**report, "same_bits": False, "passed": False, "largest_difference_nats": 1.0}
    assert drill_table(worse).endswith("NOT passed")


@pytest.mark.slow
def test_one_process(tmp_path):
    done, report = drilled(tmp_path, "--faults", "nan,spike,kill,truncate,disk")
    found = by_kind(report)
    assert all(row["detected"] for row in found.values()), report
    assert found["spike"]["detected"] == "spike"
    assert found["disk"]["detected"] == "checkpoint failed"
    assert found["truncate"]["detected"] == "damaged checkpoint"
    assert report["skipped"] == sorted([found[kind]["step"], found[kind]["step"] + 1] for kind in ("nan", "spike"))
    assert report["same_bits"]
    assert done.returncode == 0


@pytest.mark.slow
def test_two_processes(tmp_path):
    done, report = drilled(tmp_path, "--set", "parallel.dp_shard=2", "--faults", "nan,spike,kill,reset,truncate,stop,disk")
    assert all(row["detected"] for row in report["faults"]), report
    assert report["same_bits"]
    assert done.returncode == 0


@pytest.mark.slow
def test_in_a_pipeline(tmp_path):
    layout = (
        "--set",
        "parallel.pp=2",
        "--set",
        "parallel.dp_shard=2",
        "--set",
        "parallel.micro_batches=2",
        "--set",
        "pretrain.batch_tokens=[1024,2048]",
    )
    done, report = drilled(tmp_path, *layout, "--faults", "nan,spike,kill")
    assert report["same_bits"], report
    assert done.returncode == 0


@pytest.mark.slow
def test_half_of_the_processes_and_their_agent_die(tmp_path):
    done, report = drilled(tmp_path, "--set", "parallel.dp_shard=2", "--faults", "nan,agent")
    assert report["processes"] == "one process"
    assert report["largest_difference_nats"] < 2e-6, report
    assert done.returncode == 0


def test_the_schedule_is_a_function_of_the_seed():
    kinds = list(FAULTS)
    assert schedule_of(kinds, 4, 1) == schedule_of(kinds, 4, 1)
    orders = {tuple(fault.kind for fault in schedule_of(kinds, 4, seed)) for seed in range(9)}
    assert len(orders) > 3
    for seed in range(30):
        faults = schedule_of(kinds, 4, seed)
        assert faults[-1].kind == "agent"
        assert all(b.step - a.step >= 3 for a, b in itertools.pairwise(faults))
        assert all(fault.step + APART >= BEGIN and 0 <= fault.rank < 4 for fault in faults)
        (disk,) = [fault for fault in faults if fault.kind == "disk"]
        assert disk.step % CHECKPOINT_STEPS == CHECKPOINT_STEPS - 1
        assert disk.rank > 0


def test_what_a_layout_can_be_given(tmp_path, capsys):
    assert set(FAULTS) - set(suited(ParallelConfig())) == {"reset", "stop", "agent"}
    assert "agent" not in suited(ParallelConfig(tp=2))
    assert set(suited(ParallelConfig(dp_shard=2))) == set(FAULTS)
    assert main(["drill", RECIPE, "--out", str(tmp_path / "drill"), "--faults", "stop"]) == 2
    assert "'stop' in one process; allowed: nan, spike, kill" in capsys.readouterr().err
    shape = replace(SIZES["llama3-8b"], n_layers=4)
    assert plan(shape, ParallelConfig(pp=2), ["nan"], 0, tmp_path).shape.n_layers == 4

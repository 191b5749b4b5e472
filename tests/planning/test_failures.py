"""Simulated failures: against the slow twin, against formulas, on the paper's 54 days, and on a log of one's own."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from openherd.cli import main
from openherd.core.errors import ConfigError, InputError
from openherd.planning.causes import PAPER_UNEXPECTED, Cause, paper_causes, published, read_log
from openherd.planning.failures import CLASSES, RunPlan, rate, simulate
from openherd.planning.failures_reference import one_run
from openherd.planning.reliability import assess, best_interval, daly_s, young_s

SLOW = Cause(name="slow", per_node_day=2 / 2_048, kind="straggler")
CAUSES = [*paper_causes(), SLOW]
NODE = [Cause(name="any", per_node_day=1e-2, takes_node=True)]


@pytest.mark.parametrize(
    "plan",
    [
        RunPlan(days=4),
        RunPlan(days=3, spares=0, repair_hours=0.5),
        RunPlan(days=3, spares=2, repair_hours=8),
        RunPlan(days=3, checkpoint_minutes=40, pause_s=90, write_s=0),
        RunPlan(days=3, checkpoint_minutes=5, write_s=1_500),  # several checkpoints on their way at once
        RunPlan(days=3, detect_minutes=200),  # struck again while it is down
        RunPlan(work_days=2.5),
        RunPlan(work_days=2, checkpoint_minutes=25, slowdown=0.5, straggler_minutes=300),
    ],
    ids=range(8),
)
def test_every_run_is_the_slow_twins(plan):
    runs = 12
    found = simulate(plan, CAUSES, runs, seed=3)
    for run in range(runs):
        alone = one_run(plan, CAUSES, run, runs, seed=3)
        assert found.days[run] == pytest.approx(alone["days"], rel=1e-12)
        assert found.productive_days[run] == pytest.approx(alone["productive_days"], rel=1e-9)
        assert {kind: n[run] for kind, n in found.stops.items()} == {kind: alone[kind] for kind in found.stops}


@pytest.mark.parametrize("plan", [RunPlan(days=20), RunPlan(work_days=5, spares=4)], ids=["days", "work"])
def test_the_time_is_all_accounted_for(plan):
    found = simulate(plan, CAUSES, 50)
    np.testing.assert_allclose(sum(found.time[name] for name in CLASSES), found.days, rtol=1e-9)
    np.testing.assert_allclose(found.time["productive"], found.productive_days)
    assert all((part >= -1e-9).all() for part in found.time.values())


def test_nothing_fails():
    plan = RunPlan(days=2, checkpoint_minutes=30, pause_s=60, write_s=0)
    found = simulate(plan, [Cause(name="never", per_node_day=0)], 3)
    # 2 days are 92 cycles of 31 minutes, and 28 minutes of work.
    assert found.productive_days == pytest.approx((92 * 30 + 28) / 1_440)
    done = simulate(replace(plan, work_days=1), [Cause(name="never", per_node_day=0)], 3)
    assert done.days == pytest.approx(1 + 47 / 1_440)  # 48 stretches of 30 minutes, 47 pauses between


def test_the_expected_share_of_a_simple_run():
    """Work of tau, then a pause, restarts at once: a renewal process whose share is tau / ((e^(rate cycle) - 1) / rate)."""
    tau, pause, per_hour = 0.5, 0.05, 0.8
    plan = RunPlan(
        nodes=10, days=50, checkpoint_minutes=60 * tau, pause_s=3_600 * pause, write_s=0, detect_minutes=0, restart_minutes=0
    )
    found = simulate(plan, [Cause(name="any", per_node_day=24 * per_hour / 10)], 400)
    cycle = tau + pause
    expected = tau / (math.expm1(per_hour * cycle) / per_hour)
    assert found.goodput.mean() == pytest.approx(expected, abs=4 * found.goodput.std() / 20 + 1e-3)


def test_stops_are_a_poisson_process():
    found = simulate(RunPlan(), paper_causes(), 2_000)
    for kind, mean in (("unexpected", 419), ("planned", 47)):
        assert found.stops[kind].mean() == pytest.approx(mean, abs=4 * math.sqrt(mean / 2_000))
        assert found.stops[kind].var() == pytest.approx(mean, rel=0.15)


def test_the_papers_table():
    assert sum(n for _, n, _ in PAPER_UNEXPECTED) == 419
    assert 1 / rate(paper_causes(), 2_048, "unexpected") / 3_600 == pytest.approx(3.09, abs=0.005)
    assert 1 / rate(published("rsc1"), 2_048) / 3_600 == pytest.approx(1.80, abs=0.01)  # what Kokolis et al. reckon for 16,384 GPUs


def test_over_90_percent_of_the_papers_54_days():
    found = assess(RunPlan(), paper_causes(), 1_000, 0, compare=False)
    assert found["goodput"]["low"] > 0.90
    assert found["minutes_lost_a_stop"] < 54 * 1_440 * 0.1 / 466  # 16.7: 466 stops that leave 90% of 54 days


def test_youngs_and_dalys_intervals():
    assert young_s(60, 7_200) == pytest.approx(math.sqrt(2 * 60 * 7_200))
    x = 60 / 14_400
    assert daly_s(60, 7_200) == pytest.approx(young_s(60, 7_200) * (1 + math.sqrt(x) / 3 + x / 9) - 60)
    assert daly_s(20_000, 7_200) == 7_200
    plan = RunPlan(days=15, pause_s=60, write_s=0, detect_minutes=0, restart_minutes=0)
    best = best_interval(plan, [Cause(name="any", per_node_day=12 / 2_048)], 300, 0)
    assert best["simulated_minutes"] == pytest.approx(best["daly_minutes"], rel=0.1)


def test_what_a_change_buys_has_the_right_sign():
    changes = assess(RunPlan(days=6, spares=1), NODE, 200, 0)["changes"]
    gained = {text: change["goodput_points"]["mean"] for text, change in changes.items()}
    assert gained["restart in half the time"] > 0
    assert gained["twice the spares"] > 0
    assert gained["no spares"] < 0
    assert gained["checkpoints half as often"] < 0
    best = next(value for text, value in gained.items() if "simulated optimum" in text)
    assert best >= max(gained["checkpoints twice as often"], gained["checkpoints half as often"]) - 0.3


def test_a_story_has_no_holes():
    story: list[dict] = []
    found = one_run(RunPlan(days=3), CAUSES, 0, 1, 0, story)
    assert story[0]["start"] == 0
    assert max(s["end"] for s in story) >= 3
    kept = sum(s["end"] - s["start"] for s in story if s["kind"] == "work")
    assert found["productive_days"] <= kept <= 3


def test_a_log_of_ones_own(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(
        "time,cause,kind,down_minutes\n2026-01-01T00:00,GPU fell off the bus,,12\n2026-01-04T00:00,GPU fell off the bus,,18\n"
        "2026-01-07T00:00,bad commit,,\n2026-01-10T00:00,upgrade,planned,45\n"
    )
    gpu, commit, upgrade = read_log(log, 100, 0.0)
    assert gpu.per_node_day == pytest.approx(2 / (100 * 12))  # nine days between four stops, three to a gap: twelve
    assert (gpu.takes_node, gpu.down_minutes, gpu.kind) == (True, 15.0, "unexpected")
    assert (commit.takes_node, commit.down_minutes) == (False, None)
    assert (upgrade.kind, upgrade.down_minutes) == ("planned", 45.0)
    log.write_text("cause,count,takes_node\nlink,7,no\nnode,3,yes\n")
    link, node = read_log(log, 10, 30.0)
    assert (link.per_node_day, link.takes_node) == (pytest.approx(7 / 300), False)
    assert (node.per_node_day, node.takes_node) == (pytest.approx(3 / 300), True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("when,what\n1,2\n", "columns when, what; allowed: cause"),
        ("cause\n", "no rows"),
        ("cause,count\nGPU,many\n", "count = 'many'"),
        ("cause,kind\nGPU,sudden\n", "kind 'sudden'; allowed"),
        ("cause\nGPU\nGPU\n", "--log-days"),
    ],
)
def test_a_log_that_cannot_be_read(text, message, tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(text)
    with pytest.raises(InputError, match=message):
        read_log(log, 10, 0.0)


def test_settings_that_cannot_be():
    for setting, value in (("nodes", 0), ("checkpoint_minutes", 0.0), ("slowdown", 1.0), ("spares", -1)):
        with pytest.raises(ConfigError, match=setting.replace("_", "-")):
            RunPlan(**{setting: value})
    with pytest.raises(ConfigError, match="'llama4'"):
        published("llama4")


def test_the_command(tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["plan", "failures", "--days", "5", "--runs", "100", "--stragglers", "0.5", "--json", "--page", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == 100
    assert found["interval"]["young_minutes"] == pytest.approx(math.sqrt(2 * 3 * found["mtbf_hours"] * 3_600) / 60)
    assert "stragglers found in half the time" in found["changes"]
    assert "Checkpoint interval" in page.read_text(encoding="utf-8")
    assert main(["plan", "failures", "--work-days", "1", "--runs", "100", "--rates", "rsc1"]) == 0
    assert "days  " in capsys.readouterr().out
    assert main(["plan", "failures", "--spares", "-3"]) == 2
    assert "--spares: -3; allowed" in capsys.readouterr().err

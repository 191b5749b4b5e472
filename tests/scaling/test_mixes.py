"""The experiment on mixes: laws that are known are found and foretell, and the recipe runs."""

import numpy as np
import pytest

from miniature import ROOT, openherd
from openherd.core.errors import InputError
from openherd.report.experiments import mix_lines
from openherd.runner import open_runs
from openherd.scaling.mixes import Trained, foretell, power_law, verdict


def runs(noise=0.0, sizes=(1e12, 2e12, 4e12, 3e13)):
    draw = np.random.default_rng(0)
    laws = {"good": {"code": (40, 0.12), "web": (30, 0.10)}, "bad": {"code": (60, 0.12), "web": (31, 0.10)}}
    return [
        Trained(f"{mix}-{c:g}", mix, c, {s: a * c**-b * float(np.exp(noise * draw.normal())) for s, (a, b) in of.items()})
        for mix, of in laws.items()
        for c in sizes
    ]


def test_a_power_law_by_hand():
    intercept, slope, squares = power_law([1, 10, 100], [8, 4, 2])
    assert slope == pytest.approx(np.log(0.5) / np.log(10))
    assert intercept == pytest.approx(np.log(8))
    assert squares == pytest.approx(0, abs=1e-20)


def test_exact_laws_foretell_exactly():
    told = foretell(runs(), 3, {"code": 1.0, "web": 3.0})
    assert told["target_flops"] == 3e13
    for mix in told["mixes"].values():
        assert mix["foretold"]["value"] == pytest.approx(mix["measured"], rel=1e-9)
    found = verdict(told["mixes"])
    assert found["best_foretold"] == found["best_measured"] == "good"
    assert (found["pairs_in_order"], found["pairs"]) == (1, 1)


def test_the_interval_is_that_of_a_run():
    inside = total = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        noisy = [
            Trained(r.name, r.mix, r.flops, {s: v * float(np.exp(0.02 * draw.normal())) for s, v in r.bits_per_byte.items()})
            for r in runs(sizes=(1e12, 2e12, 4e12, 8e12, 1.6e13, 6e13))
        ]
        told = foretell(noisy, 5, {"code": 1.0, "web": 1.0})
        found = verdict(told["mixes"])
        inside, total = inside + found["within_interval"], total + found["measured_mixes"]
    assert inside / total > 0.85


def test_a_mix_without_a_large_run_is_foretold_all_the_same():
    some = [r for r in runs() if r.mix == "good" or r.flops < 1e13]
    told = foretell(some, 3, {"code": 1.0, "web": 1.0})
    assert told["mixes"]["bad"]["measured"] is None
    assert verdict(told["mixes"])["measured_mixes"] == 1
    assert mix_lines([{"mix": r.mix, "flops": r.flops, "score": 1.0} for r in some], told["mixes"], told["target_flops"]).data


def test_too_few_runs_are_refused():
    with pytest.raises(InputError, match="2 runs of the mix bad; allowed: 3 of different FLOPs"):
        foretell(runs(sizes=(1e12, 2e12)), 3, {"code": 1.0})


@pytest.mark.slow
def test_the_recipe_runs(tmp_path):
    """As it stands, but for shorter runs."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    names = [f"{mix}-{size}" for mix in "abc" for size in ("31k", "60k", "110k", "470k")]
    steps = {"31k": 30, "60k": 40, "110k": 50, "470k": 80}
    changes = [f"{n}.{key}={v}" for n in names for key, v in (("steps", steps[n[2:]]), ("warmup_steps", 5))]
    sets = [part for change in [*changes, "python-docs.pages=120", "holdout.share=0.2"] for part in ("--set", change)]
    done = openherd(tmp_path, "run", "recipes/mix-experiment.toml", "--out", "runs/mix", *sets)
    assert done.returncode == 0, done.stderr
    found = open_runs(tmp_path / "runs" / "mix")["mix-experiment"].metrics
    assert found["runs"] == 12
    assert found["measured_mixes"] == 3
    assert found["pairs"] == 3

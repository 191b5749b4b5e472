"""Advice: the fact sheet's optima, brute force, and the paper's two readings of its own law."""

import json

import numpy as np
import pytest

from known_laws import made
from openherd.cli import main
from openherd.core.errors import ConfigError
from openherd.scaling.advise import PUBLISHED, Law, advise, compare, llama_3
from openherd.scaling.fit import fit_parametric, loss_at


def test_the_published_optimum():
    found = advise(Law.published("epoch"), 3.8e25)
    assert found["parameters"]["value"] == pytest.approx(619e9, rel=2e-3)
    assert found["tokens"]["value"] == pytest.approx(10.2e12, rel=5e-3)
    assert found["parameters"]["interval"] is None
    with pytest.raises(ConfigError, match="did you mean 'epoch'"):
        Law.published("epoc")


@pytest.mark.parametrize("served", [1e10, 1e12, 5e13])
def test_serving_against_brute_force(served):
    flops, law = 1e24, PUBLISHED["epoch"]
    found = advise(Law.published("epoch"), flops, served)
    n = np.geomspace(1e7, 1e13, 400_001)
    d = (flops / n - 2 * served) / 6
    loss = np.where(d > 0, loss_at(law, n, np.maximum(d, 1)), np.inf)
    assert found["parameters"]["value"] == pytest.approx(n[loss.argmin()], rel=2e-3)
    assert found["loss"]["value"] == pytest.approx(loss.min(), rel=1e-6)
    n, d = found["parameters"]["value"], found["tokens"]["value"]
    assert 6 * n * d + 2 * n * served == pytest.approx(flops)
    assert n < found["parameters_without_serving"]["value"]


def test_what_overtraining_costs_and_saves():
    found = compare(Law.published("epoch"), 8e9, 15e12)
    same = found["same_loss"]
    n, d, flops = (same[name]["value"] for name in ("parameters", "tokens", "flops"))
    assert loss_at(PUBLISHED["epoch"], n, d) == pytest.approx(found["loss"]["value"], rel=1e-9)
    assert 6 * n * d == pytest.approx(flops)
    assert found["training_cost_times"]["value"] == pytest.approx(7.2e23 / flops)
    even = found["even_at_served_tokens"]["value"]
    assert 7.2e23 + 2 * 8e9 * even == pytest.approx(flops + 2 * n * even)
    optimal = compare(Law.published("epoch"), n, d)
    assert optimal["training_cost_times"]["value"] == pytest.approx(1, abs=1e-6)


def test_intervals_come_from_the_draws():
    law = Law.fitted(fit_parametric(made(0.004), draws=200), "made")
    for found in (advise(law, 1e22), advise(law, 1e22, 1e11)):
        low, high = found["parameters"]["interval"]
        assert low < found["parameters"]["value"] < high


def test_llama_3s_pair_is_given_in_both_readings():
    found = llama_3(3.8e25)
    assert found["tokens_by_printed_pair"] == pytest.approx(0.29 * 3.8e25**0.53)
    assert found["tokens_by_printed_pair"] == pytest.approx(10.46e12, rel=1e-3)
    assert found["tokens_through_printed_optimum"] == pytest.approx(16.55e12)
    assert "10.46T" in found["note"]


def test_the_command(capsys):
    assert main(["scaling", "advise", "--parameters", "8B", "--tokens", "15T", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens_per_parameter"] == 1_875
    for arguments, message in (
        ([], "--flops, or --parameters and --tokens"),
        (["--flops", "1e24", "--parameters", "8B"], "--flops, or --parameters and --tokens"),
        (["--flops", "12"], "FLOPs as a plain count"),
        (["--flops", "1e24", "--law", "llama3", "--served-tokens", "1T"], "no loss"),
        (["--flops", "1e24", "--served-tokens", "-1"], "0 or more"),
    ):
        assert main(["scaling", "advise", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["scaling", "advise", "--flops", "3.8e25", "--law", "llama3"]) == 0
    assert "16.55T" in capsys.readouterr().out
    assert main(["scaling", "advise", "--flops", "3.8e25", "--served-tokens", "10T"]) == 0
    assert "share of training" in capsys.readouterr().out


@pytest.mark.parametrize("served", ["1e25", "nan", "inf", "-1"])
def test_more_tokens_than_a_budget_serves_are_refused(served, capsys):
    assert main(["scaling", "advise", "--flops", "1e21", f"--served-tokens={served}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("openherd: --served-tokens: ")
    assert err.count("\n") == 1

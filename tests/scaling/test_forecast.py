"""The two-stage forecast: known stages, coverage of its interval, what is refused."""

import json

import numpy as np
import pytest

from openherd.cli import main
from openherd.core.errors import ConfigError, InputError
from openherd.scaling.forecast import Scores, fit_line, fit_sigmoid, forecast, read_scores, sigmoid

CHANCE = 0.25


def accuracy_of(nll):
    return CHANCE + (1 - CHANCE) / (1 + np.exp(-(1.0 - 9.0 * (nll - 0.6))))


def scores(noise=0.0, seed=0):
    """Ten scaling runs, and six models of other families without FLOPs."""
    rng = np.random.default_rng(seed)
    flops = np.geomspace(6e18, 1e22, 10)
    nll = 1.1 - 0.1 * (np.log10(flops) - 19) + noise * rng.standard_normal(10)
    others = np.linspace(0.4, 0.75, 6)
    nll, flops = np.concatenate([nll, others]), np.concatenate([flops, np.full(6, np.nan)])
    return Scores(where="test", flops=flops, nll=nll, accuracy=np.clip(accuracy_of(nll) + noise * rng.standard_normal(16), 0, 1))


def test_known_stages_are_found_and_extrapolated():
    found = forecast(scores(), [3.8e25], CHANCE, draws=200)
    assert found["nll_per_decade"] == pytest.approx(-0.1)
    assert found["sigmoid_slope"] == pytest.approx(9.0, rel=1e-3)
    (row,) = found["forecast"]
    expected = 1.1 - 0.1 * (np.log10(3.8e25) - 19)
    assert row["nll"] == pytest.approx(expected)
    assert row["accuracy"] == pytest.approx(accuracy_of(expected), abs=1e-4)
    assert row["decades_beyond"] == pytest.approx(np.log10(3.8e3))
    assert found["warnings"] == []


@pytest.mark.slow
def test_the_interval_holds_a_new_model_as_often_as_it_says():
    inside = 0
    for seed in range(40):
        (row,) = forecast(scores(0.01, seed), [1e23], CHANCE, draws=200, seed=seed)["forecast"]
        rng = np.random.default_rng(1_000 + seed)
        truth = accuracy_of(1.1 - 0.1 * 4 + 0.01 * rng.standard_normal()) + 0.01 * rng.standard_normal()
        inside += row["accuracy_interval"][0] <= truth <= row["accuracy_interval"][1]
    assert inside >= 33  # 95% of 40 is 38; the draws know the scatter from few points


def test_the_stages_are_plain_fits():
    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal(8), rng.standard_normal(8), rng.integers(1, 4, (1, 8)).astype(float)
    intercept, slope = fit_line(x, y, w)
    np.testing.assert_allclose([slope[0], intercept[0]], np.polyfit(x, y, 1, w=np.sqrt(w[0])))
    nll = np.linspace(0.2, 1.2, 12)
    accuracy = accuracy_of(nll) + 0.02 * rng.standard_normal(12)
    ((offset, steep),) = fit_sigmoid(nll, accuracy, np.ones((1, 12)), CHANCE)

    def off(o, s):
        return ((sigmoid(o - s * (nll - nll.mean()), CHANCE) - accuracy) ** 2).sum()

    near = [off(offset + a, steep + b) for a in (-0.02, 0, 0.02) for b in (-0.1, 0, 0.1)]
    assert np.argmin(near) == 4


def test_what_tells_nothing_is_said():
    backward = scores()
    backward = Scores(where="t", flops=backward.flops, nll=backward.nll[::-1].copy(), accuracy=backward.accuracy)
    assert forecast(backward, [1e30], CHANCE, draws=100)["warnings"]
    few = Scores(where="t", flops=np.array([1e20, 1e21]), nll=np.array([1.0, 0.9]), accuracy=np.array([0.3, 0.4]))
    with pytest.raises(InputError, match="2 different models with FLOPs and NLL"):
        forecast(few, [1e22], CHANCE)
    with pytest.raises(ConfigError, match="--chance"):
        forecast(scores(), [1e22], 1.0)


def test_the_command(tmp_path, capsys):
    file = tmp_path / "scores.csv"
    known = scores(0.005)
    cells = ["" if np.isnan(c) else f"{c:g}" for c in known.flops]
    rows = "".join(f"{c},{n},{a}\n" for c, n, a in zip(cells, known.nll, known.accuracy, strict=True))
    file.write_text(f"flops,nll,accuracy\n{rows}")
    assert main(["scaling", "forecast", str(file), "--flops", "1e24", "--draws", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 10
    assert main(["scaling", "forecast", str(file), "--flops", "1e24", "--draws", "100"]) == 0
    assert "decades beyond the runs" in capsys.readouterr().out
    file.write_text("flops,nll,accuracy\n1e20,0.9,42\n")
    with pytest.raises(InputError, match=r"accuracy = 42; allowed: 0 to 1"):
        read_scores(file)
    file.write_text("flops,accuracy\n1e20,0.42\n")
    with pytest.raises(InputError, match="no column of nll"):
        read_scores(file)

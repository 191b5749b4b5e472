"""The parametric law: its gradient, a law that is known, Epoch AI's figures, what is ill-conditioned, what is refused."""

import math

import numpy as np
import pytest

from known_laws import TRUE, made, runs_of
from openherd.core.errors import InputError
from openherd.scaling.fit import HUBER_DELTA, fit_parametric, huber_on_log, loss_at, optimum_at
from openherd.scaling.runs import read_runs


def plain_huber(x, n, d, loss):
    """The objective as it is written down, one run at a time."""
    a, b, e, alpha, beta = x
    total = 0.0
    for n_i, d_i, l_i in zip(n, d, loss, strict=True):
        r = math.log(math.exp(e) + math.exp(a) / n_i**alpha + math.exp(b) / d_i**beta) - math.log(l_i)
        total += r * r / 2 if abs(r) <= HUBER_DELTA else HUBER_DELTA * (abs(r) - HUBER_DELTA / 2)
    return total


def test_objective_and_gradient_are_the_slow_ones():
    runs = made(0.01)
    x = np.array([6.0, 7.0, 0.5, 0.33, 0.3])
    arguments = np.log(runs.parameters), np.log(runs.tokens), np.log(runs.loss)
    value, gradient = huber_on_log(x[None], *arguments, 1.0)
    assert value[0] == pytest.approx(plain_huber(x, runs.parameters, runs.tokens, runs.loss), rel=1e-12)
    for i in range(5):
        step = 1e-6 * np.eye(5)[i]
        up, down = (plain_huber(x + s * step, runs.parameters, runs.tokens, runs.loss) for s in (1, -1))
        assert gradient[0, i] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-7)


def test_a_known_law_without_noise_is_found():
    fit = fit_parametric(made(0.0), draws=100)
    for name, value in TRUE.items():
        assert fit.values[name] == pytest.approx(value, rel=1e-3)
    assert fit.values["objective"] < 1e-9


def test_few_runs_have_intervals_by_noise():
    grid = made(0.0)
    twelve = np.isin(grid.parameters, np.unique(grid.parameters)[::2]) & np.isin(grid.tokens, np.unique(grid.tokens)[[0, 3, 6]])
    runs = grid.only(twelve, "left")
    noisy = runs_of(runs.parameters, runs.tokens, runs.loss * np.exp(0.002 * np.random.default_rng(3).standard_normal(12)))
    fit = fit_parametric(noisy, draws=200)
    for name in ("alpha", "beta", "E"):
        low, high = fit.intervals[name]
        assert low < TRUE[name] < high
        assert high - low < 1.0
    # Twice the noise, about twice the interval.
    louder = runs_of(runs.parameters, runs.tokens, runs.loss * np.exp(0.004 * np.random.default_rng(3).standard_normal(12)))
    wider = fit_parametric(louder, draws=200).intervals["beta"]
    assert 1.3 < (wider[1] - wider[0]) / (fit.intervals["beta"][1] - fit.intervals["beta"][0]) < 3


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    inside = 0
    for seed in range(20):
        low, high = fit_parametric(made(0.004, seed), draws=100).intervals["exponent"]
        inside += low <= TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"]) <= high
    assert 16 <= inside <= 20  # 95% of 20 is 19


def test_the_optimum_is_the_least_loss_at_its_flops():
    n, d = optimum_at(TRUE, 1e22)
    assert 6 * n * d == pytest.approx(1e22)
    others = n * np.exp(np.linspace(-1, 1, 201))
    losses = loss_at(TRUE, others, 1e22 / 6 / others)
    assert losses.argmin() == 100


def test_weights_of_a_bootstrap_are_copies_of_runs():
    runs = made(0.01)
    counts = np.random.default_rng(0).integers(0, 3, len(runs)).astype(float)
    arguments = [np.log(c) for c in (runs.parameters, runs.tokens, runs.loss)]
    x = np.array([[6.0, 7.0, 0.5, 0.33, 0.3]])
    weighted = huber_on_log(x, *arguments, counts[None])
    copied = huber_on_log(x, *(np.repeat(a, counts.astype(int)) for a in arguments), 1.0)
    np.testing.assert_allclose(weighted[0], copied[0], rtol=1e-12)
    np.testing.assert_allclose(weighted[1], copied[1], rtol=1e-9)


def test_epochs_refit_of_chinchilla(published):
    (runs,) = read_runs(published / "chinchilla_points.csv")
    assert (len(runs), runs.left_out) == (240, {"among the highest losses": 5})
    fit = fit_parametric(runs, draws=400)
    assert fit.values["objective"] == pytest.approx(0.00101827402, abs=1e-8)
    for name, value in {"E": 1.8172, "alpha": 0.3473, "beta": 0.3672}.items():
        assert fit.values[name] == pytest.approx(value, abs=1e-4)
    # Epoch's own standard errors: 0.02 of either exponent, 0.03 of E; half a 95% interval is 1.96 of them.
    for name, error in {"alpha": 0.02, "beta": 0.02, "E": 0.03}.items():
        low, high = fit.intervals[name]
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.35)
    assert [w.split()[0] for w in fit.warnings] == ["A", "B"]


def test_few_runs_are_refused():
    with pytest.raises(InputError, match=r"5 runs.*more than 5 runs"):
        fit_parametric(runs_of([1e7, 2e7, 3e7, 4e7, 5e7], [1e9, 2e9, 3e9, 4e9, 5e9], [4, 3.9, 3.8, 3.7, 3.6]))
    with pytest.raises(InputError, match="2 sizes"):
        fit_parametric(runs_of([1e7, 2e7] * 4, np.geomspace(1e9, 1e10, 8), np.linspace(4, 3, 8)))


def test_runs_of_one_shape_are_said_to_tell_little():
    n = np.geomspace(1e7, 1e8, 12)
    noise = 0.01 * np.random.default_rng(0).standard_normal(12)
    fit = fit_parametric(runs_of(n, 20 * n, 2 + 400 / n**0.35 + noise), draws=200)
    assert any("hardly determined" in w or "ill-conditioned" in w for w in fit.warnings)

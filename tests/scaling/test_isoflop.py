"""IsoFLOPs: Akima's spline against a slow one, a known optimum, Porian et al.'s exponents, budgets that tell nothing."""

import csv
from collections import Counter

import numpy as np
import pytest

from known_laws import TRUE, runs_of
from openherd.core.errors import InputError
from openherd.scaling.fit import loss_at, optimum_at
from openherd.scaling.isoflop import akima, budgets_of, curves, fit_isoflop, lines, minima, noise_of, power_law
from openherd.scaling.runs import read_runs


def slow_akima(x, y, at):
    """One point, by the formulas of Akima's paper."""
    m = [(y[i + 1] - y[i]) / (x[i + 1] - x[i]) for i in range(len(x) - 1)]
    m = [3 * m[0] - 2 * m[1], 2 * m[0] - m[1], *m, 2 * m[-1] - m[-2], 3 * m[-1] - 2 * m[-2]]

    def t(i):
        w1, w2 = abs(m[i + 3] - m[i + 2]), abs(m[i + 1] - m[i])
        return (m[i + 1] + m[i + 2]) / 2 if w1 + w2 < 1e-12 else (w1 * m[i + 1] + w2 * m[i + 2]) / (w1 + w2)

    i = max(j for j in range(len(x) - 1) if x[j] <= at)
    h, s = x[i + 1] - x[i], at - x[i]
    p = (3 * m[i + 2] - 2 * t(i) - t(i + 1)) / h
    q = (t(i) + t(i + 1) - 2 * m[i + 2]) / h**2
    return y[i] + t(i) * s + p * s**2 + q * s**3


def test_akimas_spline():
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 5, 9))
    y = rng.standard_normal((3, 9))
    at = np.linspace(x[0], x[-1] - 1e-9, 50)
    expected = [[slow_akima(list(x), list(row), a) for a in at] for row in y]
    np.testing.assert_allclose(akima(x, y, at), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(akima(x, y, x), y, atol=1e-12)
    np.testing.assert_allclose(akima(np.array([0.0, 1.0]), np.array([[2.0, 4.0]]), np.array([0.5])), [[3.0]])


def test_a_parabolas_minimum():
    x = np.array([1.0, 2.0, 3.0, 5.0])
    where, least = minima(x, (0.5 * (x - 2.7) ** 2 + 3)[None], "parabola")
    assert (where[0], least[0]) == (pytest.approx(2.7), pytest.approx(3.0))
    assert np.isnan(minima(x, (0.5 * (x - 7) ** 2 + 3)[None], "parabola")[0]).all()
    assert np.isnan(minima(x, x[None], "akima")[0]).all()


def test_a_weighted_power_law_is_polyfits():
    rng = np.random.default_rng(0)
    c, y, deviation = np.geomspace(1e16, 1e19, 8), rng.standard_normal(8), rng.uniform(0.1, 1, 8)
    exponent, ln_a = power_law(c, y[None], deviation)
    np.testing.assert_allclose([exponent[0], ln_a[0]], np.polyfit(np.log(c), y, 1, w=1 / deviation), rtol=1e-9)
    y_missing = np.where(np.arange(8) == 3, np.nan, y)
    rest = np.arange(8) != 3
    found = power_law(c, y_missing[None], deviation)[0][0]
    assert found == pytest.approx(np.polyfit(np.log(c[rest]), y[rest], 1, w=1 / deviation[rest])[0])


def ladder(law=TRUE, budgets=(1e18, 1e19, 1e20, 1e21), sizes=9, noise=0.0, spread=1.2):
    rng = np.random.default_rng(0)
    rows = []
    for c in budgets:
        n_best, _ = optimum_at(law, c)
        for n in n_best * np.exp(np.linspace(-spread, spread, sizes)):
            d = c / 6 / n
            rows.append((n, d, loss_at(law, n, d) + noise * rng.standard_normal()))
    return runs_of(*zip(*rows, strict=True))


@pytest.mark.parametrize("minimum", ["akima", "parabola"])
def test_a_known_laws_exponent(minimum):
    fit = fit_isoflop(ladder(), minimum, noise_nats=1e-4, draws=200)
    true = TRUE["beta"] / (TRUE["alpha"] + TRUE["beta"])
    assert fit.values["exponent"] == pytest.approx(true, abs=0.01)
    assert fit.values["exponent"] + fit.values["tokens_exponent"] == pytest.approx(1, abs=0.01)
    for budget in fit.more["budgets"]:
        assert budget["parameters"] == pytest.approx(optimum_at(TRUE, budget["flops"])[0], rel=0.12)


def test_sizes_that_are_as_good_as_equal_are_one():
    runs = runs_of([1e8, 1.001e8, 2e8, 2e8], [2e9, 1.998e9, 1e9, 1e9], [3.2, 3.1, 3.0, 3.05])
    (budget,) = budgets_of(runs)
    assert list(zip(budget.parameters, budget.loss, strict=True)) == [(1.001e8, 3.1), (2e8, 3.0)]


def test_noise_is_seen():
    assert noise_of(budgets_of(ladder(noise=0.02, sizes=7, spread=0.8))) == pytest.approx(0.02, rel=0.5)


# (exponent) of Porian et al.'s fits, by settings: the five of the data's README and the other five of their table.
def test_porians_exponents(published):
    with (published / "porian_fits.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["method"] == "bs_median_weighted"]
    keys = ("hparams", "warmup", "decay", "param_count")
    known = {tuple(r[k] for k in keys): r for r in rows}
    assert {round(float(r["n_exponent"]), 3) for r in rows} >= {0.835, 0.706, 0.602, 0.571, 0.497}
    groups = read_runs(published / "porian_isoflop_points.csv", keys)
    assert len(groups) == len(known) == 10
    for runs in groups:
        row = known[tuple(runs.group[k] for k in keys)]
        fit = fit_isoflop(runs, draws=300)
        assert fit.values["exponent"] == pytest.approx(float(row["n_exponent"]), abs=3e-3)
        assert np.log(fit.values["coefficient"]) == pytest.approx(np.log(float(row["n_coef"])), abs=0.12)
        low, high = fit.intervals["exponent"]
        assert low == pytest.approx(float(row["n_exponent_lo"]), abs=0.008)
        assert high == pytest.approx(float(row["n_exponent_hi"]), abs=0.008)


def test_optima_that_are_given(published):
    groups = read_runs(published / "porian_optimal_pairs.csv")
    with (published / "porian_fits.csv").open(encoding="utf-8", newline="") as file:
        known = [float(r["n_exponent"]) for r in csv.DictReader(file) if r["method"] == "weighted"]
    found = [fit_isoflop(runs, draws=100).values["exponent"] for runs in groups]
    np.testing.assert_allclose(sorted(found), sorted(known), rtol=1e-9)


def test_budgets_that_tell_nothing():
    with pytest.raises(InputError, match=r"3 ?.*two budgets or more, each of 4 sizes"):
        fit_isoflop(ladder(budgets=(1e18, 1e19), sizes=3))
    far = ladder(budgets=(1e18, 1e19))
    keep = far.parameters < np.where(far.flops < 3e18, *(optimum_at(TRUE, c)[0] for c in (1e18, 1e19))) * 0.9
    with pytest.raises(InputError, match="0 budgets with an optimum"):
        fit_isoflop(far.only(keep, "left"), noise_nats=1e-4, draws=100)


def test_an_edge_is_told_and_left_out():
    runs = ladder(budgets=(1e18, 1e19, 1e20))
    keep = (runs.flops > 3e18) | (runs.parameters < optimum_at(TRUE, 1e18)[0] * 0.9)
    fit = fit_isoflop(runs.only(keep, "left"), noise_nats=1e-4, draws=100)
    assert Counter(w.split()[0] for w in fit.warnings) == {"the": 1, "two": 1}
    assert len(fit.more["budgets"]) == 2


def test_pictures_get_their_numbers():
    runs = ladder()
    fit = fit_isoflop(runs, "parabola", noise_nats=1e-4, draws=100)
    drawn = curves(runs, fit, "parabola")
    assert [len(b["tokens"]) for b in drawn] == [9] * 4
    for budget in drawn:
        assert min(budget["line_loss"]) == pytest.approx(budget["optimum"][1], abs=1e-3)
    (low,) = lines(fit, np.array([1e19]))["parameters"]
    assert low["low"] <= low["value"] <= low["high"]

"""The law of over-training: a law that is known, Gadre et al.'s figures, and which runs are taken."""

import numpy as np
import pytest

from known_laws import runs_of
from openherd.core.errors import InputError
from openherd.scaling.overtrain import fit_overtrain, loss_at, smallest
from openherd.scaling.runs import read_runs

TRUE = {"E": 1.6, "a": 150.0, "b": 210.0, "eta": 0.125}


def made():
    n, m = (x.ravel() for x in np.meshgrid(np.array([1e7, 8e7, 1.5e8, 4e8, 1.4e9]), np.array([5.0, 20.0, 80.0, 320.0])))
    return runs_of(n, n * m, loss_at(TRUE, 6 * n * n * m, m))


def test_a_known_law_is_found_from_five_runs():
    fit = fit_overtrain(made(), draws=100)
    assert (fit.runs_used, fit.left_out) == (5, {"not among the smallest, foretold": 15})
    for name, value in TRUE.items():
        assert fit.values[name] == pytest.approx(value, rel=1e-3)
    assert fit.more["largest_error_of_others"] < 1e-4


def test_which_runs_are_the_smallest():
    runs = made()
    chosen = smallest(runs)
    found = sorted(zip(runs.parameters[chosen], (runs.tokens / runs.parameters)[chosen], strict=True))
    assert found == [(1e7, 20), (1e7, 320), (8e7, 20), (1.5e8, 20), (4e8, 20)]
    with pytest.raises(InputError, match=r"0 of the smallest at 320.*--all-runs"):
        fit_overtrain(runs_of(*([4e7, 5e7, 6e7, 7e7], [8e8, 1e9, 1.2e9, 1.4e9], [4, 3.9, 3.8, 3.7])))


# As refitted from Gadre et al.'s runs: the figures in the data's README.
@pytest.mark.parametrize(
    ("dataset", "figures"), [("c4_original", (1.508, 141.3, 189.5, 0.1212)), ("rpj", (1.837, 212.2, 366.7, 0.1364))]
)
def test_gadres_refit(published, dataset, figures):
    (runs,) = (r for r in read_runs(published / "gadre_runs.csv") if r.group["dataset"] == dataset)
    fit = fit_overtrain(runs, draws=200)
    for (name, value), digits in zip(zip(("E", "a", "b", "eta"), figures, strict=True), (3, 1, 1, 4), strict=True):
        assert round(fit.values[name], digits) == pytest.approx(value, abs=1.01 * 10**-digits)
    assert fit.more["median_error_of_others"] < 0.012

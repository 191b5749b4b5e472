"""Estimates: intervals by hand, by simulation, and one against another."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.metrics import cluster_estimate, mean_estimate, ratio_estimate

VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=12)


def interval(estimate):
    return pytest.approx((estimate["value"], estimate["low"], estimate["high"]), abs=1e-9)


def ends(estimate):
    return estimate["value"], estimate["low"], estimate["high"]


def test_a_proportion_has_the_papers_interval():
    found = mean_estimate([1.0] * 30 + [0.0] * 70)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 100)
    assert ends(found) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert found["n"] == 100


def test_an_interval_of_shares_is_cut_and_one_of_other_values_is_not():
    assert mean_estimate([0.0, 0.0, 1.0])["low"] == cluster_estimate([0.0, 0.0, 1.0], "abc")["low"] == 0
    assert mean_estimate([1.0, 1.0, 0.0])["high"] == cluster_estimate([1.0, 1.0, 0.0], "abc")["high"] == 1
    assert mean_estimate([0.0, 0.0, 1.1])["low"] < 0


@given(values=VALUES)
def test_clusters_of_one_are_no_clusters(values):
    assert ends(cluster_estimate(values, range(len(values)))) == interval(mean_estimate(values))


@given(values=VALUES, times=st.integers(1, 5))
def test_saying_it_again_is_no_further_evidence(values, times):
    clusters = [i for i in range(len(values)) for _ in range(times)]
    again = cluster_estimate([v for v in values for _ in range(times)], clusters)
    assert ends(again) == interval(mean_estimate(values))
    assert again["n"] == len(values)


@given(values=VALUES, bytes_each=st.floats(0.1, 100))
def test_a_ratio_over_equal_sizes_is_a_mean(values, bytes_each):
    mean = ratio_estimate([v * bytes_each for v in values], [bytes_each] * len(values))
    half = 1.96 * np.std(values) / math.sqrt(len(values))
    assert ends(mean) == pytest.approx((np.mean(values), np.mean(values) - half, np.mean(values) + half), abs=1e-9)


def test_the_interval_of_a_clustered_mean_holds_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(150), 6)
    held = {"clustered": 0, "naive": 0}
    for _ in range(400):
        values = rng.normal(0, 1, 150)[clusters] + rng.normal(0, 0.3, len(clusters))
        for name, found in (
            ("clustered", cluster_estimate(values.tolist(), clusters.tolist())),
            ("naive", mean_estimate(values.tolist())),
        ):
            held[name] += found["low"] <= 0 <= found["high"]
    assert 0.92 < held["clustered"] / 400 < 0.98
    assert held["naive"] / 400 < 0.7


@pytest.mark.parametrize("estimate", [lambda: mean_estimate([]), lambda: ratio_estimate([], []), lambda: cluster_estimate([], [])])
def test_no_values_have_no_estimate(estimate):
    with pytest.raises(ValueError, match="no values"):
        estimate()

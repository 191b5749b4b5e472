"""Measures against their definitions, one pair or one text at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.classifiers.measures import (
    at_thresholds,
    auc,
    auc_interval,
    binary,
    calibration_error,
    reliability,
    roc,
    several,
    threshold_for,
)

SCORED = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=30).map(
    lambda rows: (np.array([s for s, _ in rows]), np.array([p for _, p in rows]))
)


@given(SCORED)
def test_the_area_is_the_chance_that_a_positive_scores_higher(scored):
    scores, positive = scored
    pairs = [(a > b) + (a == b) / 2 for a in scores[positive] for b in scores[~positive]]
    assert auc(scores, positive) == pytest.approx(sum(pairs) / len(pairs)) if pairs else math.isnan(auc(scores, positive))


@given(SCORED)
def test_the_curve_goes_from_corner_to_corner_and_has_that_area(scored):
    scores, positive = scored
    if positive.all() or not positive.any():
        return
    curve = roc(scores, positive)
    x, y = curve["false_positive_rate"], curve["true_positive_rate"]
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(auc(scores, positive))
    for fpr, tpr, threshold in list(zip(x, y, curve["threshold"], strict=True))[1:]:
        assert fpr == pytest.approx((scores[~positive] >= threshold).mean())
        assert tpr == pytest.approx((scores[positive] >= threshold).mean())


@given(SCORED)
def test_every_text_is_in_one_stretch(scored):
    table = reliability(*scored)
    assert sum(row["n"] for row in table) == len(scored[0])
    assert sum(row["n"] * row["positive_share"] for row in table) == pytest.approx(scored[1].sum())
    assert all(row["from"] - 1e-9 <= row["mean_score"] <= row["to"] + 1e-9 for row in table)  # a mean is rounded


def test_calibration_error_by_hand():
    scores, positive = np.array([0.2, 0.2, 0.8, 0.8]), np.array([False, True, True, True])
    assert calibration_error(reliability(scores, positive)) == pytest.approx((2 * 0.3 + 2 * 0.2) / 4)


@given(SCORED, st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_the_lowest_threshold_of_a_precision(scored, least):
    scores, positive = scored
    found = threshold_for(scores, positive, least)
    good = [t for t in set(scores.tolist()) if positive[scores >= t].mean() >= least]
    assert found == (min(good) if good else None)


def test_thresholds_by_hand():
    rows = at_thresholds(np.array([0.1, 0.6, 0.7, 0.9]), np.array([False, True, False, True]), (0.5, 0.8))
    assert rows[0] == {"threshold": 0.5, "share": 0.75, "precision": 2 / 3, "recall": 1.0, "false_positive_rate": 0.5}
    assert rows[1]["precision"] == 1.0


def test_the_interval_holds_the_true_area():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        positive = rng.random(120) < 0.5
        scores = rng.normal(size=120) + positive  # the true area is the normal distribution's value at 1 / sqrt(2)
        n = int(positive.sum())
        found = auc_interval(auc(scores, positive), n, 120 - n)
        inside += found["low"] <= 0.5 * (1 + math.erf(0.5)) <= found["high"]
    assert inside >= 180


def test_one_label_alone_has_no_curve():
    found = binary(np.array([0.5, 0.75]), np.array([True, True]), (0.5,))
    assert found["auc"] is None
    assert found["roc"] is None
    assert found["accuracy_at_half"] == 1.0


def test_several_labels_by_hand():
    scores = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.5, 0.2, 0.3]])
    found = several(scores, np.array([0, 1, 2]), ("a", "b", "c"))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert found["by_label"]["a"]["precision"] == 0.5
    assert found["by_label"]["c"] == {"texts": 1, "auc": 1.0, "precision": 0.0, "recall": 0.0}

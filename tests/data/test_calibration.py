"""Calibration against brute force and a slow isotonic fit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.calibration import Calibration, fit_calibration, fit_platt, fit_scale, isotonic, pooled, sigmoid, softmax


def slow_isotonic(values, counts):
    """The growing function nearest to the values: max over starts of the min over ends of means (Barlow's formula)."""
    n = len(values)

    def mean(i, j):
        return sum(v * c for v, c in zip(values[i : j + 1], counts[i : j + 1])) / sum(counts[i : j + 1])

    return [max(min(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]


@given(rows=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=12))
def test_pooling_finds_the_nearest_growing_function(rows):
    values, counts = (np.array(column, float) for column in zip(*rows, strict=True))
    steps = pooled(values, counts)
    spread = []
    left = list(counts)
    for mean, n in steps:
        while n > 1e-9:
            n -= left.pop(0)
            spread.append(mean)
    assert spread == pytest.approx(slow_isotonic(values.tolist(), counts.tolist()))


@given(
    labels=st.lists(st.integers(0, 1), min_size=4, max_size=40),
    seed=st.integers(0, 99),
)
def test_isotonic_probabilities_grow_with_the_logits(labels, seed):
    logits = np.random.default_rng(seed).normal(size=len(labels)).round(1)
    calibration = isotonic(logits, np.array(labels))
    grid = np.linspace(-4, 4, 50)[:, None]
    p = calibration.probabilities(grid)
    assert (np.diff(p) >= 0).all()
    assert p.min() > 0
    assert p.max() < 1


def test_platt_is_where_the_loss_is_least():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=400) * 5
    labels = (rng.random(400) < sigmoid(0.4 * logits - 1)).astype(int)
    scale, shift = fit_platt(logits, labels)
    n, m = labels.sum(), (1 - labels).sum()
    target = np.where(labels == 1, (n + 1) / (n + 2), 1 / (m + 2))

    def loss(a, b):
        return float((np.logaddexp(0, a * logits + b) - target * (a * logits + b)).sum())

    around = [loss(scale + da, shift + db) for da in (-0.01, 0, 0.01) for db in (-0.01, 0, 0.01)]
    assert loss(scale, shift) == pytest.approx(min(around), abs=1e-9)
    assert 0.3 < scale < 0.55
    assert -1.5 < shift < -0.5


def test_temperature_of_several_labels_undoes_what_was_multiplied():
    rng = np.random.default_rng(1)
    true = rng.normal(size=(3000, 4)) * 2
    labels = np.array([rng.choice(4, p=p) for p in softmax(true)])
    assert fit_scale(5 * true, labels) == pytest.approx(0.2, rel=0.1)


def test_nothing_is_learned_from_labels_that_tell_nothing():
    assert fit_calibration("temperature", np.zeros((5, 1)), np.array([0, 1, 0, 1, 1])) == Calibration()
    assert fit_calibration("isotonic", np.arange(3.0)[:, None], np.array([1, 1, 1])) == Calibration()
    assert fit_calibration("none", np.arange(3.0)[:, None], np.array([0, 1, 1])) == Calibration()


def test_a_classifier_that_is_wrong_becomes_flat_and_is_not_turned_round():
    logits = np.linspace(-3, 3, 50)
    scale, _ = fit_platt(logits, (logits < 0).astype(int))
    assert 0 < scale < 1e-5


def test_large_logits_do_not_overflow():
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0, 0.5, 1]
    assert softmax(np.array([[1e4, 0.0]])).tolist() == [[1, 0]]

"""Calibration of a classifier's scores: logits to probabilities that are as often right as they say (no part of the paper).

Temperature divides the logits by one number, and for two labels adds another (Platt's scaling). Isotonic, for two labels alone, is
the growing step function nearest to the labels (pool adjacent violators), with straight lines between the middles of its steps, so
that few scores are equal.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

Floats = npt.NDArray[np.float64]
Kind = Literal["none", "temperature", "isotonic"]

MOST_STEPS = 50  # of Newton's method; a handful does


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    ebb = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, ebb) / (1.0 + ebb)


def softmax(logits: Floats) -> Floats:
    """Over the last dimension."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A map from logits, shape (n, 1) or (n, labels), to probabilities, (n,) or (n, labels)."""

    kind: Annotated[Kind, Field(description="none, temperature or isotonic")] = "none"
    scale: Annotated[float, Field(description="what logits are multiplied by: one over the temperature", gt=0)] = 1.0
    shift: Annotated[float, Field(description="added then; of two labels alone")] = 0.0
    logits: Annotated[tuple[float, ...], Field(description="of isotonic: growing logits")] = ()
    probabilities_at: Annotated[tuple[float, ...], Field(description="of isotonic: the probability at each")] = ()

    def probabilities(self, logits: Floats) -> Floats:
        """Calibrated."""
        if logits.shape[1] > 1:
            return softmax(self.scale * logits)
        if self.kind == "isotonic":
            return np.interp(logits[:, 0], self.logits, self.probabilities_at)
        return sigmoid(self.scale * logits[:, 0] + self.shift)


def fit_calibration(kind: Kind, logits: Floats, labels: npt.NDArray[np.int64]) -> Calibration:
    """The calibration that makes these labels likeliest; none where they tell nothing (one label alone, logits all equal)."""
    if kind == "none" or len(labels) == 0 or len(np.unique(labels)) < 2 or np.ptp(logits) == 0:
        return Calibration()
    if logits.shape[1] > 1:
        return Calibration(kind="temperature", scale=fit_scale(logits, labels))
    if kind == "isotonic":
        return isotonic(logits[:, 0], labels)
    scale, shift = fit_platt(logits[:, 0], labels)
    return Calibration(kind="temperature", scale=scale, shift=shift)


def fit_platt(logits: Floats, labels: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Scale and shift of the likeliest sigmoid by Newton's method, on Platt's softened labels, which keep it finite."""
    n_positive, n_negative = int((labels == 1).sum()), int((labels != 1).sum())
    target = np.where(labels == 1, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    spread = float(np.std(logits))
    columns = np.stack([logits / spread, np.ones(len(logits))])

    def loss(at: Floats) -> float:
        z = at @ columns
        return float((np.logaddexp(0, z) - target * z).sum())

    at = np.array([1.0, 0.0])
    for _ in range(MOST_STEPS):
        p = sigmoid(at @ columns)
        gradient = columns @ (p - target)
        hessian = (columns * (p * (1 - p))) @ columns.T + 1e-9 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while size > 1e-6 and loss(at - size * step) > loss(at) - 1e-4 * size * float(gradient @ step):
            size /= 2
        at = at - size * step
        if float(np.abs(size * step).max()) < 1e-9:
            break
    # A classifier that is wrong on what it is calibrated on is not turned round: its scores become nearly flat instead.
    return max(float(at[0]) / spread, 1e-6 / spread), float(at[1])


def fit_scale(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    """One over the temperature that makes labels of several likeliest: golden-section search over its logarithm."""

    def loss(log_scale: float) -> float:
        p = softmax(np.exp(log_scale) * logits)[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(p, 1e-300)).mean())

    low, high, share = -7.0, 7.0, (5**0.5 - 1) / 2
    for _ in range(MOST_STEPS):
        a, b = high - share * (high - low), low + share * (high - low)
        low, high = (low, b) if loss(a) <= loss(b) else (a, high)
    return float(np.exp((low + high) / 2))


def pooled(labels: Floats, counts: Floats) -> list[tuple[float, float]]:
    """Pool adjacent violators: (mean, count) of the steps of the growing function nearest to `labels`."""
    steps: list[tuple[float, float]] = []
    for value, n in zip(labels.tolist(), counts.tolist(), strict=True):
        while steps and steps[-1][0] >= value:
            mean, m = steps.pop()
            value, n = (mean * m + value * n) / (m + n), m + n
        steps.append((value, n))
    return steps


def isotonic(logits: Floats, labels: npt.NDArray[np.int64]) -> Calibration:
    """The isotonic calibration; equal logits are one point."""
    distinct, inverse, counts = np.unique(logits, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=(labels == 1).astype(np.float64)) / counts
    # One document more of either kind on every step, Laplace's: a step of few is not certain.
    at: list[float] = []
    values: list[float] = []
    ends = np.cumsum(counts)
    reached = 0.0
    for mean, n in pooled(means, counts.astype(np.float64)):
        first, last = np.searchsorted(ends, [reached, reached + n - 0.5], side="right")
        at.append(float((distinct[first] + distinct[last]) / 2))
        values.append((mean * n + 1) / (n + 2))
        reached += n
    return Calibration(kind="isotonic", logits=tuple(at), probabilities_at=tuple(np.maximum.accumulate(values).tolist()))

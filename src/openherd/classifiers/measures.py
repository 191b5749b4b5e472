"""How good scores are: ROC curve and its area, calibration, thresholds; pure functions on arrays (the paper publishes none)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

MOST_POINTS = 400  # of a curve that is kept


def auc(scores: Floats, positive: Booleans) -> float:
    """The chance that a positive has a higher score than a negative, ties counting half; NaN without both."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    total = float(ranks[inverse][positive].sum())
    return (total - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def auc_interval(value: float, n_positive: int, n_negative: int) -> dict[str, Any]:
    """A 95% interval of the area, by Hanley and McNeil's formula (1982)."""
    a, b = value / (2 - value), 2 * value**2 / (1 + value)
    variance = value * (1 - value) + (n_positive - 1) * (a - value**2) + (n_negative - 1) * (b - value**2)
    half = 1.96 * (max(variance, 0.0) / max(n_positive * n_negative, 1)) ** 0.5
    n = n_positive + n_negative
    return {"value": value, "low": max(value - half, 0.0), "high": min(value + half, 1.0), "n": n}


def roc(scores: Floats, positive: Booleans) -> dict[str, list[float]]:
    """Points of the ROC curve from (0, 0) to (1, 1), one a different score: false and true positive rate, and the threshold at and
    above which a text counts as positive."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    true, false = np.cumsum(hits)[last], np.cumsum(~hits)[last]
    keep = np.unique(np.linspace(0, len(last) - 1, MOST_POINTS).astype(int))
    return {
        "false_positive_rate": [0.0, *(false[keep] / max(int((~hits).sum()), 1)).tolist()],
        "true_positive_rate": [0.0, *(true[keep] / max(int(hits.sum()), 1)).tolist()],
        "threshold": [float(ranked[0]), *ranked[last][keep].tolist()],
    }


def reliability(scores: Floats, positive: Booleans, bins: int = 10) -> list[dict[str, float]]:
    """For each of equal stretches of score that has texts: how many, their mean score, and the share of positives."""
    place = np.minimum((scores * bins).astype(int), bins - 1)
    return [
        {
            "from": b / bins,
            "to": (b + 1) / bins,
            "n": int((place == b).sum()),
            "mean_score": float(scores[place == b].mean()),
            "positive_share": float(positive[place == b].mean()),
        }
        for b in range(bins)
        if (place == b).any()
    ]


def calibration_error(table: Sequence[dict[str, float]]) -> float:
    """Expected calibration error: the mean distance of score and share over the stretches, weighed by their texts."""
    n = sum(row["n"] for row in table)
    return sum(row["n"] * abs(row["mean_score"] - row["positive_share"]) for row in table) / n if n else float("nan")


def at_thresholds(scores: Floats, positive: Booleans, thresholds: Sequence[float]) -> list[dict[str, float]]:
    """What each threshold does: share at or above it, precision, recall and false positive rate; NaN becomes 0."""
    rows = []
    for threshold in thresholds:
        chosen = scores >= threshold
        hits = int((chosen & positive).sum())
        rows.append(
            {
                "threshold": float(threshold),
                "share": float(chosen.mean()) if len(chosen) else 0.0,
                "precision": hits / max(int(chosen.sum()), 1),
                "recall": hits / max(int(positive.sum()), 1),
                "false_positive_rate": int((chosen & ~positive).sum()) / max(int((~positive).sum()), 1),
            }
        )
    return rows


def threshold_for(scores: Floats, positive: Booleans, least_precision: float) -> float | None:
    """The lowest threshold whose precision is at least so much; None where there is none."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    good = last[hits[last] / (last + 1) >= least_precision]
    return float(scores[order][good[-1]]) if len(good) else None


def binary(scores: Floats, positive: Booleans, thresholds: Sequence[float]) -> dict[str, Any]:
    """All measures of one label against the rest."""
    area = auc(scores, positive)
    n_positive = int(positive.sum())
    table = reliability(scores, positive)
    clipped = np.clip(scores, 1e-12, 1 - 1e-12)
    return {
        "texts": len(scores),
        "positive": n_positive,
        "auc": auc_interval(area, n_positive, len(scores) - n_positive) if area == area else None,
        "accuracy_at_half": float(((scores >= 0.5) == positive).mean()) if len(scores) else 0.0,
        "log_loss_nats": float(-np.log(np.where(positive, clipped, 1 - clipped)).mean()) if len(scores) else 0.0,
        "calibration_error": calibration_error(table),
        "reliability": table,
        "thresholds": at_thresholds(scores, positive, thresholds),
        "roc": roc(scores, positive) if area == area else None,
    }


def several(scores: Floats, labels: Integers, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, confusions and each label's area, of more than two labels."""
    guess = scores.argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels, guess), 1)
    right = guess == labels
    top = reliability(scores.max(axis=1), right)
    by_label = {}
    for i, name in enumerate(names):
        of_label, guessed = int((labels == i).sum()), int((guess == i).sum())
        area = auc(scores[:, i], labels == i)
        by_label[name] = {
            "texts": of_label,
            "auc": area if area == area else None,
            "precision": int(confusion[i, i]) / max(guessed, 1),
            "recall": int(confusion[i, i]) / max(of_label, 1),
        }
    return {
        "texts": len(labels),
        "accuracy": float(right.mean()) if len(labels) else 0.0,
        "calibration_error": calibration_error(top),
        "reliability": top,
        "by_label": by_label,
        "confusion": confusion.tolist(),
    }

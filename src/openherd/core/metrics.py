"""Numbers with their uncertainty, and the append-only log of a run.

Units stand in the key: `loss_nats`, `time_s`. A score with an interval is a dictionary `{"value", "low", "high", "n"}`.
"""

import contextlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict


class Estimate(TypedDict):
    """A score, its 95% interval, and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95% normal interval; for proportions this is the paper's 1.96 sqrt(S (1-S) / N) (paper 5.1.1).

    The interval of values between 0 and 1 is cut to that range; where all are 0, or all 1, it is Clopper and Pearson's.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values")
    mean = sum(values) / n
    half = 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values) / n / n)
    return _share({"value": mean, "low": mean - half, "high": mean + half, "n": n}, values)


def cluster_estimate(values: Sequence[float], clusters: Sequence[object]) -> Estimate:
    """Mean of values and 95% interval, where those of one cluster are not independent of each other; `n` counts clusters.

    The interval is as in `mean_estimate`, and the same where each cluster holds one value.
    """
    by_cluster: dict[object, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        by_cluster.setdefault(cluster, []).append(value)
    return _share(ratio_estimate([sum(v) for v in by_cluster.values()], [len(v) for v in by_cluster.values()]), values)


def _share(estimate: Estimate, values: Sequence[float]) -> Estimate:
    if not all(0 <= v <= 1 for v in values):
        return estimate
    low, high = max(estimate["low"], 0.0), min(estimate["high"], 1.0)
    unseen = 1 - 0.025 ** (1 / estimate["n"])  # the largest share that n cases miss with a probability of 2.5%
    if all(v == 0 for v in values):
        high = unseen
    elif all(v == 1 for v in values):
        low = 1 - unseen
    return {**estimate, "low": low, "high": high}


def ratio_estimate(numerators: Sequence[float], denominators: Sequence[float], scale: float = 1.0) -> Estimate:
    """scale * sum(numerators) / sum(denominators) with a 95% interval over independent pairs (delta method)."""
    n = len(numerators)
    total = sum(denominators)
    if n == 0 or total <= 0:
        raise ValueError("no values")
    ratio = sum(numerators) / total
    residual = sum((a - ratio * b) ** 2 for a, b in zip(numerators, denominators, strict=True))
    half = 1.96 * math.sqrt(residual) / total
    return {"value": scale * ratio, "low": scale * (ratio - half), "high": scale * (ratio + half), "n": n}


def is_estimate(value: object) -> bool:
    """Whether a metric is a score with an interval."""
    return isinstance(value, dict) and {"value", "low", "high"} <= value.keys()


def format_metric(value: object) -> str:
    """A metric as a person reads it."""
    if isinstance(value, dict) and is_estimate(value):
        if value.get("n") == 1 and value["low"] == value["high"]:
            return f"{format_metric(value['value'])} (n = 1)"
        return f"{format_metric(value['value'])} [{format_metric(value['low'])}, {format_metric(value['high'])}]"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, appended and flushed at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add one record."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole records; what a kill or a power cut left of others is not: a log that is damaged stops no run."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return [record for record in found if isinstance(record, dict)]

    def rewind(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Keep only some records: what a resumed run is going to do again is taken out first."""
        if not self.path.exists():
            return
        kept = [r for r in self.read() if keep(r)]
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        os.replace(temporary, self.path)

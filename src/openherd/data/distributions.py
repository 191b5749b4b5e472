"""How the numbers that a stage measured are spread, kept and dropped documents apart: the table is read in batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from openherd.core.seeds import derive_seed
from openherd.data.curated import numbers_of
from openherd.data.found_rows import columns_of

BINS = 40
SAMPLED_GROUPS = 20  # row groups read to choose the range of the bins
TAIL = 0.01  # share of documents that may lie outside the range, on each side


@dataclass(frozen=True)
class Distribution:
    """Counts of one measure in bins; what lies outside the edges is counted in the first and the last."""

    name: str
    edges: list[float]
    kept: list[int]
    dropped: list[int]
    low: float | None  # the limits, None where there is none
    high: float | None
    least: float
    greatest: float


def distributions(path: Path, limits: Mapping[str, tuple[float, float]], seed: int) -> list[Distribution]:
    """The distributions of all columns with numbers that are not always the same."""
    names = numbers_of(path)
    ranges = {name: _range(values, limits.get(name)) for name, values in _sample(path, names, seed).items()}
    edges = {name: np.linspace(low, high, BINS + 1) for name, (low, high) in ranges.items()}
    counts = {name: np.zeros((2, BINS), np.int64) for name in names}
    ends = {name: [np.inf, -np.inf] for name in names}
    for name, values, gone in _columns(path, names):
        if not len(values):
            continue
        ends[name] = [min(ends[name][0], values.min()), max(ends[name][1], values.max())]
        clipped = np.clip(values, *ranges[name])
        for row, chosen in enumerate((~gone, gone)):
            counts[name][row] += np.histogram(clipped[chosen], edges[name])[0]
    found = []
    for name in names:
        least, greatest = ends[name]
        if least < greatest:
            low, high = limits.get(name, (-np.inf, np.inf))
            kept, dropped = counts[name].tolist()
            bounds = (low if low > min(0, least) else None), (high if np.isfinite(high) else None)
            found.append(Distribution(name, edges[name].tolist(), kept, dropped, *bounds, float(least), float(greatest)))
    return found


def _columns(path: Path, names: list[str]) -> Iterator[tuple[str, npt.NDArray[np.float64], npt.NDArray[np.bool_]]]:
    has_reason = "reason" in columns_of(path)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(10_000, columns=[*names, *(["reason"] if has_reason else [])]):
            reasons = np.array(
                [bool(r) for r in batch.column("reason").to_pylist()] if has_reason else np.zeros(len(batch)), np.bool_
            )
            for name in names:
                values = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
                there = np.isfinite(values)
                yield name, values[there], reasons[there]


def _sample(path: Path, names: list[str], seed: int) -> dict[str, npt.NDArray[np.float64]]:
    with pq.ParquetFile(path) as file:
        n = file.num_row_groups
        random = np.random.default_rng(derive_seed(seed, "distributions"))
        groups = sorted(random.choice(n, min(n, SAMPLED_GROUPS), replace=False).tolist())
        table = file.read_row_groups(groups, columns=names)
    found = {name: table.column(name).to_numpy().astype(np.float64) for name in names}
    return {name: values[np.isfinite(values)] for name, values in found.items()}


def _range(values: npt.NDArray[np.float64], limits: tuple[float, float] | None) -> tuple[float, float]:
    """From quantile to quantile, and a limit near by within it."""
    low, high = np.quantile(values, [TAIL, 1 - TAIL]) if len(values) else (0.0, 1.0)
    wide = (high - low) or 1.0
    for limit in limits or ():
        if low - 2 * wide <= limit <= high + 2 * wide:
            low, high = min(low, limit), max(high, limit)
    return (float(low), float(high)) if low < high else (float(low) - 0.5, float(low) + 0.5)

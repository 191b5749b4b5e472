"""Which source each sample comes from (paper 3.1.2): shares that are exact over any prefix, as a pure function of the sample's
index.

Weights are rounded to multiples of 1/4096. Within a period of 4096 samples each source's j-th sample must fall between (j-1)/w
and j/w; the one whose time runs out first goes first. That keeps every prefix of the infinite sequence within one sample of each
source's exact share (the uniprocessor case of proportionate fairness, Baruah et al. 1996).
"""

import heapq
from collections.abc import Mapping

import numpy as np

PERIOD = 4096


def quotas(weights: Mapping[str, float]) -> dict[str, int]:
    """Samples of each source per period: largest remainders, at least one for a positive weight."""
    total = sum(weights.values())
    if not weights or total <= 0 or min(weights.values()) < 0:
        raise ValueError(f"weights must be positive: {dict(weights)}")
    positive = {name: w / total * PERIOD for name, w in weights.items() if w > 0}
    quota = {name: max(int(share), 1) for name, share in positive.items()}
    while (left := PERIOD - sum(quota.values())) != 0:
        step = 1 if left > 0 else -1
        # The source that is furthest from its share takes or gives one; the name decides ties.
        movable = [n for n in quota if step > 0 or quota[n] > 1]
        name = max(movable, key=lambda n: (step * (positive[n] - quota[n]), n))
        quota[name] += step
    return quota


class Mix:
    """The sequence of sources."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.quota = quotas(weights)
        self.names = sorted(self.quota)
        released: list[list[tuple[int, int]]] = [[] for _ in range(PERIOD)]
        for s, name in enumerate(self.names):
            n = self.quota[name]
            for j in range(n):
                released[j * PERIOD // n].append((-(-(j + 1) * PERIOD // n), s))
        waiting: list[tuple[int, int]] = []
        self._source = np.empty(PERIOD, np.int16)
        for slot in range(PERIOD):
            for task in released[slot]:
                heapq.heappush(waiting, task)
            self._source[slot] = heapq.heappop(waiting)[1]
        chosen = self._source[:, None] == np.arange(len(self.names))
        self._before = np.concatenate([np.zeros((1, len(self.names)), np.int64), chosen.cumsum(0)])

    def sample(self, index: int) -> tuple[str, int]:
        """Sample `index`'s source, and how many samples of that source came before it."""
        period, slot = divmod(index, PERIOD)
        s = int(self._source[slot])
        name = self.names[s]
        return name, period * self.quota[name] + int(self._before[slot, s])

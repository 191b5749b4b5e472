"""Which source each sample comes from (paper 3.1.2): a pure function of the sample's index, by shares that hold over any prefix.

The sources are the leaves of a Huffman tree of their weights, and each fork hands the samples that reach it to its two sides: of
the first k the left one gets k times its share, rounded, in exact arithmetic. So a side is off its due by its share of what the
fork is off, and half a sample at most. A fork has at most 2/3 of the fork above, because its sibling is no lighter than its heavier
side; hence it is off by less than 3/2, and a source by less than 2 samples, over any prefix and for any weights.
"""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Union

# Mixes by name. The paper's shares are of tokens by kind of knowledge (3.1.2), the tutorial's by where text comes from.
MIXES: dict[str, dict[str, float]] = {
    "paper": {"general": 0.50, "reasoning": 0.25, "code": 0.17, "multilingual": 0.08},
    "tutorial": {"web": 0.85, "code": 0.08, "books": 0.03, "academic": 0.025, "wikipedia": 0.015},
}


@dataclass(frozen=True)
class Fork:
    """Two parts of the tree, with the left one's weight and that of both."""

    left: Union["Fork", str]
    right: Union["Fork", str]
    left_weight: int
    weight: int

    def to_left(self, n: int) -> int:
        """How many of the first `n` samples that come here go left."""
        return (2 * n * self.left_weight + self.weight) // (2 * self.weight)


class Mix:
    """The sequence of sources; only the proportions of `weights` matter, and a weight of 0 leaves its source out."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"weights must be positive: {dict(weights)}")
        exact = {name: Fraction(weights[name]) for name in sorted(weights) if weights[name] > 0}
        unit = math.lcm(*(share.denominator for share in exact.values()))
        self.names = list(exact)
        # The number in the middle decides ties, so that the tree depends on nothing but names and weights.
        heap: list[tuple[int, int, Fork | str]] = [(int(w * unit), i, name) for i, (name, w) in enumerate(exact.items())]
        heapq.heapify(heap)
        for number in range(len(heap), 2 * len(heap) - 1):
            light, _, right = heapq.heappop(heap)
            heavy, _, left = heapq.heappop(heap)
            heapq.heappush(heap, (light + heavy, number, Fork(left, right, heavy, light + heavy)))
        self._root = heap[0][2]

    def sample(self, index: int) -> tuple[str, int]:
        """Sample `index`'s source, and how many samples of that source came before it."""
        node = self._root
        while isinstance(node, Fork):
            before = node.to_left(index)
            goes_left = node.to_left(index + 1) > before
            node, index = (node.left, before) if goes_left else (node.right, index - before)
        return node, index

    def counts(self, n: int) -> dict[str, int]:
        """Samples of each source among the first `n`."""
        found: dict[str, int] = {}
        reached = [(self._root, n)]
        while reached:
            node, k = reached.pop()
            if isinstance(node, Fork):
                left = node.to_left(k)
                reached += [(node.left, left), (node.right, k - left)]
            else:
                found[node] = k
        return {name: found[name] for name in self.names}

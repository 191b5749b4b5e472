"""Clusters of documents that are alike: buckets, and the connected components of what is confirmed (paper 3.1.1).

Documents with equal keys are a bucket. Keys of one band are sorted at a time, and where they do not fit into the memory given, as
many times as needed those of a share of all keys; what is left in memory is a number or two a document.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from openherd.data.shingles import Numbers

Pairs = Callable[[Numbers, Numbers], npt.NDArray[np.float64]]  # the similarity of each pair
BYTES_PER_KEY = 48  # while keys are sorted: keys twice, numbers, order, and what numpy needs for itself


class Keys(Protocol):
    """Keys of all documents, part by part: the number of the first document, its keys, and which of them count."""

    def __call__(self) -> Iterator[tuple[int, npt.NDArray[np.uint64], npt.NDArray[np.bool_]]]: ...


def shares_of(n: int, memory: float) -> int:
    """Into how many shares the keys of n documents are cut so that `memory` bytes suffice for one."""
    return max(1, int(np.ceil(n * BYTES_PER_KEY / memory)))


def buckets(keys: Keys, share: int = 0, shares: int = 1) -> tuple[Numbers, Numbers]:
    """Documents whose key another one has too, and the number of the bucket of each: both sorted by bucket, then by document.

    Of one share of all keys.
    """
    found, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for first, part, counts in keys():
        chosen = np.flatnonzero(counts & (part % np.uint64(shares) == share) if shares > 1 else counts)
        found.append(part[chosen])
        numbers.append(first + chosen)
    own, number = np.concatenate(found), np.concatenate(numbers)
    del found, numbers
    order = np.argsort(own)
    own = own[order]
    same = own[1:] == own[:-1]
    shared = np.zeros(len(own), bool)
    shared[1:] |= same
    shared[:-1] |= same
    bucket = np.concatenate([[0], np.cumsum(~same)])[: len(own)][shared]
    members = number[order[shared]]
    order = np.lexsort((members, bucket))
    return members[order], bucket[order]


class Clusters:
    """Union-find over document numbers 0 .. n-1, many at a time."""

    def __init__(self, n: int) -> None:
        self.parent: Numbers = np.arange(n, dtype=np.int32 if n < 2**31 else np.int64)

    def find(self, numbers: Numbers) -> Numbers:
        """The representative of each document's cluster: its smallest number."""
        found: Numbers = self.parent[numbers]
        while True:
            above = self.parent[found]
            if np.array_equal(above, found):
                break
            found = above
        self.parent[numbers] = found
        return found

    def join(self, left: Numbers, right: Numbers) -> None:
        """Make the clusters of each pair one."""
        while len(left):
            a, b = self.find(left), self.find(right)
            apart = a != b
            left, right = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
            np.minimum.at(self.parent, right, left)

    def labels(self) -> Numbers:
        """The representative of every document."""
        while not np.array_equal(above := self.parent[self.parent], self.parent):
            self.parent = above
        found: Numbers = self.parent
        return found


def join_alike(clusters: Clusters, members: Numbers, bucket: Numbers, most: int, similarity: Pairs | None, threshold: float) -> int:
    """Join the documents of each bucket that are alike, or all of them where no similarity is asked.

    Each is compared with the `most` behind it, and not with those that it is joined to already. Returns how many documents of
    larger buckets are apart from the first one of theirs after that: they were not compared with all others.
    """
    places = np.arange(len(members))
    for distance in range(1, most + 1):
        places = places[: np.searchsorted(places, len(members) - distance)]
        places = places[bucket[places + distance] == bucket[places]]
        if not len(places):
            return 0
        left, right = members[places], members[places + distance]
        if similarity is None:
            clusters.join(left, right)
            return 0
        apart = clusters.find(left) != clusters.find(right)
        left, right = left[apart], right[apart]
        alike = similarity(left, right) >= threshold
        clusters.join(left[alike], right[alike])
    starts = np.concatenate([[0], np.flatnonzero(np.diff(bucket)) + 1])
    sizes = np.diff(np.concatenate([starts, [len(bucket)]]))
    large = np.repeat(sizes > most + 1, sizes)
    firsts = np.repeat(members[starts], sizes)[large]
    return int((clusters.find(members[large]) != clusters.find(firsts)).sum())


def blocks(sizes: Numbers, most: int) -> Iterator[slice]:
    """Ranges whose sizes sum up to `most` at most, or hold one."""
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(sizes):
        before = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, before + most, "right")), begin + 1)
        yield slice(begin, end)
        begin = end


def best_of(cluster: Numbers, preferences: Sequence[npt.NDArray[np.int64] | npt.NDArray[np.float64]]) -> Numbers:
    """For each row the place of the row that its cluster keeps: the smallest by the first preference, ties by the next."""
    order = np.lexsort((*reversed(preferences), cluster))
    ordered = cluster[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(order)]
    best = np.empty(len(order), np.int64)
    best[order] = order[begins][np.cumsum(begins) - 1]
    return best

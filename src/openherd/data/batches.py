"""Batches as a pure function of seed, phase and sample index (paper 3.4.1).

A source's stream of tokens is a ring: behind its last document comes its first. It is cut into windows, each with one token more
for the last label. An epoch visits every window once, in the order of a seeded permutation that takes no memory (a Feistel
network, walked until it lands inside); the windows of each epoch start at another token, so that their borders differ, and less
than one window is left out, in each epoch elsewhere. A sample is a window, or one of the equal parts into which it is cut, so that
shorter and longer sequences can go on in one epoch. Tokens attend within their own document, whose positions count from 0, or from
the window's start where it began before; the first token of a document is nobody's label. The state of the data is the sample's
index and the skipped ranges.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from openherd.core.errors import InputError
from openherd.core.seeds import derive_seed
from openherd.data.mix import Mix

if TYPE_CHECKING:  # it brings pyarrow, which training on what is already there can do without
    from openherd.data.token_shards import TokenShards

IGNORED = -100  # the label of a position without loss
ROUNDS = 4
MASK = 2**64 - 1
ALL = range(sys.maxsize)


def scramble(value: int, key: int) -> int:
    """A 64-bit mixing function (the finaliser of SplitMix64)."""
    value = (value ^ key) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def permute(index: int, n: int, key: int) -> int:
    """Where `index` goes in a permutation of range(n) that `key` chooses."""
    if not 0 <= index < n:
        raise IndexError(index)
    half = max((n - 1).bit_length() + 1, 2) // 2
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for i in range(ROUNDS):
            left, right = right, left ^ (scramble(right, key + i) & low)
        index = left << half | right
        if index < n:
            return index


def merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges (first, end) in order, those that touch or overlap made one."""
    merged: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if not 0 <= first <= end:
            raise ValueError(f"no range of samples: {(first, end)}")
        if merged and first <= merged[-1][1]:
            first, end = merged[-1][0], max(merged.pop()[1], end)
        merged.append((first, end))
    return merged


class BatchSource:
    """The samples of one phase at one sequence length."""

    def __init__(
        self,
        shards: "TokenShards",
        seed: int,
        phase: str,
        sequence_length: int,
        weights: Mapping[str, float],
        skipped: Iterable[tuple[int, int]] = (),
        *,
        parts: int = 1,
        stretch: range = ALL,
    ) -> None:
        """The samples are the first of the `parts` of each window of `stretch`, then the second of each, and so on.

        `skipped` are ranges (first, end) of sample indices that are left out; later samples move up. Raises InputError for a source
        of too few tokens.
        """
        self.shards, self.seed, self.phase, self.sequence_length = shards, seed, phase, sequence_length
        self.mix = Mix(weights)
        self.skipped = merge(skipped)
        self.parts, self.stretch, self.window_length = parts, stretch, parts * sequence_length
        self.windows = {name: shards.tokens[name] // self.window_length for name in self.mix.names}
        for name, n in self.windows.items():
            if n < 1:
                found = f"source {name!r} has {shards.tokens[name]:,} tokens"
                needed = f"at least {self.window_length:,} for sequences of {self.window_length:,}"
                raise InputError(shards.path, found, allowed=needed)

    def _planned(self, index: int) -> int:
        """The index that sample `index` would have if none were skipped."""
        for first, end in self.skipped:
            if index >= first:
                index += end - first
        return index

    def window(self, index: int) -> tuple[str, int]:
        """The source of sample `index`, and the token in its stream at which the sample starts."""
        part, nth = divmod(self._planned(index), len(self.stretch))
        if part >= self.parts:
            raise IndexError(index)
        name, nth = self.mix.sample(self.stretch[nth])
        epoch, within = divmod(nth, self.windows[name])
        key = derive_seed(self.seed, self.phase, name, epoch)
        start = key + permute(within, self.windows[name], key) * self.window_length + part * self.sequence_length
        return name, start % self.shards.tokens[name]

    def want(self, first: int, n: int) -> None:
        """Begin to fetch the tokens of samples `first` to `first + n`, where they lie elsewhere."""
        if self.shards.are_elsewhere:
            for index in range(first, first + n):
                name, start = self.window(index)
                self.shards.want(name, start, start + self.sequence_length + 1)

    def batch(self, first: int, n: int) -> dict[str, np.ndarray]:
        """Samples `first` to `first + n`: tokens_BT, labels_BT, positions_BT, documents_BT, all int64."""
        self.want(first, n)
        length = self.sequence_length
        tokens_BT, labels_BT, positions_BT, documents_BT = np.empty((4, n, length), np.int64)
        places = np.arange(length)
        for row in range(n):
            name, start = self.window(first + row)
            tokens = self.shards.read(name, start, start + length + 1)
            starts = self.shards.starts[name]
            # Where documents begin within the window and at its last label, counted from its start.
            begin, end = starts.searchsorted((start, start + length), side="right")
            begins = starts[begin:end] - start
            if (behind := start + length - self.shards.tokens[name]) >= 0:  # tokens of the beginning, behind the end
                begins = np.append(begins, starts[: starts.searchsorted(behind, side="right")] + length - behind)
            tokens_BT[row], labels_BT[row] = tokens[:-1], tokens[1:]
            labels_BT[row, begins - 1] = IGNORED
            bounds = np.concatenate(([0], begins, [length]))
            lengths = np.diff(bounds)
            positions_BT[row] = places - np.repeat(bounds[:-1], lengths)
            documents_BT[row] = np.repeat(np.arange(len(lengths)), lengths)
        return {"tokens_BT": tokens_BT, "labels_BT": labels_BT, "positions_BT": positions_BT, "documents_BT": documents_BT}

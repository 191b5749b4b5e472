"""Lines of documents as numbers: a key for what equal ones share, and how many letters and digits each has (paper 3.1.1).

A line's key is the xxHash of its text, blanks inside it as one and none around it, with a seed for the bucket in which it is
counted. Blank lines are none. `minhash.cpp` does the same, equal to the last bit.
"""

import ctypes
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from openherd.data.shingles import MULTIPLIER, Column, Normalisation, Numbers, address, library, mixed, tables


class Lines(NamedTuple):
    """The lines of some documents behind each other."""

    keys: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.int32]  # letters and digits
    starts: Numbers  # where each document's begin, and the last one's end


def lines_of(texts: pa.Array, seeds: npt.NDArray[np.uint64]) -> Lines:
    """The lines of a column of texts; each text has a seed."""
    column = Column.of(texts)
    starts = np.zeros(len(texts) + 1, np.int64)
    if library.functions is None:
        keys, sizes = [], []
        for i, (text, seed) in enumerate(zip(column.texts(), seeds.tolist(), strict=True)):
            for words in filter(None, map(str.split, text.split("\n"))):
                line = " ".join(words)
                keys.append(xxhash.xxh64_intdigest(line.encode(), seed=seed))
                sizes.append(sum(map(str.isalnum, line)))
            starts[i + 1] = len(keys)
        return Lines(np.array(keys, np.uint64), np.array(sizes, np.int32), starts)
    part = column.data[column.offsets[0] : column.offsets[-1]]
    room = int(np.count_nonzero(part == ord("\n"))) + len(texts)
    found = Lines(np.empty(room, np.uint64), np.empty(room, np.int32), starts)
    seeds = np.ascontiguousarray(seeds)
    n = library.functions.lines(
        ctypes.byref(tables(Normalisation(), column.is_ascii())), address(column.data), address(column.offsets),
        ctypes.c_int64(len(texts)), address(seeds), ctypes.c_int64(room), address(found.keys),
        address(found.sizes), address(starts[1:]),
    )  # fmt: skip
    return Lines(found.keys[:n], found.sizes[:n], starts)


def runs_of(lines: Lines, n: int, min_size: int) -> tuple[npt.NDArray[np.uint64], Numbers]:
    """A key for each run of n lines of one document with so many letters and digits, and the place of its first line."""
    if len(lines.keys) < n:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    windows = len(lines.keys) - n + 1
    total = np.zeros(windows, np.uint64)
    for i in range(n):
        total = total * np.uint64(MULTIPLIER) + lines.keys[i : windows + i]
    sums = np.concatenate([[0], np.cumsum(lines.sizes, dtype=np.int64)])
    document = np.repeat(np.arange(len(lines.starts) - 1), np.diff(lines.starts))
    of_one = document[:windows] == document[n - 1 :]
    places = np.flatnonzero(of_one & (sums[n:] - sums[:-n] >= min_size))
    return mixed(total[places]), places

"""MinHash signatures and their locality-sensitive hashing (paper 3.1.1).

A signature holds, for each of bands x rows random permutations, the smallest permuted shingle; two signatures agree at a place with
probability equal to the Jaccard similarity s of the sets. Documents that agree in all rows of any band are candidates: with
probability 1 - (1 - s^rows)^bands, the S-curve. The paper gives no parameters.
"""

import ctypes
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from openherd.data.shingles import (
    MULTIPLIER,
    Column,
    Hashes,
    Normalisation,
    Numbers,
    address,
    digests_of,
    hashed,
    library,
    mixed,
    shingled,
    tables,
    terms_of,
)

Signatures = npt.NDArray[np.uint32]  # documents x permutations
Permutations = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]
SHINGLES_PER_BLOCK = 4_096  # bounds memory: permutations x block x 4 bytes


def permutations(n: int, seed: int) -> Permutations:
    """n random maps x -> a x + b modulo 2^32, a odd, of the upper half of a shingle."""
    drawn = np.random.default_rng(seed).integers(0, 2**32, size=(2, n), dtype=np.uint32)
    return drawn[0] | np.uint32(1), drawn[1]


def signature(shingles: Hashes, permuted_by: Permutations) -> npt.NDArray[np.uint32]:
    """The smallest shingle under each permutation; of an empty set the largest number."""
    a, b = (column[:, None] for column in permuted_by)
    smallest = np.full(len(a), np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(shingles), SHINGLES_PER_BLOCK):
        block = (shingles[start : start + SHINGLES_PER_BLOCK] >> np.uint64(32)).astype(np.uint32)
        smallest = np.minimum(smallest, (a * block + b).min(axis=1))
    return smallest


class Signed(NamedTuple):
    """What is known of each of some texts."""

    signatures: Signatures
    digests: npt.NDArray[np.uint64]  # n x 2: the same for the same terms in the same order
    terms: Numbers  # how many


def signed(texts: pa.Array, n: int, normalised: Normalisation, permuted_by: Permutations) -> Signed:
    """Signatures of a column of texts, by shingles of n terms."""
    column, (a, b) = Column.of(texts), permuted_by
    if library.functions is None:
        rows = [hashed(terms_of(text, normalised)) for text in column.texts()]
        signatures = [signature(shingled(row, n), permuted_by) for row in rows]
        digests = np.array([digests_of(row) for row in rows], np.uint64).reshape(len(rows), 2)
        terms = np.array([len(row) for row in rows], np.int64)
        return Signed(np.array(signatures, np.uint32).reshape(len(rows), len(a)), digests, terms)
    found = Signed(np.empty((len(texts), len(a)), np.uint32), np.empty((len(texts), 2), np.uint64), np.empty(len(texts), np.int64))
    library.functions.signatures(
        ctypes.byref(tables(normalised, column.is_ascii())), address(column.data), address(column.offsets),
        ctypes.c_int64(len(texts)), n, address(a), address(b), len(a), *(address(array) for array in found),
    )  # fmt: skip
    return found


def band_keys(signatures: Signatures, bands: int, groups: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A number for each band and document: equal where all rows of the band are, within a group."""
    keys = np.empty((bands, len(signatures)), np.uint64)
    for band, rows in enumerate(np.split(signatures, bands, axis=1)):
        total = groups.copy()
        for column in rows.T:
            total = total * np.uint64(MULTIPLIER) + column
        keys[band] = mixed(total)
    return keys


def candidate_probability(similarity: float | npt.NDArray[np.float64], bands: int, rows: int) -> npt.NDArray[np.float64]:
    """The S-curve: how likely two documents of this Jaccard similarity agree in a whole band."""
    return np.asarray(1 - (1 - np.asarray(similarity, np.float64) ** rows) ** bands)


def bands_for(threshold: float, permutations: int, recall: float) -> tuple[int, int]:
    """Bands and rows of at most so many permutations: the steepest curve that finds a pair at the threshold with this probability.

    More rows make fewer candidates, and of those that are not alike fewer still. One row where nothing finds that many.
    """
    for rows in range(permutations, 1, -1):
        if candidate_probability(threshold, permutations // rows, rows) >= recall:
            return permutations // rows, rows
    return permutations, 1


def estimated_jaccards(a: Signatures, b: Signatures) -> npt.NDArray[np.float64]:
    """The share of places where two signatures agree, for each pair of rows."""
    return np.asarray((a == b).mean(axis=1, dtype=np.float64))

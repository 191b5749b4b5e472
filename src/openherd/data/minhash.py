"""MinHash signatures and their locality-sensitive hashing (paper 3.1.1).

A document is the set of its shingles: runs of n terms, each a 64-bit number mixed from the terms' xxHash. A signature holds,
for each of bands x rows random permutations, the smallest permuted shingle; two signatures agree at a place with probability
equal to the Jaccard similarity s of the sets. Documents that agree in all rows of any band are candidates: with probability 1 -
(1 - s^rows)^bands. The paper gives no parameters. All is a function of the text and of the settings: no salted hash, no order
of documents.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import xxhash

Hashes = npt.NDArray[np.uint64]  # sorted, distinct
Signature = npt.NDArray[np.uint32]

MULTIPLIER = 0x9E3779B97F4A7C15  # odd: the golden ratio in 64 bits, splitmix64's increment
MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64's finaliser
SHINGLES_PER_BLOCK = 4_096  # bounds memory: permutations x block x 8 bytes


def _mixed(values: Hashes) -> Hashes:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(MIX[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(MIX[1])
    return values ^ (values >> np.uint64(31))


def shingles(terms: Sequence[str], n: int) -> Hashes:
    """The distinct n-term shingles as sorted 64-bit numbers; a shorter text is one shingle, an empty one none."""
    hashes = np.fromiter((xxhash.xxh64_intdigest(term.encode()) for term in terms), np.uint64, len(terms))
    width = min(n, len(hashes))
    if width == 0:
        return hashes
    total = np.zeros(len(hashes) - width + 1, np.uint64)
    for i in range(width):
        total = total * np.uint64(MULTIPLIER) + hashes[i : len(hashes) - width + 1 + i]
    return np.unique(_mixed(total))


def permutations(n: int, seed: int) -> tuple[Hashes, Hashes]:
    """n random maps x -> a x + b modulo 2^64, a odd: as two columns."""
    drawn = np.random.default_rng(seed).integers(0, 2**64, size=(2, n, 1), dtype=np.uint64)
    return drawn[0] | np.uint64(1), drawn[1]


def signature(shingled: Hashes, permuted_by: tuple[Hashes, Hashes]) -> Signature:
    """The upper 32 bits of the smallest shingle under each permutation. The set must not be empty."""
    a, b = permuted_by
    smallest = np.full(len(a), np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(shingled), SHINGLES_PER_BLOCK):
        block = shingled[start : start + SHINGLES_PER_BLOCK]
        smallest = np.minimum(smallest, (a * block + b).min(axis=1))
    return (smallest >> np.uint64(32)).astype(np.uint32)


def candidate_pairs(signatures: Iterable[tuple[int, Signature]], bands: int) -> Iterator[tuple[int, int]]:
    """Pairs of documents, given as (number, signature), whose signatures agree in a whole band; each pair once."""
    buckets: dict[tuple[int, bytes], list[int]] = {}
    for number, signed in signatures:
        for band, rows in enumerate(signed.reshape(bands, -1)):
            buckets.setdefault((band, rows.tobytes()), []).append(number)
    seen: set[tuple[int, int]] = set()
    for bucket in buckets.values():
        for pair in combinations(bucket, 2):
            if pair not in seen:
                seen.add(pair)
                yield pair


def jaccard(a: Hashes, b: Hashes) -> float:
    """Shared shingles over all shingles of two sets; 1 for two empty ones."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    together = len(a) + len(b) - shared
    return shared / together if together else 1.0


def estimated_jaccard(a: Signature, b: Signature) -> float:
    """The share of places where two signatures agree."""
    return float(np.mean(a == b))


class Clusters:
    """Union-find over document numbers 0 .. n-1."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, i: int) -> int:
        """The representative of i's cluster: its smallest number."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Make the clusters of i and j one."""
        a, b = sorted((self.find(i), self.find(j)))
        self._parent[b] = a

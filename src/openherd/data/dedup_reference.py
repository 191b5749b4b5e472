"""Near-duplicates the slow and obvious way: the oracle of `minhash`, `clusters` and `dedup_documents` (paper 3.1.1).

No hashing: a document is the set of its runs of terms themselves, and every pair is compared.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

from openherd.data.words import terms

Shingles = frozenset[tuple[str, ...]]


def exact_shingles(found: Sequence[str], n: int) -> Shingles:
    """The distinct runs of n terms; a shorter text is one run, an empty one none."""
    width = min(n, len(found))
    return frozenset(tuple(found[i : i + width]) for i in range(len(found) - width + 1)) if found else frozenset()


def exact_jaccard(a: Shingles, b: Shingles) -> float:
    """Shared runs over all runs of two documents; 1 where neither has any."""
    return len(a & b) / len(a | b) if a or b else 1.0


def candidate_pairs(signatures: Sequence[Sequence[int]], bands: int) -> Iterator[tuple[int, int]]:
    """Pairs of documents whose signatures agree in a whole band."""
    for i, j in combinations(range(len(signatures)), 2):
        rows = len(signatures[i]) // bands
        if any(list(signatures[i][k : k + rows]) == list(signatures[j][k : k + rows]) for k in range(0, rows * bands, rows)):
            yield i, j


def components(n: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """For each of n documents the smallest one that can be reached by pairs."""
    labels = list(range(n))
    for _ in range(n):
        for i, j in pairs:
            labels[i] = labels[j] = min(labels[i], labels[j])
    return labels


def exact_clusters(texts: Sequence[str], n: int, threshold: float) -> list[int]:
    """For each text the first one of its cluster: those with the same terms or alike enough, and what these join."""
    found = [terms(text) for text in texts]
    sets = [exact_shingles(terms_, n) for terms_ in found]
    alike = [
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if (found[i] == found[j] and (found[i] or texts[i].strip() == texts[j].strip()))
        or (sets[i] and sets[j] and exact_jaccard(sets[i], sets[j]) >= threshold)
    ]
    return components(len(texts), alike)

"""Exact and near-duplicate documents, and documents that stand whole inside another (paper 3.1.1).

Exact duplicates have the same terms in the same order. Near-duplicates are found by MinHash and confirmed by their true Jaccard
similarity; similar pairs are joined into clusters, and each cluster keeps one document: the newest, else the longest, else the
one with the smallest id, whatever the order of the input. Containment is asked of what is left, the largest document first, so
that no document that is kept stands by more than `max_containment` in another one that is kept. The paper says "global MinHash"
and no more.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow.parquet as pq
import xxhash
from pydantic import Field

from openherd.core.progress import track
from openherd.core.records import count_rows
from openherd.core.rundir import Output, Run
from openherd.core.seeds import derive_seed
from openherd.data.documents import DOCUMENTS, Drop, curate, read_documents
from openherd.data.minhash import (
    Clusters,
    Hashes,
    Signature,
    candidate_pairs,
    estimated_jaccard,
    jaccard,
    permutations,
    shingles,
    signature,
)
from openherd.data.words import terms


@dataclass(frozen=True, kw_only=True)
class DedupDocumentsConfig:
    """Settings of `dedup-documents`. The paper gives none; shingles, bands and rows are datatrove's defaults."""

    shingle_words: Annotated[int, Field(description="words per shingle", ge=1)] = 5
    bands: Annotated[int, Field(description="bands of the signature; permutations = bands x rows", ge=1)] = 14
    rows: Annotated[int, Field(description="permutations per band; the curve's middle is at (1/bands)^(1/rows)", ge=1)] = 8
    check: Annotated[
        Literal["jaccard", "signature", "none"],
        Field(
            description="how a candidate pair is confirmed: true Jaccard (holds all shingles in memory), estimate, or not at all"
        ),
    ] = "jaccard"
    # FineWeb's aim; also near the middle of the curve of 14 x 8, 0.72.
    min_jaccard: Annotated[float, Field(description="similarity from which on a pair is a near-duplicate", gt=0, le=1)] = 0.75
    max_containment: Annotated[
        float, Field(description="largest share of a document's shingles that may stand in one other; 1 = off", gt=0, le=1)
    ] = 1.0
    seed: Annotated[int, Field(description="seed of the permutations")] = 0


@dataclass
class Corpus:
    """What is held in memory of all documents, by their number in the input."""

    ids: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    dates: list[str] = field(default_factory=list)
    n_bytes: list[int] = field(default_factory=list)
    same: list[int] = field(default_factory=list)  # the number of the first document with the same terms
    shingled: dict[int, Hashes] = field(default_factory=dict)  # of first ones
    signatures: dict[int, Signature] = field(default_factory=dict)

    def shingles_of(self, number: int) -> Hashes:
        """A document's shingles, which are those of the first one with the same terms; none where it has no terms."""
        return self.shingled.get(self.same[number], np.empty(0, np.uint64))

    def by_preference(self) -> list[int]:
        """All numbers: the newest first, else the longest, else the smallest id."""
        numbers = sorted(range(len(self.ids)), key=lambda n: (-self.n_bytes[n], self.ids[n]))
        return sorted(numbers, key=lambda n: self.dates[n], reverse=True)

    def name(self, number: int) -> str:
        """A document's id and address."""
        return f"{self.ids[number]} ({self.urls[number]})"


def read_corpus(config: DedupDocumentsConfig, documents: Run) -> Corpus:
    """Shingles and signatures of all documents; those with the same terms are shingled once."""
    corpus = Corpus()
    first_with: dict[bytes, int] = {}
    permuted_by = permutations(config.bands * config.rows, derive_seed(config.seed, "minhash"))
    rows = read_documents(documents, ["id", "url", "date", "text"])
    for row in track(rows, "signatures", "documents", count_rows(documents.file(DOCUMENTS)) or 0):
        number = len(corpus.ids)
        found = terms(row["text"])
        content = " ".join(found) or row["text"].strip()
        corpus.ids.append(row["id"])
        corpus.urls.append(row["url"])
        corpus.dates.append(row["date"] or "")
        corpus.n_bytes.append(len(row["text"].encode()))
        corpus.same.append(first_with.setdefault(xxhash.xxh3_128_digest(content.encode()), number))
        if corpus.same[number] == number and found:
            shingled = shingles(found, config.shingle_words)
            corpus.signatures[number] = signature(shingled, permuted_by)
            if config.check == "jaccard" or config.max_containment < 1:
                corpus.shingled[number] = shingled
    return corpus


def near_duplicates(config: DedupDocumentsConfig, corpus: Corpus) -> dict[int, Drop]:
    """Why each document goes that is an exact or near duplicate of the one that its cluster keeps."""

    def similarity(i: int, j: int) -> float:
        if config.check == "jaccard":
            return jaccard(corpus.shingled[i], corpus.shingled[j])
        return estimated_jaccard(corpus.signatures[i], corpus.signatures[j])

    clusters = Clusters(len(corpus.ids))
    for number, first in enumerate(corpus.same):
        clusters.join(number, first)
    for i, j in candidate_pairs(corpus.signatures.items(), config.bands):
        if clusters.find(i) != clusters.find(j) and (config.check == "none" or similarity(i, j) >= config.min_jaccard):
            clusters.join(i, j)

    best: dict[int, int] = {}
    for number in corpus.by_preference():
        best.setdefault(clusters.find(number), number)
    drops = {}
    for number, first in enumerate(corpus.same):
        kept = best[clusters.find(number)]
        if kept == number:
            continue
        if corpus.same[kept] == first:
            drops[number] = Drop("exact duplicate", f"same words as {corpus.name(kept)}")
        else:
            measure = "Jaccard" if config.check == "jaccard" else "estimated Jaccard"
            value = similarity(first, corpus.same[kept])
            chain = ", through others like both" if value < config.min_jaccard else ""
            detail = f"{measure} {value:.3f} with {corpus.name(kept)}, limit {config.min_jaccard}{chain}"
            drops[number] = Drop("near duplicate", detail)
    return drops


def contained(max_containment: float, corpus: Corpus, numbers: set[int]) -> dict[int, Drop]:
    """Why each of these documents goes whose shingles stand in a larger kept one by more than `max_containment`."""
    own = {n: corpus.shingles_of(n) for n in corpus.by_preference() if n in numbers}
    order = sorted((n for n in own if len(own[n])), key=lambda n: -len(own[n]))
    if not order:
        return {}
    sizes = np.array([len(own[n]) for n in order])
    _, shingle = np.unique(np.concatenate([own[n] for n in order]), return_inverse=True)
    places = np.repeat(np.arange(len(order)), sizes)[
        np.argsort(shingle, kind="stable")
    ]  # the documents of each shingle side by side
    starts = np.concatenate([[0], np.cumsum(np.bincount(shingle))])
    is_kept = np.zeros(len(order), bool)
    drops = {}
    for place, (number, mine) in enumerate(zip(order, np.split(shingle, np.cumsum(sizes)[:-1]), strict=True)):
        n_holders = starts[mine + 1] - starts[mine]
        offsets = np.arange(n_holders.sum()) - np.repeat(np.cumsum(n_holders) - n_holders, n_holders)
        holders = places[np.repeat(starts[mine], n_holders) + offsets]
        shared = np.bincount(holders[is_kept[holders]], minlength=len(order))
        within = int(shared.argmax())
        share = shared[within] / sizes[place]
        if share > max_containment:
            drops[number] = Drop(
                "contained", f"{share:.3f} of its shingles stand in {corpus.name(order[within])}, limit {max_containment}"
            )
        else:
            is_kept[place] = True
    return drops


def dedup_documents(config: DedupDocumentsConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Keep one document of each cluster of duplicates."""
    corpus = read_corpus(config, documents)
    drops = near_duplicates(config, corpus)
    if config.max_containment < 1:
        drops |= contained(config.max_containment, corpus, set(range(len(corpus.ids))) - drops.keys())

    def decide(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
        for number, row in enumerate(rows):
            yield row, drops.get(number)

    schema = pq.read_schema(documents.file(DOCUMENTS))
    return curate("dedup-documents", documents, out, schema, decide) | {"n_permutations": config.bands * config.rows}

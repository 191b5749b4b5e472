"""The words of a corpus, and how far a document's are from them (paper 3.1.1).

The paper drops documents with too many outlier tokens by the Kullback-Leibler divergence of their token distribution from the
corpus's. Tokens are here terms (`words.terms`), counted by language; a document is compared with all others, itself left out,
so that none helps itself. Counted is a bounded number of terms, of all languages together: when there are more, the rarest are
forgotten, which are those that any document that has them is an outlier by.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from openherd.data.text_batch import Floats, Integers, TermCounts, TextBatch, shares

CORPUS_WORDS = "corpus_words.parquet"
SCHEMA = pa.schema([("language", pa.string()), ("word", pa.string()), ("count", pa.int64())])  # the word "" is all words


def is_counted(document_id: str, share: float) -> bool:
    """Whether a document is of the sample that is counted: a fixed choice by its id."""
    return share >= 1 or xxhash.xxh3_64_intdigest(document_id.encode()) < share * 2**64


def counts_of(languages: list[str], texts: pa.StringArray) -> Iterator[tuple[str, list[str], list[int]]]:
    """Each language of some texts with its terms and how often each stands in them."""
    batch = TextBatch.of(texts)
    found = batch.terms
    of_text = np.array(languages, object)
    for language in dict.fromkeys(languages):
        rows = (of_text == language)[found.text]
        n = np.bincount(found.term[rows], found.count[rows], len(found.vocabulary)).astype(np.int64)
        there = np.flatnonzero(n)
        yield language, [found.vocabulary[term] for term in there.tolist()], n[there].tolist()


class WordCounts:
    """Counts of terms by language; never more than twice `most` terms in all, some 0.2 GB for each million."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._counted: dict[str, Counter[str]] = {}
        self._n = 0

    def add(self, language: str, words: list[str], counts: list[int]) -> None:
        """Add what stands in some texts."""
        counter = self._counted.setdefault(language, Counter())
        before = len(counter)
        counter.update(dict(zip(words, counts)))
        counter[""] += sum(counts)
        self._n += len(counter) - before
        if self._n > 2 * self.most:
            self._counted = self.most_common()
            self._n = sum(map(len, self._counted.values()))

    def most_common(self) -> dict[str, Counter[str]]:
        """The most frequent terms, `most` in all: of a language with fewer than an equal share all, and others share the rest."""
        limit = equal_share([len(counter) - 1 for counter in self._counted.values()], self.most)
        return {language: most_common(counter, limit) for language, counter in sorted(self._counted.items())}


def equal_share(sizes: list[int], most: int) -> int:
    """The highest limit with which sizes cut to it are no more than `most` in all."""
    for n, size in zip(range(len(sizes), 0, -1), sorted(sizes)):
        if size > most // n:
            return most // n
        most -= size
    return max(sizes, default=0)


def count_words(batches: Iterable[tuple[list[str], pa.StringArray]], most: int) -> dict[str, Counter[str]]:
    """Counts of terms by language, from batches of languages and texts."""
    counts = WordCounts(most)
    for languages, texts in batches:
        for found in counts_of(languages, texts):
            counts.add(*found)
    return counts.most_common()


def most_common(counts: Counter[str], most: int) -> Counter[str]:
    """The most frequent terms, of equals the first by spelling."""
    if len(counts) <= most + 1:
        return counts
    return Counter(dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: most + 1]))


def write_counts(path: Path, counted: Mapping[str, Mapping[str, int]]) -> None:
    """Write counts, a row per language and term."""
    rows = [(language, word, n) for language, counts in counted.items() for word, n in counts.items()]
    columns = list(zip(*rows)) or [(), (), ()]
    table = pa.Table.from_arrays([pa.array(column, field.type) for column, field in zip(columns, SCHEMA)], schema=SCHEMA)
    pq.write_table(table, path, compression="zstd")


def read_counts(path: str) -> dict[str, dict[str, int]]:
    """Counts of terms by language."""
    counted: dict[str, dict[str, int]] = {}
    for batch in pq.ParquetFile(path).iter_batches():
        for language, word, n in zip(*(column.to_pylist() for column in batch.columns)):
            counted.setdefault(language, {})[word] = n
    return counted


def counts_in(whole: TermCounts, part: TermCounts) -> Integers:
    """How often each text and term of `part` stands in the same texts as a whole."""
    number = {term: i for i, term in enumerate(whole.vocabulary)}
    term = np.array([number[term] for term in part.vocabulary], np.int64)[part.term]
    size = max(len(whole.vocabulary), 1)
    return whole.count[np.searchsorted(whole.text * size + whole.term, part.text * size + term)]


def corpus_shares(
    batch: TextBatch,
    languages: list[str],
    counted: Mapping[str, Mapping[str, int]],
    is_in: list[bool],
    least: int,
    rare: int,
    as_counted: TextBatch | None = None,
) -> tuple[Floats, Floats]:
    """Of each text the Kullback-Leibler divergence of its terms from those of all others, in nats, and the share of its terms that
    stand fewer than `rare` times in them.

    Each known term counts once more, as one that stands nowhere else must not be impossible. A language with fewer than `least`
    words says too little: 0. `is_in` tells which texts are part of what was counted, `as_counted` how they stood there where lines
    have been taken out since: all of them is left out.
    """
    found, n_texts = batch.terms, batch.n_texts
    divergence, outliers = np.zeros(n_texts), np.zeros(n_texts)
    own_total = found.per_text(found.count, n_texts)
    in_corpus, total_in_corpus = found.count, own_total
    if as_counted is not None and as_counted is not batch:
        in_corpus = counts_in(as_counted.terms, found)
        total_in_corpus = as_counted.terms.per_text(as_counted.terms.count, n_texts)
    for language in dict.fromkeys(languages):
        corpus = counted.get(language, {})
        total = corpus.get("", 0)
        if total < max(least, 1):
            continue
        mine = np.array([other == language for other in languages])
        rows = mine[found.text]
        terms, places = np.unique(found.term[rows], return_inverse=True)
        known = np.array([corpus.get(found.vocabulary[term], 0) for term in terms.tolist()], np.int64)
        text, own = found.text[rows], found.count[rows]
        left_out = np.array(is_in)[text] * in_corpus[rows]
        others = np.maximum(known[places] - left_out, 0)
        rest = total - np.array(is_in) * total_in_corpus
        p = own / own_total[text]
        q = (others + 1) / (rest[text] + len(corpus) - 1)
        divergence += np.bincount(text, p * np.log(p / q), n_texts)
        outliers += np.bincount(text, own * (others < rare), n_texts)
    return divergence, shares(outliers, own_total)  # counts are added, not shares: of all words that is 1

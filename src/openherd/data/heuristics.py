"""Heuristic filters: repetition, quality rules, dirty words, outlier tokens (paper 3.1.1).

The paper names three. Duplicated n-gram coverage removes *lines* that repeat themselves, such as logs; counting dirty words
catches adult pages that no block list names; the Kullback-Leibler divergence of a document's words from the corpus's finds too
many outlier tokens. It publishes no threshold. Added are the document rules of Gopher, whose repetition filter the paper cites,
with Gopher's limits.

Every rule is a number with a lowest and a highest value; the first that is broken drops the document, and `measures.parquet`
holds all numbers of all documents, so that limits can be chosen by looking. A repeat is any occurrence but the first. Shares of
characters are of the words' characters, without blanks. Rules that suppose a language's habits are asked only of
`word_rule_languages`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.progress import track
from openherd.core.records import count_rows
from openherd.core.rundir import Output, Outside, Run
from openherd.data.documents import DOCUMENTS, Drop, Judge, Judged, read_documents
from openherd.data.engine import EngineConfig, judge_documents
from openherd.data.lists import read_list
from openherd.data.words import paragraphs, terms, words

Integers = npt.NDArray[np.int64]

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
BULLETS = ("•", "‣", "▪", "■", "●", "–", "-", "*")
ELLIPSES = ("...", "…")
# Plain words of pornographic pages; a list of one's own goes in as the input `dirty_words`.
DIRTY_WORDS = frozenset(
    """blowjob blowjobs bukkake camgirl camgirls creampie cumshot cumshots cunt cunts deepthroat dildo dildos fuck fucked fucking
    gangbang handjob handjobs hentai milf milfs orgies orgy porn porno pornstar pornstars pussies pussy slut sluts threesome
    threesomes upskirt whore whores""".split()  # noqa: SIM905
)
CORPUS_WORDS_AT_LEAST = 100_000  # below, a corpus says too little about which words are outliers


@dataclass(frozen=True, kw_only=True)
class HeuristicsConfig:
    """Settings of `heuristics`: Gopher's limits (Rae et al. 2021, appendix A) where it has one; the paper publishes none."""

    min_words: Annotated[int, Field(description="fewest words of a document", ge=0)] = 50
    max_words: Annotated[int, Field(description="most words of a document", ge=1)] = 100_000
    min_mean_word_characters: Annotated[float, Field(description="mean length of a word, in characters", ge=0)] = 3.0
    max_mean_word_characters: Annotated[float, Field(description="mean length of a word, in characters", ge=1)] = 10.0
    max_symbols_per_word: Annotated[float, Field(description="'#' per word, and ellipses per word", ge=0)] = 0.1
    max_bullet_line_share: Annotated[float, Field(description="share of lines that begin with a bullet", ge=0, le=1)] = 0.9
    max_ellipsis_line_share: Annotated[float, Field(description="share of lines that end with an ellipsis", ge=0, le=1)] = 0.3
    min_alphabetic_word_share: Annotated[float, Field(description="share of words with a letter", ge=0, le=1)] = 0.8
    stop_words: Annotated[tuple[str, ...], Field(description="words that running text holds")] = (
        "the", "be", "to", "of", "and", "that", "have", "with",
    )  # fmt: skip
    min_stop_words: Annotated[int, Field(description="how many different ones of them at least", ge=0)] = 2
    word_rule_languages: Annotated[
        tuple[str, ...], Field(description="languages that the rules on word length, letters and stop words are made for")
    ] = ("en",)

    max_duplicate_line_share: Annotated[float, Field(description="share of lines that repeat one", ge=0, le=1)] = 0.30
    max_duplicate_line_character_share: Annotated[float, Field(description="share of characters in those", ge=0, le=1)] = 0.20
    max_duplicate_paragraph_share: Annotated[float, Field(description="share of paragraphs that repeat one", ge=0, le=1)] = 0.30
    max_duplicate_paragraph_character_share: Annotated[float, Field(description="share of characters in those", ge=0, le=1)] = 0.20
    max_top_ngram_shares: Annotated[
        tuple[float, float, float], Field(description="share of characters in the most frequent 2-, 3-, 4-gram of words")
    ] = (0.20, 0.18, 0.16)
    max_duplicate_ngram_shares: Annotated[
        tuple[float, float, float, float, float, float],
        Field(description="share of characters in repeats of n-grams of words, n = 5 to 10"),
    ] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)

    line_ngram_words: Annotated[int, Field(description="words per n-gram of the line rule; ours", ge=2)] = 3
    min_line_words: Annotated[int, Field(description="a shorter line is never removed; ours", ge=2)] = 30
    max_line_ngram_share: Annotated[
        float,
        Field(
            description="a line with a larger share of characters in its own repeated n-grams is removed; ours; 1 = off", ge=0, le=1
        ),
    ] = 0.5

    min_dirty_words: Annotated[
        int, Field(description="fewer dirty words than these drop nothing; ours (C4 drops at one)", ge=1)
    ] = 3
    max_dirty_word_share: Annotated[float, Field(description="share of words; ours", ge=0, le=1)] = 0.005
    max_divergence_nats: Annotated[
        float, Field(description="Kullback-Leibler divergence of a document's words from those of all others, in nats; ours", gt=0)
    ] = 8.0
    engine: Annotated[
        EngineConfig, Field(description="how documents are spread over processes: kind, processes, memory_gb and more")
    ] = field(default_factory=EngineConfig)


def repeated_ngrams(ids: Integers, longest: int) -> Iterator[tuple[int, Integers, Integers]]:
    """For n = 2 .. longest: n, a label for each place that equal n-grams share (-1: stands once), and each label's first place.

    An n-gram is the pair of (n-1)-grams that overlap in it, and can stand twice only if both of those do.
    """
    labels = ids
    for n in range(2, longest + 1):
        left, right = labels[:-1], labels[1:]
        places = np.flatnonzero((left >= 0) & (right >= 0))
        pairs = left[places] * (labels.max(initial=0) + 1) + right[places]
        _, first, inverse, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        new = np.cumsum(counts > 1) - 1
        labels = np.full(len(left), -1, np.int64)
        labels[places] = np.where(counts > 1, new, -1)[inverse]
        yield n, labels, places[first[counts > 1]]


def covered_share(starts: Integers, n: int, lengths: Integers) -> float:
    """The share of characters in the words that n-grams at `starts` cover."""
    if not len(starts):
        return 0.0
    edges = np.zeros(len(lengths) + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + n, -1)
    return float(lengths[np.cumsum(edges[:-1]) > 0].sum() / lengths.sum())


def repeat_share(labels: Integers, first: Integers, n: int, lengths: Integers) -> float:
    """The share of characters in n-grams that stood before."""
    repeats = labels >= 0
    repeats[first] = False
    return covered_share(np.flatnonzero(repeats), n, lengths)


def numbered(found: Sequence[str]) -> tuple[Integers, Integers]:
    """A number for each word, equal words sharing one, and the words' lengths."""
    index: dict[str, int] = {}
    ids = np.fromiter((index.setdefault(word, len(index)) for word in found), np.int64, len(found))
    return ids, np.fromiter(map(len, found), np.int64, len(found))


def ngram_shares(found: Sequence[str]) -> dict[str, float]:
    """Characters in the most frequent short n-gram, and in repeats of long ones, as shares."""
    ids, lengths = numbered(found)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    shares = {}
    for n, labels, first in repeated_ngrams(ids, max(DUPLICATE_NGRAMS)):
        if n in DUPLICATE_NGRAMS:
            shares[f"duplicate_{n}gram_share"] = repeat_share(labels, first, n, lengths)
        elif n in TOP_NGRAMS:
            counts = np.bincount(labels[labels >= 0], minlength=len(first))
            characters = ends[first + n] - ends[first]
            top = np.lexsort((characters, counts))[-1:]  # of equally frequent ones the longest
            shares[f"top_{n}gram_share"] = covered_share(np.flatnonzero(np.isin(labels, top)), n, lengths)
    return shares


def line_ngram_share(found: Sequence[str], n: int) -> float:
    """Duplicated n-gram coverage of one line: the share of its characters in n-grams that stood before in it."""
    ids, lengths = numbered(found)
    *_, (_, labels, first) = repeated_ngrams(ids, n)
    return repeat_share(labels, first, n, lengths)


def without_repetitive_lines(config: HeuristicsConfig, text: str) -> tuple[str, int]:
    """The text without lines that repeat themselves, and how many went."""
    if config.max_line_ngram_share >= 1:
        return text, 0
    lines = text.split("\n")
    left = []
    for line in lines:
        found = words(line) if len(line) >= 2 * config.min_line_words - 1 else []
        if len(found) < config.min_line_words or line_ngram_share(found, config.line_ngram_words) <= config.max_line_ngram_share:
            left.append(line)
    return ("\n".join(left) if len(left) < len(lines) else text), len(lines) - len(left)


def duplicate_shares(unit: str, parts: Sequence[str]) -> dict[str, float]:
    """Shares of parts, and of their characters, that repeat an earlier part."""
    seen: set[str] = set()
    repeats = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    characters = sum(map(len, parts))
    return {
        f"duplicate_{unit}_share": len(repeats) / len(parts) if parts else 0.0,
        f"duplicate_{unit}_character_share": sum(map(len, repeats)) / characters if characters else 0.0,
    }


def divergence_nats(counts: Mapping[str, int], corpus: Mapping[str, int], corpus_words: int) -> float:
    """Kullback-Leibler divergence of a document's words from those of the corpus without it, where each type counts once more."""
    own = np.fromiter(counts.values(), np.float64, len(counts))
    others = np.fromiter((corpus[word] for word in counts), np.float64, len(counts)) - own
    n = own.sum()
    if not n:
        return 0.0
    q = (others + 1) / (corpus_words - n + len(corpus))
    return float((own / n * np.log(own / n / q)).sum())


def measures(
    config: HeuristicsConfig, text: str, is_dirty: frozenset[str], corpus: Mapping[str, int], corpus_words: int
) -> dict[str, float]:
    """All numbers that the rules look at, by name."""
    found = words(text)
    counts = Counter(terms(text))
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    n, n_lines = max(len(found), 1), max(len(lines), 1)
    n_dirty = sum(counts[word] for word in is_dirty & counts.keys())
    return {
        "words": len(found),
        "mean_word_characters": sum(map(len, found)) / n,
        "hashes_per_word": text.count("#") / n,
        "ellipses_per_word": sum(map(text.count, ELLIPSES)) / n,
        "bullet_line_share": sum(line.startswith(BULLETS) for line in lines) / n_lines,
        "ellipsis_line_share": sum(line.endswith(ELLIPSES) for line in lines) / n_lines,
        "alphabetic_word_share": sum(any(map(str.isalpha, word)) for word in found) / n,
        "different_stop_words": sum(word in counts for word in config.stop_words),
        **duplicate_shares("line", lines),
        **duplicate_shares("paragraph", ["\n".join(block) for block in paragraphs(text)]),
        **ngram_shares(found),
        "dirty_word_share": n_dirty / n if n_dirty >= config.min_dirty_words else 0.0,
        "divergence_nats": divergence_nats(counts, corpus, corpus_words) if corpus_words >= CORPUS_WORDS_AT_LEAST else 0.0,
    }


def limits(config: HeuristicsConfig, language: str | None) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each measure, in the order in which they are asked; a language of None is taken as known."""
    top, duplicate = config.max_top_ngram_shares, config.max_duplicate_ngram_shares
    found = {
        "words": (config.min_words, config.max_words),
        "mean_word_characters": (config.min_mean_word_characters, config.max_mean_word_characters),
        "hashes_per_word": (0, config.max_symbols_per_word),
        "ellipses_per_word": (0, config.max_symbols_per_word),
        "bullet_line_share": (0, config.max_bullet_line_share),
        "ellipsis_line_share": (0, config.max_ellipsis_line_share),
        "alphabetic_word_share": (config.min_alphabetic_word_share, 1),
        "different_stop_words": (config.min_stop_words, len(config.stop_words)),
        "duplicate_line_share": (0, config.max_duplicate_line_share),
        "duplicate_line_character_share": (0, config.max_duplicate_line_character_share),
        "duplicate_paragraph_share": (0, config.max_duplicate_paragraph_share),
        "duplicate_paragraph_character_share": (0, config.max_duplicate_paragraph_character_share),
        **{f"top_{n}gram_share": (0.0, limit) for n, limit in zip(TOP_NGRAMS, top, strict=True)},
        **{f"duplicate_{n}gram_share": (0.0, limit) for n, limit in zip(DUPLICATE_NGRAMS, duplicate, strict=True)},
        "dirty_word_share": (0, config.max_dirty_word_share),
        "divergence_nats": (-np.inf, config.max_divergence_nats),
    }
    if language is not None and language not in config.word_rule_languages:
        for name in ("mean_word_characters", "alphabetic_word_share", "different_stop_words"):
            del found[name]
    return found


def broken_rule(measured: Mapping[str, float], allowed: Mapping[str, tuple[float, float]]) -> Drop | None:
    """The first rule that a document breaks; its reason is the measure's name."""
    for name, (low, high) in allowed.items():
        value = measured[name]
        if not low <= value <= high:
            bound = f"at least {low:g}" if value < low else f"at most {high:g}"
            return Drop(name.replace("_", " "), f"{value:.4g}, allowed: {bound}")
    return None


def read_dirty_words(given: Outside | None) -> frozenset[str]:
    """The built-in list, or the words of files. Raises InputError for an entry that is not a single word."""
    if given is None:
        return DIRTY_WORDS
    found = [(entry, terms(entry)) for entry in read_list(given)]
    for entry, parts in found:
        if len(parts) != 1:
            raise InputError(given.location, f"{entry!r}", allowed="one word on each line")
    return frozenset(parts[0] for _, parts in found)


def prepare_heuristics(
    config: HeuristicsConfig, is_dirty: frozenset[str], corpus: Mapping[str, Mapping[str, int]], corpus_words: Mapping[str, int]
) -> Judge:
    """The stage on batches of documents; `corpus` holds all their words by language, and `corpus_words` how many these are."""

    def judge(batch: pa.RecordBatch) -> Judged:
        rows, drops, measured = batch.to_pylist(), [], []
        for row in rows:
            language = row.get("language") or ""
            text, n_removed = without_repetitive_lines(config, row["text"])
            found = measures(config, text, is_dirty, corpus[language], corpus_words[language])
            drop = broken_rule(found, limits(config, row.get("language")))
            if drop is None:
                row["text"] = text
            drops.append(drop)
            measured.append({**found, "lines_removed": n_removed})
        schema = pa.schema([(name, pa.float64()) for name in (*limits(config, None), "lines_removed")])
        return Judged(pa.RecordBatch.from_pylist(rows, batch.schema), drops, pa.RecordBatch.from_pylist(measured, schema))

    return judge


def heuristics(config: HeuristicsConfig, *, documents: Run, dirty_words: Outside | None = None, out: Output) -> dict[str, Any]:
    """Remove lines that repeat themselves, then drop documents that break a rule."""
    is_dirty = read_dirty_words(dirty_words)
    file = documents.file(DOCUMENTS)
    corpus: dict[str, Counter[str]] = defaultdict(Counter)  # by language
    columns = [name for name in ("language", "text") if name in pq.read_schema(file).names]
    for row in track(read_documents(documents, columns), "counting words", "documents", count_rows(file) or 0):
        corpus[row.get("language") or ""].update(terms(row["text"]))
    corpus_words = {language: counts.total() for language, counts in corpus.items()}
    n_lines_removed = 0

    def count(judged: Judged) -> None:
        nonlocal n_lines_removed
        if judged.measures is not None:
            n_lines_removed += int(sum(filter(None, judged.measures.column("lines_removed").to_pylist())))

    prepare = partial(prepare_heuristics, config, is_dirty, dict(corpus), corpus_words)
    return judge_documents("heuristics", prepare, documents, out, config.engine, count) | {"lines_removed": n_lines_removed}

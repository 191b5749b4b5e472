"""Heuristic filters: repetition, quality rules, dirty words, outlier tokens (paper 3.1.1).

The paper names three. Duplicated n-gram coverage removes *lines* that repeat themselves, such as logs; counting dirty words
catches adult pages that no block list names; the Kullback-Leibler divergence of a document's words from the corpus's finds too
many outlier tokens. It publishes no threshold. Added are the document rules of Gopher, whose repetition filter the paper cites,
with Gopher's limits, and, off unless asked for, those of C4, FineWeb and ccNet.

First lines are taken out (`line_rules.py`), then the rest of a document is measured. Every rule is a number with a lowest and a
highest value; the first that is broken drops the document, and `measures.parquet` holds all numbers of all documents, so that
limits can be chosen by looking (`dry_run.py`). All rules share one pass that takes a batch of texts apart (`text_batch.py`).
Rules that suppose a language's habits are asked where its row in `word_tables.py` tells them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Output, Outside, Run
from openherd.data.corpus_words import (
    CORPUS_WORDS,
    WordCounts,
    corpus_shares,
    counts_of,
    is_counted,
    read_counts,
    write_counts,
)
from openherd.data.documents import DOCUMENTS, MEASURES, Drop, Judge, Judged
from openherd.data.dry_run import example_lines, rules_with_texts, table_text, write_dry_run
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents, measure_documents, settings_of_run
from openherd.data.line_rules import ELLIPSIS, LINE_RULES, removed_lines, without_citations
from openherd.data.lists import read_list
from openherd.data.repetition import Counting, duplicate_shares, ngram_shares
from openherd.data.text_batch import Floats, TextBatch, integers, shares
from openherd.data.word_tables import DIRTY_WORDS, GOPHER_LENGTHS, WORD_TABLES
from openherd.data.words import terms

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class HeuristicsConfig:
    """Settings of `heuristics`: Gopher's limits (Rae et al. 2021, appendix A) where it has one; the paper publishes none."""

    min_words: Annotated[int, Field(description="fewest words of a document", ge=0)] = 50
    max_words: Annotated[int, Field(description="most words of a document", ge=1)] = 100_000
    min_mean_word_characters: Annotated[
        float, Field(description="mean length of a word, in characters; or a language's own, where that is wider", ge=0)
    ] = 3.0
    max_mean_word_characters: Annotated[float, Field(description="the same at most, in characters", ge=1)] = 10.0
    max_symbols_per_word: Annotated[float, Field(description="'#' per word, and ellipses per word", ge=0)] = 0.1
    bullets: Annotated[tuple[str, ...], Field(description="what a line of a list begins with")] = (
        "•", "‣", "▪", "■", "●", "–", "-", "*",
    )  # fmt: skip
    max_bullet_line_share: Annotated[Share, Field(description="share of lines that begin with a bullet")] = 0.9
    max_ellipsis_line_share: Annotated[Share, Field(description="share of lines that end with an ellipsis")] = 0.3
    min_alphabetic_word_share: Annotated[Share, Field(description="share of words with a letter")] = 0.8
    stop_words: Annotated[
        tuple[str, ...], Field(description="words that running text holds; empty: those of the document's language")
    ] = ()
    min_stop_words: Annotated[int, Field(description="how many different ones of them at least", ge=0)] = 2
    word_rule_languages: Annotated[
        tuple[str, ...],
        Field(description="languages of which the rules on word length, letters and stop words are asked; empty: all with a table"),
    ] = ()

    counting: Annotated[
        Counting, Field(description="shares of repeats: of the words' characters, each once; or as datatrove counts them")
    ] = "covered"
    max_duplicate_line_share: Annotated[Share, Field(description="share of lines that repeat one")] = 0.30
    max_duplicate_line_character_share: Annotated[Share, Field(description="share of characters in those")] = 0.20
    max_duplicate_paragraph_share: Annotated[Share, Field(description="share of paragraphs that repeat one")] = 0.30
    max_duplicate_paragraph_character_share: Annotated[Share, Field(description="share of characters in those")] = 0.20
    max_top_ngram_shares: Annotated[
        tuple[float, float, float], Field(description="share of characters in the most frequent 2-, 3-, 4-gram of words")
    ] = (0.20, 0.18, 0.16)
    max_duplicate_ngram_shares: Annotated[
        tuple[float, float, float, float, float, float],
        Field(description="share of characters in repeats of n-grams of words, n = 5 to 10"),
    ] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.10)

    line_ngram_words: Annotated[int, Field(description="words per n-gram of the line rule; ours", ge=2)] = 3
    min_line_words: Annotated[int, Field(description="a shorter line does not go by its n-grams; ours", ge=2)] = 30
    max_line_ngram_share: Annotated[
        Share, Field(description="a line with a larger share of characters in its own repeated n-grams is removed; ours; 1 = off")
    ] = 0.5

    min_dirty_words: Annotated[
        int, Field(description="fewer dirty words than these drop nothing; ours (C4 drops at one)", ge=1)
    ] = 3
    max_dirty_word_share: Annotated[Share, Field(description="share of words; ours")] = 0.005
    max_divergence_nats: Annotated[
        float, Field(description="Kullback-Leibler divergence of a document's words from those of all others, in nats; ours", gt=0)
    ] = 8.0
    max_outlier_word_share: Annotated[Share, Field(description="share of words that are rare in all others; ours; 1 = off")] = 1.0
    outlier_count: Annotated[int, Field(description="a word that all others have less often is rare; ours", ge=1)] = 2
    min_corpus_words: Annotated[
        int, Field(description="words of a language from which on these two rules are asked; ours", ge=1)
    ] = 100_000
    max_corpus_terms: Annotated[
        int, Field(description="different words that are counted, of all languages; each the most frequent; ours", ge=1_000)
    ] = 1_000_000
    corpus_share: Annotated[float, Field(description="share of documents in which words are counted; ours", gt=0, le=1)] = 1.0

    remove_citations: Annotated[bool, Field(description="C4: marks such as [1] and [edit] are removed")] = False
    remove_unfinished_lines: Annotated[bool, Field(description="C4: lines without an end mark go")] = False
    min_words_per_line: Annotated[int, Field(description="C4 (3): shorter lines go; 0 = off", ge=0)] = 0
    max_word_characters: Annotated[int, Field(description="C4 (1000): lines with a longer word go; 0 = off", ge=0)] = 0
    remove_javascript_lines: Annotated[bool, Field(description="C4: lines with 'javascript' go")] = False
    remove_policy_lines: Annotated[bool, Field(description="C4: lines on terms of use, privacy, cookies go")] = False
    remove_repeated_lines: Annotated[bool, Field(description="ccNet: lines that stood before go, but for case, digits, signs")] = (
        False
    )
    drop_lorem_ipsum: Annotated[bool, Field(description="C4: documents with 'lorem ipsum'")] = False
    drop_curly_brackets: Annotated[bool, Field(description="C4: documents with a '{'; takes all code")] = False
    min_sentences: Annotated[int, Field(description="C4 (5): fewest sentences; 0 = off", ge=0)] = 0
    min_characters: Annotated[int, Field(description="ccNet (300): fewest characters; 0 = off", ge=0)] = 0
    min_end_mark_line_share: Annotated[Share, Field(description="FineWeb (0.12): share of lines that end a sentence; 0 = off")] = (
        0.0
    )
    short_line_characters: Annotated[int, Field(description="FineWeb: a line of no more is short", ge=0)] = 30
    max_short_line_share: Annotated[Share, Field(description="FineWeb (0.67): share of short lines; 1 = off")] = 1.0
    max_repeated_line_character_share: Annotated[
        Share, Field(description="FineWeb (0.01): share of characters in lines that repeat one; 1 = off")
    ] = 1.0
    max_line_breaks_per_word: Annotated[float, Field(description="FineWeb (0.3); 0 = off", ge=0)] = 0.0

    dry_run: Annotated[bool, Field(description="drop nothing, remove no line; dry_run.json tells what each rule would")] = False
    engine: EngineSetting = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        unknown = [language for language in self.word_rule_languages if language not in WORD_TABLES]
        if unknown and self.min_stop_words and not self.stop_words:
            found = f"word_rule_languages: no common words of {unknown[0]!r} are known, so all its documents would go"
            raise ConfigError("heuristics", found, do="give stop_words, or min_stop_words = 0")


NOTHING = r"[^\s\S]"
MARKLESS = r"^[^\p{L}\p{N}\p{M}]+$"  # a word of signs alone
SENTENCE_END = r"""[.!?…。！？।؟۔]["'”’»)\]]*$"""
ABBREVIATION = r"^\W*(\p{Lu}|(\p{L}\.)+\p{L}|[Mm]rs?|[Dd]r|[Pp]rof|[Ss]t|vs|etc|cf|[Ff]ig|[Nn]o|e\.g|i\.e)\.$"
# FineWeb asks for any sentence terminal of Unicode; these are the ones of scripts in use today.
SENTENCE_TERMINAL = r"[.!?։؟۔܀।॥၊။።፧᠃᠉‼‽⁇⁈⁉⸮。．！？｡﹒﹖﹗꓿]$"


def sentences(batch: TextBatch) -> Floats:
    """Sentences of each text: words that end one, and lines that end without."""
    ends = batch.matching_words(SENTENCE_END) & ~batch.matching_words(ABBREVIATION)
    last = np.diff(batch.word_line, append=-1) != 0
    return batch.words_per_text(ends | last)


def quality_measures(config: HeuristicsConfig, batch: TextBatch) -> dict[str, Floats]:
    """What Gopher's quality rules, C4's, FineWeb's and ccNet's look at."""
    n_words = batch.words_per_text()
    characters = batch.word_characters
    filled = batch.is_filled
    n_filled = n_lines = batch.lines_per_text(filled)
    counted = np.ones(len(batch.word_id), np.bool_)
    if config.counting == "datatrove":  # words of signs alone are none, and blank lines are lines
        counted, n_lines = ~batch.matching_words(MARKLESS), batch.lines_per_text()
    per_line = {sign: integers(pc.count_substring(batch.lines, sign)) for sign in ("#", "...", "…", "{")}
    bullet = rf"^\s*({'|'.join(map(re.escape, config.bullets))})" if config.bullets else NOTHING
    lower = pc.utf8_lower(batch.lines)

    def per_word(sign: str) -> Floats:
        return shares(batch.lines_per_text(per_line[sign]), n_words)

    return {
        "words": batch.words_per_text(counted),
        "mean_word_characters": shares(batch.words_per_text(characters * counted), batch.words_per_text(counted)),
        "hashes_per_word": per_word("#"),
        "ellipses_per_word": per_word("...") + per_word("…"),
        "bullet_line_share": shares(batch.lines_per_text(batch.matching_lines(bullet)), n_lines),
        "ellipsis_line_share": shares(batch.lines_per_text(batch.matching_lines(ELLIPSIS)), n_lines),
        "alphabetic_word_share": shares(batch.words_per_text(batch.matching_words(r"\p{L}")), n_words),
        "characters": batch.text_characters,
        "lorem_ipsum": batch.lines_per_text(integers(pc.count_substring(lower, "lorem ipsum"))),
        "curly_brackets": batch.lines_per_text(per_line["{"]),
        "sentences": sentences(batch),
        "end_mark_line_share": shares(batch.lines_per_text(batch.matching_lines(SENTENCE_TERMINAL)), n_filled),
        "short_line_share": shares(
            batch.lines_per_text(filled & (batch.line_characters <= config.short_line_characters)), n_filled
        ),
        "line_breaks_per_word": shares(np.maximum(batch.lines_per_text() - 1, 0), n_words),
    }


def measures(
    config: HeuristicsConfig,
    batch: TextBatch,
    languages: list[str],
    is_dirty: Mapping[str, frozenset[str]],
    corpus: Mapping[str, Mapping[str, int]],
    is_in_corpus: list[bool],
    counted: TextBatch,
) -> dict[str, Floats]:
    """All numbers that the rules look at, by name: one of each text. `counted` are the texts as the corpus's words were counted."""
    found = batch.terms
    n_texts = batch.n_texts
    n_words = batch.words_per_text()
    common, dirty = np.zeros(n_texts), np.zeros(n_texts)
    for language in dict.fromkeys(languages):
        mine = np.array([other == language for other in languages])[found.text]
        table = WORD_TABLES.get(language or "en")
        is_common = frozenset(config.stop_words or (table.common.split() if table else ()))
        if config.counting == "covered":
            is_common = frozenset(term for word in is_common for term in terms(word))
        else:  # the words as they stand
            exact = np.isin(np.array(batch.words.to_pylist(), object), list(is_common))[batch.word_id]
            text = np.unique(np.stack([batch.word_text[exact], batch.word_id[exact]]), axis=1)[0]
            common += np.bincount(text, minlength=n_texts) * np.array([other == language for other in languages])
        if config.counting == "covered":
            common += found.per_text(
                mine & np.array([word in is_common for word in found.vocabulary], np.bool_)[found.term], n_texts
            )
        bad = is_dirty.get(language or "en", frozenset()) | is_dirty.get("", frozenset())
        dirty += found.per_text(
            mine * found.count * np.array([word in bad for word in found.vocabulary], np.bool_)[found.term], n_texts
        )
    divergence, outliers = corpus_shares(
        batch, languages, corpus, is_in_corpus, config.min_corpus_words, config.outlier_count, counted
    )
    return {
        **quality_measures(config, batch),
        "different_stop_words": common,
        **duplicate_shares(batch, config.counting),
        **ngram_shares(batch, config.counting),
        "dirty_word_share": shares(dirty, n_words) * (dirty >= config.min_dirty_words),
        "divergence_nats": divergence,
        "outlier_word_share": outliers,
    }


def has_word_rules(config: HeuristicsConfig, language: str | None) -> bool:
    """Whether the rules that suppose a language's habits are asked; a language of None is taken as known."""
    return language is None or language in (config.word_rule_languages or WORD_TABLES)


def limits(config: HeuristicsConfig, language: str | None) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each measure, in the order in which they are asked."""
    shortest, longest = config.min_mean_word_characters, config.max_mean_word_characters
    table = WORD_TABLES.get(language or "en")
    if table and table.mean_characters != GOPHER_LENGTHS:
        shortest, longest = min(shortest, table.mean_characters[0]), max(longest, table.mean_characters[1])
    names = (*(f"top_{n}gram_share" for n in (2, 3, 4)), *(f"duplicate_{n}gram_share" for n in range(5, 11)))
    ngrams = zip(names, (*config.max_top_ngram_shares, *config.max_duplicate_ngram_shares), strict=True)
    found = {
        "words": (config.min_words, config.max_words),
        "mean_word_characters": (shortest, longest),
        "hashes_per_word": (0, config.max_symbols_per_word),
        "ellipses_per_word": (0, config.max_symbols_per_word),
        "bullet_line_share": (0, config.max_bullet_line_share),
        "ellipsis_line_share": (0, config.max_ellipsis_line_share),
        "alphabetic_word_share": (config.min_alphabetic_word_share, 1),
        "different_stop_words": (config.min_stop_words, np.inf),
        "duplicate_line_share": (0, config.max_duplicate_line_share),
        "duplicate_line_character_share": (0, config.max_duplicate_line_character_share),
        "duplicate_paragraph_share": (0, config.max_duplicate_paragraph_share),
        "duplicate_paragraph_character_share": (0, config.max_duplicate_paragraph_character_share),
        **{name: (0.0, limit) for name, limit in ngrams},
        "dirty_word_share": (0, config.max_dirty_word_share),
        "divergence_nats": (-np.inf, config.max_divergence_nats),
        "outlier_word_share": (0, config.max_outlier_word_share),
        "lorem_ipsum": (0, 0 if config.drop_lorem_ipsum else np.inf),
        "curly_brackets": (0, 0 if config.drop_curly_brackets else np.inf),
        "sentences": (config.min_sentences, np.inf),
        "characters": (config.min_characters, np.inf),
        "end_mark_line_share": (config.min_end_mark_line_share, 1),
        "short_line_share": (0, config.max_short_line_share),
        "repeated_line_character_share": (0, config.max_repeated_line_character_share),
        "line_breaks_per_word": (0, config.max_line_breaks_per_word or np.inf),
    }
    if not has_word_rules(config, language):
        for name in ("mean_word_characters", "alphabetic_word_share", "different_stop_words"):
            del found[name]
    return found


def limit_settings() -> set[str]:
    """The settings that `limits` reads; with the others documents are measured."""
    read: set[str] = set()

    class Reader:
        def __getattr__(self, name: str) -> Any:
            read.add(name)
            return getattr(HeuristicsConfig(), name)

    reader: Any = Reader()
    limits(reader, "en")
    return read


def broken_rule(measured: Mapping[str, float], allowed: Mapping[str, tuple[float, float]]) -> Drop | None:
    """The first rule that a document breaks; its reason is the measure's name."""
    for name, (low, high) in allowed.items():
        value = measured[name]
        if not low <= value <= high:
            bound = f"at least {low:g}" if value < low else f"at most {high:g}"
            return Drop(name.replace("_", " "), f"{value:.4g}, allowed: {bound}")
    return None


def read_dirty_words(given: Outside | None) -> dict[str, frozenset[str]]:
    """The built-in lists by language, or those of files; a file such as de.txt is of a language, another of all ("").

    Raises InputError for an entry that is not a single word.
    """
    if given is None:
        return {language: frozenset(words.split()) for language, words in DIRTY_WORDS.items()}
    found: dict[str, frozenset[str]] = {}
    for name in given.files():
        language = PurePosixPath(name).name.split(".")[0]
        key = language if re.fullmatch("[a-z]{2,3}", language) else ""
        entries = [(entry, terms(entry)) for entry in read_list(Outside(name))]
        for entry, parts in entries:
            if len(parts) != 1:
                raise InputError(name, f"{entry!r}", allowed="one word on each line")
        found[key] = found.get(key, frozenset()) | {parts[0] for _, parts in entries}
    return found


def prepare_heuristics(config: HeuristicsConfig, is_dirty: Mapping[str, frozenset[str]], corpus_file: str) -> Judge:
    """The stage on batches of documents; `corpus_file` holds the counts of the corpus's words."""
    corpus = read_counts(corpus_file)

    def judge(batch: pa.RecordBatch) -> Judged:
        texts = batch.column("text")
        languages = batch.column("language").to_pylist() if "language" in batch.schema.names else [None] * len(batch)
        took_apart = TextBatch.of(without_citations(texts) if config.remove_citations else texts)
        gone = removed_lines(config, took_apart)
        keep = ~np.any(list(gone.values()), axis=0)
        left = took_apart.keeping(keep)
        is_in = [is_counted(name, config.corpus_share) for name in batch.column("id").to_pylist()]
        measured = measures(config, left, [language or "" for language in languages], is_dirty, corpus, is_in, took_apart)
        removed = {name: took_apart.lines_per_text(lines) for name, lines in gone.items()}
        columns = {"language": languages, **measured, **removed, "lines_removed": took_apart.lines_per_text(~keep)}
        allowed = {language: limits(config, language) for language in dict.fromkeys(languages)}
        rows = [dict(zip(measured, values)) for values in zip(*(column.tolist() for column in measured.values()))]
        drops = [broken_rule(row, allowed[language]) for row, language in zip(rows, languages)]
        told = pa.RecordBatch.from_pydict(columns, MEASURES_SCHEMA)
        if config.dry_run:
            return Judged(batch, [None] * len(batch), told)
        if config.remove_citations or not keep.all():
            changed = [text if drop is None else old for text, old, drop in zip(left.texts(), texts.to_pylist(), drops)]
            place = batch.schema.get_field_index("text")
            batch = batch.set_column(place, batch.schema.field(place), pa.array(changed, pa.string()))
        return Judged(batch, drops, told)

    return judge


MEASURED = (*limits(HeuristicsConfig(), None), *LINE_RULES, "lines_removed")
MEASURES_SCHEMA = pa.schema([("language", pa.string()), *((name, pa.float64()) for name in MEASURED)])


COUNTS_SCHEMA = pa.schema(
    [("language", pa.string()), ("words", pa.list_(pa.string())), ("counts", pa.list_(pa.int64()))],
)


def prepare_counting(config: HeuristicsConfig) -> Judge:
    """The words of batches of documents before lines are taken out: those of each language stand at the first of its documents."""

    def judge(batch: pa.RecordBatch) -> Judged:
        is_in = [is_counted(name, config.corpus_share) for name in batch.column("id").to_pylist()]
        languages = batch.column("language").to_pylist() if "language" in batch.schema.names else [None] * len(batch)
        names = [language or "" for language, is_one in zip(languages, is_in) if is_one]
        texts = batch.column("text").filter(pa.array(is_in, pa.bool_()))
        texts = without_citations(texts) if config.remove_citations else texts
        found = {language: (words, n) for language, words, n in counts_of(names, texts)}
        first = [found.pop(language or "", ([], [])) if is_one else ([], []) for language, is_one in zip(languages, is_in)]
        columns = {
            "language": [language or "" for language in languages],
            "words": [w for w, _ in first],
            "counts": [n for _, n in first],
        }
        return Judged(batch.select(["id"]), [None] * len(batch), pa.RecordBatch.from_pydict(columns, COUNTS_SCHEMA))

    return judge


def corpus_counts(config: HeuristicsConfig, documents: Run, out: Output) -> dict[str, Counter[str]]:
    """The words of all documents by language."""
    counts = WordCounts(config.max_corpus_terms)
    for counted in measure_documents("counting words", partial(prepare_counting, config), documents, out, config.engine):
        for language, words, n in zip(*(column.to_pylist() for column in counted.columns)):
            if words:
                counts.add(language, words, n)
    return counts.most_common()


def heuristics(config: HeuristicsConfig, *, documents: Run, dirty_words: Outside | None = None, out: Output) -> dict[str, Any]:
    """Remove lines that break a line rule, then drop documents that break a rule."""
    is_dirty = read_dirty_words(dirty_words)
    with out.write(CORPUS_WORDS) as path:
        write_counts(path, corpus_counts(config, documents, out))
    removed, without_rules = Counter[str](), Counter[str]()

    def count(judged: Judged) -> None:
        assert judged.measures is not None
        for name in (*LINE_RULES, "lines_removed"):
            removed[name] += int(pc.sum(judged.measures.column(name)).as_py() or 0)
        languages: Sequence[str | None] = (
            judged.batch.column("language").to_pylist() if "language" in judged.batch.schema.names else []
        )
        without_rules.update(language or "" for language in languages if not has_word_rules(config, language))

    prepare = partial(prepare_heuristics, config, is_dirty, str(out.path / CORPUS_WORDS))
    metrics = judge_documents("heuristics", prepare, documents, out, config.engine, count)
    if config.dry_run:
        write_dry_run(partial(limits, config), documents, out)
    return metrics | {
        "lines_removed": removed.pop("lines_removed"),
        "lines_removed_by_rule": {name: n for name, n in removed.items() if n},
        "without_word_rules": dict(sorted(without_rules.items())),
    }


def dry_run_text(run: Run, changes: Mapping[str, Any], documents: Run | None = None) -> str:
    """What each limit of a finished run, or another one, would drop, as a table and examples; nothing is measured again.

    `documents` are those that it measured, where it does not name them.
    """
    if (stage := run.manifest["stage"]) != "heuristics":
        raise InputError(run.path, f"a run of {stage}", allowed="a finished run of heuristics")
    config = settings_of_run(HeuristicsConfig, run, changes)
    if others := sorted(changes.keys() - limit_settings()):
        what = f"{others[0]!r} is no limit: documents were measured with it"
        raise ConfigError("--set", what, allowed="limits, such as min_words", do="run heuristics with it")
    measured = documents or run.input("documents")
    found = rules_with_texts(run.file(MEASURES), measured.file(DOCUMENTS), partial(limits, config))
    return "\n".join([table_text(found), *example_lines(found)])

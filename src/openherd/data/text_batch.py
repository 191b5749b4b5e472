"""Many texts taken apart once: lines, words and terms as arrays that all heuristics share (paper 3.1.1).

A text is its lines, a line its words (`words.words`). Equal words share a number, so that what a rule asks of a word is asked once
per distinct word; a line or a word knows its text by number. Lines can be taken away afterwards without a second look at the text.
`words.py` holds the same views one text at a time, and is the tests' oracle.
"""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from openherd.data.words import SPACELESS, terms

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_terms_of_word = lru_cache(maxsize=500_000)(lambda word: tuple(terms(word)))


@dataclass(frozen=True)
class TextBatch:
    """Texts as arrays; made by `of`."""

    n_texts: int
    lines: pa.StringArray  # as they stand, without the line breaks
    stripped: pa.StringArray  # the lines without blanks at their ends
    line_text: Integers  # the text that a line is of, ascending
    words: pa.StringArray  # the distinct words
    word_id: Integers  # an index into `words` for each place
    word_line: Integers  # the line that a place is in, ascending

    @classmethod
    def of(cls, texts: pa.StringArray) -> "TextBatch":
        """Take texts apart."""
        by_text = pc.split_pattern(texts, "\n")
        lines = by_text.flatten()
        line_text = np.repeat(np.arange(len(texts)), integers(pc.list_value_length(by_text)))
        spaced = stripped = pc.utf8_trim_whitespace(lines)
        if not pc.all(pc.string_is_ascii(lines)).as_py():
            # Trimmed again: Arrow 26 reads beyond the last string's end to split it where it ends with a blank.
            spaced = pc.utf8_trim_whitespace(pc.replace_substring_regex(stripped, f"([{SPACELESS}])", r" \1 "))
        by_line = pc.utf8_split_whitespace(spaced)
        places = by_line.flatten()
        word_line = np.repeat(np.arange(len(lines)), integers(pc.list_value_length(by_line)))
        filled = flags(pc.greater(pc.binary_length(places), 0))
        coded = places.filter(pa.array(filled)).dictionary_encode()
        return cls(len(texts), lines, stripped, line_text, coded.dictionary, integers(coded.indices), word_line[filled])

    def keeping(self, lines: Flags) -> "TextBatch":
        """The batch without the lines that the flags take away."""
        if lines.all():
            return self
        places = lines[self.word_line]
        number = np.cumsum(lines) - 1
        return replace(
            self,
            lines=self.lines.filter(pa.array(lines)),
            stripped=self.stripped.filter(pa.array(lines)),
            line_text=self.line_text[lines],
            word_id=self.word_id[places],
            word_line=number[self.word_line[places]],
        )

    def texts(self) -> list[str]:
        """The texts, from their lines."""
        lines = self.lines.to_pylist()
        ends = np.searchsorted(self.line_text, np.arange(self.n_texts + 1))
        return ["\n".join(lines[a:b]) for a, b in itertools.pairwise(ends)]

    @cached_property
    def word_text(self) -> Integers:
        """The text that a place is in."""
        return self.line_text[self.word_line]

    @cached_property
    def characters_of_word(self) -> Integers:
        """Characters of each distinct word."""
        return integers(pc.utf8_length(self.words))

    @cached_property
    def word_characters(self) -> Integers:
        """Characters of the word at each place."""
        return self.characters_of_word[self.word_id]

    @cached_property
    def line_characters(self) -> Integers:
        """Characters of each line."""
        return integers(pc.utf8_length(self.lines))

    @cached_property
    def is_filled(self) -> Flags:
        """Which lines have more than blanks."""
        return flags(pc.greater(pc.binary_length(self.stripped), 0))

    def lines_per_text(self, which: npt.NDArray[np.generic] | None = None) -> Floats:
        """Lines of each text, those flagged, or the sum of what is given for each line."""
        return np.bincount(self.line_text, None if which is None else which.astype(np.float64), self.n_texts).astype(np.float64)

    def words_per_text(self, which: npt.NDArray[np.generic] | None = None) -> Floats:
        """Words of each text, those flagged, or the sum of what is given for each place."""
        return np.bincount(self.word_text, None if which is None else which.astype(np.float64), self.n_texts).astype(np.float64)

    def words_per_line(self, which: npt.NDArray[np.generic] | None = None) -> Floats:
        """Words of each line, those flagged, or the sum of what is given for each place."""
        weights = None if which is None else which.astype(np.float64)
        return np.bincount(self.word_line, weights, len(self.lines)).astype(np.float64)

    @cached_property
    def text_characters(self) -> Floats:
        """Characters of each text, with its blanks and line breaks."""
        return self.lines_per_text(self.line_characters) + np.maximum(self.lines_per_text() - 1, 0)

    def matching_lines(self, pattern: str) -> Flags:
        """The lines that an expression (RE2) finds something in."""
        return flags(pc.match_substring_regex(self.lines, pattern))

    def matching_words(self, pattern: str) -> Flags:
        """The places whose word an expression (RE2) finds something in."""
        return flags(pc.match_substring_regex(self.words, pattern))[self.word_id]

    @cached_property
    def terms(self) -> "TermCounts":
        """How often each text has which term."""
        vocabulary: dict[str, int] = {}
        used = np.zeros(len(self.words), np.bool_)
        used[self.word_id] = True
        of_word = [_terms_of_word(word) if there else () for word, there in zip(self.words.to_pylist(), used)]
        n_terms = np.fromiter(map(len, of_word), np.int64, len(of_word))
        flat = np.array([vocabulary.setdefault(term, len(vocabulary)) for found in of_word for term in found], np.int64)
        start = np.cumsum(n_terms) - n_terms
        times = n_terms[self.word_id]
        first = np.repeat(start[self.word_id] - (np.cumsum(times) - times), times)
        places = flat[first + np.arange(times.sum())]
        keys, counts = np.unique(np.repeat(self.word_text, times) * max(len(vocabulary), 1) + places, return_counts=True)
        text, term = np.divmod(keys, max(len(vocabulary), 1))
        return TermCounts(list(vocabulary), text, term, counts)


@dataclass(frozen=True)
class TermCounts:
    """Terms of texts: the vocabulary, and a row for each text and term that it has, in order of text."""

    vocabulary: list[str]
    text: Integers
    term: Integers  # an index into `vocabulary`
    count: Integers

    def per_text(self, weights: npt.NDArray[np.generic], n_texts: int) -> Floats:
        """The sum of what is given for each row."""
        return np.bincount(self.text, weights.astype(np.float64), n_texts).astype(np.float64)


def integers(array: pa.Array) -> Integers:
    """An Arrow array without nulls, as NumPy's."""
    return array.to_numpy(zero_copy_only=False).astype(np.int64)


def flags(array: pa.Array) -> Flags:
    """An Arrow array of truth values without nulls, as NumPy's."""
    found: Flags = array.to_numpy(zero_copy_only=False).astype(np.bool_)
    return found


def shares(parts: Floats, wholes: Floats) -> Floats:
    """Parts by wholes; 0 where the whole is nothing."""
    return parts / np.where(wholes > 0, wholes, 1) * (wholes > 0)

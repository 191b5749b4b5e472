"""Repetition inside a text: lines, paragraphs, n-grams of words (paper 3.1.1; Gopher, Rae et al. 2021, A).

A repeat is any occurrence but the first. Two ways of counting exist. `covered`: the share of the words' characters, blanks left
out, that repeats cover, each character once. `datatrove`: as that library counts, for those whose limits were chosen with it:
shares of all characters of the text, the most frequent n-gram by its length times its count where it overlaps itself too, and
repeats of long n-grams by one walk from left to right that passes over each repeat it finds.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from openherd.data.text_batch import Flags, Floats, Integers, TextBatch, integers, shares

Counting = Literal["covered", "datatrove"]

TOP_NGRAMS = (2, 3, 4)
DUPLICATE_NGRAMS = (5, 6, 7, 8, 9, 10)
NGRAM_MEASURES = (*(f"top_{n}gram_share" for n in TOP_NGRAMS), *(f"duplicate_{n}gram_share" for n in DUPLICATE_NGRAMS))
_ODD = np.uint64(0x9E3779B97F4A7C15)


def repeated(values: Integers) -> tuple[Integers, Integers]:
    """A label for each value that equal ones share (-1: stands once), and each label's first place."""
    _, first, inverse, counts = np.unique(values, return_index=True, return_inverse=True, return_counts=True)
    again = counts > 1
    return np.where(again, np.cumsum(again) - 1, -1)[inverse], first[again]


def repeated_ngrams(ids: Integers, group: Integers, longest: int) -> Iterator[tuple[int, Integers, Integers]]:
    """For n = 2 .. longest: n, a label for each place that equal n-grams of a group share (-1: stands once), and each label's
    first place.

    Groups (texts, lines) stand one after the other. An n-gram is the pair of (n-1)-grams that overlap in it, and can stand twice
    only if both of those do; one that reaches over the end of a group stands once, since labels are of one group.
    """
    labels, first = repeated(group * (ids.max(initial=0) + 1) + ids)
    for n in range(2, longest + 1):
        left, right = labels[:-1], labels[1:]
        places = np.flatnonzero((left >= 0) & (right >= 0))
        found, where = repeated(left[places] * (len(first) + 1) + right[places])
        labels = np.full(max(len(labels) - 1, 0), -1, np.int64)
        labels[places] = found
        first = places[where]
        yield n, labels, first


def covering(starts: Integers, n: int, n_places: int) -> Flags:
    """The places that n-grams at `starts` cover."""
    edges = np.bincount(starts, minlength=n_places + 1) - np.bincount(starts + n, minlength=n_places + 1)
    return np.cumsum(edges[:-1]) > 0


def repeats(labels: Integers, first: Integers) -> Integers:
    """Where an n-gram stands that stood before."""
    again = labels >= 0
    again[first] = False
    return np.flatnonzero(again)


def passed_over(labels: Integers, n: int) -> Integers:
    """Where a walk from left to right finds an n-gram that it met before; it goes on behind each one found."""
    places = np.flatnonzero(labels >= 0)
    seen: set[int] = set()
    found, behind = [], 0
    for place, label in zip(places.tolist(), labels[places].tolist()):
        if place < behind:
            continue
        if label in seen:
            found.append(place)
            behind = place + n
        else:
            seen.add(label)
    return np.array(found, np.int64)


def ngram_shares(batch: TextBatch, counting: Counting) -> dict[str, Floats]:
    """Characters in the most frequent short n-gram, and in repeats of long ones, as shares."""
    lengths, text, n_texts = batch.word_characters, batch.word_text, batch.n_texts
    ends = np.concatenate([[0], np.cumsum(lengths)])
    whole = batch.words_per_text(lengths) if counting == "covered" else batch.text_characters
    found = {name: np.zeros(n_texts) for name in NGRAM_MEASURES}

    def share(covered: Flags) -> Floats:
        return shares(batch.words_per_text(covered * lengths), whole)

    for n, labels, first in repeated_ngrams(batch.word_id, text, max(DUPLICATE_NGRAMS)):
        if n in DUPLICATE_NGRAMS:
            starts = repeats(labels, first) if counting == "covered" else passed_over(labels, n)
            found[f"duplicate_{n}gram_share"] = share(covering(starts, n, len(lengths)))
        elif n in TOP_NGRAMS:
            counts = np.bincount(labels[labels >= 0], minlength=len(first))
            characters = ends[first + n] - ends[first]
            # The last of a text's labels in this order: the most frequent; of equals the longest where covered, then the first.
            length = characters if counting == "covered" else np.zeros_like(characters)
            order = np.lexsort((-first, length, counts, text[first]))
            top = order[np.flatnonzero(np.diff(text[first][order], append=-1))]
            if counting == "covered":
                places = np.flatnonzero(np.isin(labels, top))
                found[f"top_{n}gram_share"] = share(covering(places, n, len(lengths)))
            else:
                found[f"top_{n}gram_share"] = shares(top_characters(batch, n, ends, first[top], counts[top]), whole)
    return found


def top_characters(batch: TextBatch, n: int, ends: Integers, first: Integers, counts: Integers) -> Floats:
    """Characters of each text's most frequent n-gram, times its count; where none stands twice, the first one's."""
    n_words = batch.words_per_text().astype(np.int64)
    begins = np.cumsum(n_words) - n_words
    has_any = np.flatnonzero(n_words >= n)
    found = np.zeros(batch.n_texts)
    found[has_any] = ends[begins[has_any] + n] - ends[begins[has_any]] + n - 1
    found[batch.word_text[first]] = (ends[first + n] - ends[first] + n - 1) * counts
    return found


def line_ngram_shares(batch: TextBatch, lines: Flags, n: int) -> Floats:
    """Duplicated n-gram coverage of each line asked for: the share of its words' characters in n-grams that stood before in it."""
    places = lines[batch.word_line]
    if not places.any():
        return np.zeros(len(batch.lines))
    line, lengths = batch.word_line[places], batch.word_characters[places]
    *_, (_, labels, first) = repeated_ngrams(batch.word_id[places], line, n)
    covered = covering(repeats(labels, first), n, len(lengths)) * lengths
    n_lines = len(batch.lines)
    return shares(np.bincount(line, covered, n_lines).astype(np.float64), np.bincount(line, lengths, n_lines).astype(np.float64))


def later_equals(keys: Integers, text: Integers) -> Flags:
    """Which keys stood before in their text."""
    _, first = np.unique(text * (keys.max(initial=0) + 1) + keys, return_index=True)
    again = np.ones(len(keys), np.bool_)
    again[first] = False
    return again


def duplicate_shares(batch: TextBatch, counting: Counting) -> dict[str, Floats]:
    """Shares of lines and paragraphs, and of their characters, that repeat an earlier one; blank lines are none."""
    filled = np.flatnonzero(batch.is_filled)
    as_it_stands = integers(batch.lines.dictionary_encode().indices)[filled]
    line_text, raw_characters = batch.line_text[filled], batch.line_characters[filled]
    n_texts = batch.n_texts

    def per_text(text: Integers, weights: Integers | None = None) -> Floats:
        return np.bincount(text, weights, n_texts).astype(np.float64)

    if counting == "covered":
        keys = integers(batch.stripped.dictionary_encode().indices)[filled]
        characters = integers(pc.utf8_length(batch.stripped))[filled]
    else:
        keys, characters = as_it_stands, raw_characters
    again = later_equals(keys, line_text)
    whole = per_text(line_text, characters) if counting == "covered" else batch.text_characters
    raw_again = later_equals(as_it_stands, line_text)
    found = {
        "duplicate_line_share": shares(per_text(line_text[again]), per_text(line_text)),
        "duplicate_line_character_share": shares(per_text(line_text[again], characters[again]), whole),
        # FineWeb's: of all characters but line breaks
        "repeated_line_character_share": shares(
            per_text(line_text[raw_again], raw_characters[raw_again]), batch.lines_per_text(batch.line_characters)
        ),
    }
    # A paragraph is a run of lines that are not blank; its key is a 64-bit hash of them.
    begins = np.flatnonzero((np.diff(filled, prepend=-2) > 1) | (np.diff(line_text, prepend=-1) > 0))
    if not len(begins):
        return found | {"duplicate_paragraph_share": np.zeros(n_texts), "duplicate_paragraph_character_share": np.zeros(n_texts)}
    n_lines = np.diff(begins, append=len(filled))
    position = np.arange(len(filled)) - np.repeat(begins, n_lines)
    power = np.multiply.accumulate(np.full(int(n_lines.max()), _ODD))[position]
    hashes = np.add.reduceat((as_it_stands.astype(np.uint64) * np.uint64(2) + np.uint64(1)) * power, begins)
    text = line_text[begins]
    sizes = np.add.reduceat(raw_characters, begins) + n_lines - 1
    again = later_equals(np.unique(hashes, return_inverse=True)[1].astype(np.int64), text)
    whole = per_text(text, sizes) if counting == "covered" else batch.text_characters
    return found | {
        "duplicate_paragraph_share": shares(per_text(text[again]), per_text(text)),
        "duplicate_paragraph_character_share": shares(per_text(text[again], sizes[again]), whole),
    }

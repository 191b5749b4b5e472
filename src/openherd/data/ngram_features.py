"""Hashed word and character n-grams of texts, for linear classifiers (paper 3.1.1).

A text is lower-cased and becomes a set of bucket numbers: its runs of words, and its runs of characters with blanks run together.
A word is a run of letters, digits and marks; each character of a script without spaces is a word, and so is each sign, which tell
code and mathematics from prose. All texts of a batch lie in one array of code points, and the hash of any stretch of it is a
difference of two prefix sums: sum of (c_j + 1) K^(j - start) modulo 2^64. `slow_features` says the same without arrays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import numpy as np
import numpy.typing as npt
import regex
from pydantic import Field

from openherd.data.words import SPACELESS

Buckets = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]

BLANK, WORD, SIGN = 0, 1, 2  # what a character is: of a run, or a word by itself
MASK = 2**64 - 1
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
INVERSE = pow(BASE, -1, 2**64)
NEXT_WORD = 0xD1B54A32D192ED03
SPREAD = 0xBF58476D1CE4E5B9
CHARACTERS_AT_ONCE = 1 << 18  # of a batch's arrays, which so stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class NgramConfig:
    """Which n-grams; all ours. fastText's supervised default is single words without characters, in 2 million buckets."""

    word_ngrams: Annotated[int, Field(description="longest run of words", ge=0, le=8)] = 2
    min_characters: Annotated[int, Field(description="shortest run of characters", ge=1, le=16)] = 3
    max_characters: Annotated[int, Field(description="longest run of characters; 0 = none", ge=0, le=16)] = 5
    bucket_bits: Annotated[int, Field(description="log2 of the number of buckets", ge=8, le=28)] = 20
    text_characters: Annotated[int, Field(description="characters of a text that are read; 0 = all", ge=0)] = 0


@cache
def character_classes() -> npt.NDArray[np.uint8]:
    """What each code point is: BLANK, WORD or SIGN."""
    every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000))))  # without surrogates
    kinds = np.full(0x110000, SIGN, np.uint8)

    def mark(pattern: str, kind: int) -> None:
        for found in regex.finditer(pattern, every):
            first, last = ord(found[0][0]), ord(found[0][-1])
            kinds[first : last + 1] = kind

    mark(r"\w+", WORD)
    mark(f"[{SPACELESS}]+", SIGN)
    mark(r"[\s\p{Cc}\p{Z}]+", BLANK)
    return kinds


@cache
def powers(n: int, base: int) -> Hashes:
    """base^0 to base^(n-1) modulo 2^64; n is a power of two, so that few are kept."""
    table = np.full(n, base, np.uint64)
    table[0] = 1
    return np.cumprod(table, dtype=np.uint64)


def bucket_of(hashes: Hashes, kind: int, bits: int) -> Buckets:
    """The buckets of hashes; `kind` keeps n-grams of another length or sort apart."""
    return (((hashes + np.uint64(kind * NEXT_WORD & MASK)) * np.uint64(SPREAD)) >> np.uint64(64 - bits)).astype(np.uint32)


def prepared(text: str, config: NgramConfig) -> str:
    """The text as it is read: cut, lower-cased, with a blank at both ends."""
    return f" {(text[: config.text_characters] if config.text_characters else text).lower()} "


def in_batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts, as many at once as CHARACTERS_AT_ONCE hold, at least one."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def features(texts: Sequence[str], config: NgramConfig) -> list[Buckets]:
    """For each text the buckets of its n-grams, in order, each once."""
    return [found for batch in in_batches([prepared(text, config) for text in texts]) for found in _of_batch(batch, config)]


def _of_batch(texts: Sequence[str], config: NgramConfig) -> Iterator[Buckets]:
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    ends = np.cumsum([len(text) for text in texts])
    kinds = character_classes()[codes]
    blank = kinds == BLANK
    kept = ~(blank[1:] & blank[:-1])
    kept = np.concatenate(([True], kept))
    kept[ends[:-1]] = True  # the blanks at a border belong to two texts
    codes = np.where(blank, np.uint32(32), codes)[kept]
    kinds = kinds[kept]
    ends = np.cumsum(kept)[ends - 1]
    starts = np.concatenate(([0], ends[:-1]))
    n = len(codes)
    size = 1 << max(n, CHARACTERS_AT_ONCE).bit_length()
    forward, back = powers(size, BASE), powers(size, INVERSE)
    sums = np.empty(n + 1, np.uint64)
    sums[0] = 0
    np.cumsum((codes + np.uint64(1)) * forward[:n], out=sums[1:])
    parts: list[tuple[Buckets, npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    if config.max_characters:
        for k in range(config.min_characters, min(config.max_characters, n) + 1):
            hashes = (sums[k:] - sums[:-k]) * back[: n + 1 - k]
            parts.append((bucket_of(hashes, k, config.bucket_bits), starts, np.maximum(ends - k + 1, starts)))
    if config.word_ngrams:
        is_word = kinds == WORD
        begins = is_word.copy()
        begins[1:] &= ~is_word[:-1]
        finishes = is_word.copy()
        finishes[:-1] &= ~is_word[1:]
        sign = kinds == SIGN
        first = np.flatnonzero(begins | sign)
        last = np.flatnonzero(finishes | sign) + 1
        words = scrambled((sums[last] - sums[first]) * back[first])
        word_starts, word_ends = np.searchsorted(first, starts), np.searchsorted(first, ends)
        hashes = words
        for k in range(1, min(config.word_ngrams, len(words)) + 1):
            if k > 1:
                hashes = hashes[:-1] * np.uint64(NEXT_WORD) + words[k - 1 :]
            parts.append((bucket_of(hashes, -k, config.bucket_bits), word_starts, np.maximum(word_ends - k + 1, word_starts)))
    for i in range(len(texts)):
        found = np.concatenate([np.empty(0, np.uint32), *(buckets[a[i] : b[i]] for buckets, a, b in parts)])
        found.sort()
        yield found[np.concatenate(([True], found[1:] != found[:-1]))] if len(found) else found


def scrambled(hashes: Hashes) -> Hashes:
    """Words' hashes mixed once more, so that a run of words is no linear function of its characters."""
    mixed: Hashes = (hashes ^ (hashes >> np.uint64(31))) * np.uint64(SPREAD)
    return mixed ^ (mixed >> np.uint64(29))


def slow_features(text: str, config: NgramConfig) -> set[int]:
    """The same buckets, worked out one n-gram at a time."""
    kinds = character_classes()
    text = regex.sub(r"[\s\p{Cc}\p{Z}]+", " ", prepared(text, config))

    def stretch(part: str) -> int:
        return sum((ord(c) + 1) * pow(BASE, j, 2**64) for j, c in enumerate(part)) & MASK

    def scramble(value: int) -> int:
        value = ((value ^ (value >> 31)) * SPREAD) & MASK
        return value ^ (value >> 29)

    def bucket(value: int, kind: int) -> int:
        return ((((value + kind * NEXT_WORD) & MASK) * SPREAD) & MASK) >> (64 - config.bucket_bits)

    found = set()
    for k in range(config.min_characters, config.max_characters + 1):
        found |= {bucket(stretch(text[i : i + k]), k) for i in range(len(text) - k + 1)}
    words: list[str] = []
    before = BLANK
    for c in text:
        kind = kinds[ord(c)]
        if kind == WORD and before == WORD:
            words[-1] += c
        elif kind != BLANK:
            words.append(c)
        before = kind
    values = [scramble(stretch(word)) for word in words]
    for k in range(1, config.word_ngrams + 1):
        for i in range(len(values) - k + 1):
            value = 0
            for j in range(k):
                value = (value * NEXT_WORD + values[i + j]) & MASK
            found.add(bucket(value, -k))
    return found

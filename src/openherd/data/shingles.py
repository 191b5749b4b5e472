"""Terms and shingles: what near-duplicates are compared by (paper 3.1.1).

A text is normalised (case, punctuation and blanks, each by choice), cut into terms, and becomes the set of its shingles: runs of n
terms, each a 64-bit number mixed from the terms' xxHash. Scripts written without spaces (Chinese, Japanese, Thai, Lao, Khmer and
Burmese) have each character as a term, so that their shingles are character n-grams. All is a function of the text and of the
settings: no salted hash, no order of documents.

`minhash.cpp` does the same for a column of texts, equal to the last bit and some twenty times as fast. Without a compiler the
functions here do the work.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import regex
import xxhash

from openherd.core.compiled import Compiled
from openherd.data.words import SPACELESS

Hashes = npt.NDArray[np.uint64]  # sorted, distinct
Numbers = npt.NDArray[np.signedinteger[Any]]

MULTIPLIER = 0x9E3779B97F4A7C15  # odd: the golden ratio in 64 bits, splitmix64's increment
MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64's finaliser
JOINED, ALONE, BLANK, LETTER = 1, 2, 4, 8  # of a character, as in the kernel's source
CODE_POINTS, SURROGATES = 0x110000, range(0xD800, 0xE000)

library = Compiled(Path(__file__).with_name("minhash.cpp"), "-O3", "-march=native")
WORTH_COMPILING = 20_000_000  # bytes of text, for which the functions here take as long as a compiler


def load_kernel(n_bytes: int) -> None:
    """Use the kernel where it is compiled already, or worth compiling for so much text."""
    if n_bytes >= WORTH_COMPILING or library.path.exists():
        library.load()


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What makes no difference between two texts."""

    case: bool = True
    punctuation: bool = True  # else each mark is a term of its own
    blanks: bool = True  # else each blank and line break is


def _alone(normalised: Normalisation) -> str:
    marks = "" if normalised.punctuation else r"[^\w\s]"
    blanks = "" if normalised.blanks else r"\s"
    return f"[{SPACELESS}{marks}{blanks}]"


@cache
def _term(normalised: Normalisation) -> Any:
    return regex.compile(rf"{_alone(normalised)}|[\w--[{SPACELESS}]]+", regex.V1)


def terms_of(text: str, normalised: Normalisation) -> list[str]:
    """The terms of a text."""
    found: list[str] = _term(normalised).findall(text.casefold() if normalised.case else text)
    return found


def mixed(values: Hashes) -> Hashes:
    """Numbers spread over all of 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(MIX[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(MIX[1])
    return values ^ (values >> np.uint64(31))


def hashed(terms: Sequence[str]) -> npt.NDArray[np.uint64]:
    """A number for each term."""
    return np.fromiter((xxhash.xxh64_intdigest(term.encode()) for term in terms), np.uint64, len(terms))


def digests_of(hashes: npt.NDArray[np.uint64]) -> tuple[int, int]:
    """128 bits that stand for terms in their order."""
    given = hashes.tobytes()
    return xxhash.xxh64_intdigest(given, seed=0), xxhash.xxh64_intdigest(given, seed=1)


def shingled(hashes: npt.NDArray[np.uint64], n: int) -> Hashes:
    """The distinct n-term shingles of hashed terms as sorted numbers; a shorter text is one shingle, an empty one none."""
    width = min(n, len(hashes))
    if width == 0:
        return hashes
    total = np.zeros(len(hashes) - width + 1, np.uint64)
    for i in range(width):
        total = total * np.uint64(MULTIPLIER) + hashes[i : len(hashes) - width + 1 + i]
    return np.unique(mixed(total))


def shingles(terms: Sequence[str], n: int) -> Hashes:
    """The distinct n-term shingles of terms as sorted numbers."""
    return shingled(hashed(terms), n)


class Column(NamedTuple):
    """Texts in memory as the kernel reads them."""

    data: npt.NDArray[np.uint8]
    offsets: Numbers

    @classmethod
    def of(cls, texts: pa.Array) -> "Column":
        """Of a column of strings; null is empty."""
        texts = texts.fill_null("") if texts.null_count else texts
        _, offsets, data = texts.buffers()
        kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
        at = np.frombuffer(offsets, kind)[texts.offset : texts.offset + len(texts) + 1] if offsets else np.zeros(1, kind)
        return cls(np.frombuffer(data if data is not None else b"", np.uint8), at.astype(np.int64))

    def is_ascii(self) -> bool:
        """Whether all characters are."""
        part = self.data[self.offsets[0] : self.offsets[-1]]
        return not len(part) or int(part.max()) < 0x80

    def texts(self) -> Iterator[str]:
        """As strings."""
        for begin, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            yield self.data[begin:end].tobytes().decode()


class Tables(ctypes.Structure):
    """As in the kernel's source."""

    _fields_ = (("kinds", ctypes.c_void_p), ("folded", ctypes.c_void_p), ("folds", ctypes.c_void_p))


def address(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    """Where an array's numbers begin; they must lie behind each other."""
    if not array.flags.c_contiguous:
        raise ValueError("not contiguous")
    return ctypes.c_void_p(array.ctypes.data)


@cache
def _kinds(normalised: Normalisation, ascii_only: bool) -> npt.NDArray[np.uint8]:
    points = np.array([c for c in range(0x80 if ascii_only else CODE_POINTS) if c not in SURROGATES])
    text = "".join(map(chr, points.tolist()))
    kinds = np.zeros(len(text), np.uint8)
    for pattern, kind in ((r"\w+", JOINED), (f"{_alone(normalised)}+", ALONE)):
        for match in regex.finditer(pattern, text, regex.V1):
            kinds[match.start() : match.end()] = kind
    kinds |= np.fromiter((BLANK * c.isspace() | LETTER * c.isalnum() for c in text), np.uint8, len(text))
    all_kinds = np.zeros(CODE_POINTS if not ascii_only else 0x80, np.uint8)
    all_kinds[points] = kinds
    return all_kinds


@cache
def _folds() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32]]:
    rows = [[0, 0, 0]]
    row_of = np.zeros(CODE_POINTS, np.uint16)
    for point in range(CODE_POINTS):
        if point not in SURROGATES and (folded := chr(point).casefold()) != chr(point):
            row_of[point] = len(rows)
            rows.append([*map(ord, folded), 0, 0][:3])
    return row_of, np.array(rows, np.uint32)


@cache
def tables(normalised: Normalisation, ascii_only: bool) -> Tables:
    """What the kernel knows of characters; of all of them it takes a second to make, once."""
    kinds = _kinds(normalised, ascii_only)
    row_of, folds = (np.zeros(0x80, np.uint16), np.zeros((1, 3), np.uint32)) if ascii_only else _folds()
    found = Tables(kinds.ctypes.data, row_of.ctypes.data, folds.ctypes.data if normalised.case else None)
    found.kept = (kinds, row_of, folds)  # alive as long as the addresses are
    return found


def shingle_sets(texts: pa.Array, n: int, normalised: Normalisation) -> tuple[npt.NDArray[np.uint64], Numbers]:
    """The sorted distinct shingles of each text behind each other, and where each text's begin, and the last one's end."""
    column = Column.of(texts)
    starts = np.zeros(len(texts) + 1, np.int64)
    if library.functions is None:
        sets = [shingles(terms_of(text, normalised), n) for text in column.texts()]
        starts[1:] = np.cumsum([len(found) for found in sets])
        return np.concatenate([np.empty(0, np.uint64), *sets]), starts
    room = int(column.offsets[-1] - column.offsets[0])
    while True:
        values = np.empty(room, np.uint64)
        written = library.functions.shingles(
            ctypes.byref(tables(normalised, column.is_ascii())), address(column.data), address(column.offsets),
            ctypes.c_int64(len(texts)), n, ctypes.c_int64(room), address(values), address(starts[1:]),
        )  # fmt: skip
        if written <= room:
            return values[:written].copy(), starts
        room = written  # a character may fold to several terms


def shared_of_pairs(values: npt.NDArray[np.uint64], starts: Numbers, left: Numbers, right: Numbers) -> Numbers:
    """How many shingles each pair of sets shares; the sets lie as `shingle_sets` gives them, pairs are their numbers."""
    if library.functions is None:
        sets = np.split(values, starts[1:-1])
        return np.array(
            [len(np.intersect1d(sets[i], sets[j], assume_unique=True)) for i, j in zip(left.tolist(), right.tolist(), strict=True)],
            np.int64,
        )
    out = np.empty(len(left), np.int64)
    left, right = np.ascontiguousarray(left, np.int64), np.ascontiguousarray(right, np.int64)
    library.functions.shared(
        address(values), address(starts), address(left), address(right), ctypes.c_int64(len(left)), address(out)
    )
    return out


def jaccards(values: npt.NDArray[np.uint64], starts: Numbers, left: Numbers, right: Numbers) -> npt.NDArray[np.float64]:
    """Shared shingles over all shingles of each pair of sets; 1 for two empty ones."""
    shared = shared_of_pairs(values, starts, left, right)
    sizes = np.diff(starts)
    together = sizes[left] + sizes[right] - shared
    return np.where(together, shared / np.maximum(together, 1), 1.0)

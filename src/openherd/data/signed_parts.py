"""Signatures of a run's documents on disk, in parts of some row groups each (paper 3.1.1).

A part is a folder that gets its name when it is whole: where it lies, it is done, and after a stop the others are made. Where parts
are cut follows from the input alone. Nothing here holds more than a part and what is asked for.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from openherd.core.progress import Progress
from openherd.data.minhash import Permutations, band_keys, signed
from openherd.data.shingles import Column, Normalisation, Numbers, shingle_sets

PART_ROWS = 16_384
BATCH_ROWS = 512
# Of each document, what decides which of its cluster stays. Times of ISO 8601 in UTC sort as text.
ABOUT = np.dtype([("date", "S32"), ("bytes", "i8"), ("score", "f8"), ("id", "S32")])


@dataclass(frozen=True)
class Signing:
    """How documents are signed."""

    shingle: int  # terms
    normalised: Normalisation
    permuted_by: Permutations
    bands: int
    by_language: bool
    score_column: str


@dataclass(frozen=True)
class Part:
    """Some row groups of a Parquet file, and where what is known of their documents lies."""

    file: Path
    groups: tuple[int, ...]
    first: int  # number of its first document
    rows: int
    folder: Path

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Its documents' columns."""
        with pq.ParquetFile(self.file) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, row_groups=self.groups, columns=list(columns), use_threads=False)

    def load(self, name: str) -> npt.NDArray[Any]:
        """An array of its documents, as far as it is looked at."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def parts_of(file: Path, work: Path) -> list[Part]:
    """The parts of a Parquet file."""
    metadata = pq.read_metadata(file)
    parts: list[Part] = []
    groups: list[int] = []
    first = rows = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        rows += metadata.row_group(group).num_rows
        if rows >= PART_ROWS or group == metadata.num_row_groups - 1:
            parts.append(Part(file, tuple(groups), first, rows, work / f"{len(parts):05d}"))
            groups, first, rows = [], first + rows, 0
    return parts


def text_bytes(file: Path, column: str = "text") -> int:
    """The size of a column before compression."""
    metadata = pq.read_metadata(file)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    place = metadata.schema.names.index(column)
    return sum(group.column(place).total_uncompressed_size for group in groups)


def make_parts(
    work: Iterable[Part], folder_of: Callable[[Part], Path], make: Callable[[Part, Path], None], threads: int, what: str
) -> None:
    """Make what is not there yet of each part, in a folder that gets its name when it is whole."""
    parts = list(work)
    left = [part for part in parts if not folder_of(part).exists()]

    def whole(part: Part) -> int:
        folder = folder_of(part)
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        make(part, temporary)
        os.replace(temporary, folder)
        return part.rows

    with Progress(what, sum(part.rows for part in parts), "documents") as progress, ThreadPoolExecutor(threads) as pool:
        progress.resume_at(sum(part.rows for part in parts if part not in left))
        for rows in pool.map(whole, left):
            progress.advance(rows)


def language_groups(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """A number for the language of each document."""
    encoded = batch.column("language").fill_null("").dictionary_encode()
    numbers = [xxhash.xxh64_intdigest(f"language {name}".encode()) for name in encoded.dictionary.to_pylist()]
    return np.array(numbers, np.uint64)[encoded.indices.to_numpy(zero_copy_only=False)]


def sign(signing: Signing, part: Part, folder: Path) -> None:
    """Write signatures, band keys, digests of the content, and what decides which document stays."""
    names = ["id", "date", "text", *(["language"] if signing.by_language else [])]
    names += [signing.score_column] if signing.score_column else []
    n_permutations = len(signing.permuted_by[0])
    signatures = np.lib.format.open_memmap(folder / "signatures.npy", "w+", np.uint32, (part.rows, n_permutations))
    keys = np.empty((signing.bands, part.rows), np.uint64)
    digests = np.empty((part.rows, 2), np.uint64)
    has_terms = np.empty(part.rows, bool)
    about = np.zeros(part.rows, ABOUT)
    at = 0
    for batch in part.batches(names):
        rows = slice(at, at + len(batch))
        texts = batch.column("text")
        found = signed(texts, signing.shingle, signing.normalised, signing.permuted_by)
        groups = language_groups(batch) if signing.by_language else np.zeros(len(batch), np.uint64)
        signatures[rows] = found.signatures
        keys[:, rows] = band_keys(found.signatures, signing.bands, groups)
        digests[rows] = found.digests
        column = Column.of(texts)
        for i in np.flatnonzero(found.terms == 0):  # what has no terms is compared as it stands
            content = column.data[column.offsets[i] : column.offsets[i + 1]].tobytes().decode().strip().encode()
            digests[at + i] = [xxhash.xxh64_intdigest(content, seed=seed) for seed in (2, 3)]
        digests[rows, 0] ^= groups
        has_terms[rows] = found.terms > 0
        about["date"][rows] = batch.column("date").fill_null("").to_pylist()
        about["id"][rows] = batch.column("id").to_pylist()
        about["bytes"][rows] = np.diff(column.offsets)
        if signing.score_column:
            scores = batch.column(signing.score_column).cast(pa.float64())
            about["score"][rows] = scores.to_numpy(zero_copy_only=False)  # null becomes no number
        at += len(batch)
    del signatures  # written
    for name, array in (("keys", keys), ("digests", digests), ("has_terms", has_terms), ("about", about)):
        np.save(folder / f"{name}.npy", array)


def sign_parts(signing: Signing, parts: Sequence[Part], threads: int) -> None:
    """Sign all documents."""
    make_parts(parts, lambda part: part.folder, partial(sign, signing), threads, "signatures")


def rows_at(parts: Sequence[Part], name: str, numbers: Numbers) -> npt.NDArray[Any]:
    """An array's rows of these documents, in their order."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    ends = np.searchsorted(ordered, [part.first + part.rows for part in parts])
    found: npt.NDArray[Any] | None = None
    begin = 0
    for part, end in zip(parts, ends.tolist(), strict=True):
        if begin == end and found is not None:
            continue
        array = part.load(name)
        if found is None:
            found = np.empty((len(numbers), *array.shape[1:]), array.dtype)
        found[order[begin:end]] = array[ordered[begin:end] - part.first]
        begin = end
    assert found is not None
    return found


class ShingleStore:
    """The shingles of some documents on disk, by their numbers."""

    def __init__(self, parts: Sequence[Part], folder: Path) -> None:
        self.parts, self.folder = parts, folder
        self.numbers = self.sizes = self.begins = np.empty(0, np.int64)

    def folder_of(self, part: Part) -> Path:
        """Where a part's lie."""
        return self.folder / part.folder.name

    def make(self, wanted: npt.NDArray[np.bool_], signing: Signing, threads: int) -> None:
        """Write those of all documents that are wanted, and know where each lies."""

        def write(part: Part, folder: Path) -> None:
            at = part.first
            numbers, sizes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
            with (folder / "values").open("wb") as file:
                for batch in part.batches(["text"]) if wanted[part.first : part.first + part.rows].any() else ():
                    chosen = np.flatnonzero(wanted[at : at + len(batch)])
                    values, starts = shingle_sets(batch.column("text").take(pa.array(chosen)), signing.shingle, signing.normalised)
                    file.write(values.tobytes())
                    numbers.append(at + chosen)
                    sizes.append(np.diff(starts))
                    at += len(batch)
            np.save(folder / "index.npy", np.stack([np.concatenate(numbers), np.concatenate(sizes)]))

        make_parts(self.parts, self.folder_of, write, threads, "shingles")
        indexes = [np.load(self.folder_of(part) / "index.npy") for part in self.parts]
        self.numbers, self.sizes = np.concatenate(indexes, axis=1)
        self.begins = np.concatenate([np.cumsum(sizes) - sizes for _, sizes in indexes])

    def sets(self, numbers: Numbers) -> tuple[npt.NDArray[np.uint64], Numbers]:
        """The shingles of these documents, sorted and distinct as the numbers must be, behind each other; and where each begin."""
        places = np.searchsorted(self.numbers, numbers)
        sizes = self.sizes[places]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        values = np.empty(starts[-1], np.uint64)
        ends = np.searchsorted(numbers, [part.first + part.rows for part in self.parts]).tolist()
        for part, begin, end in zip(self.parts, [0, *ends[:-1]], ends, strict=True):
            if begin == end:
                continue
            with (self.folder_of(part) / "values").open("rb") as file:
                for i in range(begin, end):
                    file.seek(8 * int(self.begins[places[i]]))
                    file.readinto(values[starts[i] : starts[i + 1]].view(np.uint8).data)
        return values, starts

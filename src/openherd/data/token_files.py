"""Files of tokens, here or elsewhere (paper 3.1.2).

Here a file is mapped into memory. Elsewhere it is read in blocks of one MiB through a cache on the local disk. A window of 8,192
tokens is 32 KiB and, drawn at random, alone in its block: larger blocks would fetch more that nobody reads, smaller ones cost a
request each for little. Each block's SHA-256 was written with the shards, so that what is cut off, changed or damaged is seen: on
the way, and on a disk, where a block is checked when it is first read.
"""

import hashlib
import io
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from openherd.core.errors import InputError
from openherd.core.remote import RemoteRun, other_sum
from openherd.data.block_cache import BlockCache

TOKEN = np.dtype("<u4")
BLOCK_BYTES = 1 << 20
PART_BYTES = 8 << 20  # of a whole file, in one request
SAY_EVERY_S = 10.0
AGAIN = "remove this run and make it again"


def block_sums(file: Path) -> np.ndarray:
    """SHA-256 of each block of a file, uint8 of shape (blocks, 32)."""
    with file.open("rb") as blocks:
        sums = b"".join(hashlib.sha256(block).digest() for block in iter(partial(blocks.read, BLOCK_BYTES), b""))
    return np.frombuffer(sums, np.uint8).reshape(-1, 32)


class Files(Protocol):
    """The folder of a run's shards."""

    def where(self, name: str = "") -> Path | str:
        """A file's place, for people."""

    def open(self, name: str) -> BinaryIO:
        """A small file. Raises InputError where it is missing or damaged."""

    def tokens(self, name: str, n: int) -> "LocalTokens | RemoteTokens":
        """The `n` tokens of `<name>.bin`. Raises InputError where it has more or fewer."""


@dataclass(frozen=True)
class LocalFiles:
    """A folder on this machine."""

    folder: Path

    def where(self, name: str = "") -> Path:
        """A file's path."""
        return self.folder / name

    def open(self, name: str) -> BinaryIO:
        """A file."""
        try:
            return (self.folder / name).open("rb")
        except (FileNotFoundError, IsADirectoryError):
            raise InputError(self.folder / name, "no such file", do=AGAIN) from None

    def tokens(self, name: str, n: int) -> "LocalTokens":
        """The file in mapped memory."""
        file = self.folder / f"{name}.bin"
        n_bytes = file.stat().st_size if file.exists() else None
        refuse_other_size(file, n_bytes, n)
        mapped = np.asarray(np.memmap(file, TOKEN, mode="r"))  # slices of a plain array are made faster
        return LocalTokens(file, mapped, read_sums(self, name, n))


@dataclass(frozen=True)
class LocalTokens:
    """The tokens of a file here; a slice of them is a view of mapped memory."""

    file: Path
    mapped: np.ndarray
    sums: np.ndarray
    checked: set[int] = field(default_factory=set)  # blocks

    def __getitem__(self, tokens: slice) -> np.ndarray:
        """Tokens [start, stop). Raises InputError where a block of them is not as it was written."""
        of_block = BLOCK_BYTES // TOKEN.itemsize
        for block in range(tokens.start // of_block, -(-min(tokens.stop, len(self.mapped)) // of_block)):
            if block not in self.checked:
                self._check(block, self.mapped[block * of_block : (block + 1) * of_block])
        return self.mapped[tokens]

    def _check(self, block: int, tokens: np.ndarray) -> None:
        if hashlib.sha256(tokens.data).digest() != self.sums[block].tobytes():
            start = block * BLOCK_BYTES
            raise InputError(self.file, other_sum(start, start + tokens.nbytes), do=AGAIN)
        self.checked.add(block)


def refuse_other_size(file: Path | str, n_bytes: int | None, n: int) -> None:
    """Raise InputError where a file of `n` tokens has not as many bytes."""
    if n_bytes != n * TOKEN.itemsize:
        found = "missing" if n_bytes is None else f"{n_bytes:,} bytes"
        raise InputError(file, f"a corrupt shard: {found}", allowed=f"{n:,} tokens of {TOKEN.itemsize} bytes", do=AGAIN)


def read_sums(files: Files, name: str, n: int) -> np.ndarray:
    """The sums of the blocks of a file of `n` tokens, as `block_sums` gave them. Raises InputError where they do not fit."""
    n_blocks = -(-n * TOKEN.itemsize // BLOCK_BYTES)
    where = files.where(f"{name}.blocks.npy")
    try:
        with files.open(f"{name}.blocks.npy") as file:
            sums: np.ndarray = np.load(file)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(where, f"corrupt sums of blocks ({error})", do=AGAIN) from None
    if sums.dtype != np.uint8 or sums.shape != (n_blocks, 32):
        raise InputError(where, "corrupt sums of blocks", allowed=f"32 bytes for each of {n_blocks:,} blocks", do=AGAIN)
    return sums


class RemoteFiles:
    """A folder of a run elsewhere."""

    def __init__(self, run: RemoteRun, folder: str, cache: BlockCache) -> None:
        self.run, self.folder, self.cache = run, folder, cache
        self._said_s = -SAY_EVERY_S

    def where(self, name: str = "") -> str:
        """A file's address."""
        return f"{self.run.location}/{self.folder}{name}"

    def open(self, name: str) -> BinaryIO:
        """A whole file, in memory."""
        name = self.folder + name
        n, sha256 = self.run.n_bytes(name), self.run.sha256(name)

        def fetch() -> bytes:
            parts = range(0, n, PART_BYTES)
            data = b"".join(self.run.read(name, start, min(start + PART_BYTES, n), pause=self.pause) for start in parts)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise InputError(self.run.address(name), "changed: its SHA-256 is not the manifest's", do="copy the run again")
            return data

        return io.BytesIO(self.cache.read(sha256, 0, n, fetch))

    def tokens(self, name: str, n: int) -> "RemoteTokens":
        """The file in blocks."""
        refuse_other_size(self.where(f"{name}.bin"), self.run.n_bytes(f"{self.folder}{name}.bin"), n)
        return RemoteTokens(self, f"{self.folder}{name}.bin", n * TOKEN.itemsize, read_sums(self, name, n))

    def pause(self, found: str, wait_s: float) -> bool:
        """Between two tries: said now and then, since several wait at once. Whether to go on."""
        now = time.monotonic()
        if now - self._said_s >= SAY_EVERY_S:
            self._said_s = now
            sys.stderr.write(f"  {found}; again in {wait_s:g} s\n")
        return not self.cache.closed.wait(wait_s)


@dataclass(frozen=True)
class RemoteTokens:
    """The tokens of a file elsewhere; a slice of them is an array."""

    files: RemoteFiles
    name: str
    n_bytes: int
    sums: np.ndarray

    def __getitem__(self, tokens: slice) -> np.ndarray:
        """Tokens [start, stop)."""
        start, end = tokens.start * TOKEN.itemsize, min(tokens.stop * TOKEN.itemsize, self.n_bytes)
        parts = []
        for block in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            first = block * BLOCK_BYTES
            inside = max(start - first, 0), min(end - first, BLOCK_BYTES)
            parts.append(self.files.cache.read(self._sha256(block), *inside, partial(self._fetch, block)))
        return np.frombuffer(b"".join(parts), TOKEN)

    def want(self, start: int, end: int) -> None:
        """Begin to fetch what is not here of tokens [start, end)."""
        first, last = (min(t * TOKEN.itemsize, self.n_bytes - 1) // BLOCK_BYTES for t in (start, end - 1))
        for block in range(first, last + 1):
            if not self.files.cache.has(self._sha256(block)):
                self.files.cache.want(self._sha256(block), partial(self._fetch, block))

    def _sha256(self, block: int) -> str:
        return self.sums[block].tobytes().hex()

    def _fetch(self, block: int) -> bytes:
        start = block * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, self.n_bytes)
        return self.files.run.read(self.name, start, end, self._sha256(block), self.files.pause)

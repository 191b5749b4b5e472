"""Blocks of remote files on the local disk (paper 3.1.2): of bounded size, the longest unused go first.

A block is named by its SHA-256, so that the same bytes are kept once whatever file they are of, and a file that changed can give no
wrong ones. Blocks are written aside and renamed. What all processes of a machine hold is counted in one file under a lock; a
process checks a block it finds the first time it reads it. A cache that cannot be written costs speed, not the run.
"""

import contextlib
import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

from openherd.core.errors import InputError

COUNT = ".bytes"  # of all blocks; the lock too
FETCHES = 16  # at once, by a process: many small reads from object storage take their time side by side
ROOM = 0.9  # of the allowed bytes are left when blocks have to go, so that the folder is not searched for each

Fetch = Callable[[], bytes]


class BlockCache:
    """A folder of blocks of at most `most_bytes`, shared with other processes."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """Raises InputError where the folder cannot be made or written."""
        self.folder, self.most_bytes = folder, most_bytes
        self.closed = threading.Event()
        self._checked: set[str] = set()
        self._coming: dict[str, Future[bytes]] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(FETCHES, "blocks")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._counted() as count:
                self._set(count, self._make_room(most_bytes))
        except OSError as error:
            raise InputError(folder, f"no cache can be kept here ({error.strerror})", do="give another cache_directory") from None

    def read(self, sha256: str, start: int, end: int, fetch: Fetch) -> bytes:
        """Bytes [start, end) of a block; `fetch` gets it, checked, where it is not here."""
        found = self._find(sha256, start, end)
        return self.want(sha256, fetch).result()[start:end] if found is None else found

    def has(self, sha256: str) -> bool:
        """Whether a block is here, as far as can be seen without reading it."""
        return self._path(sha256).exists()

    def want(self, sha256: str, fetch: Fetch) -> "Future[bytes]":
        """Begin to fetch a block, unless that was begun."""
        with self._lock:
            if sha256 not in self._coming:
                self._coming[sha256] = self._threads.submit(self._fetch, sha256, fetch)
            return self._coming[sha256]

    def close(self) -> None:
        """Begin no more fetches, and try none again."""
        self.closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, sha256: str, fetch: Fetch) -> bytes:
        try:
            data = fetch()
            with contextlib.suppress(OSError):  # a full disk
                self._store(sha256, data)
            return data
        finally:
            with self._lock:
                del self._coming[sha256]

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def _find(self, sha256: str, start: int, end: int) -> bytes | None:
        path = self._path(sha256)
        try:
            with path.open("rb") as file:
                if sha256 not in self._checked:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        return None  # damaged; what is fetched takes its place
                    self._checked.add(sha256)
                file.seek(start)
                data = file.read(end - start)
            os.utime(path)  # used last now
        except OSError:
            return None
        return data if len(data) == end - start else None

    def _store(self, sha256: str, data: bytes) -> None:
        path = self._path(sha256)
        path.parent.mkdir(exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            with self._counted() as count:
                before = path.stat().st_size if path.exists() else 0
                os.replace(temporary, path)
                total = self._total(count) + len(data) - before
                self._set(count, total if total <= self.most_bytes else self._make_room(int(ROOM * self.most_bytes)))
        finally:
            Path(temporary).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[IO[str]]:
        """The file of the count, locked against other threads and processes."""
        with (self.folder / COUNT).open("a+", encoding="ascii") as count:
            fcntl.flock(count, fcntl.LOCK_EX)
            yield count

    def _total(self, count: IO[str]) -> int:
        count.seek(0)
        text = count.read()
        return int(text) if text.isdecimal() else sum(size for _, size, _ in self._blocks())

    def _set(self, count: IO[str], total: int) -> None:
        count.seek(0)
        count.truncate()
        count.write(str(total))

    def _blocks(self) -> list[tuple[int, int, Path]]:
        """(last use, bytes, path) of every block, the longest unused first; leftovers of killed processes are among them."""
        found = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return sorted(found)

    def _make_room(self, most: int) -> int:
        """Remove the longest unused until at most `most` bytes are left; returns how many are."""
        blocks = self._blocks()
        total = sum(size for _, size, _ in blocks)
        for _, size, path in blocks:
            if total <= most:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

"""Files in a 7z archive, read as they are unpacked: nothing is written to disk. Needs the extra `dumps` (py7zr)."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from openherd.core.errors import InputError

PY7ZR = "pip install 'openherd[dumps]'"


def _library() -> Any:
    try:
        import py7zr
    except ImportError:
        raise InputError("a .7z file", "needs py7zr", do=PY7ZR) from None
    return py7zr


def members_of(archive: BinaryIO) -> list[str]:
    """The names of the files in an archive. Raises EOFError where it is damaged."""
    library = _library()
    archive.seek(0)
    try:
        with library.SevenZipFile(archive) as opened:
            return [member.filename for member in opened.list() if not member.is_directory]
    except (library.Bad7zFile, OSError, ValueError, IndexError, EOFError, TypeError) as error:
        raise EOFError(f"not a readable 7z archive ({error})") from None


class _Reader(io.RawIOBase):
    """The end of a pipe from which a member is read; at its end the error that stopped the unpacking, if any, is raised."""

    def __init__(self, end: int, thread: threading.Thread, failed: list[BaseException]) -> None:
        super().__init__()
        self._file, self._thread, self._failed = open(end, "rb", buffering=0), thread, failed  # noqa: SIM115

    def readable(self) -> bool:
        """Yes: io asks."""
        return True

    def readinto(self, out: memoryview) -> int:  # type: ignore[override]
        """The next bytes. Raises EOFError where the archive is damaged."""
        n = self._file.readinto(out)
        if not n:
            self._thread.join()
            if self._failed:
                raise EOFError(f"the archive is damaged ({self._failed[0]!r})")
        return n or 0

    def close(self) -> None:
        """Stop the unpacking."""
        self._file.close()
        self._thread.join()
        super().close()


@contextmanager
def opened_member(archive: BinaryIO, member: str) -> Iterator[BinaryIO]:
    """One file of an archive."""
    library = _library()
    read_end, write_end = os.pipe()
    failed: list[BaseException] = []

    class ToPipe(library.io.Py7zIO):  # type: ignore[name-defined]
        def __init__(self, pipe: BinaryIO) -> None:
            self.pipe, self.n = pipe, 0

        def write(self, data: bytes | bytearray) -> int:
            self.pipe.write(data)
            self.n += len(data)
            return len(data)

        def read(self, size: int | None = None) -> bytes:
            return b""

        def seek(self, offset: int, whence: int = 0) -> int:
            return self.n

        def flush(self) -> None:
            """Nothing is held back."""

        def size(self) -> int:
            return self.n

    class Factory(library.io.WriterFactory):  # type: ignore[name-defined]
        def __init__(self, pipe: BinaryIO) -> None:
            self.pipe = pipe

        def create(self, filename: str) -> Any:
            return ToPipe(self.pipe)

    def unpack() -> None:
        with open(write_end, "wb", buffering=0) as pipe:
            try:
                with library.SevenZipFile(archive) as opened:
                    opened.extract(targets=[member], factory=Factory(pipe))
            except BrokenPipeError:
                pass  # nobody reads any more
            except Exception as error:  # told to who reads
                failed.append(error)

    archive.seek(0)
    thread = threading.Thread(target=unpack, daemon=True)
    reader = io.BufferedReader(_Reader(read_end, thread, failed), 1 << 20)
    thread.start()
    try:
        yield reader
    finally:
        reader.close()

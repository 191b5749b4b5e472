"""Reading WARC files, plain or gzip, so that no damage passes unnoticed (paper 3.1: the crawl).

A record is a head, Content-Length bytes and blank lines, and each gzip member holds whole records. So whatever is cut off, has
a wrong length or is invalid gzip is found, with the byte of the file at which the record or its member begins. fastwarc passes
over a file's cut end without a word; `sources` uses it for what HTTP adds: chunks, content encodings, character sets.
"""

import io
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

GZIP = b"\x1f\x8b\x08"
RECORD = b"WARC/"
CHUNK = 1 << 16
LONGEST_LINE = 1 << 16
LINE_END = re.compile(rb"\r?\n")  # some crawlers write bare line feeds
CONTENT_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r?$")


class DamageError(Exception):
    """What is wrong with the record, or the gzip member, that begins at byte `offset`."""

    def __init__(self, offset: int, found: str) -> None:
        super().__init__(f"byte {offset:,}: {found}")
        self.offset, self.found = offset, found


class Member(io.RawIOBase):
    """The content of one gzip member, of which `data` was read from `file` already."""

    def __init__(self, file: BinaryIO, offset: int, data: bytes) -> None:
        super().__init__()
        self.offset = offset
        self._file, self._data, self._zlib = file, data, zlib.decompressobj(wbits=31)
        self._end = offset + len(data)  # how far the file was read

    def readable(self) -> bool:
        """Yes: io asks."""
        return True

    def readinto(self, out: memoryview) -> int:  # type: ignore[override]
        """The next bytes of the content. Raises DamageError."""
        while not self._zlib.eof:
            if not self._data and not self._more():
                raise DamageError(self.offset, "the file ends within a gzip member")
            try:
                plain = self._zlib.decompress(self._data, len(out))
            except zlib.error as error:
                raise DamageError(self.offset, f"invalid gzip ({error})") from None
            self._data = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            if plain:
                out[: len(plain)] = plain
                return len(plain)
        return 0

    def _more(self) -> bool:
        read = self._file.read(CHUNK)
        self._end += len(read)
        self._data += read
        return bool(read)

    def following(self) -> "Member | None":
        """The member after this one: behind a damaged one, the next that begins with a record."""
        nowhere = memoryview(bytearray(CHUNK))
        try:
            while self.readinto(nowhere):
                pass
        except DamageError:
            self._to_next_record()
        if not self._data and not self._more():
            return None
        return Member(self._file, self._end - len(self._data), self._data)

    def _to_next_record(self) -> None:
        start = int(self._end - len(self._data) == self.offset)
        while True:
            at = self._data.find(GZIP, start)
            if at < 0:
                self._data, start = self._data[1 - len(GZIP) :], 0
                if not self._more():
                    self._data = b""
                    return
                continue
            while len(self._data) < at + CHUNK and self._more():
                pass
            if _begins_record(self._data[at:]):
                self._data = self._data[at:]
                return
            start = at + 1


def _begins_record(data: bytes) -> bool:
    try:
        return zlib.decompressobj(wbits=31).decompress(data, len(RECORD)) == RECORD
    except zlib.error:
        return False


def read_warc(file: BinaryIO) -> Iterator[tuple[int, bytes] | DamageError]:
    """Every record as (offset, bytes), and a DamageError where there is one; the next whole record follows it.

    The offset is that of the record, or of its gzip member (plus its place therein, where a member holds several). A plain
    file must be seekable. Behind damage in a gzip member, reading goes on with the next member.
    """
    data = file.read(CHUNK)
    if data.startswith(GZIP):
        member: Member | None = Member(file, 0, data)
        while member:
            try:
                yield from _records(io.BufferedReader(member, CHUNK), member.offset)
            except DamageError as damage:
                yield damage
            member = member.following()
        return
    start = 0
    while start >= 0:
        file.seek(start)
        try:
            yield from _records(file, start)
            return
        except DamageError as damage:
            yield damage
            start = _next_record(file, damage.offset + 1)


def _records(file: BinaryIO | io.BufferedReader, at: int) -> Iterator[tuple[int, bytes]]:
    at, line = _first_line(file, at)
    if not _may_begin_record(line):
        raise DamageError(at, f"no record begins here, but {line[:20]!r}")
    while line:
        start, head = at, line
        while line.strip():
            line = file.readline(LONGEST_LINE)
            if not line:
                raise DamageError(start, "the file ends within the head of a record")
            head += line
        length = CONTENT_LENGTH.search(head)
        if not length:
            raise DamageError(start, "a record without Content-Length")
        n = int(length[1])
        body = b"".join(_pieces(file, n))
        if len(body) < n:
            raise DamageError(start, f"a record of {n:,} bytes of which {len(body):,} are there")
        at, line = _first_line(file, start + len(head) + n)  # before the record is given: this also checks the member's checksum
        if not _may_begin_record(line):
            raise DamageError(start, f"a record longer or shorter than its Content-Length, {n:,}: {line[:20]!r} follows it")
        yield start, LINE_END.sub(b"\r\n", head) + body + b"\r\n\r\n"


def _may_begin_record(line: bytes) -> bool:
    return line.startswith(RECORD) or RECORD.startswith(line)  # at a file's end the line may be cut off, or empty


def _first_line(file: BinaryIO | io.BufferedReader, at: int) -> tuple[int, bytes]:
    """The next line that is not blank, and where it begins; an empty one at the end."""
    while (line := file.readline(LONGEST_LINE)) and not line.strip():
        at += len(line)
    return at, line


def _pieces(file: BinaryIO | io.BufferedReader, n: int) -> Iterator[bytes]:
    while n > 0 and (piece := file.read(min(n, 1 << 20))):  # a damaged length may be huge
        yield piece
        n -= len(piece)


def _next_record(file: BinaryIO, at: int) -> int:
    """Where a line begins as a record does, at or after a byte of a plain file; -1 where none does."""
    file.seek(at)
    while line := file.readline(LONGEST_LINE):
        if line.startswith(RECORD):
            return at
        at += len(line)
    return -1

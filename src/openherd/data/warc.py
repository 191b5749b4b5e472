"""Reading WARC files, plain, gzip or zstd, so that no damage passes unnoticed (paper 3.1: the crawl).

A record is a head, Content-Length bytes and blank lines, and each gzip member (zstd frame) holds whole records. So whatever is cut
off, has a wrong length or is invalid gzip is found, with the byte of the file at which the record or its member begins. fastwarc
passes over a file's cut end without a word; `warc_pages` uses it for what HTTP adds: chunks and character sets.
"""

import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from backports import zstd

from openherd.data.pages import START, DamageError, Place

RECORD = b"WARC/"
CHUNK = 1 << 16
LONGEST_LINE = 1 << 16
LINE_END = re.compile(rb"\r?\n")  # some crawlers write bare line feeds
CONTENT_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r?$")
DICTIONARY = b"\x5d\x2a\x4d\x18"  # a zstd file's first frame may hold the dictionary of the others


class WarcBytes(NamedTuple):
    """A record: its byte in the file, its own bytes, and where reading starts to find it."""

    offset: int
    data: bytes
    place: Place


class Codec(NamedTuple):
    """A compression whose members stand one after the other."""

    name: str
    magic: bytes
    decompressor: Callable[[], Any]  # with the methods of bz2's
    error: type[Exception]


class Inflate:
    """A gzip member's decompressor, in the form that those of bz2 and zstd have."""

    def __init__(self, wbits: int = 16 + zlib.MAX_WBITS) -> None:
        self._zlib = zlib.decompressobj(wbits=wbits)
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes; what was not looked at yet is kept."""
        plain = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(plain) < max_length
        return plain

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        """What follows the member."""
        return self._zlib.unused_data


GZIP = Codec("gzip", b"\x1f\x8b\x08", Inflate, zlib.error)
ZSTD = Codec("zstd", b"\x28\xb5\x2f\xfd", zstd.ZstdDecompressor, zstd.ZstdError)


class Member(io.RawIOBase):
    """The content of one member, of which `data` was read from `file` already."""

    def __init__(self, file: BinaryIO, offset: int, data: bytes, codec: Codec) -> None:
        super().__init__()
        self.offset = offset
        self._file, self._data, self._codec, self._decompressor = file, data, codec, codec.decompressor()
        self._end = offset + len(data)  # how far the file was read

    def readable(self) -> bool:
        """Yes: io asks."""
        return True

    def readinto(self, out: memoryview) -> int:  # type: ignore[override]
        """The next bytes of the content. Raises DamageError."""
        while not self._decompressor.eof:
            if self._decompressor.needs_input and not self._data and not self._more():
                raise DamageError(self.offset, f"the file ends within a {self._codec.name} member")
            data, self._data = self._data, b""
            try:
                plain = self._decompressor.decompress(data, len(out))
            except self._codec.error as error:
                self._data = data
                raise DamageError(self.offset, f"invalid {self._codec.name} ({error})") from None
            if self._decompressor.eof:
                self._data = self._decompressor.unused_data
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
            self._file.seek(self.offset + 1)  # the decompressor may have taken in what follows
            self._end, self._data = self.offset + 1, b""
            self._to_next_record()
        if not self._data and not self._more():
            return None
        return Member(self._file, self._end - len(self._data), self._data, self._codec)

    def _to_next_record(self) -> None:
        start, magic = 0, self._codec.magic
        while True:
            at = self._data.find(magic, start)
            if at < 0:
                self._data, start = self._data[1 - len(magic) :], 0
                if not self._more():
                    self._data = b""
                    return
                continue
            while len(self._data) < at + CHUNK and self._more():
                pass
            if self._begins_record(self._data[at:]):
                self._data = self._data[at:]
                return
            start = at + 1

    def _begins_record(self, data: bytes) -> bool:
        try:
            return bytes(self._codec.decompressor().decompress(data, len(RECORD))) == RECORD
        except self._codec.error:
            return False


def codec_of(file: BinaryIO) -> Codec | None:
    """How a file is compressed, by its first bytes; those of a zstd file's dictionary are read. None: not at all."""
    file.seek(0)
    magic = file.read(4)
    if magic.startswith(GZIP.magic):
        return GZIP
    if magic == DICTIONARY:
        words = file.read(int.from_bytes(file.read(4), "little"))
        words = zstd.decompress(words) if words.startswith(ZSTD.magic) else words
        dictionary = zstd.ZstdDict(words, is_raw=not words.startswith(b"\x37\xa4\x30\xec"))
        return ZSTD._replace(decompressor=lambda: zstd.ZstdDecompressor(zstd_dict=dictionary))
    return ZSTD if magic == ZSTD.magic else None


def read_warc(file: BinaryIO, start: Place = START) -> Iterator[WarcBytes | DamageError]:
    """Every record, and a DamageError where there is one; the next whole record follows it.

    The offset is that of the record, or of its member (plus its place therein, where a member holds several). The file must be
    seekable. Behind damage in a member, reading goes on with the next member. `start` is the place of what is to come first.
    """
    try:
        codec = codec_of(file)
    except (ValueError, zstd.ZstdError) as error:
        if start == START:
            yield DamageError(0, f"an invalid zstd dictionary ({error})")
        return
    file.seek(start.byte)
    found = _in_members(file, start, codec) if codec else _in_plain(file, start.byte)
    for _ in range(start.skip):
        next(found, None)
    yield from found


def _in_members(file: BinaryIO, start: Place, codec: Codec) -> Iterator[WarcBytes | DamageError]:
    data = file.read(CHUNK)
    member = Member(file, start.byte, data, codec) if data else None
    while member:
        n = 0
        try:
            for offset, record in _records(io.BufferedReader(member, CHUNK), member.offset):
                yield WarcBytes(offset, record, Place(member.offset, n))
                n += 1
        except DamageError as damage:
            damage.place = Place(member.offset, n)
            yield damage
        member = member.following()


def _in_plain(file: BinaryIO, start: int) -> Iterator[WarcBytes | DamageError]:
    while start >= 0:
        file.seek(start)
        try:
            for offset, record in _records(file, start):
                yield WarcBytes(offset, record, Place(offset))
            return
        except DamageError as damage:
            damage.place = Place(damage.offset)
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

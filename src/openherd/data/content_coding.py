"""HTTP's content codings, undone: gzip, deflate (with or without zlib's head), br, zstd, one over the other.

A browser shows what it could decode of a body that is cut short, and so do libraries, without a word. Here it is an error. Servers
also name codings that are none ("utf-8"), and crawlers keep the header on content that they have decoded; who calls sees to that.
"""

import io
import zlib
from collections.abc import Callable
from typing import Any

from fastwarc.stream_io import BrotliReader

from openherd.data.warc import Inflate, zstd

LONGEST_CONTENT = 1 << 26  # bytes; a small body may decode to any size
TOO_LONG = f"more than {LONGEST_CONTENT >> 20} MiB decoded"
PIECE = 1 << 20


class CodingError(ValueError):
    """A body that is not in the coding which its header names, is cut short, or too long."""


def _members(make: Callable[[], Any], body: bytes) -> bytes:
    """All members of a body; bytes behind the last, which all readers pass over, are passed over."""
    whole: list[bytes] = []
    while body:
        try:
            plain, body = _member(make(), body, LONGEST_CONTENT - sum(map(len, whole)))
        except (zlib.error, zstd.ZstdError) as error:
            if whole:
                break
            raise CodingError(str(error)) from None
        whole.append(plain)
    return b"".join(whole)


def _member(decompressor: Any, body: bytes, longest: int) -> tuple[bytes, bytes]:
    """The content of a body's first member, and what follows it."""
    pieces: list[bytes] = []
    while not decompressor.eof:
        piece = decompressor.decompress(body, PIECE)
        body = b""
        pieces.append(piece)
        longest -= len(piece)
        if longest < 0:
            raise CodingError(TOO_LONG)
        if not piece and decompressor.needs_input and not decompressor.eof:
            raise CodingError("cut short")
    return b"".join(pieces), decompressor.unused_data


def _deflate(body: bytes) -> bytes:
    """Of a stream with zlib's head, as HTTP asks for, or without, as some servers send it."""
    for wbits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        try:
            return _member(Inflate(wbits), body, LONGEST_CONTENT)[0]
        except zlib.error as error:
            found = error
    raise CodingError(str(found))


def _brotli(body: bytes) -> bytes:
    reader = BrotliReader(io.BytesIO(body))
    plain, size = [], 0
    try:
        while piece := reader.read(PIECE):
            plain.append(piece)
            size += len(piece)
            if size > LONGEST_CONTENT:
                raise CodingError(TOO_LONG)
    except OSError as error:
        raise CodingError(str(error)) from None
    return b"".join(plain)


DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda body: _members(Inflate, body),
    "x-gzip": lambda body: _members(Inflate, body),
    "deflate": _deflate,
    "br": _brotli,
    "zstd": lambda body: _members(zstd.ZstdDecompressor, body),
}


def codings_of(header: str) -> list[str]:
    """The codings that a Content-Encoding header names and that are known, in the order in which they were applied."""
    return [name for part in header.split(",") if (name := part.strip().lower()) in DECODERS]


def decoded(body: bytes, codings: list[str]) -> bytes:
    """A body without its codings. Raises CodingError; an empty body has none."""
    for name in reversed(codings):
        body = DECODERS[name](body) if body else body
    return body

"""Records of a WARC file as pages (paper 3.1: the crawl): responses, resources, and the text of WET files (conversion records).

HTTP's chunks and content codings are undone. What is no page is dropped with its reason; requests, metadata and such are passed.
"""

import re
from codecs import getincrementaldecoder
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

from fastwarc.warc import WarcRecord, WarcRecordType

from openherd.data.content_coding import CodingError, codings_of, decoded
from openherd.data.documents import Drop
from openherd.data.pages import START, DamageError, Found, Page, Passed, Place, Record, Unread, checked, iso_date
from openherd.data.warc import WarcBytes, read_warc

PAGE_RECORDS = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)
POINTERS = (WarcRecordType.revisit, WarcRecordType.continuation)  # to what stands elsewhere
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # no text has these
CHUNK_HEAD = b"0123456789abcdefABCDEF"


def read_records(file: BinaryIO, start: Place = START) -> Iterator[Record]:
    """The pages of a WARC file."""
    for found in read_warc(file, start):
        yield found if isinstance(found, DamageError) else Unread(found.place, found.offset, partial(_found_of, found))


def _found_of(found: WarcBytes) -> Found:
    try:
        record = WarcRecord.from_bytes(found.data)
    except OSError as error:
        return DamageError(found.offset, f"not a WARC record ({error})")
    if record.record_type in PAGE_RECORDS:
        return _page_of(record, found)
    if record.record_type in POINTERS:
        reason = "revisit" if record.record_type == WarcRecordType.revisit else "segment"
        drop = Drop(reason, "what it goes on from stands elsewhere")
        return Page(found.offset, address_of(record), date_of(record), drop=drop)
    return Passed(found.offset, (record.headers.get("WARC-Type") or "unknown").lower())


def address_of(record: WarcRecord) -> str:
    """A record's address."""
    return (record.headers.get("WARC-Target-URI") or "").strip().strip("<>")


def date_of(record: WarcRecord) -> str:
    """A record's date."""
    return iso_date(record.record_date) if record.record_date else ""


def _page_of(record: WarcRecord, found: WarcBytes) -> Page:
    url, date = address_of(record), date_of(record)
    if record.headers.get("WARC-Segment-Number"):
        return Page(found.offset, url, date, drop=Drop("segment", "one part of a record that is spread over several"))
    if not record.is_http:
        content_type = record.headers.get("Content-Type") or ""
        if record.record_type == WarcRecordType.conversion and content_type.strip().lower() == "text/plain":
            content_type = "text/plain; charset=utf-8"  # as WET files are
        return checked(Page(found.offset, url, date, content_type, record.reader.read()))
    try:
        record, body, chunks = _parsed(record, found.data)
    except OSError as error:
        return Page(found.offset, url, date, content=_block_of(found.data), drop=Drop("no http response", str(error)))
    headers = record.http_headers
    charset = f"; charset={record.http_charset}" if record.http_charset else ""
    page = Page(found.offset, url, date, (record.http_content_type or "") + charset, body)
    status = None if headers is None else headers.status_code
    if status != 200:
        return page.dropped("http status", str(status or "none"))
    if chunks:
        return page.dropped("chunks", chunks)
    coding = headers.get("Content-Encoding") or ""
    codings = codings_of(coding)
    try:
        return checked(replace(page, content=decoded(body, codings)))
    except CodingError as error:
        if not _is_text(body[:1024]):
            return page.dropped("content encoding", f"{coding}: {error}")
        return checked(page)  # crawlers keep 'Content-Encoding: gzip' on content that they have decoded


def _parsed(record: WarcRecord, data: bytes) -> tuple[WarcRecord, bytes, str]:
    """A record with its HTTP head read, its body without chunks, and what is wrong with these. Raises OSError."""
    try:
        record.parse_http(auto_decode="transfer", quirks_mode=True)
        return record, record.reader.read(), ""
    except OSError as error:  # crawlers keep 'Transfer-Encoding: chunked' on content without chunks
        record = WarcRecord.from_bytes(data)
        record.parse_http(auto_decode="none", quirks_mode=True)
        body = record.reader.read()
        return record, body, str(error) if _begins_chunk(body) else ""


def _begins_chunk(body: bytes) -> bool:
    line = body[:1024].split(b"\r\n", 1)[0].split(b";", 1)[0].strip()
    return 0 < len(line) <= 8 and not line.strip(CHUNK_HEAD)


def _is_text(head: bytes) -> bool:
    """Whether a body begins as text, not as what some coding made of it."""
    try:
        return not CONTROLS.search(head) and (b"<" in head or getincrementaldecoder("utf-8")().decode(head) != "")
    except UnicodeDecodeError:
        return False


def _block_of(data: bytes) -> bytes:
    return WarcRecord.from_bytes(data).reader.read()

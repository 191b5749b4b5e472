"""Reading what a crawl or a person has (paper 3.1): WARC, HTML, text, Markdown, JSON Lines, Parquet; local, s3:// or https://.

Each page keeps its lineage: the file, the byte of its WARC record (or the row, or the line), address and date. What is no page (a
status other than 200, an image, an empty body) is dropped with its reason; nothing is passed over in silence. A damaged file
stops the stage and says where, or with `on_damage = "skip"` loses the damaged record alone.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import fsspec
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.progress import Progress
from openherd.core.records import read_parquet
from openherd.core.rundir import Output, Run, Source
from openherd.data.documents import PAGE_SCHEMA, Drop, Funnel

SOURCE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
CONTENT_TYPES = {".html": "text/html", ".htm": "text/html", ".xhtml": "text/html", ".txt": "text/plain", ".md": "text/markdown"}
READABLE = {"text/html", "application/xhtml+xml", "text/plain", "text/markdown", ""}
MEMBER, RECORD = b"\x1f\x8b\x08", b"WARC/1."  # how gzip members and plain records begin


@dataclass(frozen=True, kw_only=True)
class SourcesConfig:
    """Settings of `sources`."""

    source: Annotated[str, Field(description="source of pages that no pattern names; the mix weighs sources")] = "web"
    source_patterns: Annotated[dict[str, str], Field(description="source name to a regular expression on the address; the first that matches")] = (
        field(default_factory=dict)
    )
    text_field: Annotated[str, Field(description="field or column that holds the text, in JSON Lines and Parquet")] = "text"
    on_damage: Annotated[Literal["stop", "skip"], Field(description="a damaged record: stop there, or drop it and read on")] = "stop"


@dataclass
class Page:
    """One page as read, or the reason why there is none."""

    offset: int
    url: str
    date: str
    content_type: str
    content: bytes
    drop: Drop | None = None


def damage(name: str, offset: int, found: str, skip: bool) -> Page:
    """A damaged record as a dropped page, or InputError."""
    if not skip:
        raise InputError(f"{name}, byte {offset:,}", found, allowed="whole records", do="fetch the file again, or set on_damage = 'skip'")
    return Page(offset, "", "", "", b"", Drop("damaged", found))


def read_warc(name: str, skip: bool) -> Iterator[Page]:
    """Response, resource and conversion records of a WARC file, plain or gzip; damage anywhere is found."""
    with fsspec.open(name, "rb") as file:
        zipped = file.read(3) == MEMBER
        start = 0
        while start >= 0:
            file.seek(start)
            last = start
            broken = ""
            try:
                for record in ArchiveIterator(file, parse_http=False, fsspec_args=False):
                    last = start + record.stream_pos
                    length = record.content_length
                    block = record.reader.read()
                    if len(block) != length:
                        broken = f"a record of {length:,} bytes ends after {len(block):,}"
                        break
                    if record.record_type in (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion):
                        yield _page(record, block, last)
            except (OSError, EOFError, ValueError, zlib.error) as error:
                broken = str(error) or type(error).__name__
            broken = broken or _tail(file, last, zipped)
            if not broken:
                return
            yield damage(name, last, broken, skip)
            start = _next_record(file, last + 1, MEMBER if zipped else RECORD)


def _page(record: WarcRecord, block: bytes, offset: int) -> Page:
    """A record's payload, with HTTP's head taken off and its encodings undone."""
    url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
    date = record.record_date.strftime("%Y-%m-%dT%H:%M:%SZ") if record.record_date else ""
    if not record.is_http:
        content_type = (record.headers.get("Content-Type") or "text/plain").split(";")[0].strip().lower()
        return _checked(Page(offset, url, date, content_type, block))
    record.set_bytes_content(block)
    record.parse_http(auto_decode="all")
    head = record.http_headers
    charset = f"; charset={record.http_charset}" if record.http_charset else ""
    page = Page(offset, url, date, (record.http_content_type or "").lower() + charset, record.reader.read())
    if head is not None and head.status_code != 200:
        page.drop = Drop("http status", str(head.status_code))
    return _checked(page)


def _checked(page: Page) -> Page:
    if page.drop is None and page.content_type.split(";")[0].strip() not in READABLE:
        page.drop = Drop("content type", page.content_type)
    if page.drop is None and not page.content.strip():
        page.drop = Drop("empty")
    return page


def _tail(file: IO[bytes], last: int, zipped: bool) -> str:
    """What is wrong from the last record on, where the reader stopped without a word: a cut header or gzip member."""
    file.seek(last)
    rest = file.read()
    if zipped:
        plain = b""
        while rest:
            member = zlib.decompressobj(wbits=31)
            try:
                plain += member.decompress(rest)
            except zlib.error as error:
                return f"gzip: {error}"
            if not member.eof:
                return "the gzip stream ends in the middle"
            rest = member.unused_data
        rest = plain
    if not rest.strip():
        return ""
    head, end, body = rest.partition(b"\r\n\r\n")
    length = re.search(rb"(?im)^Content-Length:\s*(\d+)", head)
    if not head.startswith(RECORD) or not end or not length:
        return "not a WARC record"
    return "" if not body[int(length[1]) :].strip() else "bytes after the last record"


def _next_record(file: IO[bytes], start: int, mark: bytes) -> int:
    """Where the next record begins at or after `start`, or -1."""
    file.seek(start)
    before, kept = start, b""
    while chunk := file.read(1 << 20):
        found = (kept + chunk).find(mark)
        if found >= 0:
            return before - len(kept) + found
        before += len(chunk)
        kept = chunk[-len(mark) + 1 :]
    return -1


def read_rows(name: str, text_field: str, skip: bool) -> Iterator[Page]:
    """Rows of JSON Lines, plain or gzip, or of a local Parquet file; `url` and `date` are read where they are there."""
    if name.endswith(".parquet"):
        numbered: Iterator[tuple[int, Any]] = enumerate(read_parquet(Path(name)))
    else:
        numbered = _json_lines(name, skip)
    for number, row in numbered:
        if isinstance(row, Page):
            yield row
        elif not isinstance(row, dict) or not isinstance(row.get(text_field), str):
            there = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise InputError(f"{name}, row {number}", f"no text in field {text_field!r}", allowed=f"fields here: {there}", do="set text_field")
        else:
            page = Page(number, str(row.get("url") or ""), str(row.get("date") or ""), "text/plain; charset=utf-8", row[text_field].encode())
            yield _checked(page)


def _json_lines(name: str, skip: bool) -> Iterator[tuple[int, Any]]:
    with fsspec.open(name, "rb", compression="gzip" if name.endswith(".gz") else None) as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):  # noqa: B007
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except ValueError as error:
                        yield number, damage(name, number, f"line {number} is not valid JSON ({error})", skip)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield number, damage(name, number, f"after line {number}: {error}", skip)


def read_file(name: str, config: SourcesConfig) -> Iterator[Page]:
    """The pages of one file, by its ending. Raises InputError for one that is not read."""
    skip = config.on_damage == "skip"
    bare = name.removesuffix(".gz")
    if bare.endswith((".warc", ".wet", ".arc")):
        yield from read_warc(name, skip)
    elif bare.endswith(".jsonl") or name.endswith(".parquet"):
        yield from read_rows(name, config.text_field, skip)
    elif (ending := Path(bare).suffix.lower()) in CONTENT_TYPES:
        with fsspec.open(name, "rb", compression="gzip" if name.endswith(".gz") else None) as file:
            url = name if "://" in name else Path(name).absolute().as_uri()
            yield _checked(Page(0, url, "", CONTENT_TYPES[ending], file.read()))
    else:
        allowed = f".warc[.gz], .jsonl[.gz], .parquet, {', '.join(CONTENT_TYPES)}"
        raise InputError(name, "not a kind of file that is read", allowed=allowed)


def source_of(url: str, config: SourcesConfig, patterns: list[tuple[str, re.Pattern[str]]]) -> str:
    """The source whose pattern the address matches first."""
    return next((name for name, pattern in patterns if pattern.search(url)), config.source)


def compiled(config: SourcesConfig) -> list[tuple[str, re.Pattern[str]]]:
    """The patterns, checked. Raises ConfigError."""
    for name in (config.source, *config.source_patterns):
        if not SOURCE_NAME.fullmatch(name):
            raise ConfigError("sources", f"source {name!r}", allowed="lower-case letters, digits, '-' and '_'")
    try:
        return [(name, re.compile(pattern)) for name, pattern in config.source_patterns.items()]
    except re.error as error:
        raise ConfigError("sources", f"source_patterns: {error.pattern!r}", allowed=f"a regular expression ({error})") from None


def sources(config: SourcesConfig, *, pages: Source, out: Output) -> dict[str, Any]:
    """Read all pages of a finished run or a location outside. Raises InputError for damaged files and where there is no page at all."""
    patterns = compiled(config)
    inside = isinstance(pages, Run)
    names = [n for n in pages.files() if not inside or n.removesuffix(".gz").endswith((".warc", ".jsonl", ".parquet"))]
    with Funnel("sources", out, PAGE_SCHEMA) as funnel, Progress("sources", 0, "pages") as progress:
        for name in names:
            shown = str(Path(name).relative_to(pages.path)) if isinstance(pages, Run) else name
            for page in read_file(name, config):
                digest = hashlib.sha256(page.url.encode() + b"\0" + page.content).hexdigest()[:32]
                row = {
                    "id": digest,
                    "url": page.url,
                    "date": page.date,
                    "source": source_of(page.url, config, patterns),
                    "file": shown,
                    "offset": page.offset,
                    "content_type": page.content_type,
                    "content": page.content,
                }
                funnel.take(row)
                if page.drop is None:
                    funnel.keep(row)
                else:
                    funnel.drop(row, page.drop)
                progress.advance()
        if not funnel.n_out:
            location = pages.path if isinstance(pages, Run) else pages.location
            reasons = ", ".join(f"{reason} {n}" for reason, (n, _) in funnel.reasons.items()) or "no records"
            raise InputError(location, f"holds no page ({reasons})", do="look at the kind and the state of the files")
    return funnel.metrics() | {"files": len(names)}

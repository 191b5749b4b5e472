"""Reading what a crawl or a person has (paper 3.1): WARC, HTML, text, Markdown, JSON Lines, Parquet; local, s3:// or https://.

Each page keeps its lineage: file, address, date, and the byte of its WARC record (or the number of its line or row, from 1).
What is no page (a status other than 200, an image, an empty body) is dropped with its reason: nothing is passed over in
silence. A damaged file stops the stage and says where; `on_damage = "skip"` drops what is damaged and reads the rest.
`content_type` is text/html (XHTML too), text/plain or text/markdown, with `; charset=...` where the server named one.
"""

import datetime
import email.utils
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from fastwarc.warc import WarcRecord, WarcRecordType
from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.progress import Progress
from openherd.core.rundir import Output, Run, Source
from openherd.data.documents import DOCUMENTS, PAGE_SCHEMA, Drop, Funnel
from openherd.data.warc import DamageError, read_warc

SOURCE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
PAGE_RECORDS = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)
POINTERS = (WarcRecordType.revisit, WarcRecordType.continuation)  # to what stands elsewhere
# What is read, by a file's ending (before .gz).
WARC = (".warc", ".wet")
ROWS = (".jsonl", ".parquet")
PAGES = {
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
}
READABLE = {
    "text/html": "text/html",
    "application/xhtml+xml": "text/html",
    "text/plain": "text/plain",
    "text/markdown": "text/markdown",
    "text/x-markdown": "text/markdown",
}
CHUNK = re.compile(rb"[0-9a-fA-F]{1,8}[ \t]*(;[^\r\n]*)?\r\n")
HTML_START = re.compile(rb"(?i)\s*(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--|\?xml)")

PlainFile = BinaryIO | gzip.GzipFile


@dataclass(frozen=True, kw_only=True)
class SourcesConfig:
    """Settings of `sources`. The paper names no such settings; all defaults are openherd's."""

    source: Annotated[str, Field(description="source of the pages that no pattern names; the mix weighs sources")] = "web"
    source_patterns: Annotated[
        dict[str, str], Field(description="source name to a regular expression on the address; the first that matches")
    ] = field(default_factory=dict)
    text_fields: Annotated[
        tuple[str, ...], Field(description="where rows hold their text: the first of these that is there", min_length=1)
    ] = ("text", "content")
    on_damage: Annotated[Literal["stop", "skip"], Field(description="at a damaged record stop, or drop it and read on")] = "stop"

    def __post_init__(self) -> None:
        compiled(self)


@dataclass(frozen=True)
class Page:
    """One page as read, with the reason why it is dropped, if it is."""

    offset: int
    url: str = ""
    date: str = ""
    content_type: str = ""
    content: bytes = b""
    drop: Drop | None = None


def checked(page: Page) -> Page:
    """A page with its content type in one spelling, dropped where it is no text or empty."""
    if page.drop:
        return page
    declared, _, parameters = page.content_type.partition(";")
    declared = declared.strip().lower()
    if not page.content.strip():
        return _dropped(page, "empty")
    if not declared and b"\0" not in page.content[:1024]:
        declared = "text/html" if HTML_START.match(page.content) else "text/plain"
    if declared not in READABLE:
        return _dropped(page, "content type", declared or "none, and not text")
    content_type = "; ".join([READABLE[declared], *filter(None, [parameters.strip()])])
    return Page(page.offset, page.url, page.date, content_type, page.content)


def _dropped(page: Page, reason: str, detail: str = "") -> Page:
    return Page(page.offset, page.url, page.date, page.content_type, page.content, Drop(reason, detail))


def read_records(file: BinaryIO) -> Iterator[Page | DamageError]:
    """Response, resource and conversion records of a WARC file."""
    for found in read_warc(file):
        if isinstance(found, DamageError):
            yield found
            continue
        offset, data = found
        try:
            record = WarcRecord.from_bytes(data)
        except OSError as error:
            yield DamageError(offset, f"not a WARC record ({error})")
            continue
        if record.record_type in PAGE_RECORDS:
            yield _page_of(record, data, offset)
        elif record.record_type in POINTERS:
            reason = "revisit" if record.record_type == WarcRecordType.revisit else "segment"
            yield Page(offset, address_of(record), date_of(record), drop=Drop(reason, "what it goes on from stands elsewhere"))


def address_of(record: WarcRecord) -> str:
    """A record's address."""
    return (record.headers.get("WARC-Target-URI") or "").strip().strip("<>")


def date_of(record: WarcRecord) -> str:
    """A record's date."""
    return iso_date(record.record_date) if record.record_date else ""


def _page_of(record: WarcRecord, data: bytes, offset: int) -> Page:
    url, date = address_of(record), date_of(record)
    if record.headers.get("WARC-Segment-Number"):
        return Page(offset, url, date, drop=Drop("segment", "one part of a record that is spread over several"))
    if not record.is_http:
        return checked(Page(offset, url, date, record.headers.get("Content-Type") or "", record.reader.read()))
    decoded = True
    try:
        record.parse_http(auto_decode="all", quirks_mode=True)
        content = record.reader.read()
    except OSError:  # crawlers keep 'Content-Encoding: gzip' on content that they have decoded
        decoded = False
        record = WarcRecord.from_bytes(data)
        try:
            record.parse_http(auto_decode="none", quirks_mode=True)
            content = record.reader.read()
        except OSError as error:
            return Page(offset, url, date, content=record.reader.read(), drop=Drop("no http response", str(error)))
    charset = f"; charset={record.http_charset}" if record.http_charset else ""
    page = Page(offset, url, date, (record.http_content_type or "") + charset, content)
    status = None if record.http_headers is None else record.http_headers.status_code
    if status != 200:
        return _dropped(page, "http status", str(status or "none"))
    coding = "" if record.http_headers is None else record.http_headers.get("Transfer-Encoding") or ""
    if not decoded and (b"\0" in content[:1024] or (coding.lower() == "chunked" and CHUNK.match(content))):
        return _dropped(page, "content encoding", record.http_headers.get("Content-Encoding") or "")
    return checked(page)


def iso_date(value: Any) -> str:
    """A date as text: ISO 8601 in UTC (one without a time zone is UTC); empty for what is no date."""
    if isinstance(value, str):
        value = _parsed(value.strip())
    if isinstance(value, datetime.datetime):
        value = value.replace(tzinfo=value.tzinfo or datetime.UTC).astimezone(datetime.UTC)
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, datetime.date) else ""


def _parsed(text: str) -> datetime.date | None:
    for parse in (datetime.date.fromisoformat, datetime.datetime.fromisoformat, email.utils.parsedate_to_datetime):
        try:
            return parse(text)
        except (ValueError, TypeError):
            continue
    return None


def _page_of_row(number: int, row: Any, text_fields: tuple[str, ...]) -> Page:
    if not isinstance(row, Mapping):
        return Page(number, drop=Drop("no text", f"{type(row).__name__}, not an object"))
    text = next((row[name] for name in text_fields if isinstance(row.get(name), str | bytes)), None)
    url = row.get("url") or row.get("id")
    page = Page(number, "" if url is None else str(url), iso_date(row.get("date")))
    if text is None:
        return _dropped(page, "no text", f"fields: {', '.join(map(str, row))}")
    kind = str(row.get("content_type") or "text/plain; charset=utf-8")
    if isinstance(text, str):  # decoded already, whatever the page says of its encoding
        return checked(Page(number, page.url, page.date, f"{kind.partition(';')[0]}; charset=utf-8", text.encode(errors="replace")))
    return checked(Page(number, page.url, page.date, kind, text))


def read_json_lines(file: PlainFile, text_fields: tuple[str, ...]) -> Iterator[Page | DamageError]:
    """Rows of JSON Lines."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    yield DamageError(number, f"invalid JSON ({error})")
                    continue
                yield _page_of_row(number, row, text_fields)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield DamageError(number + 1, f"invalid gzip ({error})")


def read_parquet(file: BinaryIO, text_fields: tuple[str, ...]) -> Iterator[Page | DamageError]:
    """Rows of a Parquet file."""
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            wanted = [name for name in table.schema_arrow.names if name in (*text_fields, "url", "date", "id", "content_type")]
            for group in range(table.num_row_groups):
                end = number + table.metadata.row_group(group).num_rows
                try:
                    for batch in table.iter_batches(batch_size=1_000, columns=wanted, row_groups=[group]):
                        for row in batch.to_pylist():
                            number += 1
                            yield _page_of_row(number, row, text_fields)
                except (pa.ArrowException, OSError) as error:
                    yield DamageError(number + 1, f"rows up to {end:,} cannot be read ({error})")
                number = end
    except (pa.ArrowException, OSError) as error:
        yield DamageError(number + 1, f"not a readable Parquet file ({error})")


def path_of(name: str) -> PurePosixPath:
    """A file's path: of an address without its query; a file here may have '#' or '?' in its name."""
    return PurePosixPath(urlsplit(name).path if "://" in name else name)


def is_gzip(name: str) -> bool:
    """Whether a file's name says that it is compressed."""
    return path_of(name).suffix.lower() == ".gz"


def ending_of(name: str) -> str:
    """A file's ending in lower case, before .gz."""
    path = path_of(name)
    return (path.with_suffix("") if is_gzip(name) else path).suffix.lower()


def read_file(name: str, text_fields: tuple[str, ...]) -> Iterator[Page | DamageError]:
    """The pages of one file, by its ending; a DamageError where there is one. Raises InputError where it cannot be read."""
    ending = ending_of(name)
    try:
        with closing(opened(name)) as file:
            if ending in WARC:
                yield from read_records(file)
            elif ending == ".parquet":
                yield from read_parquet(file, text_fields)
            else:
                plain = gzip.GzipFile(fileobj=file) if is_gzip(name) else file
                yield from read_json_lines(plain, text_fields) if ending == ".jsonl" else read_page(plain, name, PAGES[ending])
    except (OSError, ImportError) as error:
        raise InputError(name, f"cannot be read ({error})", do="check the address and your access to it") from None


def read_page(file: PlainFile, name: str, content_type: str) -> Iterator[Page | DamageError]:
    """A file that is one page."""
    try:
        yield checked(Page(0, name if "://" in name else Path(name).absolute().as_uri(), "", content_type, file.read()))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield DamageError(0, f"invalid gzip ({error})")


def opened(name: str) -> BinaryIO:
    """A file here or, through fsspec, elsewhere."""
    if "://" not in name:
        return Path(name).open("rb")
    import fsspec

    return fsspec.open(name, "rb").open()


def compiled(config: SourcesConfig) -> list[tuple[str, re.Pattern[str]]]:
    """The patterns. Raises ConfigError."""
    for name in (config.source, *config.source_patterns):
        if not SOURCE_NAME.fullmatch(name):
            raise ConfigError("sources", f"source {name!r}", allowed="lower-case letters, digits, '-' and '_'")
    try:
        return [(name, re.compile(pattern)) for name, pattern in config.source_patterns.items()]
    except re.error as error:
        raise ConfigError("sources", f"source_patterns: {error.pattern!r}", allowed=f"a regular expression ({error})") from None


def files_of(pages: Source) -> tuple[list[tuple[str, str]], list[str]]:
    """The files to read as (path, name in the lineage), and files of other kinds. Raises InputError where there is none to read."""
    if isinstance(pages, Run):
        documents = pages.files(DOCUMENTS) or pages.files("train.parquet")  # of a holdout run never what is held out
        outputs = documents or [p for p in pages.files() if not Path(p).name.startswith(("dropped", "heldout"))]
        named = [(path, str(Path(path).relative_to(pages.path))) for path in outputs]
    else:
        named = [(path, path) for path in pages.files()]
    endings = (*WARC, *ROWS, *PAGES)
    readable = [(path, name) for path, name in named if ending_of(path) in endings]
    if not readable:
        where = pages.path if isinstance(pages, Run) else pages.location
        raise InputError(where, "no file of a kind that is read", allowed=f"{', '.join(endings)}; also .gz, but not of Parquet")
    return readable, [name for path, name in named if ending_of(path) not in endings]


def sources(config: SourcesConfig, *, pages: Source, out: Output) -> dict[str, Any]:
    """Read all pages of a finished run or a location outside. Raises InputError for damage, and where there is no page at all."""
    patterns = compiled(config)
    files, ignored = files_of(pages)
    for name in ignored:
        out.log(ignored=name)
    with Funnel("sources", out, PAGE_SCHEMA) as funnel, Progress("sources", 0, "pages") as progress:
        for path, name in files:
            unit = "line" if ending_of(path) == ".jsonl" else "row" if ending_of(path) == ".parquet" else "byte"
            for page in read_file(path, config.text_fields):
                if isinstance(page, DamageError):
                    if config.on_damage == "stop":
                        do = "fetch the file again, or set on_damage = 'skip' to read the rest"
                        raise InputError(f"{path}, {unit} {page.offset:,}", f"damaged: {page.found}", do=do)
                    page = Page(page.offset, drop=Drop("damaged", page.found))
                row = {
                    "id": hashlib.sha256(page.url.encode(errors="replace") + b"\0" + page.content).hexdigest()[:32],
                    "url": page.url,
                    "date": page.date,
                    "source": next((source for source, pattern in patterns if pattern.search(page.url)), config.source),
                    "file": name,
                    "offset": page.offset,
                    "content_type": page.content_type,
                    "content": page.content,
                }
                funnel.take(row)
                if page.drop:
                    funnel.drop(row, page.drop)
                else:
                    funnel.keep(row)
                progress.advance(note=Path(name).name)
        if not funnel.n_out:
            where = pages.path if isinstance(pages, Run) else pages.location
            found = ", ".join(f"{n:,} {reason}" for reason, (n, _) in sorted(funnel.reasons.items()))
            raise InputError(
                where, f"no page in {len(files):,} files; dropped: {found or 'none'}", do="look at what the files hold"
            )
    return funnel.metrics() | {"files": len(files), "files_ignored": len(ignored)}

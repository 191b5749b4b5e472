"""Reading what a crawl or a person has (paper 3.1): crawls, pages, rows, code, papers, wikis, books, dumps of questions.

Each page keeps its lineage: file, address, date, the place in its file, and licence and authors where the file names them. What is
no page (a status other than 200, an image, a redirect, a generated file) is dropped with its reason: nothing is passed over in
silence. A damaged file stops the stage and says where; `on_damage = "skip"` drops what is damaged and reads the rest. A record at
which a reader fails, crashes or finds no end is dropped alone; files are read in parts, by processes (`source_parts.py`).
`content_type` is text/html (XHTML too), text/plain or text/markdown, with `; charset=...` where the server named one.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field

from openherd.core.config import to_plain
from openherd.core.errors import ConfigError, InputError
from openherd.core.progress import Progress
from openherd.core.remote import is_address
from openherd.core.rundir import Output, Run, Source, digest_of
from openherd.data.documents import PAGE_SCHEMA, TEXT_SCHEMA, Funnel
from openherd.data.encodings import decode, encodable
from openherd.data.engine import ACCOUNTS, EngineConfig, EngineSetting, accounts_in_order
from openherd.data.extraction import tidy
from openherd.data.locations import NamedFile, ending_of, files_of
from openherd.data.pages import DamageError, Page, Place, Record
from openherd.data.reading import ENDINGS, Reading, address_of, damaged, is_readable, records_of
from openherd.data.source_parts import Opener, Reader, ReadingProcess, Row, UnitReader, units_of

SOURCE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
WEB = "web"  # what nothing says otherwise of


@dataclass(frozen=True, kw_only=True)
class SourcesConfig:
    """Settings of `sources`. The paper names no such settings; all defaults are openherd's."""

    source: Annotated[
        str,
        Field(description="source of the pages that no pattern names; empty: by the kind of file (web, code, academic, books...)"),
    ] = ""
    source_patterns: Annotated[
        dict[str, str], Field(description="source name to a regular expression on the address; the first that matches")
    ] = field(default_factory=dict)
    text_fields: Annotated[
        tuple[str, ...], Field(description="where rows hold their text: the first of these that is there", min_length=1)
    ] = ("text", "content")
    common_crawl: Annotated[
        str, Field(description="where the paths of Common Crawl's lists lie; s3://commoncrawl/ where you run at AWS")
    ] = "https://data.commoncrawl.org/"
    form: Annotated[
        Literal["pages", "documents"],
        Field(
            description="pages, for `extraction`; or documents of what is text already (WET, code, papers, books), for `language`"
        ),
    ] = "pages"
    on_damage: Annotated[Literal["stop", "skip"], Field(description="at a damaged record stop, or drop it and read on")] = "stop"
    engine: EngineSetting = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        compiled(self)


def compiled(config: SourcesConfig) -> list[tuple[str, re.Pattern[str]]]:
    """The patterns. Raises ConfigError."""
    for name in filter(None, (config.source, *config.source_patterns)):
        if not SOURCE_NAME.fullmatch(name):
            raise ConfigError("sources", f"source {name!r}", allowed="lower-case letters, digits, '-' and '_'")
    try:
        return [(name, re.compile(pattern)) for name, pattern in config.source_patterns.items()]
    except re.error as error:
        raise ConfigError("sources", f"source_patterns: {error.pattern!r}", allowed=f"a regular expression ({error})") from None


def read_records(config: SourcesConfig, file: NamedFile, place: Place, open_file: Opener) -> Iterator[Record]:
    """What one file holds, from a place on."""
    if is_readable(file.path):
        yield from records_of(file.path, Reading(config.text_fields), place, open_file)
    elif not place.skip:
        yield Page(0, address_of(file.path)).dropped("file kind", ending_of(file.path) or PurePath(file.path).name)


def page_of(config: SourcesConfig, file: NamedFile, found: Page | DamageError) -> Page:
    """What is found as a page. Raises InputError at damage, where that is to stop the stage."""
    if isinstance(found, Page):
        return found
    if config.on_damage == "skip":
        return damaged(found)
    unit = {".jsonl": "line", ".parquet": "row", ".warc": "byte", ".wet": "byte"}.get(ending_of(file.path), "part")
    do = "fetch the file again, or set on_damage = 'skip' to read the rest"
    raise InputError(f"{file.path}, {unit} {found.offset:,}", f"{found.reason}: {found.found}", do=do)


def row_of(page: Page, name: str, source: str, form: str) -> Row:
    """A page as a row, in the form asked for; in the other it may be dropped."""
    row: dict[str, Any] = {
        "url": page.url,
        "date": page.date,
        "source": source,
        "file": name,
        "license": page.license,
        "attribution": page.attribution,
        "programming_language": page.programming_language,
        "title": page.title,
    }
    if form == "pages":
        row["content_type"] = page.content_type
    else:
        text = decode(page.content, page.content_type)
        if not page.drop and not page.content_type.startswith("text/plain"):
            page = page.dropped("needs extraction", page.content_type.partition(";")[0])
        row |= {"text": text if page.drop else tidy(text)}
    row = {name: encodable(value) for name, value in row.items()}
    id_ = hashlib.sha256(row["url"].encode() + b"\0" + page.content).hexdigest()[:32]
    row |= {"id": id_, "offset": page.offset, **({"content": page.content} if form == "pages" else {})}
    return row, page.drop and replace(page.drop, detail=encodable(page.drop.detail))


def prepare_sources(config: SourcesConfig) -> Reader:
    """How files are read, and what becomes of what they hold."""
    patterns = compiled(config)

    def row(file: NamedFile, found: Page | DamageError) -> Row:
        page = page_of(config, file, found)
        named = page.source.lower().replace(" ", "-")
        by_kind = config.source or (named if SOURCE_NAME.fullmatch(named) else WEB)
        source = next((name for name, pattern in patterns if pattern.search(page.url)), by_kind)
        return row_of(page, file.name, source, config.form)

    return Reader(PAGE_SCHEMA if config.form == "pages" else TEXT_SCHEMA, partial(read_records, config), row)


def sources(config: SourcesConfig, *, pages: tuple[Source, ...], out: Output) -> dict[str, Any]:
    """Read all pages of finished runs and of locations outside. Raises InputError for damage, and where there is no page at all."""
    files = [file for one in pages for file in files_of(one, config.common_crawl)]
    ignored = [file.name for file in files if not is_readable(file.path)]
    where = ", ".join(str(one.path if isinstance(one, Run) else one.location) for one in pages)
    if len(ignored) == len(files):
        allowed = f"{', '.join(ENDINGS)}; most also .gz, .bz2, .xz, .zst; git trees"
        do = "a folder elsewhere is named by a glob, as s3://bucket/folder/**" if any(is_address(name) for name in ignored) else ""
        found = f"no file of a kind that is read, {ignored[0]} for one" if ignored else "no file is named"
        raise InputError(where, found, allowed=allowed, do=do)
    settings = {name: value for name, value in to_plain(config).items() if name != "engine"}
    units = units_of(files, out.work, digest_of([ACCOUNTS, "sources", out.digest, settings, files]))
    prepare, engine = partial(prepare_sources, config), config.engine
    process = partial(ReadingProcess, prepare, engine.timeout_s, engine.process_bytes())
    total, unit = sum(one.size for one in units), "kB" if units[0].in_kb else "files"
    with Funnel("sources", out, prepare().schema) as funnel, Progress("sources", total, unit) as progress:
        for account in accounts_in_order(units, process, lambda: UnitReader(prepare()), engine, progress):
            funnel.add(account)
            progress.note = f"{funnel.n_in:,} pages"
        if not funnel.n_out:
            found = ", ".join(f"{n:,} {reason}" for reason, (n, _) in sorted(funnel.reasons.items()))
            raise InputError(
                where,
                f"no page in {len(files) - len(ignored):,} files; dropped: {found or 'none'}",
                do="look at what the files hold",
            )
    return funnel.metrics() | {
        "files": len(files) - len(ignored),
        "files_ignored": len(ignored),
        "other_records": dict(sorted(sum((one.passed() for one in units), Counter[str]()).items())),
    }

"""Rows of JSON Lines and Parquet files as pages: text in one of the fields asked for, with address, date and more if there."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from openherd.data.locations import UNPACK_ERRORS
from openherd.data.pages import START, DamageError, Found, Page, Place, Record, Unread, checked, iso_date

CARRIED = ("title", "license", "attribution", "programming_language", "source")


def page_of_row(number: int, row: Any, text_fields: tuple[str, ...]) -> Page:
    """A row as a page."""
    page = Page(number)
    if not isinstance(row, Mapping):
        return page.dropped("no text", f"{type(row).__name__}, not an object")
    text = next((row[name] for name in text_fields if isinstance(row.get(name), str | bytes)), None)
    url = row.get("url") or row.get("id")
    carried = {name: row[name] for name in CARRIED if isinstance(row.get(name), str)}
    page = replace(page, url="" if url is None else str(url), date=iso_date(row.get("date")), **carried)
    if text is None:
        return page.dropped("no text", f"fields: {', '.join(map(str, row))}")
    kind = str(row.get("content_type") or "text/plain; charset=utf-8")
    if isinstance(text, str):  # decoded already, whatever the page says of its encoding
        kind, text = f"{kind.partition(';')[0]}; charset=utf-8", text.encode(errors="replace")
    return checked(replace(page, content_type=kind, content=text))


def page_of_line(number: int, line: bytes, text_fields: tuple[str, ...]) -> Found:
    """A line of JSON as a page."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return DamageError(number, f"invalid JSON ({error})")
    return page_of_row(number, row, text_fields)


def read_json_lines(file: BinaryIO, text_fields: tuple[str, ...], start: Place = START) -> Iterator[Record]:
    """Rows of JSON Lines; blank lines are none, but are counted."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            if number > start.skip and line.strip():
                yield Unread(Place(0, number - 1), number, partial(page_of_line, number, line, text_fields))
    except UNPACK_ERRORS as error:
        if number >= start.skip:
            yield DamageError(number + 1, f"invalid compressed data ({error})", Place(0, number))


def read_parquet(file: BinaryIO, text_fields: tuple[str, ...], start: Place = START) -> Iterator[Record]:
    """Rows of a Parquet file; row groups before `start` are not read."""
    number = 0
    try:
        with pq.ParquetFile(file) as table:
            wanted = {*text_fields, "url", "date", "id", "content_type", *CARRIED}
            columns = [name for name in table.schema_arrow.names if name in wanted]
            for group in range(table.num_row_groups):
                end = number + table.metadata.row_group(group).num_rows
                try:
                    if end > start.skip:
                        for batch in table.iter_batches(batch_size=1_000, columns=columns, row_groups=[group]):
                            for row in batch.to_pylist():
                                number += 1
                                if number > start.skip:
                                    make = partial(page_of_row, number, row, text_fields)
                                    yield Unread(Place(0, number - 1), number, make)
                except (pa.ArrowException, OSError) as error:
                    if number >= start.skip:
                        yield DamageError(number + 1, f"rows up to {end:,} cannot be read ({error})", Place(0, number))
                number = end
    except (pa.ArrowException, OSError) as error:
        if number >= start.skip:
            yield DamageError(number + 1, f"not a readable Parquet file ({error})", Place(0, number))

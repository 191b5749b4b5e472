"""One page as a reader gives it (paper 3.1), and what is no page.

A reader yields, in the order of its file, what it finds: a `Page` (kept, or with the reason why it is dropped), a `DamageError` for
what cannot be read, a `Passed` for a record that never was a page, or an `Unread` record, of which its parser makes one of these:
that may fail, and is done for none that is only passed over. Each says at which `Place` reading may start again with it.
"""

import datetime
import email.utils
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from openherd.core.errors import OpenherdError
from openherd.data.documents import Drop, failure

READABLE = {
    "text/html": "text/html",
    "application/xhtml+xml": "text/html",
    "text/plain": "text/plain",
    "text/markdown": "text/markdown",
    "text/x-markdown": "text/markdown",
}
TEXT = "text/plain; charset=utf-8"  # text that needs no extraction
HTML_START = re.compile(rb"(?i)\s*(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--|\?xml)")


class Place(NamedTuple):
    """Where reading may start: at a byte of the file, and how many of what is found from there on are passed over first."""

    byte: int = 0
    skip: int = 0

    def behind(self) -> "Place":
        """Where what follows begins."""
        return Place(self.byte, self.skip + 1)


START = Place()


class DamageError(Exception):
    """What is wrong with the record, row or gzip member at `offset`, and the reason with which that is dropped."""

    def __init__(self, offset: int, found: str, place: Place = START, reason: str = "damaged") -> None:
        super().__init__(f"byte {offset:,}: {found}")
        self.offset, self.found, self.place, self.reason = offset, found, place, reason


class RestError(DamageError):
    """What is wrong where a reader cannot go on: the rest of the file is lost."""


@dataclass(frozen=True)
class Passed:
    """A record that is no page and stands for none: a request, say."""

    offset: int
    kind: str
    place: Place = START


@dataclass(frozen=True)
class Page:
    """One page as read, with the reason why it is dropped, if it is."""

    offset: int
    url: str = ""
    date: str = ""
    content_type: str = ""
    content: bytes = b""
    drop: Drop | None = None
    title: str = ""
    license: str = ""  # SPDX, or what the source says
    attribution: str = ""  # whom the licence asks to name
    programming_language: str = ""
    source: str = ""  # the part of the corpus that it belongs to, where nothing else is said
    place: Place = START

    def dropped(self, reason: str, detail: str = "") -> "Page":
        """This page, dropped."""
        return replace(self, drop=Drop(reason, detail))

    def holding(self, text: str) -> "Page":
        """This page with a text that a reader made; dropped where there is none."""
        page = replace(self, content_type=TEXT, content=text.encode(errors="replace"))
        return page if page.drop or text.strip() else page.dropped("empty")


Found = Page | DamageError | Passed


@dataclass(frozen=True)
class Unread:
    """A record that its parser has not seen: `read` gives what it is."""

    place: Place
    offset: int
    read: Callable[[], Found]


Record = Unread | Found
Made = tuple[int, Callable[[], Found]]  # the offset of a record, and what makes a page of it


def numbered(made: Iterator[Made], start: Place) -> Iterator[Record]:
    """The records of a file that has no other places than their numbers, from a place on."""
    for index, (offset, read) in enumerate(islice(made, start.skip, None), start.skip):
        yield Unread(Place(0, index), offset, read)


def found_of(record: Record) -> Found:
    """What a record is; one of which nothing can be made is dropped with the error."""
    if not isinstance(record, Unread):
        return record
    found: Found
    try:
        found = record.read()
    except OpenherdError:
        raise
    except Exception as error:
        found = Page(record.offset, drop=failure(error))
    if isinstance(found, DamageError):
        found.place = record.place
        return found
    return replace(found, place=record.place)


def all_found(records: Iterable[Record]) -> Iterator[Found]:
    """What the records of a reader are."""
    return map(found_of, records)


def checked(page: Page) -> Page:
    """A page with its content type in one spelling, dropped where it is no text or empty."""
    if page.drop:
        return page
    declared, _, parameters = page.content_type.partition(";")
    declared = declared.strip().lower()
    if not page.content.strip():
        return page.dropped("empty")
    if not declared and b"\0" not in page.content[:1024]:
        declared = "text/html" if HTML_START.match(page.content) else "text/plain"
    if declared not in READABLE:
        return page.dropped("content type", declared or "none, and not text")
    return replace(page, content_type="; ".join([READABLE[declared], *filter(None, [parameters.strip()])]))


def iso_date(value: Any) -> str:
    """A date as text: ISO 8601 in UTC (one without a time zone is UTC); empty for what is no date."""
    if isinstance(value, str):
        value = _parsed(value.strip())
    if isinstance(value, datetime.datetime):
        try:
            value = value.replace(tzinfo=value.tzinfo or datetime.UTC).astimezone(datetime.UTC)
        except OverflowError:  # before the year 1, or after 9999
            return ""
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, datetime.date) else ""


def _parsed(text: str) -> datetime.date | None:
    for parse in (datetime.date.fromisoformat, datetime.datetime.fromisoformat, email.utils.parsedate_to_datetime):
        try:
            return parse(text)
        except (ValueError, TypeError, OverflowError):
            continue
    return None

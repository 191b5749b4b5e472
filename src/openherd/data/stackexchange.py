"""StackExchange dumps (Posts.xml): a question with its answers, best first, as one document (paper 3.1: reasoning, code).

An answer stands anywhere behind its question, so the posts are sorted by a temporary SQLite file: memory is bounded, and the
disk (TMPDIR) must hold the posts once more. Each post is a line of its own, parsed by itself: a damaged one is lost alone. Authors'
names come from Users.xml where it lies beside. Bodies are HTML, made text as it is laid out; formulas are TeX between dollars.
"""

import html
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

from openherd.data.locations import UNPACK_ERRORS
from openherd.data.markup import html_text
from openherd.data.pages import START, DamageError, Made, Page, Place, Record, iso_date, numbered

LONGEST_LINE = 1 << 24
QUESTION, ANSWER = "1", "2"
POST_TYPES = {
    "3": "orphaned tag wiki",
    "4": "tag wiki excerpt",
    "5": "tag wiki",
    "6": "moderator nomination",
    "7": "wiki placeholder",
    "8": "privilege wiki",
}
HEAD = (b"\xef\xbb\xbf<?xml", b"<?xml", b"<posts", b"<users")
END = (b"</posts>", b"</users>")
LICENSE = re.compile(r"CC BY-SA (\d\.\d)")
BEGIN = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536; PRAGMA temp_store = FILE;
    CREATE TABLE posts (question INTEGER, is_answer INTEGER, score INTEGER, id INTEGER, xml TEXT);
    CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT);
"""


class Line(NamedTuple):
    """A line that is a row, or what is wrong with it; `number` counts lines from 1."""

    number: int
    row: dict[str, str]
    xml: str
    damage: str = ""


def rows_of(file: BinaryIO) -> Iterator[Line]:
    """The rows of a dump's file."""
    number, last = 0, Line(0, {}, "", "an empty file")
    try:
        while line := file.readline(LONGEST_LINE):
            number += 1
            text = line.strip()
            if text in END:
                return
            if text and not text.startswith(HEAD):
                last = _row(number, text)
                yield last
        if not last.damage:
            yield Line(number + 1, {}, "", "the file ends before its last line")
    except UNPACK_ERRORS as error:
        yield Line(number + 1, {}, "", f"invalid compressed data ({error})")


def _row(number: int, text: bytes) -> Line:
    if not text.startswith(b"<row"):
        return Line(number, {}, "", f"no row, but {text[:20]!r}")
    try:
        return Line(number, dict(ElementTree.fromstring(text).attrib), text.decode(errors="replace"))
    except ElementTree.ParseError as error:
        return Line(number, {}, "", f"invalid XML ({error})")


Opener = Callable[[], AbstractContextManager[BinaryIO]]  # the users of an archive are read before its posts are opened


def read_posts(posts: Opener, users: Opener | None, site: str, start: Place = START) -> Iterator[Record]:
    """First what is no question or answer, and what is damaged; then the questions by their number."""
    return numbered(_read(posts, users, site), start)


def _read(posts: Opener, users: Opener | None, site: str) -> Iterator[Made]:
    with closing(sqlite3.connect("")) as table:  # a file of SQLite's own that has no name, so that a killed process leaves none
        table.executescript(BEGIN)
        if users:
            with users() as file:
                for line in rows_of(file):
                    if line.row.get("Id") and line.row.get("DisplayName"):
                        table.execute("INSERT OR REPLACE INTO users VALUES (?, ?)", (line.row["Id"], line.row["DisplayName"]))
        with posts() as file:
            for line in rows_of(file):
                if made := _stored(line, table, site):
                    yield made
        table.commit()
        posts_of = table.execute("SELECT question, is_answer, xml FROM posts ORDER BY question, is_answer, score DESC, id")
        for question, of_question in groupby(posts_of, key=lambda post: post[0]):
            thread = [(is_answer, dict(ElementTree.fromstring(xml).attrib)) for _, is_answer, xml in of_question]
            if thread[0][0]:
                for _, row in thread:
                    yield question, partial(_answer, question, row, site)
            else:
                yield question, partial(_document, question, [row for _, row in thread], site, table)


def _answer(question: int, row: dict[str, str], site: str) -> Page:
    page = Page(question, _address(site, row), _date(row)).holding(html_text(row.get("Body", "")))
    return page.dropped("no question", f"an answer to {question}, which is not there")


def _other(number: int, row: dict[str, str], site: str) -> Page:
    kind = row.get("PostTypeId", "")
    page = Page(number, _address(site, row)).holding(html_text(row.get("Body", "")))
    return page.dropped("post type", POST_TYPES.get(kind, f"type {kind or 'none'}"))


def _stored(line: Line, table: sqlite3.Connection, site: str) -> Made | None:
    """Put a question or an answer into the table; what is neither comes back."""
    row = line.row
    if line.damage:
        return line.number, partial(DamageError, line.number, line.damage)
    if (kind := row.get("PostTypeId", "")) not in (QUESTION, ANSWER):
        return line.number, partial(_other, line.number, row, site)
    number, question = row.get("Id", ""), row.get("Id" if kind == QUESTION else "ParentId", "")
    try:
        values = (int(question), kind == ANSWER, int(row.get("Score") or 0), int(number), line.xml)
    except ValueError:
        found = "a post without its number, or its question's, or with a score that is none"
        return line.number, partial(DamageError, line.number, found)
    table.execute("INSERT INTO posts VALUES (?, ?, ?, ?, ?)", values)
    return None


def _document(number: int, thread: list[dict[str, str]], site: str, table: sqlite3.Connection) -> Page:
    question, answers = thread[0], thread[1:]
    title = html.unescape(question.get("Title", "")).strip()
    parts = [title, html_text(question.get("Body", "")), *(html_text(answer.get("Body", "")) for answer in answers)]
    authors = list(dict.fromkeys(filter(None, (_author(row, table) for row in thread))))
    licenses = sorted({_license(row) for row in thread} - {""})
    page = Page(number, _address(site, question), max(map(_date, thread)), title=title, source="stackexchange")
    page = replace(page, license=" AND ".join(licenses), attribution="; ".join(authors))
    return page.holding("\n\n".join(filter(None, parts)))


def _address(site: str, row: dict[str, str]) -> str:
    letter = "a" if row.get("PostTypeId") == ANSWER else "q"
    return f"https://{site}/{letter}/{row.get('Id', '')}" if site else ""


def _date(row: dict[str, str]) -> str:
    return iso_date(row.get("LastEditDate") or row.get("CreationDate"))


def _author(row: dict[str, str], table: sqlite3.Connection) -> str:
    number = row.get("OwnerUserId", "")
    found = table.execute("SELECT name FROM users WHERE id = ?", (number,)).fetchone()
    return found[0] if found else row.get("OwnerDisplayName") or (f"user {number}" if number else "")


def _license(row: dict[str, str]) -> str:
    found = LICENSE.search(row.get("ContentLicense", ""))
    return f"CC-BY-SA-{found[1]}" if found else row.get("ContentLicense", "")

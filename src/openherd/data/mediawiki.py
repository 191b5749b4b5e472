"""MediaWiki XML dumps (Wikipedia's pages-articles): each article's wikitext as text (paper 3.1).

A page is found by its tags and parsed by itself, so that memory is bounded by one page and a damaged one is lost alone.
Redirects and pages of other namespaces are dropped with their reason. Of a page with several revisions the last counts.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

from mwparserfromhell.parser import ParserError

from openherd.data.locations import UNPACK_ERRORS
from openherd.data.pages import START, DamageError, Page, Place, Record, Unread, iso_date
from openherd.data.wikitext import wiki_text

BLOCK = 1 << 16
LONGEST_PAGE = 1 << 26  # bytes of one page's XML: articles have two MB at most; whole histories are not read
OPEN, CLOSE, END = b"<page>", b"</page>", b"</mediawiki>"
NAMESPACE_TAG = re.compile(r"\{[^}]*\}")
CC_BY_SA = re.compile(r"\.(wikipedia|wiktionary|wikibooks|wikiversity|wikivoyage|wikiquote|wikisource)\.org$")


@dataclass(frozen=True)
class Site:
    """What a dump's head says."""

    name: str = ""
    base: str = ""  # address of the main page
    namespaces: tuple[tuple[str, str], ...] = ()  # key to name

    @property
    def license(self) -> str:
        """Of all text; wikis outside Wikimedia do not tell theirs in a dump."""
        return "CC-BY-SA-4.0" if CC_BY_SA.search(urlsplit(self.base).hostname or "") else ""

    def address(self, title: str) -> str:
        """Of a page."""
        name = quote(title.replace(" ", "_"), safe="/:(),'!*;@&=+$~")
        return f"{self.base.rpartition('/')[0]}/{name}" if self.base else name


def pieces_of(file: BinaryIO) -> Iterator[tuple[int, bytes] | DamageError]:
    """The head (0), then each page's XML with its number from 1; a DamageError for what is no page."""
    data, number, block = b"", 0, b""
    read = getattr(file, "read1", file.read)  # what stands before damage is given before the damage is told
    looked = 0  # how far `data` holds no whole page
    while True:
        try:
            block = read(BLOCK)
        except UNPACK_ERRORS as error:
            yield DamageError(number + 1, f"invalid compressed data ({error})")
            return
        data += block
        while True:
            if number == 0:
                at = data.find(OPEN)
                if at < 0 and END not in data and block and len(data) < LONGEST_PAGE:
                    break
                yield 0, data[:at] if at >= 0 else data
                data, number = data[at:] if at >= 0 else data, 1
            end = data.find(CLOSE, looked)
            if end < 0:
                looked = max(0, len(data) - len(CLOSE))
                break
            page, data, looked = data[: end + len(CLOSE)], data[end + len(CLOSE) :], 0
            *cut, page = page.split(OPEN)  # a page that was never closed stands before the next
            for lost in cut:
                if lost.strip():
                    yield DamageError(number, f"a page without an end, or none: {lost.strip()[:30]!r}")
                    number += 1
            yield number, OPEN + page
            number += 1
        if not block:
            if END not in data:
                yield DamageError(number, "the file ends within a page, or before its last line")
            return
        if len(data) > LONGEST_PAGE:
            yield DamageError(number, f"a page of more than {LONGEST_PAGE >> 20} MiB")
            number, data, looked = number + 1, data[-len(CLOSE) :], 0


def read_wiki(file: BinaryIO, start: Place = START) -> Iterator[Record]:
    """The pages of a dump; those before `start` are passed over without being parsed."""
    site = Site()
    index = 0
    for piece in pieces_of(file):
        if not isinstance(piece, DamageError) and piece[0] == 0:
            site = site_of(piece[1])
            continue
        place, index = Place(0, index), index + 1
        if place.skip < start.skip:
            continue
        if isinstance(piece, DamageError):
            piece.place = place
            yield piece
        else:
            yield Unread(place, piece[0], partial(page_of, *piece, site))


def site_of(head: bytes) -> Site:
    """The site that a dump's head names; nothing where it cannot be read."""
    at, end = head.find(b"<siteinfo>"), head.find(b"</siteinfo>")
    try:
        info = ElementTree.fromstring(head[at : end + len(b"</siteinfo>")])
    except ElementTree.ParseError:
        return Site()
    names = tuple((e.get("key", ""), e.text or "") for e in info.iter("namespace"))
    return Site(info.findtext("sitename") or "", info.findtext("base") or "", names)


def page_of(number: int, xml: bytes, site: Site) -> Page | DamageError:
    """One page."""
    try:
        element = ElementTree.fromstring(xml)
    except ElementTree.ParseError as error:
        return DamageError(number, f"invalid XML ({error})")
    title = element.findtext("title") or ""
    revisions = element.findall("revision")
    if not title or not revisions:
        return DamageError(number, "invalid XML (a page without title or revision)")
    text = revisions[-1].findtext("text") or ""
    page = Page(
        number,
        site.address(title),
        iso_date(revisions[-1].findtext("timestamp")),
        "text/x-wiki",
        text.encode(),
        title=title,
        license=site.license,
        attribution=f"contributors to {site.name or 'the wiki'}",
        source="wikipedia" if ".wikipedia." in site.base else "wiki",
    )
    redirect, namespace = element.find("redirect"), element.findtext("ns") or "0"
    if redirect is not None:
        return page.dropped("redirect", redirect.get("title", ""))
    if namespace != "0":
        return page.dropped("namespace", dict(site.namespaces).get(namespace) or namespace)
    if (model := revisions[-1].findtext("model") or "wikitext") != "wikitext":
        return page.dropped("content model", model)
    try:
        body = wiki_text(text, dict(site.namespaces))
    except (RecursionError, ValueError, ParserError) as error:
        return page.dropped("not parsed", str(error))
    return page.holding(f"{title}\n\n{body}") if body.strip() else page.dropped("empty", "nothing but templates")

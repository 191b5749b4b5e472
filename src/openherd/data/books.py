"""Books (paper 3.1; the tutorial's mix: books 3%): EPUB files, and Project Gutenberg's text without its header and footer.

An EPUB is a zip of XHTML chapters in the order of its spine: the standard library reads the zip and the package file, resiliparse
the chapters. (EbookLib, the maintained reader, is under the AGPL.) One book is one document.
"""

import posixpath
import re
import zipfile
import zlib
from dataclasses import replace
from typing import Any, BinaryIO
from urllib.parse import unquote
from xml.etree import ElementTree

from openherd.data.encodings import decode
from openherd.data.markup import html_text
from openherd.data.pages import DamageError, Page, iso_date

LARGEST_CHAPTER, LARGEST_BOOK = 1 << 25, 1 << 28  # bytes, unpacked
DC = "{http://purl.org/dc/elements/1.1/}"
FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # fonts are scrambled, text is not
GUTENBERG = "https://www.gutenberg.org/ebooks/"
LICENSE = "LicenseRef-Project-Gutenberg"  # public domain in the USA, or with the author's leave: the header says which


START_MARK = re.compile(
    r"^[ \t]*\*{3}[ \t]*START OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT)\b[^\n]*(?:\n[^\n*]+)?\*{3}[ \t]*$|"
    r"^[ \t]*\*END[ *]?THE SMALL PRINT![^\n]*$",
    re.MULTILINE | re.IGNORECASE,
)
END_MARK = re.compile(
    r"^[ \t]*(?:\*{3}[ \t]*END OF (?:THE|THIS) PROJECT GUTENBERG E(?:BOOK|TEXT)\b|"
    r"End of (?:the |this )?Project Gutenberg(?:'s| E))[^\n]*$",
    re.MULTILINE | re.IGNORECASE,
)
CREDITS = re.compile(
    r"\s*(?:Produced by|This e(?:book|text) was (?:produced|prepared) by|E-?text prepared by|Transcribed (?:from .{0,200} )?by)\b"
    r".*?(?:\n[ \t]*\n|\Z)",
    re.IGNORECASE | re.DOTALL,
)
FIELD = re.compile(r"^[ \t]*(Title|Author|Release Date|Language):[ \t]*(.+(?:\n[ \t]+\S.*)*)", re.MULTILINE | re.IGNORECASE)
NUMBER = re.compile(r"\[e(?:book|text) ?#(\d+)\]", re.IGNORECASE)


def gutenberg(text: str) -> tuple[str, dict[str, Any]] | None:
    """A text of Project Gutenberg without header and footer, and what its header says; None for any other text."""
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    begins = START_MARK.search(text)
    ends = END_MARK.search(text, begins.end() if begins else 0)
    if not begins and not (ends and "gutenberg" in text[:2_000].lower()):
        return None
    head = text[: begins.start() if begins else 2_000]
    fields = {name.lower(): " ".join(value.split()) for name, value in FIELD.findall(head)}
    number = NUMBER.search(head)
    body = text[begins.end() if begins else 0 : ends.start() if ends else len(text)].strip("\n")
    while match := CREDITS.match(body):
        body = body[match.end() :].lstrip("\n")
    known = {
        "url": GUTENBERG + number[1] if number else "",
        "title": fields.get("title", ""),
        "attribution": fields.get("author", ""),
        "date": _release(fields.get("release date", "")),
        "license": LICENSE,
    }
    return body.strip("\n"), known


def _release(text: str) -> str:
    """'June, 1998 [eBook #1342]' has a month, others a day; only a whole date is one."""
    import datetime

    day = re.match(r"([A-Z][a-z]+) (\d{1,2}), (\d{4})", text)
    try:
        return datetime.datetime.strptime(day[0], "%B %d, %Y").date().isoformat() if day else ""
    except ValueError:
        return ""


def plain_text(page: Page) -> Page:
    """A page of plain text: as it is, or a book of Project Gutenberg's."""
    if page.drop or b"gutenberg" not in page.content[:20_000].lower():
        return page
    found = gutenberg(decode(page.content, page.content_type))
    if found is None:
        return page
    body, known = found
    url = known.pop("url") or page.url
    return replace(page, source="books", url=url, **known).holding(body)


def read_epub(file: BinaryIO, url: str) -> Page | DamageError:
    """One book."""
    try:
        with zipfile.ZipFile(file) as book:
            return _book(book, url)
    except (zipfile.BadZipFile, zlib.error, ElementTree.ParseError, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        return DamageError(0, f"not a readable EPUB ({error})")


def _read(book: zipfile.ZipFile, name: str) -> bytes:
    if book.getinfo(name).file_size > LARGEST_CHAPTER:
        raise zipfile.BadZipFile(f"{name}: more than {LARGEST_CHAPTER >> 20} MiB")
    return book.read(name)


def _is_encrypted(book: zipfile.ZipFile) -> bool:
    if "META-INF/encryption.xml" not in book.namelist():
        return False
    used = re.findall(rb"EncryptionMethod[^>]*Algorithm=\"([^\"]+)\"", book.read("META-INF/encryption.xml"))
    return any(name.decode() not in FONTS for name in used)


def _book(book: zipfile.ZipFile, url: str) -> Page:
    if _is_encrypted(book):
        return Page(0, url, source="books").dropped("encrypted", "the chapters are under digital rights management")
    container = ElementTree.fromstring(_read(book, "META-INF/container.xml"))
    root = next((e.get("full-path") for e in container.iter() if e.tag.endswith("}rootfile")), None)
    if root is None:
        raise KeyError("no package file")
    package = ElementTree.fromstring(_read(book, root))
    items = {e.get("id"): e for e in package.iter() if e.tag.endswith("}item")}
    chapters, size = [], 0
    for reference in (e for e in package.iter() if e.tag.endswith("}itemref")):
        item = items.get(reference.get("idref"))
        if item is None or reference.get("linear") == "no" or "nav" in (item.get("properties") or "").split():
            continue
        if "html" in (item.get("media-type") or ""):
            content = _read(book, posixpath.normpath(posixpath.join(posixpath.dirname(root), unquote(item.get("href") or ""))))
            size += len(content)
            if size > LARGEST_BOOK:
                raise zipfile.BadZipFile(f"more than {LARGEST_BOOK >> 20} MiB of chapters")
            chapters.append(html_text(decode(content, "")))
    told = {
        name: [" ".join((e.text or "").split()) for e in package.iter(DC + name)] for name in ("title", "creator", "rights", "date")
    }
    known: dict[str, Any] = {
        "url": url,
        "date": iso_date(next(iter(told["date"]), "")),
        "title": next(iter(told["title"]), ""),
        "license": next(iter(told["rights"]), ""),
        "attribution": "; ".join(told["creator"]),
    }
    text = "\n\n".join(filter(None, chapters))
    if found := gutenberg(text):
        text, of_gutenberg = found
        known |= {name: value for name, value in of_gutenberg.items() if value and (name in ("url", "license") or not known[name])}
    return Page(0, source="books", **known).holding(text)

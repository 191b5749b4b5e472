"""The pages of one file, whatever it is: which reader reads it, by its ending and its first bytes (paper 3.1).

Every reader gives what it finds in the file's order, with the place at which reading may start again with it: that is how work that
was killed goes on inside a file (`source_parts.py`). An error in a record loses it alone; one between two, the rest of the file.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from openherd.core.errors import InputError, OpenherdError
from openherd.core.remote import is_address
from openherd.data import books, git_tree, latex, mediawiki, rows, seven_zip, stackexchange, warc_pages
from openherd.data.documents import Drop, failure
from openherd.data.locations import UNPACK_ERRORS, ending_of, opened, packing_of, path_of, unpacked
from openherd.data.pages import START, DamageError, Found, Page, Place, Record, RestError, Unread, all_found, checked

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
LATEX = (".tex", ".ltx", ".latex", ".tar", ".tgz")
DUMPS = (".xml", ".7z")
ENDINGS = (*WARC, *ROWS, *PAGES, *LATEX, ".epub", *DUMPS)
PACKABLE = (*WARC, ".jsonl", *PAGES, *LATEX, ".xml")
SITE = re.compile(r"((?:[a-z0-9-]+\.)+(?:com|net|org))(?:-Posts)?(?:\.7z)?")
SNIFFED = 1 << 12


@dataclass(frozen=True)
class Reading:
    """What readers are told beside the file."""

    text_fields: tuple[str, ...] = ("text", "content")


def is_readable(name: str) -> bool:
    """Whether a file is of a kind that is read."""
    if not is_address(name) and Path(name).is_dir():
        return True
    if packing_of(name) and ending_of(name) not in PACKABLE:
        return is_paper(name)
    return ending_of(name) in ENDINGS


def is_paper(name: str) -> bool:
    """Whether a .gz file has the name of an arXiv paper."""
    return packing_of(name) == ".gz" and bool(latex.arxiv_address(path_of(name).name))


def address_of(name: str) -> str:
    """A file's address."""
    return name if is_address(name) else Path(name).absolute().as_uri()


def read_file(name: str, reading: Reading, start: Place = START) -> Iterator[Found]:
    """What one file holds from a place on. Raises InputError where it cannot be read."""
    return all_found(records_of(name, reading, start))


def records_of(
    name: str, reading: Reading, start: Place = START, open_file: Callable[[str], BinaryIO] = opened
) -> Iterator[Record]:
    """The records of one file from a place on. Raises InputError where it cannot be read."""
    last, offset = start, 0
    try:
        for record in _read(name, reading, start, open_file):
            yield record
            last, offset = record.place.behind(), record.offset
    except OpenherdError:
        raise
    except (OSError, ImportError) as error:
        raise InputError(name, f"cannot be read ({error})", do="check the address and your access to it") from None
    except Exception as error:
        yield rest_of_file(offset, last, failure(error))


def rest_of_file(offset: int, place: Place, drop: Drop) -> RestError:
    """What is told where a reader cannot go on; `offset` is that of what it gave last."""
    return RestError(offset, f"the rest of the file ({drop.detail})", place, drop.reason)


def _read(name: str, reading: Reading, start: Place, open_file: Callable[[str], BinaryIO]) -> Iterator[Record]:
    if not is_address(name) and Path(name).is_dir():
        yield from git_tree.read_tree(name, start)
    else:
        with closing(open_file(name)) as file:
            yield from _reader_of(name, reading)(file, start)


def _reader_of(name: str, reading: Reading) -> Callable[[BinaryIO, Place], Iterator[Record]]:
    ending = ending_of(name)
    if ending in WARC:
        return warc_pages.read_records
    if ending == ".parquet":
        return lambda file, start: rows.read_parquet(file, reading.text_fields, start)
    if ending == ".jsonl":
        return lambda file, start: rows.read_json_lines(unpacked(file, name), reading.text_fields, start)
    if ending in LATEX or is_paper(name):
        return lambda file, start: latex.read_latex(file, path_of(name).name, address_of(name), start)
    if ending == ".epub":
        return lambda file, start: _one(partial(books.read_epub, file, address_of(name)), start)
    if ending == ".7z":
        return lambda file, start: _read_7z(file, name, start)
    if ending == ".xml":
        return lambda file, start: _read_xml(unpacked(file, name), name, start)
    return lambda file, start: _one(partial(_read_page, unpacked(file, name), name, PAGES[ending]), start)


def _one(read: Callable[[], Found], start: Place) -> Iterator[Record]:
    """What a file holds that is one page."""
    return iter(()) if start.skip else iter([Unread(START, 0, read)])


def _read_page(file: BinaryIO, name: str, content_type: str) -> Found:
    try:
        page = checked(Page(0, address_of(name), "", content_type, file.read()))
    except UNPACK_ERRORS as error:
        return DamageError(0, f"invalid compressed data ({error})")
    return books.plain_text(page) if content_type == "text/plain" else page


def _read_xml(file: BinaryIO, name: str, start: Place) -> Iterator[Record]:
    """A dump: MediaWiki's, or StackExchange's posts with the users beside."""
    try:
        head = cast(io.BufferedReader, file).peek(SNIFFED)[:SNIFFED]
    except UNPACK_ERRORS as error:
        yield from _one(partial(DamageError, 0, f"invalid compressed data ({error})"), start)
        return
    if b"<mediawiki" in head:
        yield from mediawiki.read_wiki(file, start)
    elif b"<posts" in head:
        yield from stackexchange.read_posts(lambda: nullcontext(file), _beside(name, "Users.xml"), site_of(name), start)
    else:
        root = re.search(rb"<([A-Za-z][\w.:-]*)", head)
        page = Page(0, address_of(name)).dropped("file kind", f"XML: {root[1].decode() if root else 'no element'}")
        yield from _one(lambda: page, start)


def _beside(name: str, other: str) -> stackexchange.Opener | None:
    """What opens a file beside a dump's posts, with the same packing, where it is there."""
    folder, slash, own = name.rpartition("/")
    where = f"{folder}{slash}{own.replace('Posts.xml', other)}"
    if "Posts.xml" not in own:
        return None
    try:
        opened(where).close()
    except InputError:
        return None

    @contextmanager
    def users() -> Iterator[BinaryIO]:
        with closing(opened(where)) as file:
            yield unpacked(file, where)

    return users


def site_of(name: str) -> str:
    """The StackExchange site that a dump's path names; else ''."""
    found = (SITE.fullmatch(part) for part in reversed(path_of(name).parts))
    return next((match[1] for match in found if match), "")


def _read_7z(file: BinaryIO, name: str, start: Place) -> Iterator[Record]:
    """An archive of a StackExchange site, or of one dump."""
    try:
        members = seven_zip.members_of(file)
    except EOFError as error:
        yield from _one(partial(DamageError, 0, str(error)), start)
        return
    dumps = [member for member in members if member.lower().endswith(".xml")]
    posts = next((member for member in dumps if Path(member).name == "Posts.xml"), None)
    users = next((member for member in dumps if Path(member).name == "Users.xml"), None)
    if posts:
        named = partial(seven_zip.opened_member, file, users) if users else None
        yield from stackexchange.read_posts(partial(seven_zip.opened_member, file, posts), named, site_of(name), start)
    elif dumps:
        with seven_zip.opened_member(file, dumps[0]) as dump:
            yield from _read_xml(dump, name, start)
    else:
        yield from _one(lambda: Page(0, address_of(name)).dropped("file kind", "a 7z archive without a dump"), start)


def damaged(found: DamageError) -> Page:
    """What takes the place of a page that cannot be read."""
    return Page(found.offset, place=found.place).dropped(found.reason, found.found)

"""LaTeX sources (arXiv's: a file, a tar of a paper, a tar of papers): the text, with mathematics left as LaTeX (paper 3.1).

`\\input` files are put in, a paper's own macros written out (mathematics then stands by itself), and pylatexenc makes text of the
rest. Citations, bibliographies and pictures go, captions stay. A paper is each file with `\\begin{document}`; where none has it,
each that no other one inputs.
"""

import gzip
import io
import posixpath
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

from openherd.data.encodings import decode
from openherd.data.latex_text import latex_text, title_of
from openherd.data.pages import START, DamageError, Found, Made, Page, Place, Record, numbered

LARGEST_MEMBER = 1 << 26  # bytes; papers' text has at most a few MB
LARGEST_SOURCE = 4 << 20  # characters of one paper: pylatexenc reads some 150,000 a second
DEEPEST_INPUT = 8
ARXIV_NEW = re.compile(r"(\d{4}\.\d{4,5})(v\d+)?")
ARXIV_OLD = re.compile(r"([a-z-]+(?:\.[A-Z]{2})?)/?(\d{7})(v\d+)?")
INPUT = re.compile(r"\\(?:input|include|subfile)(?![A-Za-z@])\s*(?:\{([^{}]+)\}|([^\s{}\\%]+))")
BEGIN, END = "\\begin{document}", "\\end{document}"
COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*")
TYPED = re.compile(
    r"(\\begin\{(?:verbatim\*?|Verbatim|lstlisting|minted|alltt)\}.*?\\end\{(?:verbatim\*?|Verbatim|lstlisting|minted|alltt)\})",
    re.DOTALL,
)
COMMANDS = re.compile(r"\\(documentclass|documentstyle|section|bye\b|end\b|magnification|centerline|noindent|title|begin)")
TEX = (".tex", ".ltx", ".latex")
PARTS = (*TEX, ".bbl", ".tikz", ".def", ".sty", ".cls", "")


def arxiv_address(name: str) -> str:
    """A paper's address, where its file is named as arXiv names them; else ''."""
    path = PurePosixPath(name)
    stem = path.name
    for ending in (".gz", ".tar", ".tgz", ".tex", ".pdf"):
        stem = stem.removesuffix(ending)
    if new := ARXIV_NEW.fullmatch(stem):
        return f"https://arxiv.org/abs/{new[1]}"
    old = ARXIV_OLD.fullmatch(stem)
    return f"https://arxiv.org/abs/{old[1]}/{old[2]}" if old else ""


def part_address(url: str, name: str) -> str:
    """The address of one paper of several at an address: a path, since a fragment names no other page."""
    return f"{url}/{quote(name)}"


def is_tar(data: bytes) -> bool:
    """Whether bytes begin as a tar file does."""
    return data[257:262] == b"ustar"


def without_comments(text: str) -> str:
    """LaTeX without its comments; in what is typed verbatim '%' begins none."""
    pieces = TYPED.split(text)
    pieces[::2] = [
        "\n".join(COMMENT.sub(r"\1", line) for line in p.split("\n") if not line.lstrip().startswith("%")) for p in pieces[::2]
    ]
    return "".join(pieces)


def with_inputs(name: str, files: Mapping[str, str], depth: int = 0) -> str:
    """A file's text with those that it inputs, without comments."""
    text = without_comments(files[name])
    if depth > DEEPEST_INPUT:
        return text

    def put_in(match: re.Match[str]) -> str:
        wanted = (match[1] or match[2]).strip()
        folder = posixpath.dirname(name)
        for candidate in (wanted, f"{wanted}.tex", posixpath.join(folder, wanted), posixpath.join(folder, f"{wanted}.tex")):
            found = posixpath.normpath(candidate)
            if found in files and found != name:
                return with_inputs(found, files, depth + 1)
        return ""

    return INPUT.sub(put_in, text)


def roots_of(files: Mapping[str, str]) -> list[str]:
    """The files that are papers, not parts of one."""
    texts = {name: text for name, text in files.items() if name.lower().endswith(TEX) or not PurePosixPath(name).suffix}
    whole = [name for name, text in texts.items() if BEGIN in text and "{subfiles}" not in text.split(BEGIN)[0]]
    if whole:
        return sorted(whole)
    taken = {posixpath.normpath(found) for text in texts.values() for pair in INPUT.findall(text) for found in pair if found}
    parts = taken | {f"{name}.tex" for name in taken}
    return sorted(name for name, text in texts.items() if name not in parts and COMMANDS.search(text))


def papers_of(files: Mapping[str, bytes], offset: int, url: str) -> Iterator[Made]:
    """The papers of some files."""
    texts = {posixpath.normpath(name): decode(content, "") for name, content in files.items()}
    roots = roots_of(texts)
    if not roots:
        yield offset, partial(_none, offset, url, "no LaTeX", "; ".join(sorted(files))[:200])
    for root in roots:
        yield offset, partial(paper_of, root, texts, offset, url if len(roots) == 1 else part_address(url, root))


def _none(offset: int, url: str, reason: str, detail: str) -> Page:
    return Page(offset, url, source="academic").dropped(reason, detail)


def paper_of(root: str, files: Mapping[str, str], offset: int, url: str) -> Page:
    """One paper as a page; dropped with its source where it cannot be made text."""
    source = with_inputs(root, files)
    page = Page(offset, url, source="academic").holding(source)
    if len(source) > LARGEST_SOURCE:
        return page.dropped("too large", f"{len(source):,} characters")
    try:
        text = latex_text(source)
        title, authors = title_of(source)
    except (RecursionError, ValueError, IndexError, AttributeError, TypeError, KeyError) as error:
        return page.dropped("not parsed", f"{type(error).__name__}: {error}"[:200])
    if not text.strip():
        return page.dropped("empty", "no text in its document")
    return Page(offset, url, title=title, attribution=authors, source="academic").holding(text)


def unzipped(data: bytes) -> bytes:
    """A gzip file's content, LARGEST_MEMBER at most. Raises zlib.error, EOFError or OSError."""
    decompressor = zlib.decompressobj(wbits=31)
    plain = decompressor.decompress(data, LARGEST_MEMBER + 1)
    if len(plain) > LARGEST_MEMBER:
        raise OSError(f"more than {LARGEST_MEMBER >> 20} MiB")
    if not decompressor.eof:
        raise EOFError("cut short")
    return plain


def read_latex(file: BinaryIO, name: str, url: str, start: Place = START) -> Iterator[Record]:
    """The papers of a .tex file, a paper's .gz, a paper's tar or a tar of such, in their order."""
    return numbered(_read(file, name, arxiv_address(name) or url), start)


def _read(file: BinaryIO, name: str, url: str) -> Iterator[Made]:
    lower = name.lower()
    if lower.endswith((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")):
        yield from _read_tar(file, url)
    else:
        yield from _read_one(file.read(LARGEST_MEMBER + 1), PurePosixPath(name).name, 0, url)


def _read_one(data: bytes, name: str, offset: int, url: str) -> Iterator[Made]:
    if len(data) > LARGEST_MEMBER:
        yield offset, partial(_none, offset, url, "too large", f"more than {LARGEST_MEMBER >> 20} MiB")
        return
    if data.startswith(b"\x1f\x8b"):
        try:
            data = unzipped(data)
        except (zlib.error, EOFError, OSError, gzip.BadGzipFile) as error:
            yield offset, partial(DamageError, offset, f"{name}: invalid gzip ({error})")
            return
    if is_tar(data):
        for _, read in _read_tar(io.BytesIO(data), url):
            yield offset, partial(_within, read, name, offset)
    elif data.startswith(b"%PDF") or b"\0" in data[:8_000]:
        kind = "application/pdf" if data.startswith(b"%PDF") else "not text"
        yield offset, partial(_none, offset, url, "content type", kind)
    else:
        yield from papers_of({name.removesuffix(".gz"): data}, offset, url)


def _within(read: Callable[[], Found], name: str, offset: int) -> Found:
    """What an archive within another holds, as of its own place in that."""
    found = read()
    if isinstance(found, DamageError):
        return DamageError(offset, f"{name}: {found.found}")
    return replace(found, offset=offset)


def _read_tar(file: BinaryIO, url: str) -> Iterator[Made]:
    """A tar's own LaTeX files are one paper; each .gz or .pdf in it with an arXiv name is a paper too."""
    own: dict[str, bytes] = {}
    size = 0
    try:
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                ending = PurePosixPath(member.name).suffix.lower()
                address = arxiv_address(member.name)
                if not member.isfile() or (ending not in PARTS and not address):
                    continue
                if member.size > LARGEST_MEMBER or (not address and size + member.size > LARGEST_MEMBER):
                    at = member.offset_data
                    yield at, partial(_none, at, part_address(url, member.name), "too large", member.name)
                    continue
                stream = archive.extractfile(member)
                content = stream.read() if stream else b""
                if address and ending in (".gz", ".pdf", ".tex"):
                    yield from _read_one(content, member.name, member.offset, address)
                elif b"\0" not in content[:8_000]:
                    own[member.name] = content
                    size += len(content)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        yield 0, partial(DamageError, 0, f"the archive cannot be read to its end ({error})")
    if own:
        yield from papers_of(own, 0, url)

"""Main content of pages as plain text (paper 3.1.1): code and its indentation kept, images' alternative text kept, no Markdown
markers.

The paper has its own HTML parser; here it is resiliparse, whose lines are cleaned up: no-break spaces become spaces, trailing
space and runs of blank lines go. A page cannot be given a time limit inside one process; resiliparse is linear in the page's
length.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding
from resiliparse.parse.html import HTMLTree

from openherd.core.rundir import Output, Run
from openherd.data.documents import TEXT_SCHEMA, Drop, curate

CHARSET = re.compile(r"charset=[\"']?([\w-]+)")
MARKERS = (
    (re.compile(r"(?m)^(```|~~~).*$\n?"), ""),  # code fences; the code stays
    (re.compile(r"(?m)^ {0,3}#{1,6} +(.*?)#*$"), r"\1"),
    (re.compile(r"!\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])"), r"\1"),
    (re.compile(r"(?m)^ {0,3}>\s?"), ""),
    (re.compile(r"`([^`\n]+)`"), r"\1"),
)


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """Settings of `extraction`."""

    mode: Annotated[Literal["main", "all"], Field(description="main content, or all visible text")] = "main"
    alt_texts: Annotated[bool, Field(description="keep images' alternative text (paper: yes, it is often mathematics)")] = True
    markdown_markers: Annotated[bool, Field(description="keep Markdown's markers (paper: no, they hurt)")] = False


def decode(content: bytes, content_type: str) -> str:
    """A page's bytes as text: the encoding that its header names, else the one detected; what cannot be decoded becomes U+FFFD."""
    named = CHARSET.search(content_type)
    for encoding in (named[1] if named else "utf-8", detect_encoding(content) or "utf-8"):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("utf-8", errors="replace")


def tidy(text: str) -> str:
    """Text without control characters, no-break spaces, trailing space, and runs of blank lines."""
    text = text.replace("\xa0", " ").replace("\r\n", "\n").replace("\r", "\n").replace("\t\t", "\t")
    text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff]", "", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n")


def html_text(page: str, config: ExtractionConfig) -> tuple[str, str]:
    """Title and text of an HTML page."""
    tree = HTMLTree.parse(page)
    text = extract_plain_text(
        tree, preserve_formatting=True, main_content=config.mode == "main", alt_texts=config.alt_texts, list_bullets=False
    )
    return (tree.title or "").strip(), tidy(text)


def without_markers(text: str) -> str:
    """Markdown as plain text; code keeps its indentation."""
    for pattern, instead in MARKERS:
        text = pattern.sub(instead, text)
    return text


def extract(row: dict[str, Any], config: ExtractionConfig) -> tuple[str, str]:
    """Title and text of a page row."""
    kind = row["content_type"].split(";")[0].strip()
    text = decode(row["content"], row["content_type"])
    if kind == "text/markdown":
        return "", tidy(text if config.markdown_markers else without_markers(text))
    if kind == "text/plain" or (not kind and "<" not in text[:1000]):
        return "", tidy(text)
    return html_text(text, config)


def extraction(config: ExtractionConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Pages to documents with `title` and `text`; a page without text is dropped."""

    def decide(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
        for row in rows:
            title, text = extract(row, config)
            yield {**row, "title": title, "text": text}, None if text else Drop("no text")

    return curate("extraction", documents, out, TEXT_SCHEMA, decide)

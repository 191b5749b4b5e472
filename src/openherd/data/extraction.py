"""Main content of pages as plain text (paper 3.1.1): code with its indentation, mathematics as LaTeX, images' alternative text, no
Markdown markers.

The paper has its own HTML parser, which is not public, tuned for precision in removing boilerplate and recall of content. Here a
page is cut into blocks (html_blocks), which are judged together (html_content), or by what the markup of their kind of page says
(html_sites).
"""

import re
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from openherd.core.rundir import Output, Run
from openherd.data.documents import TEXT_SCHEMA, Drop, Judge, judge_rows
from openherd.data.encodings import decode
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents
from openherd.data.html_blocks import Page, page_blocks
from openherd.data.html_content import choose
from openherd.data.html_depth import shallow
from openherd.data.html_sites import special
from openherd.data.html_text import text_of
from openherd.data.markdown import without_markers

NO_LETTERS = re.compile(r"[\W_]+")
UNWANTED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """Settings of `extraction`; the paper has no values for any."""

    mode: Annotated[
        Literal["precise", "fast", "union", "all"],
        Field(
            description="fast: main content; precise: less of what surrounds it; union: also what resiliparse takes for it; "
            "all: all visible text (for reference pages made of tables)"
        ),
    ] = "fast"
    alt_texts: Annotated[bool, Field(description="keep images' alternative text (paper: yes, it is often mathematics)")] = True
    titles: Annotated[
        bool, Field(description="keep the heading that a page's title repeats also in articles; it is the column `title`")
    ] = False
    markdown_markers: Annotated[bool, Field(description="keep the markers of Markdown pages (paper: no, they hurt)")] = False
    page_mb: Annotated[float, Field(gt=0, description="MB of a page that are still read; a larger one is dropped")] = 20.0
    page_s: Annotated[float, Field(gt=0, description="processor seconds for a page; one that takes longer is dropped")] = 10.0
    engine: EngineSetting = field(default_factory=EngineConfig)


class TooMuchError(Exception):
    """A page that is too large or takes too long; its text is the reason."""


def tidy(text: str) -> str:
    """Text with one kind of line break, without control characters, no-break spaces, trailing blanks, and runs of blank lines."""
    text = UNWANTED.sub("", re.sub(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n", text).replace("\xa0", " "))
    lines = [line.rstrip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def html_text(page: str, config: ExtractionConfig) -> tuple[str, str]:
    """Title and text of an HTML page; raises TooMuchError."""
    end = time.thread_time() + config.page_s

    def deadline() -> None:
        if time.thread_time() > end:
            raise TooMuchError(f"takes more than {config.page_s:g} s")

    found = page_blocks(page, alt_texts=config.alt_texts, deadline=deadline)
    if config.mode != "all" and not special(found):
        choose(found, config.mode, titles=config.titles)
        deadline()
        if config.mode == "union":
            add_lines(found, resiliparse_lines(page, config.alt_texts))
    return UNWANTED.sub("", found.title), tidy(text_of([block for block in found.blocks if block.keep]))


def resiliparse_lines(page: str, alt_texts: bool) -> set[str]:
    """The lines that resiliparse takes for main content, without all but letters and digits."""
    tree = HTMLTree.parse(UNWANTED.sub("", shallow(page)))
    text = extract_plain_text(tree, preserve_formatting=True, main_content=True, alt_texts=alt_texts, list_bullets=False)
    return {NO_LETTERS.sub("", line) for line in text.split("\n")}


def add_lines(page: Page, lines: set[str]) -> None:
    """Keep also the blocks whose lines are among `lines`."""
    for block in page.blocks:
        if not block.keep:
            own = [NO_LETTERS.sub("", line) for line in block.text.split("\n")]
            block.keep = all(line in lines for line in own) and any(own)


def extract(row: dict[str, Any], config: ExtractionConfig) -> tuple[str, str]:
    """Title and text of a page; raises TooMuchError."""
    if len(row["content"]) > config.page_mb * 1e6:
        raise TooMuchError(f"{len(row['content']) / 1e6:.1f} MB, more than {config.page_mb:g}")
    kind = row["content_type"].split(";")[0].strip()
    text = decode(row["content"], row["content_type"])
    if kind == "text/html":
        return html_text(text, config)
    text = tidy(text)
    return "", tidy(without_markers(text)) if kind == "text/markdown" and not config.markdown_markers else text


def prepare_extraction(config: ExtractionConfig) -> Judge:
    """The stage on batches of pages."""

    def decide(row: dict[str, Any]) -> tuple[dict[str, Any], Drop | None]:
        try:
            title, text = extract(row, config)
        except TooMuchError as error:
            return {**row, "title": row.get("title") or "", "text": ""}, Drop("too much", str(error))
        title = title or row.get("title") or ""
        if text.strip():
            return {**row, "title": title, "text": text}, None
        source = decode(row["content"], row["content_type"])
        return {**row, "title": title, "text": source}, Drop("no text", "the text here is its source")

    return judge_rows(TEXT_SCHEMA, decide)


def extraction(config: ExtractionConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Pages to documents with `title` and `text`; a page without text is dropped."""
    return judge_documents("extraction", partial(prepare_extraction, config), documents, out, config.engine, needs="content")

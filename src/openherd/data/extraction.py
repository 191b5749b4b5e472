"""Main content of pages as plain text (paper 3.1.1): code and its indentation kept, images' alternative text kept, no Markdown
markers.

The paper has its own HTML parser, which is not public; here it is resiliparse, whose lines are cleaned up. It does not indent
definition lists. Finding main content takes it time that grows with the square of a page's nesting (8 s at 20,000 levels): such
pages are for the engine's time limit.
"""

import codecs
import re
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from openherd.core.rundir import Output, Run
from openherd.data.documents import TEXT_SCHEMA, Drop, Judge, judge_rows
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents

HELD = "\ufdd0"  # stands for code while a line's markers are removed; no text may hold it
UNWANTED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufdd0-\ufdef\ufffe\uffff]")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
META_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
META_BYTES = 1024  # where HTML allows a page to name its encoding

FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
LINE_MARKERS = (
    (re.compile(r"^ {0,3}(?:> ?)+"), ""),
    (re.compile(r"^ {0,3}#{1,6}(?:[ \t]+|$)"), ""),
    (re.compile(r"^ {0,3}(?:={3,}|-{3,}|(?:\* *){3,}|(?:_ *){3,})$"), ""),
)
SPAN_MARKERS = (
    (re.compile(r"!?\[([^\[\]]{0,1000})\](?:\([^()]{0,2000}\)|\[[^\[\]]{0,200}\])"), r"\1"),
    (re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*]+?)(?<=\S)\1(?![\w*])"), r"\2"),
    (re.compile(r"(?<!\w)(?!__\w+__)(_{1,3})(?=[^\s_])([^_]+?)(?<=\S)\1(?!\w)"), r"\2"),  # Python's __names__ stay
)
LITERAL = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)|\\([\\`*_{}\[\]()#+.!>~|-])")


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """Settings of `extraction`."""

    mode: Annotated[
        Literal["main", "all"], Field(description="main content, or all visible text (for reference pages made of tables)")
    ] = "main"
    alt_texts: Annotated[bool, Field(description="keep images' alternative text (paper: yes, it is often mathematics)")] = True
    markdown_markers: Annotated[bool, Field(description="keep the markers of Markdown pages (paper: no, they hurt)")] = False
    engine: EngineSetting = field(default_factory=EngineConfig)


def decode(content: bytes, content_type: str) -> str:
    """A page's bytes as text: by its byte-order mark, its header or its head, else UTF-8, else the encoding that it looks like.

    Latin 1 is named so often by servers that do not know that UTF-8 goes before it. What cannot be decoded becomes U+FFFD.
    """
    head = META_CHARSET.search(content[:META_BYTES])
    declared = CHARSET.search(content_type)
    name = declared[1] if declared else head[1].decode("ascii") if head else ""
    if not declared and name.lower().startswith("utf-16"):
        name = "utf-8"  # a page whose head can be read as ASCII is none in UTF-16
    name = next((marked for mark, marked in MARKS if content.startswith(mark)), name)
    named = map_encoding_to_html5(name, fallback_utf8=False) if name else None
    candidates = ["utf-8", named] if named == "cp1252" else [named, "utf-8"]
    for encoding in filter(None, candidates):
        try:
            return content.decode(encoding).removeprefix("\ufeff")
        except (UnicodeDecodeError, LookupError):
            continue
    return bytes_to_str(content, named or detect_encoding(content) or "utf-8", fallback_encodings=(), errors="replace")


def tidy(text: str) -> str:
    """Text without control characters, no-break spaces, trailing blanks, and runs of blank lines."""
    text = UNWANTED.sub("", re.sub(r"\r\n?|[\x85\u2028\u2029]", "\n", text).replace("\xa0", " "))
    lines = [line.rstrip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def html_text(page: str, config: ExtractionConfig) -> tuple[str, str]:
    """Title and text of an HTML page."""
    tree = HTMLTree.parse(UNWANTED.sub("", page))
    text = extract_plain_text(
        tree, preserve_formatting=True, main_content=config.mode == "main", alt_texts=config.alt_texts, list_bullets=False
    )
    return " ".join(UNWANTED.sub("", tree.title or "").split()), tidy(text)


def without_span_markers(line: str) -> str:
    """A line of Markdown without emphasis, links' addresses and code's ticks; what stands in code stays as it is."""
    literals: list[str] = []

    def keep(match: re.Match[str]) -> str:
        literals.append(match[2] or match[3])
        return HELD

    line = LITERAL.sub(keep, line)
    for pattern, instead in SPAN_MARKERS:
        line = pattern.sub(instead, line)
    kept = iter(literals)
    return re.sub(HELD, lambda _: next(kept, ""), line)


def without_markers(text: str) -> str:
    """Markdown as plain text: code, fenced or indented, is left alone, and so are the markers of lists."""
    lines = []
    fence, code, blank = "", False, True
    for line in text.split("\n"):
        found = FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            else:
                lines.append(line)
            continue
        if found:
            fence = found[1]
            continue
        code = line.startswith(("    ", "\t")) and (blank or code)
        blank = not line.strip()
        if not code:
            for pattern, instead in LINE_MARKERS:
                line = pattern.sub(instead, line)
            line = without_span_markers(line)
        lines.append(line)
    return "\n".join(lines)


def extract(row: dict[str, Any], config: ExtractionConfig) -> tuple[str, str]:
    """Title and text of a page."""
    kind = row["content_type"].split(";")[0].strip()
    text = decode(row["content"], row["content_type"])
    if kind == "text/html":
        return html_text(text, config)
    text = tidy(text)
    return "", tidy(without_markers(text)) if kind == "text/markdown" and not config.markdown_markers else text


def prepare_extraction(config: ExtractionConfig) -> Judge:
    """The stage on batches of pages."""

    def decide(row: dict[str, Any]) -> tuple[dict[str, Any], Drop | None]:
        title, text = extract(row, config)
        if text.strip():
            return {**row, "title": title, "text": text}, None
        source = decode(row["content"], row["content_type"])
        return {**row, "title": title, "text": source}, Drop("no text", "the text here is its source")

    return judge_rows(TEXT_SCHEMA, decide)


def extraction(config: ExtractionConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Pages to documents with `title` and `text`; a page without text is dropped."""
    return judge_documents("extraction", partial(prepare_extraction, config), documents, out, config.engine)

"""Pieces of documents for a person to look at: cut, personal data replaced, nothing in them that a terminal obeys.

Names of people are not replaced: finding them is slow and misses some (docs/data-privacy.md).
"""

import re
from functools import cache
from urllib.parse import unquote

from openherd.data.pii import PiiConfig, find, redact

BESIDE = 200  # characters looked at beside the piece, so that nothing is cut before it is known
LONGEST_ROW = 1 << 16  # characters of its line before that: in a row of numbers each is told from those before it
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # and what turns the direction of text


@cache
def _kinds() -> PiiConfig:
    return PiiConfig()


def plain(text: str) -> str:
    """Text without control characters other than line breaks and tabs."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def excerpt(text: str, characters: int, begin: int = 0) -> str:
    """At most `characters` of the text from `begin` on, or more where a finding would be cut; "..." for what is left out.

    What addresses write for "@" is shown as that, since it hides e-mail.
    """
    text = text.replace("%40", "@")
    beside = max(begin - BESIDE, 0)
    first = max(text.rfind("\n", 0, beside) + 1, beside - LONGEST_ROW)
    window = text[first : begin + characters + BESIDE]
    start, end = begin - first, min(begin - first + characters, len(window))
    spans = [span for span in find(window, _kinds()) if span.end > start and span.start < end]
    start, end = min([start, *(s.start for s in spans)]), max([end, *(s.end for s in spans)])
    moved = [span._replace(start=span.start - start, end=span.end - start) for span in spans]
    piece = redact(window[start:end], moved)
    return plain(f"{'...' if first + start > 0 else ''}{piece}{'...' if first + end < len(text) else ''}")


def address(text: str) -> str:
    """An address or a name of a file, personal data replaced; without escapes where these hold some ("%2B1 212...")."""
    return excerpt(unquote(text) if find(unquote(text[: 3 * BESIDE]), _kinds()) else text, 2 * BESIDE)

"""Pages of kinds that say by their markup where their content is: questions and answers, repositories, encyclopedias.

The names are those that the software behind such sites writes, so they hold for all sites that run it, not for one host.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from openherd.data.html_blocks import Block, Element, Page

POSTS = frozenset(("js-post-body", "post-text", "s-prose"))  # StackExchange and what imitates it
DISCUSSIONS = frozenset(("js-comment-body", "comment-body", "note-text", "cooked"))  # GitHub, GitLab, Discourse
ENCYCLOPEDIA = frozenset(("mw-parser-output", "mw-content-text", "mw-body-content"))
NOT_ENCYCLOPEDIC_NAMES = (
    "navbox vertical-navbox noprint mw-editsection catlinks toc reflist metadata ambox hatnote sistersitebox printfooter "
    "mw-jump-link authority-control navigation-not-searchable mw-references-wrap"
)
NOT_ENCYCLOPEDIC = frozenset(NOT_ENCYCLOPEDIC_NAMES.split())
CODE_NAMES = frozenset(("blob-code", "lines-code", "blob-content", "highlighttable", "rouge-table"))
KNOWN = POSTS | DISCUSSIONS | ENCYCLOPEDIA | CODE_NAMES | {"question", "answer", "questions", "answers", "markdown-body"}


def outermost(page: Page, wanted: Callable[[Element], bool]) -> list[int]:
    """The outermost elements of a kind."""
    found: list[int] = []
    for i, element in enumerate(page.elements):
        if (not found or i > page.elements[found[-1]].last) and wanted(element):
            found.append(i)
    return found


def keep(page: Page, tops: Sequence[int], title: bool) -> None:
    """Keep the blocks within elements, and the page's first heading."""
    first = next((block for block in page.blocks if block.kind == "h1"), None) if title else None
    among = page.within(tops)
    for block in page.blocks:
        block.keep = block is first or bool(among[block.element])


def questions(page: Page) -> bool:
    """Questions and answers: the title, the question, the answers; no votes, user cards and comments."""
    if page.words.isdisjoint(("question", "answer", "questions", "answers")):
        return False
    said = any("QAPage" in str(element.attributes.get("itemtype")) for element in page.elements)
    posts = outermost(
        page,
        lambda element: not element.words.isdisjoint(POSTS) or (said and element.attributes.get("itemprop") == "text"),
    )
    if not posts:
        return False
    keep(page, posts, title=True)
    return True


def repository(page: Page) -> bool:
    """A file, a description or a discussion of a repository."""
    for text in page.data:
        if '"rawLines"' in text:
            lines = raw_lines(text)
            if lines:
                page.blocks.append(Block("\n".join(lines), "pre", 0, 0, code=True))
                for block in page.blocks:
                    block.keep = block is page.blocks[-1]
                return True
    if page.words.isdisjoint(KNOWN):
        return False
    talk = outermost(page, lambda element: not element.words.isdisjoint(DISCUSSIONS) and element.tag in ("div", "td", "section"))
    described = outermost(
        page, lambda element: "markdown-body" in element.words or element.attributes.get("itemprop") == "programmingLanguage"
    )
    code = outermost(page, lambda element: not element.words.isdisjoint(CODE_NAMES) and element.tag in ("div", "table", "td"))
    if len(talk) > 1:
        keep(page, talk, title=True)
    elif described and (page.elements[described[0]].tag in ("article", "section") or code):
        keep(page, described, title=False)
    elif code and any("blob" in page.elements[i].words or "lines-code" in page.elements[i].words for i in code):
        keep(page, code, title=False)
    else:
        return False
    return True


def raw_lines(text: str) -> list[str]:
    """The lines of a file in the data that a page of GitHub carries."""
    try:
        found: Any = json.loads(text)
        for key in ("payload", "blob", "rawLines"):
            found = found[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [line for line in found if isinstance(line, str)] if isinstance(found, list) else []


def encyclopedia(page: Page) -> bool:
    """A MediaWiki article, without its boxes of navigation and its notes."""
    body = outermost(page, lambda element: not element.words.isdisjoint(ENCYCLOPEDIA)) if page.words & ENCYCLOPEDIA else []
    if not body or not any(element.tag == "p" for element in page.elements[body[0] : page.elements[body[0]].last + 1]):
        return False
    keep(page, body[:1], title=False)
    among = page.within(outermost(page, lambda element: not element.words.isdisjoint(NOT_ENCYCLOPEDIC)))
    for block in page.blocks:
        block.keep = block.keep and not among[block.element]
    return True


def special(page: Page) -> bool:
    """Set `keep` of a page of a known kind; False if it is none."""
    if page.words.isdisjoint(KNOWN) and not page.data:
        return False
    page.technical = questions(page) or repository(page) or encyclopedia(page)
    return page.technical

"""An HTML page as a list of blocks: what lies between two borders of paragraphs, headings, list entries, cells or code.

One walk over the tree that lexbor made. Nothing is judged here: every visible text of the page is in exactly one block, in the
page's order, with what is needed to judge it: how much of it is link text, and the elements around it. Mathematics has become
LaTeX, code has its indentation. The walk has no recursion, so depth costs no stack; what costs lexbor the square of a page's
nesting (or of a tag's attributes) is cut off before.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from selectolax.lexbor import LexborHTMLParser

from openherd.data.html_depth import shallow
from openherd.data.html_math import delimited, formula

BREAK = "\x0b"  # a line break while white space is squeezed; no text may hold it
SPACES = re.compile(r"[ \t\n\r\f]+")
BREAKS = re.compile(f" ?{BREAK} ?")
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")

SKIPPED_TAGS = (
    "script style template iframe object embed svg canvas audio video map head noframes select textarea datalist input "
    "progress meter button dialog"
)
SKIPPED = frozenset(SKIPPED_TAGS.split())
BLOCK_TAGS = (
    "html body address article aside blockquote center dd details dialog dir div dl dt fieldset figcaption figure footer "
    "form frameset h1 h2 h3 h4 h5 h6 header hgroup hr legend li main menu nav noscript ol optgroup option p pre listing xmp "
    "plaintext search section summary table caption colgroup thead tbody tfoot tr td th ul"
)
BLOCKS = frozenset(BLOCK_TAGS.split())
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
PRE = frozenset(("pre", "listing", "xmp", "plaintext"))
LISTS = frozenset(("ul", "ol", "dl", "menu", "dir"))
LINE_NUMBERS = frozenset(("lineno", "linenos", "linenumber", "linenumbers", "linenodiv", "gutter", "hljs-ln-numbers", "blob-num"))
HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
PRE_STYLE = re.compile(r"white-space\s*:\s*(?:pre|break-spaces)(?![-\w]*line)", re.IGNORECASE)

ANCHORS = frozenset(("headerlink", "anchor-link", "anchorjs-link", "hash-link", "permalink", "header-anchor", "anchor"))
UNSEEN = frozenset(
    ("mw-editsection", "sr-only", "visually-hidden", "screen-reader-text", "screen-reader", "visuallyhidden", *LINE_NUMBERS)
)
NO_WORDS: frozenset[str] = frozenset()
QUESTION = frozenset(("question",))
MATHS = frozenset(("math", "script", "mjx-container"))
MATH_CLASS = re.compile(r"(?:^|\s)(?:katex|MathJax|mwe-math|mjx-|ltx_Math)")
IMAGE_OF_TEX = re.compile(r"(?:^|\s)(?:tex|latex|math|ee_img|mathtex|texrender)(?:\s|$)")
TEX_SOURCE = re.compile(r"latex\.codecogs\.com|/cgi-bin/(?:mathtex|mimetex)|latex\.php\?|chart\?cht=tx")
JSON_KIND = re.compile(r"json", re.IGNORECASE)
LINK, BLOCK, ROW, PREFORMATTED, NOTHING = 1, 2, 4, 8, 16


@dataclass(slots=True)
class Element:
    """An element that makes blocks, and its place: `parent` is an index into the page's elements."""

    tag: str
    parent: int
    words: frozenset[str]  # of its class, id, role
    attributes: dict[str, Any]
    last: int = 0  # its descendants are the elements from its own index to this one


@dataclass(slots=True)
class Block:
    """A piece of a page's text."""

    text: str
    kind: str  # p, h, li, pre, cell, caption, ...: the innermost element that makes it
    element: int  # index of that element
    link: int  # characters in links
    row: int = -1  # index of the table row that it stands in
    cell: int = 0  # number of the cell in its row
    code: bool = False
    math: bool = False
    keep: bool = True
    mass: float = 0.0


@dataclass(slots=True)
class Page:
    """Blocks and elements of a page, and what its head says."""

    title: str = ""
    blocks: list[Block] = field(default_factory=list)
    elements: list[Element] = field(default_factory=list)
    data: list[str] = field(default_factory=list)  # JSON that the page carries
    words: set[str] = field(default_factory=set)  # of all elements' classes, ids and roles
    technical: bool = False  # code, definitions, tables or formulas make much of it

    def within(self, tops: Iterable[int]) -> bytearray:
        """For each element whether it is one of `tops` or in one of them."""
        found = bytearray(len(self.elements))
        for top in tops:
            last = self.elements[top].last
            found[top : last + 1] = b"\1" * (last + 1 - top)
        return found


@lru_cache(maxsize=1 << 16)
def words_of(names: str) -> frozenset[str]:
    """The words of a class or id, in small letters: `relatedPosts post-list` is related, posts, post, list; the names too."""
    return frozenset(word.lower() for word in WORDS.findall(names)) | frozenset(names.lower().split())


def hidden(attributes: dict[str, Any]) -> bool:
    """Whether an element is not shown."""
    return (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or ("style" in attributes and HIDDEN_STYLE.search(attributes["style"] or "") is not None)
    )


class Walk:
    """One walk over a page's tree."""

    def __init__(self, alt_texts: bool, deadline: Callable[[], None]) -> None:
        self.page = Page(elements=[Element("html", -1, frozenset(), {})])
        self.alt_texts, self.deadline = alt_texts, deadline
        self.names: set[frozenset[str]] = set()  # of all elements
        self.pieces: list[str] = []
        self.link = 0  # characters in links, of `pieces`
        self.links = 0  # open links
        self.open = 0  # index of the innermost open element
        self.has_math = False
        self.pre = 0  # open elements whose white space counts
        self.rows: list[int] = []  # open table rows
        self.cells: list[int] = []

    def flush(self) -> None:
        """End a block."""
        if not self.pieces:
            return
        text = "".join(self.pieces)
        self.pieces.clear()
        link, self.link = self.link, 0
        math, self.has_math = self.has_math, False
        if self.pre:
            text = text.replace(BREAK, "\n").replace("\r\n", "\n").strip("\n")
        else:
            if BREAK in text:
                text = BREAKS.sub("\n", SPACES.sub(" ", text)).strip(" \n")
            elif text.isascii():
                text = " ".join(text.split())
            else:
                text = SPACES.sub(" ", text).strip(" ")
        if text and not text.isspace():
            row = self.rows[-1] if self.rows else -1
            kind = self.page.elements[self.open].tag
            self.page.blocks.append(
                Block(
                    text.replace("\xa0", " "), kind, self.open, link, row, self.cells[-1] if row >= 0 else 0, bool(self.pre), math
                )
            )

    def text(self, node: Any) -> None:
        """A text node."""
        text = node.text_content
        if text:
            self.pieces.append(text)
            if self.links:
                self.link += len(text.strip())

    def math(self, node: Any, attributes: dict[str, Any], tag: str) -> bool:
        """Take mathematics; False if the element is none."""
        names = attributes.get("class") or ""
        if tag == "math":
            self.pieces.append(formula(node))
        elif tag == "script":
            kind = attributes.get("type") or ""
            if not kind.startswith("math/"):
                return False
            if kind.startswith("math/tex"):
                self.pieces.append(delimited(node.text(deep=True), "mode=display" in kind))
            else:
                tree = LexborHTMLParser(node.text(deep=True)).css_first("math")
                self.pieces.append(formula(tree) if tree else "")
        elif tag == "mjx-container":
            found = node.css_first("math")
            tex = formula(found) if found else delimited(attributes.get("aria-label") or "", False)
            if attributes.get("display") == "true" and not tex.startswith("$$"):
                tex = f"${tex}$"
            self.pieces.append(tex)
        elif ("ath" in names or "katex" in names or "mjx" in names) and MATH_CLASS.search(names):
            found = node.css_first("math")
            if "katex-html" in names or "MathJax" in names:  # the picture of what an annotation or script has said
                return True
            if found is None:
                return False
            tex = formula(found)
            self.pieces.append(f"${tex}$" if "katex-display" in names and not tex.startswith("$$") else tex)
        else:
            return False
        self.has_math = True
        return True

    def image(self, attributes: dict[str, Any]) -> None:
        """An image's alternative text; of an image of a formula it is LaTeX."""
        alt = (attributes.get("alt") or "").strip()
        if not alt or not self.alt_texts:
            return
        names, source = attributes.get("class") or "", attributes.get("src") or ""
        if IMAGE_OF_TEX.search(names) or TEX_SOURCE.search(source):
            alt = delimited(alt, False)
        self.pieces.append(f" {alt} " if self.pieces and self.pieces[-1][-1:].isalnum() else alt)
        if self.links:
            self.link += len(alt)

    def enter(self, node: Any, tag: str) -> tuple[bool, int]:
        """Open an element: whether to look inside, and what `leave` is to undo."""
        if tag == "br":
            self.pieces.append(BREAK)
            return False, 0
        attributes = node.attributes
        if (tag in MATHS or ("class" in attributes and tag in ("span", "div", "p"))) and self.math(node, attributes, tag):
            return False, 0
        if tag in SKIPPED:
            if tag == "script" and JSON_KIND.search(attributes.get("type") or ""):
                self.page.data.append(node.text(deep=True))
            return False, 0
        if tag == "img":
            self.image(attributes)
            return False, 0
        if attributes and hidden(attributes):
            return False, 0
        if tag == "a":
            names = attributes.get("class")
            if names and not words_of(names).isdisjoint(ANCHORS):
                return False, 0
            self.links += 1
            return True, LINK
        if tag not in BLOCKS:
            names = attributes.get("class") if attributes else None
            if names and not words_of(names).isdisjoint(UNSEEN):
                return False, 0
            style = attributes.get("style") if self.pre == 0 else None
            if style and PRE_STYLE.search(style) and self.pieces == []:
                return True, self.block(tag, attributes) | PREFORMATTED
            return True, 0
        return True, self.block(tag, attributes)

    def block(self, tag: str, attributes: dict[str, Any]) -> int:
        """Open an element that makes blocks."""
        names = " ".join(filter(None, (attributes.get("class"), attributes.get("id"), attributes.get("role"))))
        words = words_of(names) if names else NO_WORDS
        self.names.add(words)
        if "itemtype" in attributes and "QAPage" in (attributes["itemtype"] or ""):
            self.names.add(QUESTION)
        if self.rows and tag in ("td", "th"):
            if not words.isdisjoint(LINE_NUMBERS):
                return NOTHING
            self.flush()
            self.cells[-1] += 1
        elif tag == "tr":
            self.flush()
            self.rows.append(len(self.page.elements))
            self.cells.append(0)
        else:
            self.flush()
        self.page.elements.append(Element(tag, self.open, words, attributes))
        self.open = len(self.page.elements) - 1
        if tag in PRE or "blob-code" in words or ("style" in attributes and PRE_STYLE.search(attributes["style"] or "")):
            self.pre += 1
            return BLOCK | PREFORMATTED | (ROW if tag == "tr" else 0)
        return BLOCK | (ROW if tag == "tr" else 0)

    def leave(self, undo: int) -> None:
        """Close an element."""
        if undo & LINK:
            self.links -= 1
        if undo & BLOCK:
            self.flush()
            if undo & PREFORMATTED:
                self.pre -= 1
            if undo & ROW:
                self.rows.pop()
                self.cells.pop()
            element = self.page.elements[self.open]
            element.last = len(self.page.elements) - 1
            self.open = element.parent

    def run(self, root: Any) -> None:
        """Walk over all that lies in `root`."""
        opened: list[tuple[Any, int]] = []
        node = root.first_child
        steps = 0
        while node is not None:
            steps += 1
            if not steps & 4095:
                self.deadline()
            tag = node.tag
            inside, undo = None, 0
            if tag == "-text":
                self.text(node)
            elif node.is_element_node:
                look, undo = self.enter(node, tag)
                if undo == NOTHING:
                    undo = 0
                    look = False
                inside = node.first_child if look else None
            if inside is not None:
                opened.append((node, undo))
                node = inside
                continue
            if undo:
                self.leave(undo)
            following = node.next
            while following is None and opened:
                node, undo = opened.pop()
                if undo:
                    self.leave(undo)
                following = node.next
            node = following
        self.flush()
        self.page.elements[0].last = len(self.page.elements) - 1
        self.page.words = set().union(*self.names)


def page_blocks(page: str, *, alt_texts: bool, deadline: Callable[[], None] = lambda: None) -> Page:
    """The blocks of an HTML page. `deadline` is called now and then, and may raise."""
    tree = LexborHTMLParser(shallow(page))
    deadline()
    walk = Walk(alt_texts, deadline)
    found = walk.page
    root = tree.root
    if root is None:
        return found
    title = tree.css_first("title")
    found.title = " ".join(title.text(deep=True).split()) if title else ""
    if tree.head:
        for node in tree.head.css("script"):
            if JSON_KIND.search(node.attributes.get("type") or ""):
                found.data.append(node.text(deep=True))
    walk.run(root)
    return found

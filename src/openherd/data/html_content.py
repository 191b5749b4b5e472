"""Which blocks of a page are its content.

Running text has mass, links have none. The content is the innermost element that holds most of the mass which is in nothing that
is named as a menu, an advertisement, or comments. On a page of code, definitions, tables or formulas all of its main element is
content but lists of links; on any other, what stands between its first paragraph and its last. Nothing here knows a language: only
lengths, marks of punctuation, and what is a link.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from openherd.data.html_blocks import HEADINGS, LISTS, Block, Element, Page
from openherd.data.html_names import unlikely

DEFINITIONS = frozenset(("dt", "dd"))
SPECIAL = DEFINITIONS | {"th", "td", "tr"}
PROSE = HEADINGS | DEFINITIONS | {"p", "li", "pre", "blockquote"}  # a short line in anything else is a caption, a credit, a date
SENTENCE_END = re.compile(r"[.!?…。！？।؟:;”\"')\]]\s*\Z")
PUNCTUATION = re.compile(r"[,.;:!?、。，！？।؟،]")


def mass(block: Block) -> float:
    """Characters of running text: what makes a page worth reading."""
    n = len(block.text)
    if n < 25 or block.kind in HEADINGS or block.kind == "figcaption" or block.link > 0.5 * n:
        return 0.0
    own = n - block.link
    if block.code:
        return own
    wide = len(block.text.encode()) / n >= 2.5  # Chinese and the like say as much with a third of the characters
    if own < (25 if wide else 80) and not (own >= 40 and SENTENCE_END.search(block.text)):
        return 0.0
    return own * (2.5 if wide else 1.0)


def inside(page: Page, masses: Sequence[float]) -> list[float]:
    """The mass in each element and all that it holds."""
    own = [0.0] * len(page.elements)
    for block, m in zip(page.blocks, masses, strict=True):
        own[block.element] += m
    sums = [0.0, *accumulate(own)]
    return [sums[element.last + 1] - sums[i] for i, element in enumerate(page.elements)]


def container(page: Page, within: Sequence[float], bad: Sequence[bool]) -> int:
    """The innermost element that holds most of the running text."""
    best = 0
    children: dict[int, list[int]] = {}
    for i, element in enumerate(page.elements):
        if i:
            children.setdefault(element.parent, []).append(i)
    while True:
        inner = [i for i in children.get(best, ()) if not bad[i]]
        if not inner:
            return best
        heaviest = max(inner, key=within.__getitem__)
        if within[heaviest] < 0.75 * within[best] or within[heaviest] == 0:
            return best
        best = heaviest


def same_names(one: Element, other: Element) -> bool:
    """Whether two elements look like parts of the same series."""
    common, all_words = one.words & other.words, one.words | other.words
    return one.tag == other.tag and (len(common) >= 0.5 * len(all_words) if all_words else one.tag == "section")


def alike(page: Page, top: int, within: Sequence[float], bad: Sequence[bool]) -> list[int]:
    """The container, and the elements beside it that are its continuation: of the same kind and names, with running text."""
    found = [top]
    at = top
    for _ in range(4):
        element = page.elements[at]
        if element.parent < 0:
            break
        others = [
            i
            for i in range(element.parent + 1, page.elements[element.parent].last + 1)
            if page.elements[i].parent == element.parent
        ]
        for i in others:
            other = page.elements[i]
            if i != at and not bad[i] and within[i] and same_names(other, element):
                found.append(i)
        at = element.parent
    return found


def technical(page: Page, kept: Sequence[Block]) -> bool:
    """Whether a page is of the kind that has code, definitions, tables or formulas: there short lines and captions are content."""
    n = sum(len(block.text) for block in kept) or 1
    rows = Counter(block.row for block in kept if block.row >= 0 and len(block.text) < 200)
    special = sum(
        len(block.text)
        for block in kept
        if block.code or block.math or block.kind in DEFINITIONS or (rows[block.row] > 1 and block.link < 0.5 * len(block.text))
    )
    return special >= 0.1 * n


def widened(page: Page, top: int, bad: Sequence[bool]) -> int:
    """The element that says that it is the main one, or has the page's first heading, around a container."""
    headings = {block.kind: block.element for block in reversed(page.blocks) if block.kind in HEADINGS and not bad[block.element]}
    at, first = top, headings[min(headings)] if headings else -1
    while at > 0:
        element = page.elements[at]
        if at <= first <= element.last or element.tag == "main" or "main" in element.words:
            return at
        if element.tag == "body":
            break
        at = element.parent
    return top


def without_subsections(page: Page, top: int, within: Sequence[float], bad: Sequence[bool]) -> int:
    """The element around a container that is only one of its sections."""
    starts: dict[int, Block] = {}
    for block in page.blocks:
        starts.setdefault(block.element, block)
    while top > 0 and page.elements[top].parent > 0:
        element, parent = page.elements[top], page.elements[top].parent
        first = next((starts[i] for i in range(top, element.last + 1) if i in starts), None)
        if first is None or first.kind not in HEADINGS or first.kind == "h1" or page.elements[parent].tag == "body":
            break
        others = [i for i in range(parent + 1, page.elements[parent].last + 1) if page.elements[i].parent == parent and i != top]
        if not any(
            within[i] and not bad[i] and (page.elements[i].tag in ("p", "pre", "section") or same_names(page.elements[i], element))
            for i in others
        ):
            break
        top = parent
    return top


def link_lists(page: Page) -> set[int]:
    """Lists and tables that are made of links."""
    sums: dict[int, list[int]] = {}
    for block in page.blocks:
        at = block.element
        for _ in range(8):
            if at <= 0:
                break
            if page.elements[at].tag in LISTS or page.elements[at].tag == "table":
                counts = sums.setdefault(at, [0, 0])
                counts[0] += len(block.text)
                counts[1] += block.link
            at = page.elements[at].parent
    return {i for i, (n, link) in sums.items() if link > 0.75 * n}


def choose(page: Page, mode: str, titles: bool = False) -> None:
    """Set `keep` of each block."""
    blocks = page.blocks
    masses = [mass(block) for block in blocks]
    within = inside(page, masses)
    bad = unlikely(page, within)
    masses = [0.0 if bad[block.element] else m for block, m in zip(blocks, masses, strict=True)]
    within = inside(page, masses)
    top = without_subsections(page, container(page, within, bad), within, bad)
    for block, m in zip(blocks, masses, strict=True):
        block.mass = m
    wide = widened(page, top, bad)
    page.technical = technical(page, [b for b in blocks if wide <= b.element <= page.elements[wide].last and not bad[b.element]])
    if page.technical:
        reference(page, wide, bad)
    else:
        article(page, alike(page, top, within, bad), bad, mode)
        if titles:
            keep_title(page)


def keep_title(page: Page) -> None:
    """Keep the heading, before all that is kept, whose words the page's title repeats."""
    said = set(re.findall(r"\w+", page.title.lower()))
    for block in page.blocks:
        words = set(re.findall(r"\w+", block.text.lower()))
        if block.keep:
            return
        if block.kind in HEADINGS and words and len(words & said) >= 0.8 * len(words):
            block.keep = True
            return


def reference(page: Page, top: int, bad: Sequence[bool]) -> None:
    """Keep what stands in the main element of a page with code, definitions, tables or formulas, but for lists of links."""
    last = page.elements[top].last
    lists = link_lists(page)
    for block in page.blocks:
        block.keep = top <= block.element <= last and not bad[block.element]
        if block.keep and block.link > 0.5 * len(block.text) and not block.code:
            at, steps = block.element, 0
            while at > top and steps < 8 and at not in lists and page.elements[at].tag not in ("table", *LISTS):
                at = page.elements[at].parent
                steps += 1
            if steps == 8:
                at = top
            block.keep = at not in lists and (at > top or block.link < 0.8 * len(block.text))
    end_headings(page)


def end_headings(page: Page) -> None:
    """Drop headings that nothing follows."""
    below = 7
    for block in reversed(page.blocks):
        if not block.keep:
            continue
        if block.kind in HEADINGS:
            level = int(block.kind[1])
            if below == 7 or level >= below > 0:
                block.keep = below != 7 and level < below
            if block.keep:
                below = level
        else:
            below = 0


def teasers(page: Page, tops: Sequence[int], solid: Sequence[Block]) -> set[int]:
    """Elements in the container whose running text is a row of short pieces in boxes of the same names: teasers of other pages."""
    longest = max(len(block.text) for block in solid)
    series: dict[tuple[int, str, frozenset[str]], list[Block]] = {}
    for block in solid:
        at = block.element
        for _ in range(3):
            element = page.elements[at]
            if at in tops or element.parent < 0:
                break
            if element.words and element.tag in ("div", "li", "article", "section"):
                series.setdefault((element.parent, element.tag, element.words), []).append(block)
            at = element.parent
    return {
        block.element
        for blocks in series.values()
        if len(blocks) >= 3 and all(len(b.text) < 160 and b.link == 0 for b in blocks) and longest > 200
        for block in blocks
    }


def article(page: Page, tops: Sequence[int], bad: Sequence[bool], mode: str) -> None:
    """Keep the running text of the container, from its first paragraph to its last."""
    blocks = page.blocks
    among = page.within(tops)
    for block in blocks:
        n = len(block.text)
        block.keep = bool(among[block.element]) and not bad[block.element]
        if block.keep and not block.mass and block.link > (0.5 if mode != "precise" else 0.3) * n:
            block.keep = False
        if mode == "precise" and not block.mass and block.kind not in PROSE:
            block.keep = False
    solid = [i for i, block in enumerate(blocks) if block.keep and block.mass]
    if not solid:
        return
    if mode == "precise":
        boxed = teasers(page, tops, [blocks[i] for i in solid])
        solid = [i for i in solid if blocks[i].element not in boxed] or solid
        for block in blocks:
            block.keep = block.keep and block.element not in boxed
    for i, block in enumerate(blocks):
        if i < solid[0] or i > solid[-1]:
            block.keep = False
    end_headings(page)

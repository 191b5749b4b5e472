"""Pages on which lexbor would take the square of their size, made harmless: too deep nesting, tags of thousands of attributes.

Measured of lexbor: 40,000 open elements take it 5 to 20 seconds, since it looks through all of them at each block; 40,000
attributes of one tag 8 seconds, since it compares each with all before it.
"""

import re

DEEPEST = 512  # open elements, as in Chromium
MANY_TAGS = 5_000  # as many nested ones take lexbor 0.1 s: pages with fewer are not looked at
LONGEST_TAG = 30_000  # characters; images in an address are longer, but have few attributes
TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*)[^<>]*>")
LONG_TAG = re.compile(rf"<[a-zA-Z][^<>]{{{LONGEST_TAG},}}>")
MANY_ATTRIBUTES = 1_000
VOID = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"))
CLOSES_ITSELF = frozenset(("p", "li", "dd", "dt", "option", "tr", "td", "th", "a"))


def shallow(page: str) -> str:
    """The page without tags that lie deeper than `DEEPEST`, and without those of thousands of attributes."""
    if len(page) > LONGEST_TAG and max(map(len, page.split(">"))) > LONGEST_TAG:
        page = LONG_TAG.sub(lambda match: match[0] if len(match[0].split(None, MANY_ATTRIBUTES)) <= MANY_ATTRIBUTES else "", page)
    if page.count("<") - page.count("</") < MANY_TAGS:
        return page
    opened: list[str] = []

    def decide(match: re.Match[str]) -> str:
        name = match[2].lower()
        if name in VOID:
            return match[0]
        if not match[1]:
            if name in CLOSES_ITSELF and opened and opened[-1] == name:
                return match[0]
            opened.append(name)
            return match[0] if len(opened) <= DEEPEST else "\n"
        too_deep = len(opened) > DEEPEST
        if name in opened[-20:]:
            while opened.pop() != name:
                pass
        return "\n" if too_deep else match[0]

    return TAG.sub(decide, page)

"""Markdown without its markers (paper 3.1.1: they hurt a model that is trained on the web); code is left as it is."""

import re

HELD = "\ufdd0"  # stands for code while a line's markers are removed; no text may hold it
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

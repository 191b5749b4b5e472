"""What of a text changed, line by line, as a person reads it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

MOST_COMPARED = 4_000_000  # pairs of lines; more are told apart by counting equal lines, without regard to their order


class Change(NamedTuple):
    """One line that went ("-") or came ("+"); `begin` is where it first differs from the line that it stands for."""

    sign: str
    line: str
    begin: int = 0


def line_changes(before: str, after: str) -> Iterator[Change]:
    """The lines that went and came, in order. Where nothing changed there are none."""
    old, new = before.split("\n"), after.split("\n")
    same = common(old, new)
    tail = common(old[same:][::-1], new[same:][::-1])
    old, new = old[same : len(old) - tail], new[same : len(new) - tail]
    if len(old) * len(new) > MOST_COMPARED:
        yield from counted_changes(old, new)
        return
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            yield from block_changes(old[a:b], new[c:d])


def block_changes(old: Sequence[str], new: Sequence[str]) -> Iterator[Change]:
    """Lines that stand for others: those that pair off show where they differ."""
    begins = [common(a, b) for a, b in zip(old, new, strict=False)]
    for sign, lines in (("-", old), ("+", new)):
        for i, line in enumerate(lines):
            yield Change(sign, line, begins[i] if i < len(begins) else 0)


def counted_changes(old: Sequence[str], new: Sequence[str]) -> Iterator[Change]:
    """Lines that stand more often in one than in the other: of equal lines the last ones went or came."""
    for sign, lines, others in (("-", old, new), ("+", new, old)):
        left = Counter(others)
        for line in lines:
            if left[line] > 0:
                left[line] -= 1
            else:
                yield Change(sign, line)


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """How long two lists, or texts, are equal from the beginning."""
    n = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        n += 1
    return n

"""Changed lines: what went and came rebuilds one text from the other."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from openherd.report.text_changes import counted_changes, line_changes

TEXTS = st.lists(st.sampled_from(["a", "b", "ab", "abc", ""]), min_size=1, max_size=12).map("\n".join)


def counts(changes):
    return Counter(c.line for c in changes if c.sign == "+"), Counter(c.line for c in changes if c.sign == "-")


@given(TEXTS, TEXTS)
def test_what_went_and_came_makes_up_the_difference(before, after):
    for changes in (list(line_changes(before, after)), list(counted_changes(before.split("\n"), after.split("\n")))):
        came, went = counts(changes)
        wanted = Counter(before.split("\n"))
        wanted.update(came)
        wanted.subtract(went)
        assert +wanted == Counter(after.split("\n"))
    assert (list(line_changes(before, after)) == []) == (before == after)


def test_where_lines_begin_to_differ():
    assert [tuple(c) for c in line_changes("x\nkeep it\ny", "x\nkeep that\ny")] == [("-", "keep it", 5), ("+", "keep that", 5)]


def test_large_texts_are_compared_without_order():
    before = "\n".join(map(str, range(3_000)))
    after = "\n".join(map(str, reversed(range(3_000)))) + "\nnew"
    assert [c.line for c in line_changes(before, after)] == ["new"]

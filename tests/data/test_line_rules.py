"""Line rules beside expressions of Python's own."""

import re

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

import slow_heuristics as slow
from openherd.data.heuristics import HeuristicsConfig
from openherd.data.line_rules import LINE_RULES, is_finished, normal_lines, removed_lines, without_citations
from openherd.data.text_batch import TextBatch

LINES = st.lists(st.text("ab 1.?!\"'…,{", max_size=8), max_size=6)
ALL = HeuristicsConfig(
    remove_unfinished_lines=True, min_words_per_line=2, max_word_characters=4, remove_javascript_lines=True,
    remove_policy_lines=True, remove_repeated_lines=True, min_line_words=2, max_line_ngram_share=0.3, line_ngram_words=2,
)  # fmt: skip


def batch_of(text):
    return TextBatch.of(pa.array([text]))


@given(LINES)
def test_lines_that_end_a_sentence(lines):
    expected = [bool(re.search(r"[.?!\"']$", s)) and not s.endswith(("...", "…")) for s in map(str.rstrip, lines or [""])]
    assert is_finished(batch_of("\n".join(lines))).tolist() == expected


@given(LINES)
def test_lines_are_compared_without_case_digits_and_signs(lines):
    found = normal_lines(batch_of("\n".join(lines).upper())).to_pylist()
    assert found == [slow.normal_line(line) for line in (lines or [""])]


@given(LINES)
def test_a_line_goes_once_and_blank_lines_stay(lines):
    batch = batch_of("\n".join(lines))
    gone = removed_lines(ALL, batch)
    assert list(gone) == list(LINE_RULES)
    times = np.sum(list(gone.values()), axis=0)
    assert times.max() <= 1
    assert not times[~batch.is_filled].any()


def test_citations_go_and_other_brackets_stay():
    text = pa.array(["a[1] b[] c[edit] d[citation needed] e[2a] f[ed]"])
    assert without_citations(text).to_pylist() == ["a b c d e[2a] f[ed]"]

"""Exact match and token-F1: values worked out by hand from SQuAD's rules, and what holds for all texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.evaluation.scoring import exact_match, normalise, token_f1

TEXT = st.text(st.sampled_from("ab AN the.,'-É\n"), max_size=30)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cat, sat.", ["cat", "sat"]),
        ("A man; an ant; THE END", ["man", "ant", "end"]),
        ("Don't use json.dumps()", ["dont", "use", "jsondumps"]),
        ("theatre and another", ["theatre", "and", "another"]),
        ("  \n\t", []),
        ("a.an the", ["aan"]),  # punctuation goes before articles do
    ],
)
def test_normalisation_by_hand(text, words):
    assert normalise(text) == words


@pytest.mark.parametrize(
    ("answer", "expected", "exact", "f1"),
    [
        ("The cat sat.", "a cat sat", 1, 1),
        ("cat", "dog", 0, 0),
        ("the cat sat", "a cat sat down", 0, 0.8),  # precision 2/2, recall 2/3
        ("sat cat", "cat sat", 0, 1),
        ("cat cat cat", "cat dog", 0, 0.4),  # the second and third find no partner: 1/3 and 1/2
        ("cat cat dog", "cat cat cat dog dog", 0, 0.75),  # 3/3 and 3/5
        ("", "", 1, 1),
        ("The", "", 1, 1),
        ("", "cat", 0, 0),
        ("cat", "the", 0, 0),
    ],
)
def test_scores_by_hand(answer, expected, exact, f1):
    assert exact_match(answer, expected) == exact
    assert token_f1(answer, expected) == pytest.approx(f1)


@given(answer=TEXT, expected=TEXT)
def test_what_holds_for_all(answer, expected):
    f1 = token_f1(answer, expected)
    assert 0 <= f1 <= 1
    assert f1 == pytest.approx(token_f1(expected, answer))
    assert token_f1(answer, answer) == exact_match(answer, answer) == 1
    assert exact_match(answer, expected) <= f1
    assert (f1 == 0) == (not set(normalise(answer)) & set(normalise(expected)) and normalise(answer) != normalise(expected))

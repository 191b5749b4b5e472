"""Excerpts: cut, no personal data, no control characters, whatever the cut."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data.excerpts import address, excerpt

MAIL = "ann.example@example.org"


@settings(max_examples=50)
@given(st.integers(0, 80), st.integers(0, 400), st.integers(1, 120))
def test_a_cut_shows_no_part_of_personal_data(before, begin, characters):
    text = f"{'word ' * before}{MAIL} {'more ' * 60}{MAIL} end"
    shown = excerpt(text, characters, begin)
    for part in ("ann.", "example", ".org"):
        assert part not in shown


@pytest.mark.parametrize("number", ["4111 1111 1111 1111", "4111-1111-1111-1111", "030 901820"])
@given(st.integers(0, 600), st.integers(1, 120))
def test_a_cut_row_of_numbers_shows_none_of_them(number, begin, characters):
    text = "Numbers\nTel. " + " ".join([number] * 60)
    assert not re.search(r"\d", excerpt(text, characters, begin))


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_what_is_harmless_stays(text):
    shown = excerpt(text, len(text) + 1)
    assert not any(c < " " and c not in "\t\n" for c in shown)
    plain = "".join(c for c in text if c.isalpha())
    assert "".join(c for c in shown if c.isalpha()) == plain or "<" in shown


def test_an_escaped_sign_hides_no_mail():
    assert excerpt("same words as 12 (mailto:ann%40example.org)", 100) == "same words as 12 (mailto:<EMAIL>)"


def test_what_is_left_out_is_marked():
    assert excerpt("abcdefghij", 3, 2) == "...cde..."
    assert excerpt("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("escaped", "shown"),
    [
        ("mailto:ann.example%40example.org?x=%2F", "mailto:<EMAIL>?x=/"),
        ("https://a.org/call/%2B1%20212-555-0123", "https://a.org/call/<PHONE>"),
        ("https://a.org/caf%C3%A9?x=%2B", "https://a.org/caf%C3%A9?x=%2B"),
    ],
)
def test_personal_data_in_the_escapes_of_an_address(escaped, shown):
    assert address(escaped) == shown


@given(st.integers(0, 700))
def test_a_cut_address_shows_no_part_of_personal_data(n):
    assert "example" not in address(f"https://a.org/{'x' * n}/ann.example%40example.org")

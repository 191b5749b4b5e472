"""Markdown without markers: text and code stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.extraction import tidy
from openherd.data.markdown import without_markers


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("# Title\ntext", "Title\ntext"),
        ("Title\n=====\ntext", "Title\n\ntext"),
        ("### About C#", "About C#"),
        ("#hashtag", "#hashtag"),
        ("some **bold**, *slanted*, __bold text__ and _slanted_ words", "some bold, slanted, bold text and slanted words"),
        ("***both*** and **bold with `code*s*`**", "both and bold with code*s*"),
        ("2 * 3 * 4, a*b*c, snake_case_name and __init__.py", "2 * 3 * 4, a*b*c, snake_case_name and __init__.py"),
        ('see [the page](http://a.test/b_c_d "title") and [that][1]', "see the page and that"),
        ("![a bridge](b.png)", "a bridge"),
        ("use `x = '*a*'` or ``a ` b``", "use x = '*a*' or a ` b"),
        (r"5 \* 3 and \_not\_ slanted", "5 * 3 and _not_ slanted"),
        ("> quoted\n>> twice", "quoted\ntwice"),
        ("- one\n* two\n1. three", "- one\n* two\n1. three"),
        ("above\n\n* * *\n\nbelow", "above\n\nbelow"),
        ("```python\n# comment\nx = a * b * c\n```\n**after**", "# comment\nx = a * b * c\nafter"),
        ("~~~~\n```\n**kept**\n~~~\n~~~~\n*gone*", "```\n**kept**\n~~~\ngone"),
        ("text:\n\n    # comment\n    x = *args*\n\n    y\n\n*after*", "text:\n\n    # comment\n    x = *args*\n\n    y\n\nafter"),
        ("```\nnever closed *a*", "never closed *a*"),
        ("before *x*\n```inline code``` is said\nafter *y*\n\n# Head", "before x\ninline code is said\nafter y\n\nHead"),
    ],
)
def test_markdown_markers_go_and_code_stays(source, plain):
    assert tidy(without_markers(source)) == plain


@given(st.text(alphabet=st.sampled_from("ab*_`[]()!#>\\ \n"), max_size=40))
def test_only_markers_go(source):
    plain = without_markers(source)
    left = iter(source)
    assert all(character in left for character in plain), plain  # a subsequence


@pytest.mark.parametrize("piece", ["![", "[a](", "*a ", "**", "_a ", "`a ``", "> ", "# ", "* ", "\\", "[a]["])
def test_hostile_markdown_ends(piece):
    without_markers(piece * 20_000)

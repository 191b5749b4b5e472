"""Encodings: marks, declarations right and wrong, and none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.encodings import decode


@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        ("naïve €".encode(), "text/html; charset=utf-8", "naïve €"),
        ("naïve €".encode("cp1252"), 'text/html; charset="ISO-8859-1"', "naïve €"),
        ("naïve €".encode(), "text/html; charset=iso-8859-1", "naïve €"),
        ("naïve €".encode(), "text/html", "naïve €"),
        ("联通".encode("gbk"), "text/html; charset=GB2312", "联通"),
        (b'<meta charset="koi8-r">' + "привет".encode("koi8-r"), "text/html", '<meta charset="koi8-r">привет'),
        (b'<meta charset="koi8-r">' + "привет".encode(), "text/html; charset=utf-8", '<meta charset="koi8-r">привет'),
        ("\ufeffmark".encode(), "text/plain", "mark"),
        ("wide €".encode("utf-16"), "text/plain; charset=utf-16", "wide €"),
        (b"good \xff bad", "text/plain; charset=utf-8", "good � bad"),
        (b"text", "text/plain; charset=nonsense", "text"),
        (
            ("Грамматика русского языка и её правила. " * 5).encode("cp1251"),
            "text/html",
            "Грамматика русского языка и её правила. " * 5,
        ),
        (b"", "text/html", ""),
        ("Грамматика русского языка. ".encode("cp1251") * 9, "text/html; charset=utf-8", "Грамматика русского языка. " * 9),
        ("слова на русском".encode(), "text/html; charset=windows-1251", "слова на русском"),
        ("日本語の文章".encode("shift_jis"), "text/html; charset=Shift_JIS", "日本語の文章"),
        ("日本語の文章".encode("euc-jp"), "text/html; charset=x-euc-jp", "日本語の文章"),
        (
            b'<?xml version="1.0" encoding="iso-8859-2"?>' + "žluť".encode("iso-8859-2"),
            "text/html",
            '<?xml version="1.0" encoding="iso-8859-2"?>žluť',
        ),
        (
            b" " * 2000 + b'<meta charset="cp1250">' + "žluť".encode("cp1250"),
            "text/html",
            " " * 2000 + '<meta charset="cp1250">žluť',
        ),
        ("mark €".encode("utf-32"), "text/html; charset=utf-8", "mark €"),
        (b'<meta charset="utf-16">plain', "text/html", '<meta charset="utf-16">plain'),
        ("\ufeffcafé".encode(), "text/html; charset=iso-8859-2", "café"),
        ("wide €".encode("utf-16"), "text/html; charset=iso-8859-1", "wide €"),
    ],
)
def test_encodings(content, content_type, expected):
    assert decode(content, content_type) == expected


@given(
    st.binary(max_size=200), st.sampled_from(["", "utf-8", "gbk", "utf-16", "nonsense", "undefined", "base64", "utf-7", "rot13"])
)
def test_any_bytes_are_text(content, name):
    text = decode(content, f"text/html; charset={name}" if name else "text/html")
    text.encode()


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff\ufffe"), max_size=50))
def test_what_utf8_says_comes_back(text):
    assert decode(text.encode(), "text/html; charset=utf-8") == text

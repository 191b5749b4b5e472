"""Where a value may begin and end among letters, signs and other values; shared by the finders of personal data."""

import re

# Thai, Lao, Burmese, Khmer, Chinese, Japanese and Korean set no blank between a word and a number or an address.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
LETTER = rf"[^\W_{UNSPACED}]"  # a letter or digit of any other script: what it touches belongs to its word
_LETTER = re.compile(LETTER)
_GAPS = (("\u00a0", " "), ("\u202f", " "), ("\u2009", " "), ("\u2007", " "), ("\u2010", "-"), ("\u2011", "-"))


def stands_free(text: str, start: int, signs: str = "") -> bool:
    """Whether neither a word, with or without "_" behind it, nor one of the signs stands before a place."""
    before = text[max(0, start - 8) : start].rstrip("_")[-1:]
    return not before or not (_LETTER.match(before) or before in signs)


def ends_free(text: str, end: int) -> bool:
    """Whether no word, with or without "_" before it, stands behind a place."""
    return not _LETTER.match(text[end : end + 8].lstrip("_")[:1])


def plain_gaps(text: str) -> str:
    """The text with the blanks and hyphens that never break a line as plain ones; places stay the same."""
    if not text.isascii():
        for sign, plain in _GAPS:
            text = text.replace(sign, plain)
    return text

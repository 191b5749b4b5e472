"""Words and paragraphs of a text, for heuristics and for deduplication (paper 3.1.1).

Two views: `words` as they stand, which quality rules judge, and `terms`, lower-case runs of letters and digits, which tell
whether two texts say the same. Scripts that are written without spaces have each character as a word.
"""

import itertools

import regex

SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_SPACELESS = regex.compile(f"[{SPACELESS}]")
_TERM = regex.compile(rf"[{SPACELESS}]|[\w--[{SPACELESS}]]+", regex.V1)
_ASCII_TERM = regex.compile(r"\w+", regex.ASCII)


def words(text: str) -> list[str]:
    """The words as they stand, with the punctuation that touches them."""
    return (text if text.isascii() else _SPACELESS.sub(r" \g<0> ", text)).split()


def terms(text: str) -> list[str]:
    """Lower-case runs of letters, digits and underscores; punctuation and layout do not count."""
    return (_ASCII_TERM if text.isascii() else _TERM).findall(text.casefold())


def paragraphs(text: str) -> list[list[str]]:
    """The runs of lines between blank ones."""
    return [list(lines) for blank, lines in itertools.groupby(text.split("\n"), key=lambda line: not line.strip()) if not blank]

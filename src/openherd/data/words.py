"""Words and paragraphs of a text, for heuristics and for deduplication (paper 3.1.1).

Two views: `words` as they stand, which quality rules judge, and `terms`, lower-case runs of letters and digits, which tell
whether two texts say the same. Scripts that are written without spaces have each character as a word.
"""

import itertools

import regex

# Blocks of these scripts that are named by their ends, since not every library's Unicode knows all of their letters: Myanmar
# Extended-C, ideographic marks, the supplements of Kana, and the two planes of ideographs.
_BLOCKS = "".join(f"{chr(a)}-{chr(b)}" for a, b in ((0x116D0, 0x116FF), (0x16FF0, 0x16FFF), (0x1B000, 0x1B16F), (0x20000, 0x3FFFD)))
SPACELESS = rf"\p{{Han}}\p{{Hiragana}}\p{{Katakana}}\p{{Thai}}\p{{Lao}}\p{{Khmer}}\p{{Myanmar}}{_BLOCKS}"
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

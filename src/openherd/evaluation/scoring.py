"""Scores of short answers: exact match and token-F1 after SQuAD's normalisation (lower case; no articles, no punctuation)."""

import re
import string
from collections import Counter

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> list[str]:
    """The words that are compared."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def exact_match(answer: str, expected: str) -> float:
    """1 where the words are the same in the same order, else 0."""
    return float(normalise(answer) == normalise(expected))


def token_f1(answer: str, expected: str) -> float:
    """Harmonic mean of precision and recall over words, each counted as often as it stands; 1 for two empty texts."""
    given, wanted = normalise(answer), normalise(expected)
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(given), common / len(wanted)
    return 2 * precision * recall / (precision + recall)

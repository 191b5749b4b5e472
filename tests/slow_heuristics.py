"""The heuristics' numbers worked out slowly, one text at a time, from their definitions: the twins of tests/data."""

import re
from collections import Counter

from openherd.data.repetition import DUPLICATE_NGRAMS, TOP_NGRAMS


def ngram_shares(found):
    """Shares of the words' characters that repeats cover. Of equally frequent and long n-grams any counts: a set of values."""
    total = sum(map(len, found))
    shares = {}
    for n in TOP_NGRAMS + DUPLICATE_NGRAMS:
        ngrams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
        counts = Counter(ngrams)
        covered = set()
        if n in DUPLICATE_NGRAMS:
            for i, ngram in enumerate(ngrams):
                if ngram in ngrams[:i]:
                    covered.update(range(i, i + n))
            shares[f"duplicate_{n}gram_share"] = {sum(len(found[i]) for i in covered) / total if covered else 0.0}
            continue
        repeated = [(count, sum(map(len, ngram)), ngram) for ngram, count in counts.items() if count > 1]
        best = max((count, characters) for count, characters, _ in repeated) if repeated else None
        options = set()
        for count, characters, ngram in repeated:
            if (count, characters) == best:
                places = {i + k for i in range(len(ngrams)) if ngrams[i] == ngram for k in range(n)}
                options.add(sum(len(found[i]) for i in places) / total)
        shares[f"top_{n}gram_share"] = options or {0.0}
    return shares


def datatrove_ngram_shares(found, text):
    """As datatrove counts: shares of all characters; the first of the most frequent; a walk that passes over what it found."""
    shares = {}
    for n in TOP_NGRAMS:
        counts = Counter(" ".join(found[i : i + n]) for i in range(len(found) - n + 1))
        ngram, count = max(counts.items(), key=lambda item: item[1], default=("", 0))
        shares[f"top_{n}gram_share"] = len(ngram) * count / len(text) if text else 0.0
    for n in DUPLICATE_NGRAMS:
        seen, characters, i = set(), 0, 0
        while i + n <= len(found):
            ngram = tuple(found[i : i + n])
            if ngram in seen:
                characters += sum(map(len, ngram))
                i += n
            else:
                seen.add(ngram)
                i += 1
        shares[f"duplicate_{n}gram_share"] = characters / len(text) if text else 0.0
    return shares


def duplicate_shares(unit, parts, whole=None):
    """Shares of parts, and of their characters, that repeat an earlier part; `whole`: other characters to take the share of."""
    repeats = [part for i, part in enumerate(parts) if part in parts[:i]]
    characters = sum(map(len, parts)) if whole is None else whole
    return {
        f"duplicate_{unit}_share": len(repeats) / len(parts) if parts else 0.0,
        f"duplicate_{unit}_character_share": sum(map(len, repeats)) / characters if characters else 0.0,
    }


def line_ngram_share(found, n):
    """The share of a line's characters in n-grams that stood before in it."""
    covered = set()
    for i in range(len(found) - n + 1):
        if any(found[j : j + n] == found[i : i + n] for j in range(i)):
            covered.update(range(i, i + n))
    return sum(len(found[i]) for i in covered) / max(sum(map(len, found)), 1)


def normal_line(line):
    """A line for ccNet's comparison, ASCII only."""
    return re.sub(r"[^\w\s]|_", "", re.sub(r"\d", "0", line.lower())).strip()

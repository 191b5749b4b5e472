"""Byte-pair encoding the slow and obvious way (paper 3.2): the oracle of the library that trains and encodes.

A token is a bytes object. Pieces come from the split pattern; merges never cross them. Each merge joins the most frequent pair,
ties going to the pair that comes first in the order of token ids.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import regex

from openherd.tokenizer.pattern import SPLIT_PATTERN

Pair = tuple[bytes, bytes]


def pieces(text: str) -> list[bytes]:
    """A text cut by Llama 3's pattern; nothing is lost."""
    return [piece.encode() for piece in regex.findall(SPLIT_PATTERN, text)]


def join(tokens: list[bytes], pair: Pair) -> list[bytes]:
    """Replace each occurrence of the pair, from the left, by its concatenation."""
    out: list[bytes] = []
    at = 0
    while at < len(tokens):
        if tuple(tokens[at : at + 2]) == pair:
            out.append(pair[0] + pair[1])
            at += 2
        else:
            out.append(tokens[at])
            at += 1
    return out


def train_merges(texts: Iterable[str], n: int, ids: dict[bytes, int]) -> list[Pair]:
    """The first `n` merges; `ids` numbers the bytes as the vocabulary does and grows with each merge."""
    counts = Counter(piece for text in texts for piece in pieces(text))
    words = {piece: [bytes([b]) for b in piece] for piece in counts}
    merges: list[Pair] = []
    for _ in range(n):
        pairs: Counter[Pair] = Counter()
        for piece, tokens in words.items():
            for pair in pairwise(tokens):
                pairs[pair] += counts[piece]
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], ids[p[0]], ids[p[1]]))
        merges.append(best)
        ids.setdefault(best[0] + best[1], len(ids))
        words = {piece: join(tokens, best) for piece, tokens in words.items()}
    return merges


def encode(text: str, merges: list[Pair], vocabulary: Iterable[bytes]) -> list[bytes]:
    """The tokens of a text: a piece that is a token stays whole, as in Llama 3; others are merged in the order learned."""
    whole = set(vocabulary)
    out: list[bytes] = []
    for piece in pieces(text):
        tokens = [piece] if piece in whole else [bytes([b]) for b in piece]
        for pair in merges if len(tokens) > 1 else ():
            tokens = join(tokens, pair)
        out += tokens
    return out

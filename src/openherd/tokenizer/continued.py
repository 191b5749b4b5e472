"""Byte-pair encoding learned further on new text (after paper 3.2): more tokens for a tokenizer that a model was trained with.

The text is encoded with what there is, and the most frequent pair of neighbours is joined, again and again, as in training. So
every new token is one that the encoder arrives at; tokens of another tokenizer, put behind, may never be. New merges stand behind
all old ones: where a text meets none of them, it is encoded as before. New ids stand behind all old ids, the special ones among
them, which therefore stay; for that `tokenizer.json` lists the special tokens in the vocabulary too: its readers would number them
anew.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import regex

from openherd.core.errors import InputError
from openherd.tokenizer.encoder import long_spaces
from openherd.tokenizer.ranks import split_of
from openherd.tokenizer.tokenizer import Tokenizer, byte_letters, split_pattern

LONGEST_PIECE = 256  # bytes; longer ones are rulers and encoded data, no words


def count_pieces(texts: Iterable[str], pattern: str) -> Counter[bytes]:
    """How often each piece stands in the texts, by the pattern that cuts them; merges never cross pieces."""
    cut = regex.compile(pattern)
    counts: Counter[str] = Counter()
    for text in texts:
        at = 0
        for start, end in long_spaces(text):
            counts.update(cut.findall(text, at, start))
            at = end
        counts.update(cut.findall(text, at))
    return Counter({spelt: n for piece, n in counts.items() if len(spelt := piece.encode()) <= LONGEST_PIECE})


def learn_further(
    tokens: Sequence[bytes], pieces: Mapping[bytes, int], encode: Callable[[bytes], Sequence[int]], n: int, least: int
) -> list[bytes]:
    """At most `n` new tokens, the first joined first, each found at least `least` times when it is joined.

    `tokens` are the old ones by rank, `encode` gives a piece's ranks. Of equally frequent pairs that of the lowest ranks is joined.
    A token that would make an old one reachable which no merge led to before is left out: texts without new tokens would change.
    """
    known = list(tokens)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    unreachable = b"\0\0".join(t for t in tokens if len(t) > 1 and split_of(t, ranks) is None)
    words, counts = [list(encode(piece)) for piece in pieces], list(pieces.values())
    pairs: Counter[tuple[int, int]] = Counter()
    places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # in which words a pair stands, or once did
    for i, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += counts[i]
            places[pair].add(i)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    while heap and len(known) < len(tokens) + n:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair]:  # it was counted before another join; what became of it stands in the heap too
            continue
        if -count < least:
            break
        token = known[pair[0]] + known[pair[1]]
        if token in unreachable:
            continue
        known.append(token)
        changed = set()
        for i in places.pop(pair):
            before = words[i]
            words[i] = after = joined(before, pair, len(known) - 1)
            for old in pairwise(before):
                pairs[old] -= counts[i]
            for new in pairwise(after):
                pairs[new] += counts[i]
                places[new].add(i)
            changed |= {*pairwise(before), *pairwise(after)}
        for other in changed:
            if pairs[other] > 0:
                heapq.heappush(heap, (-pairs[other], other))
    return known[len(tokens) :]


def joined(word: Sequence[int], pair: tuple[int, int], new: int) -> list[int]:
    """A word with each occurrence of a pair replaced, from the left."""
    found: list[int] = []
    at = 0
    while at < len(word):
        if tuple(word[at : at + 2]) == pair:
            found.append(new)
            at += 2
        else:
            found.append(word[at])
            at += 1
    return found


def extended_file(tokenizer: Tokenizer, new: Sequence[bytes]) -> dict[str, Any]:
    """`tokenizer.json` with new tokens behind all others. Raises InputError where the name of a special token is one piece of text.

    Of such a name a program could not tell whether it is text.
    """
    file = tokenizer.contents()
    vocabulary, merges = file["model"]["vocab"], file["model"]["merges"]
    pattern = split_pattern(file)
    assert pattern is not None, "it follows ranks"
    for special in file["added_tokens"]:
        if len(regex.findall(pattern, special["content"])) == 1:
            found = f"the special token {special['content']!r} could be a word of a text"
            raise InputError(tokenizer.directory, found, allowed="names such as <|eot_id|> in a tokenizer that is extended")
        vocabulary[special["content"]] = special["id"]
    letters = byte_letters()
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    for i, token in enumerate(new):
        left, right = split_of(token, ranks) or (b"", b"")
        ranks[token] = len(ranks)
        merges.append(["".join(letters[byte] for byte in part) for part in (left, right)])
        vocabulary["".join(letters[byte] for byte in token)] = tokenizer.vocabulary + i
    return file

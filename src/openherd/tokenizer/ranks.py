"""Tokens by rank: the other way to write a byte-pair encoding, and when it is the same as a list of merges (paper 3.2).

Meta ships Llama 3's tokenizer as ranks (`tokenizer.model`: a line for each token, its bytes in base64 and its rank), and tiktoken
encodes by them: of all neighbours that together spell a token, those of the lowest rank are joined first, from the left.
`tokenizer.json` lists merges instead: which two tokens make a third, in order.

How neighbours inside a stretch of text are joined does not depend on what stands around it, as long as nothing is joined across its
ends. So where two neighbours are about to become a token, they are what the token's own bytes have become one step before the end:
every token has one split, or none if its bytes never come down to two. Merges in the order of ranks that hold every token's split
therefore encode any text as the ranks do, and what else they list is never used.
"""

from collections.abc import Mapping, Sequence

Split = tuple[bytes, bytes]
NONE = 1 << 62  # a rank above all others


def split_of(token: bytes, ranks: Mapping[bytes, int]) -> Split | None:
    """The two tokens that are joined to make `token`; None where its bytes are never joined to two, or it is a byte."""
    if len(token) < 2:
        return None
    starts = list(range(len(token) + 1))  # of the parts, and the end
    joined = [ranks.get(token[i : i + 2], NONE) for i in range(len(token) - 1)]  # the rank of each part with the next
    while len(joined) > 1:
        lowest = min(joined)
        if lowest == NONE:
            return None
        at = joined.index(lowest)
        del starts[at + 1], joined[at]
        for i in range(max(at - 1, 0), min(at + 1, len(joined))):
            joined[i] = ranks.get(token[starts[i] : starts[i + 2]], NONE)
    return token[: starts[1]], token[starts[1] :]


def merges_of(tokens: Sequence[bytes]) -> list[Split]:
    """The merges that encode as tokens in the order of their ranks do."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    return [split for token in tokens if (split := split_of(token, ranks))]


def follow_ranks(tokens: Sequence[bytes], merges: Sequence[Split]) -> bool:
    """Whether these merges encode any text as the tokens' ranks do."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    made = [ranks.get(left + right, -1) for left, right in merges]
    listed = set(merges)
    in_order = all(a <= b for a, b in zip([0, *made], made))
    return in_order and all((split := split_of(token, ranks)) is None or split in listed for token in tokens)

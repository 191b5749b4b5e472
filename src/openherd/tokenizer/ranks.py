"""Tokens by rank: the other way to write a byte-pair encoding, and when it is the same as a list of merges (paper 3.2).

Meta ships Llama 3's tokenizer as ranks (`tokenizer.model`: a line for each token, its bytes in base64 and its rank), and tiktoken
encodes by them: of all neighbours that together spell a token, those of the lowest rank are joined first, from the left.
`tokenizer.json` lists merges instead: which two tokens make a third, in order.

How neighbours inside a stretch of text are joined does not depend on what stands around it, as long as nothing is joined across its
ends. So where two neighbours are about to become a token, they are what the token's own bytes have become one step before the end:
every token has one split, or none if its bytes never come down to two. Merges in the order of ranks that hold every token's split
therefore encode any text as the ranks do, and what else they list is never used.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path

from openherd.core.errors import InputError

Split = tuple[bytes, bytes]


def split_of(token: bytes, ranks: Mapping[bytes, int]) -> Split | None:
    """The two tokens that are joined to make `token`; None where its bytes are never joined to two, or it is a byte."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best, at = None, 0
        for i in range(len(parts) - 1):
            rank = ranks.get(parts[i] + parts[i + 1])
            if rank is not None and (best is None or rank < best):
                best, at = rank, i
        if best is None:
            return None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None


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


def read_ranks(file: Path) -> list[bytes]:
    """The tokens of a rank file, by rank. Raises InputError where it is another file, among them Llama 2's SentencePiece model."""
    content = file.read_bytes()
    tokens: list[bytes] = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            token, rank = line.split()
            tokens.append(base64.b64decode(token, validate=True))
            in_order = int(rank) == number - 1
        except (ValueError, binascii.Error):
            in_order = False
        if not in_order:
            if b"<unk>" in content[:64] or b"\xe2\x96\x81" in content:
                do = "Llama 3 has a tokenizer of its own; take a Llama 3 checkpoint, or train one with 'openherd tokenizer'"
                raise InputError(file, "a SentencePiece model, as of Llama 2", allowed="a tiktoken rank file, as of Llama 3", do=do)
            found = "no rank file" if number == 1 else "damaged"
            raise InputError(f"{file}, line {number}", found, allowed="a token in base64, a space, and the line's number from 0")
    if len(set(tokens)) != len(tokens) or not {bytes([b]) for b in range(256)} <= set(tokens):
        raise InputError(file, "a token stands twice, or a byte is missing", allowed="each token once, the 256 bytes among them")
    return tokens


def write_ranks(tokens: Sequence[bytes], file: Path) -> None:
    """Write a rank file, which tiktoken and Meta's own code read."""
    file.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))

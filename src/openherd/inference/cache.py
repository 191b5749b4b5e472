"""Who holds which block of memory for keys and values, and which blocks hold the same text (paper 6). No tensors.

A block holds `size` tokens of one text. A full one is known by a key: a hash of its tokens and of the key before it, so that texts
that begin alike share blocks, which are counted by their holders. A block that nobody holds keeps its text until it is taken for
another; the one that has been free for the longest goes first.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b


def next_key(before: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full block behind the one with the key `before`, which is empty for a text's first."""
    return blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


class Blocks:
    """The blocks of a cache."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.holders = [0] * count
        self.key_of: list[bytes] = [b""] * count  # of blocks with known text
        self.known: dict[bytes, int] = {}
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))  # the longest free first

    def needed(self, tokens: int) -> int:
        """Blocks for so many tokens."""
        return -(-tokens // self.size)

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks with a text's beginning, as far as they are known. They are not held yet."""
        found = []
        for key in keys:
            if key not in self.known:
                break
            found.append(self.known[key])
        return found

    def available(self, beside: Iterable[int] = ()) -> int:
        """How many blocks could be taken, if those of `beside` were held first."""
        return len(self.free) - sum(block in self.free for block in beside)

    def hold(self, block: int) -> None:
        """One holder more."""
        self.free.pop(block, None)
        self.holders[block] += 1

    def take(self, after: int | None = None) -> int:
        """An own block; the one behind `after` where that is free and holds no text, so that a text lies in one piece of memory.

        Raises IndexError where none is free.
        """
        following = -1 if after is None else after + 1
        if following in self.free and not self.key_of[following]:
            block = following
        elif self.free:
            block = next(iter(self.free))
        else:
            raise IndexError("no block is free")
        self.known.pop(self.key_of[block], None)
        self.key_of[block] = b""
        self.hold(block)
        return block

    def publish(self, block: int, key: bytes) -> None:
        """Make a full block's text known, where no other block has it."""
        if not self.key_of[block] and key not in self.known:
            self.key_of[block], self.known[key] = key, block

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less of each. Of a text's blocks the last are free for longer than those before, which others may share."""
        for block in reversed(blocks):
            self.holders[block] -= 1
            if not self.holders[block]:
                self.free[block] = None

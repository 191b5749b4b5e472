"""Encoding by ranks with tiktoken, on all cores (paper 3.2): the same ids as `tokenizer.json`'s merges give, several times faster.

Ids are in the order of the ranks; where a tokenizer was extended, those of its special tokens stand between.

tiktoken looks a whole piece up before it joins anything, as Llama 3 does. Its regular expressions give up on a run of a million
spaces; such a run is cut out at the borders that the split pattern would have found, so that the ids are those of the whole text.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tiktoken

from openherd.core.errors import InputError
from openherd.core.machine import cores

LONG = 400_000  # of the 999,998 that tiktoken can take
WHITE_SPACE = "\t\x0b\x0c \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's, less line ends
LONG_SPACE = re.compile(f"[{WHITE_SPACE}]{{{LONG},}}")


def long_spaces(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each long run of spaces that the split pattern makes one piece: all before the last, which begins a word."""
    if any(c.isspace() for c in text[LONG - 1 :: LONG]):
        for run in LONG_SPACE.finditer(text):
            after = text[run.end() : run.end() + 1]
            if after not in ("\r", "\n"):  # these belong to the run: another part of the pattern takes it, and can
                yield run.start(), run.end() - 1 if after else run.end()


class RankEncoder:
    """Text to ids; special tokens are unknown here."""

    def __init__(self, ids: Mapping[bytes, int], pattern: str) -> None:
        """`ids` are in the order of the ranks."""
        # Of a name that is never allowed: with none at all tiktoken looks for it at every character.
        special = {"<|never|>": max(ids.values()) + 1}
        self._encoding = tiktoken.Encoding("openherd", pat_str=pattern, mergeable_ranks=dict(ids), special_tokens=special)

    def encode_piece(self, piece: bytes) -> list[int]:
        """Ids of bytes that the split pattern does not cut."""
        return list(self._encoding._core_bpe.encode_single_piece(piece))

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, uint32. Raises InputError for lone surrogates, which tiktoken would replace in silence."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError("text", "holds a lone surrogate", do="decode the bytes as UTF-8 first") from None
        found, at = [], 0
        for start, end in long_spaces(text):
            found += [self._ordinary(text[at:start]), np.array(self.encode_piece(text[start:end].encode()), np.uint32)]
            at = end
        rest = self._ordinary(text[at:] if at else text)
        return np.concatenate([*found, rest]) if found else rest

    def _ordinary(self, text: str) -> np.ndarray:
        return self._encoding.encode_to_numpy(text, disallowed_special=())

    def encode_batches(self, batches: Iterable[Sequence[str]]) -> Iterator[list[np.ndarray]]:
        """Ids of batches of texts, on all cores, which are at work on the next batch while the caller has this one."""
        with ThreadPoolExecutor(cores()) as pool:
            waiting: deque[list[Future[np.ndarray]]] = deque()
            for batch in batches:
                waiting.append([pool.submit(self.encode, text) for text in batch])
                if len(waiting) == 2:
                    yield [found.result() for found in waiting.popleft()]
            for last in waiting:
                yield [found.result() for found in last]

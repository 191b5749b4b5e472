"""The tokenizer in use (paper 3.2): byte-level byte-pair encoding, read from and written to `tokenizer.json`.

Text never becomes a special token unless that is asked for: a user who writes `<|eot_id|>` gets its letters, not the end of a turn.
Special tokens are added by id, by `dialog.py` and by the shards.

Much text is encoded by ranks (`encoder.py`) where the file's merges follow them, which is checked, so that the ids are the same;
tokenizers, which transformers uses, encodes the rest.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from openherd.core.errors import InputError
from openherd.tokenizer.encoder import RankEncoder
from openherd.tokenizer.ranks import follow_ranks
from openherd.tokenizer.special import BEGIN_OF_TEXT, END_OF_MESSAGE, END_OF_TEXT, END_OF_TURN, STOP_TOKENS

FILES = ("tokenizer.json", "tokenizer_config.json")


class Tokenizer:
    """Text to token ids and back."""

    def __init__(self, directory: Path, backend: tokenizers.Tokenizer) -> None:
        self.directory = directory
        self._backend = backend
        self._backend.encode_special_tokens = True  # encode their text as ordinary text
        self.vocabulary: int = backend.get_vocab_size(with_added_tokens=True)
        """All tokens, special ones included."""

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read a directory with `tokenizer.json`. Raises InputError where it is damaged or lacks Llama 3's special tokens."""
        file = directory / "tokenizer.json"
        if not file.exists():
            raise InputError(directory, "no tokenizer.json", do="bring the one that its model was trained with")
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise InputError(file, f"not a readable tokenizer ({error})") from None
        missing = [t for t in (BEGIN_OF_TEXT, END_OF_TEXT, END_OF_TURN) if backend.token_to_id(t) is None]
        if missing:
            raise InputError(file, f"lacks the special token {missing[0]}", allowed="a tokenizer with Llama 3's special tokens")
        return cls(directory, backend)

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(self.directory / name, directory / name)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text; with `allow_special` the names of special tokens stand for them. Raises InputError for lone
        surrogates, which are no text."""
        if not allow_special:
            return self.encode_batch([text])[0]
        ids: list[int] = []
        for part in self._special_names.split(text):
            special = self._backend.token_to_id(part) if self._special_names.fullmatch(part) else None
            ids += self.encode(part) if special is None else [special]
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, on all cores. Raises InputError for lone surrogates."""
        try:
            return [e.ids for e in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        except (UnicodeEncodeError, TypeError):
            for i, text in enumerate(texts):
                if any("\ud800" <= c <= "\udfff" for c in text):
                    raise InputError(f"text {i}", "holds a lone surrogate", do="decode the bytes as UTF-8 first") from None
            raise

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of many texts as arrays of uint32, on all cores: the fast way. Raises InputError for lone surrogates."""
        return next(self.encode_batches([texts]))

    def encode_batches(self, batches: Iterable[Sequence[str]]) -> Iterator[list[np.ndarray]]:
        """As `encode_arrays`, batch by batch; the cores are at work on the next batch while the caller has this one."""
        if self._by_ranks is None:
            return ([np.array(ids, np.uint32) for ids in self.encode_batch(texts)] for texts in batches)
        return self._by_ranks.encode_batches(batches)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; special tokens are written out, bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of token ids; a character may be spread over several tokens."""
        table = self._bytes
        return b"".join(table[i] for i in ids)

    def id(self, special: str) -> int:
        """The id of a special token."""
        found = self._backend.token_to_id(special)
        if found is None:
            raise InputError(self.directory, f"no special token {special}")
        return int(found)

    def ids_of(self, special: Iterable[str]) -> frozenset[int]:
        """The ids of those special tokens that it has: the Llama 3 of April 2024 has no `<|eom_id|>`, for one."""
        return frozenset(i for token in special if (i := self._backend.token_to_id(token)) is not None)

    @cached_property
    def bos_id(self) -> int:
        """The id that begins every text."""
        return self.id(BEGIN_OF_TEXT)

    @cached_property
    def eos_id(self) -> int:
        """The id that ends a document of pre-training."""
        return self.id(END_OF_TEXT)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids at which generation ends."""
        return self.ids_of(STOP_TOKENS)

    @cached_property
    def message_ends(self) -> frozenset[int]:
        """Ids that end a message of a dialog."""
        return self.ids_of([END_OF_MESSAGE, END_OF_TURN])

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of all special tokens."""
        return frozenset(self._backend.get_added_tokens_decoder())

    @cached_property
    def tokens(self) -> list[bytes]:
        """The bytes of every token in the order of the ids, special ones left out."""
        return [token for i, token in enumerate(self._bytes) if i not in self.special_ids]

    def contents(self) -> dict[str, Any]:
        """What stands in `tokenizer.json`."""
        return dict(json.loads(self._backend.to_str()))

    def encode_piece(self, piece: bytes) -> list[int]:
        """Token ids of bytes that stand in one piece of a text, where it follows ranks."""
        assert self._by_ranks is not None
        return self._by_ranks.encode_piece(piece)

    @property
    def follows_ranks(self) -> bool:
        """Whether it encodes as the ranks of its tokens do."""
        return self._by_ranks is not None

    @cached_property
    def _special_names(self) -> re.Pattern[str]:
        """Finds the special tokens in a text, the longest first."""
        names = sorted((t.content for t in self._backend.get_added_tokens_decoder().values()), key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names))})")

    @cached_property
    def _by_ranks(self) -> RankEncoder | None:
        """An encoder by ranks, where it gives the same ids as this file on any text."""
        file = self.contents()
        model, pattern = file["model"], split_pattern(file)
        plain = model["type"] == "BPE" and model["ignore_merges"] and not model["dropout"] and not model["byte_fallback"]
        ids = sorted(i for i in model["vocab"].values() if i not in self.special_ids)
        if pattern is None or not plain or ids != [i for i in range(self.vocabulary) if i not in self.special_ids]:
            return None
        merges = [(spelt_bytes(left), spelt_bytes(right)) for left, right in model["merges"]]
        return RankEncoder(dict(zip(self.tokens, ids, strict=True)), pattern) if follow_ranks(self.tokens, merges) else None

    @cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes of every id."""
        table = [b""] * self.vocabulary
        for token, i in self._backend.get_vocab(with_added_tokens=True).items():
            table[i] = token.encode() if i in self.special_ids else spelt_bytes(token)
        return table


def split_pattern(file: dict[str, Any]) -> str | None:
    """The pattern of a `tokenizer.json` that cuts text by one and does nothing else to it, as Llama 3's does; None for another."""
    try:
        split, spell = file["pre_tokenizer"]["pretokenizers"]
        pattern = split["pattern"]["Regex"]
        plain = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False} == split
    except (KeyError, TypeError, ValueError):
        return None
    spelt = spell.get("type") == "ByteLevel" and not spell.get("add_prefix_space") and not spell.get("use_regex")
    return pattern if plain and spelt and file["normalizer"] is None else None


def byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in byte-level vocabularies: GPT-2's convention, kept in `tokenizer.json`."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


BYTES_OF_LETTERS = {ord(letter): byte for byte, letter in byte_letters().items()}


def spelt_bytes(token: str) -> bytes:
    """The bytes of a token as byte-level vocabularies spell it."""
    return token.translate(BYTES_OF_LETTERS).encode("latin-1")

"""Tokenizers on disk (paper 3.2): `tokenizer.json`, as Hugging Face's programs read it, and Meta's rank files (`tokenizer.model`).

Both hold the same tokens; which of the two a tokenizer came from makes no difference to what it encodes (`ranks.py` says why).
"""

import base64
import binascii
import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from openherd.core.errors import InputError
from openherd.tokenizer.pattern import SPLIT_PATTERN
from openherd.tokenizer.ranks import merges_of
from openherd.tokenizer.special import BEGIN_OF_TEXT, END_OF_TEXT, PAD, SPECIAL_TOKENS
from openherd.tokenizer.template import CHAT_TEMPLATE
from openherd.tokenizer.tokenizer import Tokenizer, byte_letters

CONTEXT = 131_072  # tokens, Llama 3.1's


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


def backend_of(tokens: Sequence[bytes]) -> tokenizers.Tokenizer:
    """A tokenizer that encodes by the ranks of `tokens`, the 256 special ones behind them."""
    letters = byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [(spell(left), spell(right)) for left, right in merges_of(tokens)]
    vocabulary = {spell(token): rank for rank, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    begin = (BEGIN_OF_TEXT, backend.token_to_id(BEGIN_OF_TEXT))
    backend.post_processor = processors.TemplateProcessing(single=f"{BEGIN_OF_TEXT} $A", special_tokens=[begin])
    return backend


def write_tokenizer(tokens: Sequence[bytes], directory: Path, max_model_tokens: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, which transformers loads as they are."""
    directory.mkdir(parents=True, exist_ok=True)
    backend_of(tokens).save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_model_tokens,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a rank file, of a directory with `tokenizer.json`, or of the run directory of a stage that wrote one."""
    if path.is_file() and path.name != "tokenizer.json":
        return Tokenizer(path, backend_of(read_ranks(path)))
    places = [path.parent if path.is_file() else path, path / "tokenizer", path / "model"]
    return Tokenizer.load(next((place for place in places if (place / "tokenizer.json").exists()), path))


def tokens_of(tokenizer: Tokenizer) -> list[bytes]:
    """A tokenizer's tokens in the order of their ranks. Raises InputError where its merges encode otherwise than ranks would."""
    if not tokenizer.follows_ranks:
        raise InputError(
            tokenizer.directory,
            "its merges cannot be written as ranks",
            allowed="byte-level BPE whose ids follow the merges, with Llama 3's way to split (ignore_merges, one pattern)",
        )
    return tokenizer.tokens


def ranks_of(tokenizer: Tokenizer) -> list[bytes]:
    """A tokenizer's tokens where rank files can hold it: they have the special ones behind. Raises InputError."""
    tokens = tokens_of(tokenizer)
    if any(i < len(tokens) for i in tokenizer.special_ids):
        found = "its special tokens stand before others: it was extended"
        raise InputError(tokenizer.directory, found, allowed="special tokens behind, in a rank file", do="keep tokenizer.json")
    return tokens


def convert(source: Path, destination: Path) -> str:
    """A rank file to a directory with `tokenizer.json`, or the other way; returns what was done, in words."""
    if destination.exists():
        raise InputError(destination, "is there already", do="give another --out, or remove it")
    tokenizer = open_tokenizer(source)
    tokens = ranks_of(tokenizer)
    if source.is_file() and source.name != "tokenizer.json":
        write_tokenizer(tokens, destination, CONTEXT)
        same = Tokenizer.load(destination).tokens == tokens
    else:
        write_ranks(tokens, destination)
        same = read_ranks(destination) == tokens
    assert same, "what was written reads otherwise"
    return f"{destination}: {len(tokens):,} tokens and {len(tokenizer.special_ids)} special ones, read back and found the same"

"""Training the tokenizer (paper 3.2): byte-level byte-pair encoding with Llama 3's split pattern and its 256 special tokens.

The paper's vocabulary is 128,000 byte pairs (100K of tiktoken's and 28K for other languages) and 256 special tokens behind them.
All 256 bytes are in the vocabulary, so any text can be encoded. Whole pieces are looked up before merging, as Meta's encoder does.
Programs that read `tokenizer.json` begin a text with `<|begin_of_text|>`, as with Llama 3's own and as in training.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tokenizers
from pydantic import Field
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from openherd.core.errors import InputError
from openherd.core.records import read_parquet
from openherd.core.rundir import Output, Run
from openherd.tokenizer.dialog import CHAT_TEMPLATE
from openherd.tokenizer.pattern import SPLIT_PATTERN
from openherd.tokenizer.special import BEGIN_OF_TEXT, END_OF_TEXT, PAD, SPECIAL_TOKENS
from openherd.tokenizer.tokenizer import Tokenizer

SAMPLE_BYTES = 1_000_000  # of training text, on which bytes per token are measured


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Settings of tokenizer training."""

    vocabulary: Annotated[int, Field(description="tokens without the 256 special ones; at least the 256 bytes", ge=256)] = 128_000
    max_model_tokens: Annotated[int, Field(description="context written to tokenizer_config.json", ge=1)] = 131_072


def train_backend(texts: Iterator[str], vocabulary: int) -> tokenizers.Tokenizer:
    """Learn `vocabulary` tokens (the 256 bytes among them) from texts, and put the special ones behind them."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    begin = (BEGIN_OF_TEXT, backend.token_to_id(BEGIN_OF_TEXT))
    backend.post_processor = processors.TemplateProcessing(single=f"{BEGIN_OF_TEXT} $A", special_tokens=[begin])
    return backend


def write_tokenizer(backend: tokenizers.Tokenizer, directory: Path, max_model_tokens: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, which transformers loads as they are."""
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
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


def tokenizer(config: TokenizerConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Train a tokenizer on `train.parquet`; writes `tokenizer/`. Raises InputError where the text is too little."""
    file = documents.file("train.parquet")
    backend = train_backend((row["text"] for row in read_parquet(file, ["text"])), config.vocabulary)
    learned = backend.get_vocab_size(with_added_tokens=False)
    if learned < config.vocabulary:
        found = f"the text gives only {learned:,} tokens"
        raise InputError(file, found, allowed=f"{config.vocabulary:,} asked", do="lower vocabulary or give more text")
    with out.write("tokenizer") as path:
        write_tokenizer(backend, path, config.max_model_tokens)
    trained = Tokenizer.load(out.path / "tokenizer")
    sample = []
    n_bytes = 0
    for row in read_parquet(file, ["text"]):
        sample.append(row["text"])
        n_bytes += len(row["text"].encode())
        if n_bytes >= SAMPLE_BYTES:
            break
    n_tokens = sum(len(ids) for ids in trained.encode_batch(sample))
    return {"vocabulary": trained.vocabulary, "bytes_per_token": n_bytes / n_tokens, "sample_bytes": n_bytes}

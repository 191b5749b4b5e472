"""The gates of a longer context (paper 3.4.2): short-context scores recovered, needles found up to the length trained for.

The paper advances its context only when "model performance on short-context evaluations has recovered completely" and "the model
perfectly solves needle in a haystack tasks up to that length". Here both are metrics of a stage; a recipe makes them gates:
`require = "both_met >= 1"`, or one of the two. Short context is bits per byte of the beginnings of held-out documents, as long as
the context was before, under both models. Other scores gate in the same way, each by its own stage. One process computes: the
model and the cache of one text have to fit one device.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.metrics import cluster_estimate, ratio_estimate
from openherd.core.records import write_jsonl
from openherd.core.rundir import Output, Run
from openherd.core.seeds import derive_seed
from openherd.evaluation.needle import NEEDLE, Trial, draw_pool, find_needles, haystack
from openherd.evaluation.text import choose_texts
from openherd.inference.engine import bits_of_tokens
from openherd.model.device import Device, announce, choose_device
from openherd.model.transformer import Transformer
from openherd.model.weights import load_model, model_of, read_config
from openherd.tokenizer.tokenizer import Tokenizer

EIGHTHS = 8


@dataclass(frozen=True, kw_only=True)
class ContextGateConfig:
    """Settings of `context-gate`. The paper names its two gates and no settings of them: all ours."""

    tolerance_bits_per_byte: Annotated[
        float,
        Field(description="bits per byte; short text has recovered where the 95% interval of its loss ends under this", ge=0),
    ] = 0.005
    short_documents: Annotated[
        int, Field(description="held-out documents whose beginnings are scored, drawn by seed; 0 = all", ge=0)
    ] = 500
    lengths: Annotated[
        tuple[int, ...], Field(description="tokens of text, question and answer; empty: the eighths of the model's context")
    ] = ()
    depths: Annotated[tuple[float, ...], Field(description="where needles stand, shares of the length", min_length=1)] = (
        0.0, 0.25, 0.5, 0.75, 1.0,
    )  # fmt: skip
    haystacks: Annotated[int, Field(description="texts, each with another needle for each length and depth", ge=1)] = 4
    candidates: Annotated[int, Field(description="values that are ranked, the right one among them", ge=2)] = 10
    needle: Annotated[str, Field(description="the fact; what stands before {value} is the question")] = NEEDLE
    rows_at_once: Annotated[int, Field(description="haystacks read together; each has a cache of the longest length", ge=1)] = 1
    part_tokens: Annotated[int, Field(description="tokens of a haystack read at once", ge=1)] = 1_024
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], Field(description="of weights and cache; auto: that of the model's files")
    ] = "auto"
    device: Annotated[Device, Field(description="where to compute; auto: CUDA, else mps, else cpu")] = "auto"
    seed: Annotated[int, Field(description="seed of the choice of documents, of haystacks and needles")] = 0

    def __post_init__(self) -> None:
        if not all(0 <= depth <= 1 for depth in self.depths):
            raise ConfigError("context-gate", f"depths = {list(self.depths)}", allowed="shares from 0, the beginning, to 1")
        head, value, tail = self.needle.partition("{value}")
        if not value or "{key}" not in head or "{value}" in tail or "{key}" in tail:
            raise ConfigError("context-gate", f"needle = {self.needle!r}", allowed="a text with {key}, and one {value} behind it")


def needle_lengths(config: ContextGateConfig, context: int, least: int) -> list[int]:
    """The lengths to try. Raises ConfigError for one that the model cannot read, or that no needle fits into."""
    lengths = config.lengths or [n for i in range(1, EIGHTHS + 1) if (n := context * i // EIGHTHS) >= least] or [context]
    for n in lengths:
        if not least <= n <= context:
            allowed = f"{least:,}, which needle, question and value take, to {context:,}, the model's context"
            raise ConfigError("context-gate", f"a length of {n:,} tokens", allowed=allowed)
    return sorted(set(lengths))


def needle_metrics(trials: Sequence[Trial], candidates: int) -> dict[str, Any]:
    """Accuracy over all, by length, and by length and depth in percent; intervals are over haystacks."""

    def accuracy(some: Sequence[Trial]) -> Any:
        return cluster_estimate([float(t.found) for t in some], [t.haystack for t in some])

    by_length = {n: [t for t in trials if t.length == n] for n in sorted({t.length for t in trials})}
    depths = sorted({t.depth for t in trials})
    longest = max(by_length)
    return {
        "needle_accuracy": accuracy(trials),
        "needle_accuracy_longest": accuracy(by_length[longest]),
        "needle_longest_tokens": longest,
        "needle_ranked_first": cluster_estimate([float(t.rank == 1) for t in trials], [t.haystack for t in trials]),
        "needle_ranked_first_by_chance": 1 / candidates,
        "needles": len(trials),
        "by_length": {str(n): accuracy(some) for n, some in by_length.items()},
        "accuracy": {
            str(n): {f"{100 * d:g}": accuracy([t for t in some if t.depth == d])["value"] for d in depths}
            for n, some in by_length.items()
        },
    }


def bits_of_beginnings(model: Transformer, tokenizer: Tokenizer, beginnings: Sequence[list[int]], what: str) -> list[float]:
    """Bits of each text under a model."""
    texts = [[tokenizer.bos_id, *ids] for ids in beginnings]
    return bits_of_tokens(model, texts, max(map(len, beginnings), default=1), f"short text, {what}")


def context_gate(config: ContextGateConfig, *, model: Run, before: Run, documents: Run, out: Output) -> dict[str, Any]:
    """Whether `model` reads short text as `before`, the model before its context grew, and finds needles (paper 3.4.2)."""
    device = choose_device(config.device)
    announce(out, device)
    dtype = None if config.precision == "auto" else getattr(torch, config.precision)
    (directory, digest), base_directory = model_of(model), model_of(before)[0]
    tokenizer, short = Tokenizer.load(directory), read_config(base_directory).max_positions
    if tokenizer.contents() != Tokenizer.load(base_directory).contents():
        raise InputError(before.path, f"another tokenizer than that of {model.path}", allowed="a model and what became of it")
    texts = choose_texts(documents.file("heldout.parquet"), 0, config.seed)
    drawn = random.Random(config.seed).sample(texts, min(config.short_documents or len(texts), len(texts)))
    beginnings = [ids[:short] for ids in tokenizer.encode_batch(drawn)]
    if len(beginnings) < 2:
        raise InputError(documents.path, "one held-out document", allowed="several: a difference needs an interval")
    sizes = [float(len(tokenizer.decode_bytes(ids))) for ids in beginnings]

    bits_before = bits_of_beginnings(load_model(base_directory, str(device), dtype), tokenizer, beginnings, "before")
    network = load_model(directory, str(device), dtype)
    bits_after = bits_of_beginnings(network, tokenizer, beginnings, "after")
    loss = ratio_estimate([b - a for a, b in zip(bits_before, bits_after, strict=True)], sizes)

    n_places = (len(config.lengths) or EIGHTHS) * len(config.depths)
    pool = draw_pool(tokenizer, config.needle, config.candidates, config.haystacks, n_places, config.seed)
    lengths = needle_lengths(config, network.config.max_positions, pool.least)
    seeds = [derive_seed(config.seed, "haystack", i) for i in range(config.haystacks)]
    haystacks = [haystack(tokenizer, texts, lengths[-1], seed) for seed in seeds]
    trials = find_needles(network, haystacks, pool, lengths, config.depths, config.rows_at_once, config.part_tokens)
    with out.write("needles.jsonl") as path:
        write_jsonl(path, map(asdict, trials))
    needles = needle_metrics(trials, config.candidates)
    recovered = loss["high"] <= config.tolerance_bits_per_byte
    return {
        "both_met": recovered and needles["needle_accuracy"]["value"] == 1.0,
        "short_context_recovered": recovered,
        "short_context_loss_bits_per_byte": loss,
        "short_context_tokens": short,
        "bits_per_byte_before": ratio_estimate(bits_before, sizes),
        "bits_per_byte_after": ratio_estimate(bits_after, sizes),
        **needles,
        "weights_sha256": digest,
    }

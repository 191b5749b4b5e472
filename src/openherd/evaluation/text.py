"""Bits per byte on held-out documents (paper 5.1), beside `xz -9` and a token-trigram model on the same text; and samples.

A document's bits are those of its tokens given `<|begin_of_text|>`; the end of the text is not counted. The total is divided by
the documents' UTF-8 bytes. A text longer than the model's context is cut into windows that overlap by half, so each token is
scored once and with at least half a context before it.
"""

import itertools
import lzma
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.metrics import ratio_estimate
from openherd.core.records import read_parquet, write_jsonl
from openherd.core.rundir import Output, Run
from openherd.core.seeds import uniform
from openherd.evaluation.ngram import SMOOTHING, Trigram
from openherd.inference.engine import bits_of, generate
from openherd.inference.sampling import Sampling
from openherd.model.device import Device, announce, choose_device
from openherd.model.transformer import Transformer
from openherd.model.weights import load_model, model_of
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.training.anneal import last_checkpoint

PROMPTS = ("Return the ", "The module ", "class ", "def ")


@dataclass(frozen=True, kw_only=True)
class EvaluateTextConfig:
    """Settings of `evaluate-text`."""

    max_heldout_bytes: Annotated[int, Field(description="held-out text scored, whole documents, at least one; 0 = all", ge=0)] = 0
    max_training_bytes: Annotated[
        int, Field(description="training text that the trigram model and primed xz learn from, whole documents; 0 = all", ge=0)
    ] = 100_000_000
    max_averaging_bytes: Annotated[
        int,
        Field(description="of it, text on which averaged weights are compared with their last checkpoint; 0 = all", ge=0),
    ] = 0
    prompts: Annotated[tuple[str, ...], Field(description="beginnings that each model continues")] = PROMPTS
    sample_tokens: Annotated[int, Field(description="tokens of a continuation", ge=1)] = 48
    temperature: Annotated[
        float, Field(description="of the sampled continuations; each prompt is continued greedily as well", ge=0)
    ] = 0.8
    device: Annotated[Device, Field(description="where to compute; auto: CUDA, else mps, else cpu")] = "auto"
    seed: Annotated[int, Field(description="seed of the choice of documents and of the samples")] = 0


def choose_texts(file: Path, max_bytes: int, seed: int, sources: Collection[str] = ()) -> list[str]:
    """Texts in the file's order, of some sources or of all: each, or whole documents drawn by seed until the next would pass the
    limit."""
    rows = read_parquet(file, ["id", "source", "text"] if sources else ["id", "text"])
    sizes = {
        row["id"]: len(row["text"].encode()) for row in rows if row["text"] and (not sources or (row["source"] or "") in sources)
    }
    if not sizes:
        raise InputError(file, "no text")
    drawn = sorted(sizes, key=lambda id_: uniform(seed, file.name, id_))
    totals = itertools.accumulate(sizes[id_] for id_ in drawn)
    fitting = sum(total <= max_bytes for total in totals) if max_bytes else len(drawn)
    chosen = set(drawn[: max(fitting, 1)])
    return [row["text"] for row in read_parquet(file, ["id", "text"]) if row["id"] in chosen]


def samples_of(name: str, model: Transformer, tokenizer: Tokenizer, config: EvaluateTextConfig) -> list[dict[str, Any]]:
    """Continuations of the prompts, greedy and sampled."""
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in config.prompts]
    rows = []
    for temperature in dict.fromkeys((0.0, config.temperature)):
        sampling = Sampling(max_new_tokens=config.sample_tokens, temperature=temperature, seed=config.seed)
        for prompt, tokens in zip(config.prompts, generate(model, ids, sampling, tokenizer.stop_ids), strict=True):
            rows.append({"model": name, "prompt": prompt, "continuation": tokenizer.decode(tokens), "temperature": temperature})
    return rows


def names_of(models: tuple[Run, ...]) -> list[str]:
    """Each run's stage; the second of a stage is `stage-2`. Raises ConfigError for none, or one given twice."""
    if not models or len({run.digest for run in models}) < len(models):
        stages = [run.manifest["stage"] for run in models]
        raise ConfigError("evaluate-text", f"models {stages}", allowed="at least one run, each once")
    counts: Counter[str] = Counter()
    names = []
    for run in models:
        stage = run.manifest["stage"]
        counts[stage] += 1
        names.append(stage if counts[stage] == 1 else f"{stage}-{counts[stage]}")
    return names


def xz_bits(text: bytes) -> int:
    """Bits of a text after `xz -9`, with a dictionary that holds all of it (at least the 64 MiB of `-9`)."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": max(64 << 20, len(text))}]
    return 8 * len(lzma.compress(text, filters=filters))


def evaluate_text(config: EvaluateTextConfig, *, models: tuple[Run, ...], documents: Run, out: Output) -> dict[str, Any]:
    """Score each model on `heldout.parquet`, beside the baselines, which learn from `train.parquet`; writes `samples.jsonl`.

    A model whose base is among those before it is compared with it, text by text: a score before and after annealing. So are
    averaged weights with the last checkpoint. The trigram model's tokens are those of the first model.
    """
    names = names_of(models)
    device = choose_device(config.device)
    announce(out, device)
    texts = choose_texts(documents.file("heldout.parquet"), config.max_heldout_bytes, config.seed)
    training = choose_texts(documents.file("train.parquet"), config.max_training_bytes, config.seed)
    sizes = [float(len(text.encode())) for text in texts]
    directories = [model_of(run) for run in models]
    tokenizer = Tokenizer.load(directories[0][0])
    trigram = Trigram(tokenizer.encode_batch(training), tokenizer.vocabulary, tokenizer.bos_id)
    trigram_bits = [-float(trigram.log2_probabilities(ids).sum()) for ids in tokenizer.encode_batch(texts)]
    metrics: dict[str, Any] = {}
    samples: list[dict[str, Any]] = []
    scored: dict[str, list[float]] = {}  # by the run's digest
    for name, run, (directory, digest) in zip(names, models, directories, strict=True):
        model, tokenizer = load_model(directory, str(device)), Tokenizer.load(directory)
        bits = scored[run.digest] = bits_of(model, tokenizer, texts, name)
        less = [mine - its for mine, its in zip(bits, trigram_bits, strict=True)]
        metrics[name] = {
            "bits_per_byte": ratio_estimate(bits, sizes),
            "bits_per_byte_less_trigram": ratio_estimate(less, sizes),
            "weights_sha256": digest,
        }
        samples += samples_of(name, model, tokenizer, config)
        del model  # two large ones may not fit at once
        base = run.manifest["inputs"].get("base", {}).get("digest")
        if base in scored:
            change = ratio_estimate([after - before for before, after in zip(scored[base], bits, strict=True)], sizes)
            metrics[name] |= {"bits_per_byte_of_base": sum(scored[base]) / sum(sizes), "bits_per_byte_less_base": change}
        if run.metrics.get("averaged_checkpoints", 1) > 1:
            n = max(sum(total <= (config.max_averaging_bytes or total) for total in itertools.accumulate(sizes)), 1)
            last = bits_of(last_checkpoint(run, device), tokenizer, texts[:n], f"{name}'s last checkpoint")
            less = [mine - its for mine, its in zip(bits[:n], last, strict=True)]
            metrics[name]["bits_per_byte_less_last_checkpoint"] = ratio_estimate(less, sizes[:n])
    with out.write("samples.jsonl") as path:
        write_jsonl(path, samples)
    train_bytes, heldout_bytes = "".join(training).encode(), "".join(texts).encode()
    return metrics | {
        "trigram": ratio_estimate(trigram_bits, sizes),
        "trigram_smoothing": SMOOTHING,
        "xz": xz_bits(heldout_bytes) / len(heldout_bytes),
        "xz_primed": (xz_bits(train_bytes + heldout_bytes) - xz_bits(train_bytes)) / len(heldout_bytes),
        "heldout_documents": len(texts),
        "heldout_bytes": len(heldout_bytes),
        "training_bytes": len(train_bytes),
    }

"""Run directories such as the stages write, with made-up numbers."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from openherd.core.metrics import mean_estimate
from openherd.core.records import ParquetWriter, write_jsonl
from openherd.core.rundir import Job, Output, Run, make

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"
LINEAGE = [(name, pa.string()) for name in ("id", "url", "stage", "reason", "detail")]


def made(folder: Path, stage: str, metrics: dict, write: Callable[[Output], None] | None = None, /, **inputs: Run) -> Run:
    """A finished run directory of a stage that returns these metrics."""

    def function(config: Any, *, out: Output) -> dict:
        if write:
            write(out)
        return metrics

    digests = {name: run.digest for name, run in inputs.items()} or {"pages": "0" * 64}
    sources = {name: str(run.path) for name, run in inputs.items()} or {"pages": "pages.warc"}
    job = Job(stage, "3", 1, {"seed": 0}, digests, sources)
    return make(job, folder / stage / job.digest[:12], function, None, {})[0]


def write_dropped(content: pa.DataType, rows: list[dict]) -> Callable[[Output], None]:
    """Writes `dropped.parquet` as curation does: pages have `content` (bytes), documents `text`."""
    name = "content" if content == pa.binary() else "text"

    def write(out: Output) -> None:
        with out.write("dropped.parquet") as path, ParquetWriter(path, pa.schema([*LINEAGE, (name, content)])) as file:
            for row in rows:
                file.write(row)

    return write


def write_phase(steps: int, high: float, low: float, rate: Callable[[float], float]) -> Callable[[Output], None]:
    """Logs a loss that falls from `high` to `low`, a little unquiet."""

    def write(out: Output) -> None:
        for step in range(steps):
            done = step / steps
            loss = low + (high - low) * math.exp(-6 * done) + 0.1 * math.sin(12.9898 * step) ** 3
            norm = 0.5 + 0.2 * math.cos(78.233 * step) + (3.0 if step == steps // 2 else 0.0)
            out.log(step=step, tokens=(step + 1) * 2_048, loss_nats=loss, learning_rate=rate(done), gradient_norm=norm, time_s=0.2)

    return write


def write_rows(name: str, rows: list[dict]) -> Callable[[Output], None]:
    """Writes a JSON Lines output."""

    def write(out: Output) -> None:
        with out.write(name) as path:
            write_jsonl(path, rows)

    return write


def write_tokenizer(out: Output) -> None:
    """A byte-level tokenizer of a few merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["def area(radius): return the area of the radius"] * 9, trainer)
    with out.write("tokenizer/tokenizer.json") as path:
        tokenizer.save(str(path))


def phase_metrics(steps: int, loss: float) -> dict:
    """What a training stage returns."""
    return {
        "steps": steps,
        "tokens": steps * 2_048,
        "loss_nats_last_5_percent": loss,
        "final_loss_nats": loss,
        "tokens_per_s": 9_876.5,
        "precision": "float32",
        "parameters": 2_097_152,
        "context": 256,
    }


def make_runs(folder: Path, steps: int = 40, hostile: str = HOSTILE) -> tuple[Run, ...]:
    """All stages of a small run, in order."""
    page = f"<html><b>A page</b> about &lt;nothing&gt; {'.' * 300} much later</html>".encode()
    rows = [
        {
            "id": "a" * 32,
            "url": f"https://example.org/{hostile}",
            "reason": "blocked domain",
            "detail": "example.org",
            "content": page,
        },
        {"id": "b" * 32, "url": None, "reason": "illegal", "detail": "", "content": None},
    ]
    pages = made(
        folder,
        "url-filter",
        {
            "documents_in": 486,
            "documents_out": 484,
            "bytes_in": 9_000_000,
            "bytes_out": 8_990_000,
            "dropped": {"blocked domain": {"documents": 1, "bytes": 9_000}, "illegal": {"documents": 1, "bytes": 1_000}},
        },
        write_dropped(pa.binary(), rows),
    )
    texts = [
        {
            "id": f"{i:032}",
            "url": f"https://example.org/{i}",
            "reason": reason,
            "detail": f"share {i}",
            "text": f"Text {i} {hostile}",
        }
        for i, reason in enumerate([*["repeats lines"] * 9, "too short", hostile])
    ]
    documents = made(
        folder,
        "heuristics",
        {
            "documents_in": 484,
            "documents_out": 473,
            "bytes_in": 8_990_000,
            "bytes_out": 5_000_000,
            "dropped": {
                "repeats lines": {"documents": 9, "bytes": 60_000},
                "too short": {"documents": 1, "bytes": 100},
                hostile: {"documents": 1, "bytes": 200},
            },
        },
        write_dropped(pa.string(), texts),
        documents=pages,
    )
    words = made(folder, "tokenizer", {"vocabulary": 300, "bytes_per_token": 2.75}, write_tokenizer, documents=documents)
    shards = made(
        folder, "token-shards", {"train_tokens": 123_456, "tokens": {"library": 100_000, hostile: 23_456}}, tokenizer=words
    )
    pretrain = made(
        folder, "pretrain", phase_metrics(steps, 3.1), write_phase(steps, 8, 3, lambda done: 3e-3 * math.cos(done)), shards=shards
    )
    n = steps // 4
    long_context = made(folder, "long-context", phase_metrics(n, 2.9), write_phase(n, 3.2, 2.9, lambda done: 1e-3), base=pretrain)
    anneal = made(
        folder, "anneal", phase_metrics(n, 2.5), write_phase(n, 2.9, 2.5, lambda done: 1e-3 * (1 - done)), base=long_context
    )
    sft = made(folder, "sft", phase_metrics(n, 0.4), write_phase(n, 2.5, 0.3, lambda done: 1e-3 * (1 - done)), base=anneal)

    def bits(*values: float) -> dict:
        less = {"value": -0.05, "low": -0.08, "high": -0.02, "n": 3}
        return {"bits_per_byte": mean_estimate(values), "bits_per_byte_less_trigram": less, "weights_sha256": "c0ffee" * 10}

    samples = [
        {"model": model, "prompt": prompt, "continuation": f" a list\n    of {hostile} as {model} says", "temperature": 0.0}
        for model in ("pretrain", "long-context", "anneal", "sft")
        for prompt in ("class list", f"The module {hostile}")
    ]
    text = made(
        folder,
        "evaluate-text",
        {
            "pretrain": bits(2.0, 2.1, 1.9),
            "long-context": bits(1.9, 2.0, 1.8),
            "anneal": bits(1.8, 1.9, 1.7),
            "sft": bits(2.2, 2.3, 2.1),
            "xz": 2.61,
            "xz_primed": 2.07,
            "trigram": mean_estimate([1.85, 1.9, 1.8]),
            "trigram_smoothing": "interpolated, Witten-Bell",
        },
        write_rows("samples.jsonl", samples),
        sft=sft,
    )
    score = {
        "f1": mean_estimate([1.0, 0.5, 0.75]),
        "exact": mean_estimate([1.0, 0.0, 0.0]),
        "retrieval_f1": mean_estimate([0.25, 0.5, 0.0]),
        "retrieval_exact": mean_estimate([0.0, 0.0, 0.0]),
    }
    answers = [
        {
            "set": name,
            "question": f"What is entry {i}? {hostile}",
            "expected": f"Entry {i}.",
            "answer": f"Entry {i} {hostile}",
            "f1": 0.5,
        }
        for name in ("heldout_phrasings", "heldout_entries")
        for i in range(40)
    ]
    answered = made(
        folder,
        "evaluate-answers",
        {"heldout_phrasings": score, "heldout_entries": score, "weights_sha256": "deadbeef" * 8},
        write_rows("answers.jsonl", answers),
        model=sft,
    )
    return pages, documents, words, shards, pretrain, long_context, anneal, sft, text, answered


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, ...]:
    """A small run of all stages."""
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def gate_run(tmp_path: Path) -> Run:
    """A run of `context-gate` where needles at the beginning of the longest text are lost."""
    share = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 4}
    bits = {"value": 1.5, "low": 1.4, "high": 1.6, "n": 9}
    accuracy = {str(n): {"0": 0.25 if n == 512 else 1.0, "50": 1.0, "100": 1.0} for n in (128, 256, 384, 512)}
    metrics = {
        "short_context_recovered": False,
        "short_context_loss_bits_per_byte": {"value": 0.0123, "low": 0.0045, "high": 0.0201, "n": 9},
        "short_context_tokens": 256,
        "bits_per_byte_before": bits,
        "bits_per_byte_after": bits,
        "needle_accuracy": share,
        "needle_accuracy_longest": share,
        "needle_longest_tokens": 512,
        "needle_ranked_first": share,
        "needle_ranked_first_by_chance": 0.1,
        "needles": 48,
        "by_length": dict.fromkeys(accuracy, share),
        "accuracy": accuracy,
        "weights_sha256": "ab" * 32,
    }
    return made(tmp_path / "runs", "context-gate", metrics)

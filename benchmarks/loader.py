"""Making batches beside the training step that takes them: seconds of one over seconds of the other, 12M and 50M parameters.

Two threads compute; shards of 20M tokens in documents of 600 on average, mapped from disk. The step is that of the training loop:
gradients, clipping, AdamW, fp32. Batches are made in the loop's own thread here, so that nothing hides; `waited` is what is left
where a thread makes them ahead. `elsewhere` reads the same shards through the cache from a server on this machine, first with the
cache empty, then full. `row_us` is one row of so many tokens, beside the obvious way (`slow_row_us`). Medians.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from openherd.core import rundir  # noqa: E402
from openherd.core.remote import RemoteRun  # noqa: E402
from openherd.core.rundir import Job, Output, Run  # noqa: E402
from openherd.data.batches import IGNORED, BatchSource  # noqa: E402
from openherd.data.block_cache import BlockCache  # noqa: E402
from openherd.data.prefetch import Prefetch  # noqa: E402
from openherd.data.token_files import TOKEN, block_sums  # noqa: E402
from openherd.data.token_shards import TokenShards  # noqa: E402
from openherd.model.config import SIZES, ModelConfig  # noqa: E402
from openherd.model.flops import parameters  # noqa: E402
from openherd.model.init import initial_weights  # noqa: E402
from openherd.parallel.apply import Sharded  # noqa: E402
from openherd.parallel.layout import ParallelConfig  # noqa: E402
from openherd.parallel.mesh import World  # noqa: E402
from openherd.training.objective import NextToken  # noqa: E402
from openherd.training.optimizer import make_adamw, set_learning_rate  # noqa: E402
from openherd.training.phase import Piece, batches  # noqa: E402
from range_server import served  # noqa: E402

THREADS, STEPS, ROWS, LENGTH, TOKENS = 2, 3, 2, 1_024, 20_000_000
SHAPES = {"12m": SIZES["herd-12m"], "50m": replace(SIZES["herd-60m"], vocabulary=16_640)}


def make_shards(folder: Path, vocabulary: int) -> Run:
    """Two sources of random tokens in documents of random lengths."""
    draw = np.random.default_rng(0)

    def stage(config: None, *, out: Output) -> dict[str, object]:
        index: dict[str, object] = {}
        with out.write("shards") as path:
            path.mkdir()
            for name, n in (("web", TOKENS * 3 // 4), ("books", TOKENS // 4)):
                draw.integers(0, vocabulary, n).astype(TOKEN).tofile(path / f"{name}.bin")
                starts = np.flatnonzero(draw.random(n) < 1 / 600)
                starts = np.unique(np.concatenate(([0], starts))).astype("<i8")
                np.save(path / f"{name}.starts.npy", starts)
                np.save(path / f"{name}.blocks.npy", block_sums(path / f"{name}.bin"))
                index[name] = {"file": name, "tokens": n, "documents": len(starts)}
            (path / "index.json").write_text(json.dumps({"vocabulary": vocabulary, "tokenizer_sha256": "", "sources": index}))
        return {}

    return rundir.make(Job("token-shards", "3.1.2", 3, {}, {}, {}), folder, stage, None, {})[0]


def slow_row(source: BatchSource, index: int) -> dict[str, np.ndarray]:
    """A batch of one row the obvious way: the document of every token is looked up."""
    name, start = source.window(index)
    places = np.arange(start, start + source.sequence_length + 1)
    tokens = source.shards.read(name, start, start + source.sequence_length + 1)
    once = source.shards.starts[name]
    starts = np.append(once, once + source.shards.tokens[name])  # behind the last document comes the first
    document = np.searchsorted(starts, places, side="right") - 1
    begun = np.maximum(starts[document], start)
    labels = np.where(document[1:] == document[:-1], tokens[1:], IGNORED)
    found = {"tokens_BT": tokens[:-1], "labels_BT": labels, "positions_BT": (places - begun)[:-1]}
    return {key: np.stack([row]) for key, row in {**found, "documents_BT": document[:-1] - document[0]}.items()}


def median(work: Callable[[int], object], n: int) -> float:
    """Median seconds of `work(i)`; one before is not counted."""
    work(0)
    found = []
    for i in range(1, n + 1):
        start = time.perf_counter()
        work(i)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def main() -> None:
    torch.set_num_threads(THREADS)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = make_shards(Path(folder) / "run", min(c.vocabulary for c in SHAPES.values()))
        shards = TokenShards.open(run)
        weights = {name: float(n) for name, n in shards.tokens.items()}
        for name, n in shards.tokens.items():
            shards.read(name, 0, n)  # a block's sum is checked when it is first read, once
        for length in (1_024, 8_192, 131_072):
            source = BatchSource(shards, 0, "p", length, weights)
            figures[f"row_us_{length}"] = 1e6 * median(lambda i, s=source: s.batch(i, 1), 200)
            figures[f"slow_row_us_{length}"] = 1e6 * median(lambda i, s=source: slow_row(s, i), 200)
        for name, shape in SHAPES.items():
            figures |= {f"{name}_{key}": value for key, value in of_model(shape, shards, weights).items()}
        with served(run.path) as server:
            cache = BlockCache(Path(folder) / "cache", 1 << 30)
            source = BatchSource(TokenShards.open(RemoteRun.open(server.address), cache), 0, "p", LENGTH, weights)
            start = time.perf_counter()
            for i in range(20):
                source.batch(ROWS * i, ROWS)
            figures["elsewhere_empty_cache_ms"] = 1e3 * (time.perf_counter() - start) / 20
            for i in range(40):
                source.batch(ROWS * i, ROWS)
            figures["elsewhere_full_cache_ms"] = 1e3 * median(lambda i: source.batch(ROWS * i, ROWS), 40)
    print(json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}))


def of_model(config: ModelConfig, shards: TokenShards, weights: dict[str, float]) -> dict[str, float]:
    """Seconds of a batch, of a step, and what is waited for a batch made ahead."""
    model = Sharded(config, World(ParallelConfig(), torch.device("cpu")), "float32")
    model.fill(initial_weights(config, 0, embedding_std=0.02, depth_scaled=True))
    optimizer = make_adamw(model.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1)
    part, objective = batches(shards, [Piece(LENGTH, ROWS, 1_000)], 0, "p", weights), NextToken()

    def step(batch: dict[str, torch.Tensor]) -> None:
        model.gradients(objective, batch, {n: float(c) for n, c in objective.counts(batch).items()}, 1)
        model.clip(1.0)
        set_learning_rate(optimizer, 1e-3)
        model.step(optimizer)
        model.zero()

    batch_s = median(lambda i: part(i, 0, 1), 100)
    step_s = median(lambda i: step(part(0, 0, 1)), STEPS)
    with Prefetch(lambda i: part(i, 0, 1), STEPS + 1) as ahead:
        waits = []
        for i in range(STEPS + 1):
            batch, wait_s = ahead.get(i)
            waits.append(wait_s)
            step(batch)
    return {
        "parameters": parameters(config),
        "batch_ms": 1e3 * batch_s,
        "step_ms": 1e3 * step_s,
        "batch_over_step": batch_s / step_s,
        "waited_over_step": statistics.median(waits[1:]) / step_s,
    }


if __name__ == "__main__":
    main()

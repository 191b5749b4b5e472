"""What lower precision costs in loss: a small model on the standard library's source, as bytes.

Every row is the same run (weights, data, 200 steps) with one setting changed; for the scale of it, fp32 with other initial weights.
Losses are nats a byte: of the last fifth of the steps, and of held-out text after them. FP8 products are those of the processor,
whose results are the device's but for the order of sums; nothing here is a speed.
"""

import json
import sysconfig
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from openherd.core.rundir import Output
from openherd.model.config import SIZES
from openherd.model.init import initial_weights
from openherd.parallel.apply import Sharded
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World
from openherd.training.loop import train
from openherd.training.objective import NextToken
from openherd.training.schedule import warmup_cosine
from openherd.training.settings import TrainingConfig

SHAPE = replace(SIZES["herd-1m"], vocabulary=256, max_positions=128)
STEPS, ROWS, TOKENS, HELD_OUT = 200, 8, 64, 128
CONFIG = TrainingConfig(device="cpu", micro_batch_sequences=ROWS, checkpoint_steps=STEPS)
RUNS = {
    "fp32": {"precision": "float32"},
    "fp32, other weights": {"precision": "float32", "seed": 1},
    "fp32, moments in bf16": {"precision": "float32", "moments_dtype": "bfloat16"},
    "fp16": {"precision": "float16"},
    "bf16": {"precision": "bfloat16"},
    "bf16, moments in bf16": {"precision": "bfloat16", "moments_dtype": "bfloat16"},
    "bf16, FP8 feed-forward": {"precision": "bfloat16", "float8": "feed_forward"},
    "bf16, every FP8 feed-forward": {"precision": "bfloat16", "float8": "every_feed_forward"},
}


def text() -> torch.Tensor:
    """The bytes of the standard library's modules, in the order of their names."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return torch.frombuffer(bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8).long()


def rows_at(data: torch.Tensor, starts: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rows of TOKENS bytes from each start."""
    windows = torch.stack([data[i : i + TOKENS + 1] for i in starts.tolist()])
    positions = torch.arange(TOKENS).expand(len(windows), -1)
    return {
        "tokens_BT": windows[:, :-1],
        "labels_BT": windows[:, 1:],
        "positions_BT": positions,
        "documents_BT": torch.zeros_like(positions),
    }


def main() -> None:
    """Print all rows as JSON."""
    data = text()
    last = len(data) * 9 // 10
    held_out = torch.linspace(last, len(data) - TOKENS - 1, HELD_OUT).long()
    found = {}
    for name, settings in RUNS.items():
        config = replace(CONFIG, **settings)
        model = Sharded(SHAPE, World(ParallelConfig(), torch.device("cpu")), config.precision, config.float8)
        model.fill(initial_weights(SHAPE, config.seed))

        def part(step: int, place: int, n: int) -> dict[str, torch.Tensor]:
            return rows_at(data, torch.randint(last - TOKENS, (ROWS,), generator=torch.Generator().manual_seed(step)))

        def rate(step: int) -> float:
            return warmup_cosine(step, peak=2e-3, floor=2e-4, warmup_steps=20, decay_steps=STEPS)

        with tempfile.TemporaryDirectory() as folder:
            train(model, NextToken(), part, rate, STEPS, config, Output(Path(folder)), what=name)
            losses = [record["loss_nats"] for record in Output(Path(folder)).metrics.read()]
        model.precision = "float32"  # the weights are measured, not the products
        batch = rows_at(data, held_out)
        after = model.gradients(NextToken(), batch, NextToken().counts(batch), ROWS)["loss_nats"]
        tail = losses[-STEPS // 5 :]
        found[name] = {"training_nats": round(sum(tail) / len(tail), 4), "held_out_nats": round(after, 4)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()

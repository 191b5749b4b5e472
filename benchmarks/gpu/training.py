"""A training step on one GPU: MFU, tokens per second, peak memory, eager and compiled, bf16 and FP8 (paper 3.3.2, Table 4).

    PYTHONPATH=src python benchmarks/gpu/training.py [--sizes llama3.2-1b llama3-8b] [--sequence-length 8192] [--rows 1 ...]

It needs torch 2.11 and this tree, no network and no installation. Of a model too large for the device it takes as many layers as
fit: found by trying, fewer after each refusal. Rows are one document each. MFU is model FLOPs a second over the device's dense bf16
peak; attention is counted causally in `mfu`, and in full in `mfu_full_attention`, as torchtitan and Megatron-LM report it. A device
without a row in PEAKS has no MFU. The last line is one JSON object; whatever a configuration that failed said stands in it too.
`--device cpu --sizes herd-1m --sequence-length 64` rehearses the whole script without a GPU.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from openherd.model.config import SIZES, ModelConfig
from openherd.model.flops import flops_per_token, parameters
from openherd.parallel.apply import Sharded
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World
from openherd.parallel.stage import Batch
from openherd.training.objective import NextToken
from openherd.training.optimizer import make_adamw, set_learning_rate

# Dense bf16 FLOP/s, by a part of the device's name; NVIDIA's data sheets. The first that fits is taken.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
BYTES_PER_PARAMETER = 18  # fp32 weight, gradient and two moments, and autocast's copy in bf16
WARM = 3


def peak_flops(device: torch.device) -> float | None:
    """The device's peak; None for one that is not in the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def most_layers(shape: ModelConfig, device: torch.device) -> int:
    """Layers whose weights, gradients and moments leave a tenth of the memory; activations are found out by trying."""
    if device.type != "cuda":
        return shape.n_layers
    free = 0.9 * torch.cuda.mem_get_info(device)[0] / BYTES_PER_PARAMETER
    without = parameters(replace(shape, n_layers=1))
    each = parameters(replace(shape, n_layers=2)) - without
    return max(1, min(shape.n_layers, 1 + int((free - without) / each)))


def batch_of(shape: ModelConfig, rows: int, length: int, step: int, device: torch.device) -> Batch:
    """Random tokens, one document a row."""
    tokens = torch.randint(shape.vocabulary, (rows, length + 1), generator=torch.Generator().manual_seed(step))
    batch = {
        "tokens_BT": tokens[:, :-1].contiguous(),
        "labels_BT": tokens[:, 1:].contiguous(),
        "positions_BT": torch.arange(length).expand(rows, -1).contiguous(),
        "documents_BT": torch.zeros(rows, length, dtype=torch.int64),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    shape: ModelConfig, device: torch.device, asked: argparse.Namespace, rows: int, compiled: bool, float8: str
) -> dict[str, Any]:
    """Seconds of a step, and what follows from them. Raises torch.OutOfMemoryError where the model does not fit."""
    layout = ParallelConfig(compile=compiled, recompute=asked.recompute)
    more = [] if float8 == "none" else [float8]
    model = Sharded(shape, World(layout, device), asked.precision, *more)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for _, parameter, _ in model.parts:
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
    optimizer = make_adamw(model.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1)
    set_learning_rate(optimizer, 1e-4)
    objective = NextToken()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, losses = [], []
    for step in range(WARM + asked.steps):
        batch = batch_of(shape, rows, asked.sequence_length, step, device)
        wait(device)
        started = time.perf_counter()
        losses.append(model.gradients(objective, batch, objective.counts(batch), rows)["loss_nats"])
        model.clip(1.0)
        model.step(optimizer)
        wait(device)
        seconds.append(time.perf_counter() - started)
    step_s = statistics.median(seconds[WARM:])
    tokens_per_s = rows * asked.sequence_length / step_s
    found = {
        "step_s": step_s,
        "step_s_range": [min(seconds[WARM:]), max(seconds[WARM:])],
        "first_step_s": seconds[0],
        "tokens_per_s": tokens_per_s,
        "last_loss_nats": losses[-1],
        "peak_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    }
    peak = peak_flops(device)
    for name, causal in (("mfu", True), ("mfu_full_attention", False)):
        rate = tokens_per_s * flops_per_token(shape, asked.sequence_length, causal)
        found[name] = rate / peak if peak else None
        found[name.replace("mfu", "tflops")] = rate / 1e12
    return {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in found.items()}


def fitting(size: str, device: torch.device, asked: argparse.Namespace, rows: int, compiled: bool, float8: str) -> dict[str, Any]:
    """`measure` with as many layers as fit."""
    shape = replace(SIZES[size], max_positions=max(SIZES[size].max_positions, asked.sequence_length))
    layers = asked.layers or most_layers(shape, device)
    said = {"size": size, "rows": rows, "compile": compiled, "float8": float8}
    while True:
        cut = replace(shape, n_layers=layers)
        try:
            return {**said, "layers": layers, "parameters": parameters(cut), **measure(cut, device, asked, rows, compiled, float8)}
        except torch.OutOfMemoryError as error:
            if layers == 1 or asked.layers:
                return {**said, "layers": layers, "failed": str(error).splitlines()[0]}
            layers -= max(1, layers // 12)
        except Exception as error:  # the others are still worth measuring on a lent machine
            return {**said, "layers": layers, "failed": f"{type(error).__name__}: {error}"[:500]}
        finally:
            torch._dynamo.reset()
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def main() -> None:
    """Measure what is asked for, and print the figures."""
    parser = argparse.ArgumentParser(description="A training step on one GPU.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["llama3.2-1b", "llama3-8b"])
    parser.add_argument("--layers", type=int, default=0, help="0: as many as fit")
    parser.add_argument("--rows", nargs="+", type=int, default=[1])
    parser.add_argument("--sequence-length", type=int, default=8_192)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--recompute", choices=["none", "selective", "full"], default="none")
    parser.add_argument("--compile", nargs="+", choices=["no", "yes"], default=["no", "yes"])
    parser.add_argument("--float8", nargs="+", default=["none"], help="values of the setting of that name, such as feed_forward")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --sizes herd-1m --sequence-length 64 rehearses without one")
    device = torch.device(asked.device, 0) if asked.device == "cuda" else torch.device("cpu")
    figures: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "memory_gb": round(torch.cuda.mem_get_info(device)[1] / 1e9, 1) if device.type == "cuda" else None,
        "peak_flops": peak_flops(device),
        "sequence_length": asked.sequence_length,
        "precision": asked.precision,
        "recompute": asked.recompute,
        "runs": [],
    }
    print(json.dumps(figures), file=sys.stderr, flush=True)
    for size in asked.sizes:
        for rows in asked.rows:
            for compiled in asked.compile:
                for float8 in asked.float8:
                    found = fitting(size, device, asked, rows, compiled == "yes", float8)
                    figures["runs"].append(found)
                    print(json.dumps(found), file=sys.stderr, flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

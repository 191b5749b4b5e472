"""The engine on one GPU: decoding of one and of many texts, prompts, with and without CUDA graphs (paper 6).

    PYTHONPATH=src python benchmarks/gpu/inference.py [--size llama3-8b] [--rows 1 16 64] [--prompt 512] [--written 128]

It needs torch 2.11 and this tree, no network and no installation. Weights are random, in bf16. `bandwidth_share` is the bytes of
the weights that a step reads, times steps a second, over the speed at which the device copies memory (read and written bytes).
`agree`: the texts of both ways are the same, but for ties that rounding decides; the share of equal tokens is given. Times are
medians; the last line is one JSON object. `--device cpu --size herd-1m` rehearses the script without a GPU.
"""

import argparse
import json
import platform
import statistics
import time
from typing import Any

import torch

from openherd.inference.engine import Engine, EngineConfig
from openherd.inference.sampling import Sampling
from openherd.model.config import SIZES
from openherd.model.transformer import Transformer


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def copied_bytes_per_s(device: torch.device) -> float:
    """Bytes read and written a second in copying 1 GiB, the fastest of ten."""
    source = torch.zeros(1 << 28, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        wait(device)
        start = time.perf_counter()
        target.copy_(source)
        wait(device)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - start))
    return best


def decode(model: Transformer, rows: int, asked: argparse.Namespace, graphs: bool) -> tuple[dict[str, float], list[list[int]]]:
    """Median step of texts that are all written, seconds to read their prompts, and the tokens."""
    device = model.embed.weight.device
    engine = Engine(model, config=EngineConfig(graphs=graphs, cache_bytes=8 << 30 if device.type == "cuda" else 1 << 28))
    draw = torch.Generator().manual_seed(0)
    prompts = torch.randint(model.config.vocabulary, (rows, asked.prompt), generator=draw).tolist()
    wait(device)
    start = time.perf_counter()
    answers = [engine.add(prompt, Sampling(max_new_tokens=asked.written)) for prompt in prompts]
    while not all(answer.tokens for answer in answers):
        engine.step()
    wait(device)
    read, steps = time.perf_counter() - start, []
    while engine.busy:
        start, running = time.perf_counter(), len(engine.answers)
        engine.step()
        wait(device)
        if running == rows:
            steps.append(time.perf_counter() - start)
    step = statistics.median(steps[len(steps) // 4 :])  # graphs are captured in the first
    found = {"step_ms": 1e3 * step, "tokens_per_s": rows / step, "prompt_tokens_per_s": rows * asked.prompt / read}
    return found, [answer.tokens for answer in answers]


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description="The engine on one GPU.")
    parser.add_argument("--size", choices=sorted(SIZES), default="llama3-8b")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--written", type=int, default=128)
    parser.add_argument("--device", default="cuda")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    with torch.device("meta"):
        model = Transformer(SIZES[asked.size])
    model = model.to(torch.bfloat16).to_empty(device=device)
    if model.config.tied_embeddings:
        model.head.weight = model.embed.weight
    for parameter in model.parameters():
        parameter.data.normal_(std=0.02) if parameter.dim() > 1 else parameter.data.fill_(1)
    read_bytes = sum(p.nbytes for name, p in model.named_parameters() if name != "embed.weight" or model.config.tied_embeddings)
    speed = copied_bytes_per_s(device)
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "size": asked.size,
        "weights_gb": read_bytes / 1e9,
        "copy_gb_per_s": speed / 1e9,
    }
    for rows in asked.rows:
        tokens = {}
        for graphs in (False, True) if device.type == "cuda" else (False,):
            found, tokens[graphs] = decode(model, rows, asked, graphs)
            found["bandwidth_share"] = read_bytes / (found["step_ms"] / 1e3) / speed
            figures[f"rows_{rows}_{'graphs' if graphs else 'plain'}"] = found
            print(rows, graphs, json.dumps(found), flush=True)
        if len(tokens) == 2:
            pairs = [a == b for x, y in zip(tokens[False], tokens[True], strict=True) for a, b in zip(x, y, strict=True)]
            figures[f"rows_{rows}_agree"] = sum(pairs) / len(pairs)
    if device.type == "cuda":
        figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

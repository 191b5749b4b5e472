"""The model beside transformers': from a directory to a model that has answered once, and the forward pass.

Every measurement is a process of its own, ours and theirs by turns, two threads. Loading: a checkpoint of 300M parameters in bf16,
from the directory to the model, and to the logits of its first 16 tokens, since our tensors are the mapped file, read when used;
memory is the largest resident set less what was held before. Forward: a model of 100M parameters, batch 4 x 512, beside
transformers' eager and SDPA attention. Eager attention asks for a table of 50 MB in each layer, which glibc takes from the system
anew and zeroed each time; in a process whose heap has such room it does not, so `kept_heap` measures that too. Medians; ratios
above 1 say that ours is faster, or smaller.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LOADS, FORWARDS, FORWARDS_KEPT = 7, 5, 3
THREADS = 2
BATCH, LENGTH = 4, 512
KEPT_HEAP = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}

START = """
import statistics, sys, time
from pathlib import Path
import torch
torch.set_num_threads({threads})
torch.set_grad_enabled(False)
way, directory, dtype = sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3])
if way == "ours":
    from openherd.model.weights import load_model
    load = lambda: load_model(Path(directory))
else:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM
    load = lambda: AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=way)
"""
LOAD = """
status = Path("/proc/self/status")  # Linux; getrusage begins with the parent's
peak = lambda: 1024 * int(status.read_text().split("VmHWM:")[1].split()[0]) if status.exists() else 0
before, start = peak(), time.perf_counter()
model = load()
loaded = time.perf_counter() - start
model(torch.arange(16)[None])
print(loaded, time.perf_counter() - start, peak() - before)
"""
FORWARD = """
model, seconds = load(), []
tokens = torch.randint(16_000, ({batch}, {length}), generator=torch.Generator().manual_seed(0))
for _ in range(4):
    start = time.perf_counter()
    model(tokens)
    seconds.append(time.perf_counter() - start)
print(statistics.median(seconds[1:]))
"""


def measured(script: str, repeats: int, ways: list[str], directory: Path, dtype: str, **more: str) -> dict[str, list[list[float]]]:
    """The figures that each process printed, by way."""
    code = (START + script).format(threads=THREADS, batch=BATCH, length=LENGTH)
    found: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, runs in found.items():
            command = [sys.executable, "-c", code, way, str(directory), dtype]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | more)
            runs.append([float(figure) for figure in done.stdout.splitlines()[-1].split()])
    return found


def figures_of(name: str, unit: str, scale: float, runs: dict[str, list[list[float]]], which: int) -> dict[str, object]:
    """Medians by way, and the ratios of the others to ours, by turn."""
    ours = [run[which] for run in runs["ours"]]
    figures: dict[str, object] = {
        f"{name}_{way}_{unit}": round(scale * statistics.median(run[which] for run in found), 4) for way, found in runs.items()
    }
    for way, found in runs.items():
        if way != "ours":
            ratios = sorted(run[which] / own for run, own in zip(found, ours, strict=True))
            figures[f"{name}_{way}_ratio"] = round(statistics.median(ratios), 2)
            figures[f"{name}_{way}_ratio_range"] = [round(ratios[0], 2), round(ratios[-1], 2)]
    return figures


def main() -> None:
    import torch

    from openherd.model.config import ModelConfig
    from openherd.model.flops import parameters
    from openherd.model.init import initialise
    from openherd.model.transformer import Transformer
    from openherd.model.weights import save_model

    def make(directory: Path, layers: int, d: int, heads: int, ffn: int, vocabulary: int, dtype: str) -> int:
        sizes = {"n_layers": layers, "d_model": d, "n_heads": heads, "d_feed_forward": ffn, "vocabulary": vocabulary}
        config = ModelConfig(n_kv_heads=heads // 4, head_width=64, **sizes)
        model = Transformer(config)
        initialise(model, 0)
        save_model(model.to(getattr(torch, dtype)), directory)
        return parameters(config)

    figures: dict[str, object] = {"threads": THREADS}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        figures["load_parameters"] = make(directory, 20, 1_024, 16, 2_816, 32_768, "bfloat16")
        runs = measured(LOAD, LOADS, ["ours", "sdpa"], directory, "bfloat16")
        figures |= figures_of("load", "s", 1, runs, 0) | figures_of("load_to_logits", "s", 1, runs, 1)
        figures |= figures_of("load_memory", "mb", 1e-6, runs, 2)
        for dtype in ("float32", "bfloat16"):
            figures["forward_parameters"] = make(directory, 12, 768, 12, 2_048, 16_384, dtype)
            ways = ["ours", "eager", "sdpa"]
            figures |= figures_of(f"forward_{dtype}", "s", 1, measured(FORWARD, FORWARDS, ways, directory, dtype), 0)
            kept = measured(FORWARD, FORWARDS_KEPT, ways, directory, dtype, **KEPT_HEAP)
            figures |= figures_of(f"forward_{dtype}_kept_heap", "s", 1, kept, 0)
            print(json.dumps(figures), file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""A training step beside transformers' and litgpt's, on two threads.

Same weights, same batches, same dtype: the losses must agree. Each loop is a process of its own; they take their steps by turns,
so that a busy machine troubles all alike. A peer's loop is the plain one: loss of the model, backward, `clip_grad_norm_`, AdamW as
torch makes it; bf16 is autocast over fp32 weights in all. `whole` has one document a row, `packed` has documents of about 128
tokens, which do not see each other: transformers masks them by their positions, litgpt cannot. The figures are medians over steps:
wall seconds, and ratios of the peer's to ours, above 1 where ours is faster: of wall time, and of processor time, which a busy
machine hardly changes. litgpt runs where `.venv-litgpt` has it (python -m venv .venv-litgpt; .venv-litgpt/bin/pip install
litgpt==0.5.13 torch==2.13.0).

    benchmarks/training.py [--quick] [--threads N] [--cases NAME ...]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PEER = Path(__file__).resolve().parent.parent / ".venv-litgpt" / "bin" / "python"
ROWS, LENGTH, DOCUMENT = 4, 512, 128
RATE, BETAS, EPSILON, DECAY, CLIP = 1e-3, (0.9, 0.95), 1e-5, 0.1, 1.0
AGREE = {"float32": 2e-3, "bfloat16": 2e-2}  # losses after the first steps; a forgotten mask or weight is 0.05 and more

Batch = dict[str, Tensor]
Step = Callable[[Batch], float]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared."""

    size: str = "12m"
    dtype: str = "float32"
    packed: bool = False
    compile: bool = False


CASES = {
    "12m_fp32_whole": Case(),
    "12m_bf16_whole": Case(dtype="bfloat16"),
    "12m_fp32_packed": Case(packed=True),
    "12m_bf16_packed": Case(dtype="bfloat16", packed=True),
    "50m_fp32_whole": Case(size="50m"),
    "50m_bf16_whole": Case(size="50m", dtype="bfloat16"),
    "12m_fp32_whole_compiled": Case(compile=True),
    "12m_bf16_whole_compiled": Case(dtype="bfloat16", compile=True),
}


def batch_of(step: int, vocabulary: int, rows: int, packed: bool) -> Batch:
    """Random tokens; the label of a document's last token is left out."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(vocabulary, (rows, LENGTH + 1), generator=generator)
    starts = torch.rand(rows, LENGTH + 1, generator=generator) < (1 / DOCUMENT if packed else 0)
    begun = torch.where(starts, torch.arange(LENGTH + 1), 0).cummax(1).values
    return {
        "tokens_BT": tokens[:, :-1].contiguous(),
        "labels_BT": torch.where(starts, -100, tokens)[:, 1:].contiguous(),
        "positions_BT": (torch.arange(LENGTH + 1) - begun)[:, :-1].contiguous(),
        "documents_BT": starts.cumsum(1)[:, :-1].contiguous(),
    }


def plain_step(model: torch.nn.Module, case: Case, loss_of: Callable[[Batch], Tensor]) -> Step:
    """The plain loop of a peer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=DECAY)

    def step(batch: Batch) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.dtype == "bfloat16"):
            loss = loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def ours(directory: Path, case: Case) -> Step:
    """A step of `train`."""
    from openherd.core.machine import keep_freed_memory
    from openherd.model.weights import read_tensors
    from openherd.parallel.apply import Sharded
    from openherd.parallel.layout import ParallelConfig
    from openherd.parallel.mesh import World
    from openherd.training.objective import NextToken
    from openherd.training.optimizer import make_adamw, set_learning_rate

    keep_freed_memory()
    shape, tensors = read_tensors(directory)
    model = Sharded(shape, World(ParallelConfig(compile=case.compile), torch.device("cpu")), case.dtype)
    model.fill(tensors.__getitem__)
    optimizer = make_adamw(model.trained(), beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON, weight_decay=DECAY)
    set_learning_rate(optimizer, RATE)
    objective = NextToken()

    def step(batch: Batch) -> float:
        loss = model.gradients(objective, batch, objective.counts(batch), ROWS)["loss_nats"]
        model.clip(CLIP)
        model.step(optimizer)
        return loss

    return step


def transformers(directory: Path, case: Case) -> Step:
    """Its model with its default attention, its own loss."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.train()
    call = torch.compile(model) if case.compile else model

    def loss_of(batch: Batch) -> Tensor:
        more = {"position_ids": batch["positions_BT"]} if case.packed else {}
        labels = batch["labels_BT"]
        return call(batch["tokens_BT"], labels=labels, shift_labels=labels, use_cache=False, **more).loss

    return plain_step(model, case, loss_of)


def litgpt(directory: Path, case: Case) -> Step:
    """Its model and its loss, as its `pretrain` calls them."""
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy
    from safetensors.torch import load_file

    said = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config = Config(
        block_size=LENGTH,
        vocab_size=said["vocab_size"],
        padded_vocab_size=said["vocab_size"],
        n_layer=said["num_hidden_layers"],
        n_head=said["num_attention_heads"],
        n_query_groups=said["num_key_value_heads"],
        n_embd=said["hidden_size"],
        head_size=said["head_dim"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=said["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
        intermediate_size=said["intermediate_size"],
        rope_base=int(said["rope_theta"]),
    )
    model = GPT(config)
    theirs = load_file(directory / "model.safetensors")
    embedding = theirs["model.embed_tokens.weight"]
    state = {
        "transformer.wte.weight": embedding,
        "transformer.ln_f.weight": theirs["model.norm.weight"],
        "lm_head.weight": embedding,
    }
    names = {
        "attn.proj": "self_attn.o_proj",
        "mlp.fc_1": "mlp.gate_proj",
        "mlp.fc_2": "mlp.up_proj",
        "mlp.proj": "mlp.down_proj",
        "norm_1": "input_layernorm",
        "norm_2": "post_attention_layernorm",
    }
    for i in range(config.n_layer):
        layer = f"model.layers.{i}"
        state |= {f"transformer.h.{i}.{name}.weight": theirs[f"{layer}.{other}.weight"] for name, other in names.items()}
        parts = [theirs[f"{layer}.self_attn.{part}_proj.weight"] for part in "qkv"]
        state[f"transformer.h.{i}.attn.qkv.weight"] = torch.cat(parts)
    model.load_state_dict(state)
    model.lm_head.weight = model.transformer.wte.weight
    call = torch.compile(model) if case.compile else model

    def loss_of(batch: Batch) -> Tensor:
        return chunked_cross_entropy(call(batch["tokens_BT"]), batch["labels_BT"], chunk_size=0)

    return plain_step(model, case, loss_of)


WAYS = {"ours": ours, "transformers": transformers, "litgpt": litgpt}


def work(way: str, directory: Path, case: Case, threads: int, rows: int) -> None:
    """Take a step for each line of standard input, and print its wall and processor seconds, loss, and the peak memory in MB."""
    torch.set_num_threads(threads)
    step = WAYS[way](directory, case)
    vocabulary = json.loads((directory / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    unit = 1 if sys.platform == "darwin" else 1024
    for number, _ in enumerate(sys.stdin):
        batch = batch_of(number, vocabulary, rows, case.packed)
        wall, processor = time.perf_counter(), time.process_time()
        loss = step(batch)
        took = [time.perf_counter() - wall, time.process_time() - processor]
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        print(json.dumps([*took, loss, peak_mb]), flush=True)


def compare(name: str, case: Case, directory: Path, threads: int, rows: int, warm: int, steps: int) -> dict[str, Any]:
    """The figures of one case."""
    ways = [way for way in WAYS if way != "litgpt" or (PEER.exists() and not case.packed)]
    started = {}
    for way in ways:
        python = str(PEER) if way == "litgpt" else sys.executable
        job = json.dumps({"way": way, "directory": str(directory), "case": asdict(case), "threads": threads, "rows": rows})
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        started[way] = subprocess.Popen([python, __file__, "--work", job], env=environment, **pipes)

    def step(way: str) -> list[float]:
        process = started[way]
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            sys.exit(f"training: {way} ended in the case {name}")
        return json.loads(line)

    for _ in range(warm):
        losses = {way: step(way)[2] for way in ways}
    apart = max(abs(loss - losses["ours"]) for loss in losses.values())
    if apart > AGREE[case.dtype]:
        sys.exit(f"training: the losses of {name} differ: {losses}")
    rounds = [{way: step(way) for way in ways} for _ in range(steps)]
    for process in started.values():
        process.stdin.close()
        process.wait()

    def ratios(way: str, which: int) -> list[float]:
        return sorted(turn[way][which] / turn["ours"][which] for turn in rounds)

    figures: dict[str, Any] = {"losses_differ_nats": round(apart, 5), "steps": steps}
    for way in ways:
        figures[f"{way}_s"] = round(statistics.median(turn[way][0] for turn in rounds), 3)
        figures[f"{way}_peak_mb"] = round(rounds[-1][way][3])
        if way != "ours":
            wall = ratios(way, 0)
            figures[f"{way}_wall_ratio"] = round(statistics.median(wall), 2)
            figures[f"{way}_wall_ratio_range"] = [round(wall[0], 2), round(wall[-1], 2)]
            figures[f"{way}_processor_ratio"] = round(statistics.median(ratios(way, 1)), 2)
    figures["tokens_per_s"] = round(rows * LENGTH / figures["ours_s"])
    return figures


def main() -> None:
    """Measure the cases asked for and print their figures."""
    parser = argparse.ArgumentParser(description="A training step beside its peers.")
    parser.add_argument("--quick", action="store_true", help="two steps of one row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        job = json.loads(asked.work)
        work(job["way"], Path(job["directory"]), Case(**job["case"]), job["threads"], job["rows"])
        return

    from dataclasses import replace

    from openherd.model.config import SIZES
    from openherd.model.flops import parameters
    from openherd.model.transformer import Transformer
    from openherd.model.weights import save_model
    from openherd.training.parity import weights_of

    shapes = {"12m": SIZES["herd-12m"], "50m": replace(SIZES["herd-60m"], vocabulary=16_640)}
    rows, warm, steps = (1, 1, 2) if asked.quick else (ROWS, 3, asked.steps)
    figures: dict[str, Any] = {"threads": asked.threads, "rows": rows, "sequence_length": LENGTH}
    with tempfile.TemporaryDirectory() as folder:
        for size, shape in shapes.items():
            model, draw = Transformer(shape), weights_of(shape)
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(draw(name))
            save_model(model, Path(folder) / size)
            figures[f"parameters_{size}"] = parameters(shape)
        for name in asked.cases:
            case = CASES[name]
            figures[name] = compare(name, case, Path(folder) / case.size, asked.threads, rows, warm, steps)
            print(name, json.dumps(figures[name]), file=sys.stderr, flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

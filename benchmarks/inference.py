"""The engine beside llama.cpp, vLLM and transformers, on two threads: a model of 251M parameters with random weights.

`decode_1` and `decode_16`: tokens a second of one text, and of sixteen together, behind 128 tokens of prompt. `prefill`: tokens a
second of a prompt of 1,024. `requests`: 64 requests of mixed lengths, tokens written a second; transformers takes them one by one.
`samples`: 16 of one prompt of 512 tokens; transformers takes 16 single requests. `first`: the time to the first token of prompts of
128 tokens that arrive while 8 long ones are being read, over that of the same prompts alone, 95th percentile. Each engine is a
process of its own; they take each measure by turns. `bandwidth_share` of `decode_1` is
weight bytes times tokens a second over the speed at which two threads read memory here.

llama.cpp runs where `.venv-llama` has llama-cpp-python 0.3.36 (it compiles for half an hour), vLLM, for `requests` and `samples`,
where `.venv-vllm` has its CPU build 0.32.0 (docs/serving.md says how). vLLM compiles too, before it is measured.

    benchmarks/inference.py [--quick] [--threads N] [--repeats N] [--cases NAME ...]
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PYTHONS = {peer: Path(__file__).resolve().parent.parent / f".venv-{peer}" / "bin" / "python" for peer in ("llama", "vllm")}
TO_F32 = """# llama.cpp writes its own f32 file; openherd writes none
import sys, llama_cpp as c
options = c.llama_model_quantize_default_params()
options.ftype, options.allow_requantize = c.LLAMA_FTYPE_ALL_F32, True
sys.exit(c.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), options))
"""
CASES = ("decode_1", "decode_16", "prefill", "requests", "samples", "first")
WAYS = ("ours_bf16", "ours_fp32", "ours_int8", "llama_bf16", "llama_f32", "llama_q8_0", "transformers_bf16", "vllm_bf16")
QUIET = {  # vLLM, alone on this machine and in one process
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
BYTES = {"bf16": 2, "fp32": 4, "f32": 4, "int8": 1, "q8_0": 34 / 32}  # of a weight; q8_0 has a scale for 32
VOCABULARY, PROMPT, WRITTEN, LONG = 32_000, 128, 64, 1_024
Measure = Callable[[str, float], float]
KEPT: list[Any] = []  # what C calls must stay


def drawn(n: int, seed: int) -> list[int]:
    """A prompt."""
    draw = random.Random(seed)
    return [draw.randrange(VOCABULARY) for _ in range(n)]


def mixed(scale: float) -> list[tuple[list[int], int]]:
    """64 requests: prompts of 16 to 256 tokens, 16 to 96 to write."""
    draw = random.Random(0)
    return [(drawn(draw.randint(16, 256), i), draw.randint(16, 96)) for i in range(max(int(64 * scale), 2))]


def ours(directory: Path, dtype: str) -> Measure:
    """The engine."""
    import torch

    from openherd.inference.engine import Engine
    from openherd.inference.native import native
    from openherd.inference.repack import int8
    from openherd.inference.sampling import Sampling
    from openherd.model.weights import load_model

    model = load_model(directory, dtype=torch.float32 if dtype == "fp32" else torch.bfloat16)
    model = native(int8(model) if dtype == "int8" else model)

    def run(prompts: list[list[int]], written: list[int], temperature: float = 0.0) -> float:
        engine = Engine(model)
        start = time.perf_counter()
        for i, (prompt, n) in enumerate(zip(prompts, written, strict=True)):
            engine.add(prompt, Sampling(max_new_tokens=n, temperature=temperature, seed=i))
        engine.run()
        return time.perf_counter() - start

    def decode(rows: int, n: int) -> float:
        engine = Engine(model)
        answers = [engine.add(drawn(PROMPT, i), Sampling(max_new_tokens=n)) for i in range(rows)]
        while not all(answer.tokens for answer in answers):
            engine.step()
        before, start = sum(len(a.tokens) for a in answers), time.perf_counter()
        engine.run()
        return (rows * n - before) / (time.perf_counter() - start)

    def first(scale: float) -> float:
        def waited(engine: Engine, prompt: list[int]) -> float:
            start = time.perf_counter()
            answer = engine.add(prompt, Sampling(max_new_tokens=1))
            while not answer.tokens:
                engine.step()
            return time.perf_counter() - start

        n = max(int(20 * scale), 2)
        alone = [waited(Engine(model), drawn(PROMPT, i)) for i in range(n)]
        engine = Engine(model)
        for i in range(8):
            engine.add(drawn(LONG // 2, 100 + i), Sampling(max_new_tokens=LONG))
        for _ in range(4):
            engine.step()
        loaded = [waited(engine, drawn(PROMPT, i)) for i in range(n)]
        return sorted(loaded)[int(0.95 * (n - 1))] / statistics.median(alone)

    def measure(case: str, scale: float) -> float:
        n = max(int(WRITTEN * scale), 4)
        if case.startswith("decode"):
            return decode(int(case.rpartition("_")[2]), n)
        if case == "prefill":
            return LONG / run([drawn(LONG, 1)], [1])
        if case == "requests":
            requests = mixed(scale)
            return sum(n for _, n in requests) / run([p for p, _ in requests], [n for _, n in requests])
        if case == "samples":
            return 16 * n / run([drawn(512, 0)] * 16, [n] * 16, temperature=1.0)
        return first(scale)

    return measure


def transformers(directory: Path, dtype: str) -> Measure:
    """`generate`, whose prompts have no padding: one at a time, or as many of one length."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()

    def run(prompts: list[list[int]], n: int, sample: bool = False) -> float:
        start = time.perf_counter()
        given = torch.tensor(prompts)
        more = {"do_sample": sample, "top_k": 0, "min_new_tokens": n, "max_new_tokens": n, "pad_token_id": 0}
        model.generate(given, attention_mask=torch.ones_like(given), **more)
        return time.perf_counter() - start

    def measure(case: str, scale: float) -> float:
        n = max(int(WRITTEN * scale), 4)
        if case.startswith("decode"):
            prompts = [drawn(PROMPT, i) for i in range(int(case.rpartition("_")[2]))]
            return len(prompts) * (n - 1) / max(run(prompts, n) - run(prompts, 1), 1e-9)
        if case == "prefill":
            return LONG / run([drawn(LONG, 1)], 1)
        if case == "requests":  # a quarter of them: they take long, one at a time
            requests = mixed(scale)[::4]
            return sum(n for _, n in requests) / sum(run([p], n) for p, n in requests)
        return 4 * n / sum(run([drawn(512, 0)], n, sample=True) for _ in range(4))

    return measure


def llama(directory: Path, dtype: str) -> Measure:
    """llama.cpp by its C interface: one context, a batch with a token of each sequence."""
    import ctypes

    import llama_cpp as c

    threads = int(os.environ["OMP_NUM_THREADS"])
    KEPT.append(c.llama_log_callback(lambda *_: None))
    c.llama_log_set(KEPT[0], ctypes.c_void_p())
    c.llama_backend_init()
    chosen = c.llama_model_default_params()
    if "AMX_INT8 = 1" in c.llama_print_system_info().decode():  # 0.3.36 uses the matrix unit for q8_0 before it is set up, and dies
        chosen.use_extra_bufts = False
    model = c.llama_model_load_from_file(str(directory / f"{dtype}.gguf").encode(), chosen)

    def tokens_per_s(rows: int, prompt: int, n: int) -> tuple[float, float]:
        options = c.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = rows * (prompt + n + 8), LONG, 512, rows
        options.n_threads = options.n_threads_batch = threads
        context = c.llama_init_from_model(model, options)
        batch = c.llama_batch_init(LONG, 0, 1)

        def decode(entries: list[tuple[int, int, int, bool]]) -> None:
            batch.n_tokens = len(entries)
            for i, (token, position, sequence, wanted) in enumerate(entries):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position, 1, sequence
                batch.logits[i] = wanted
            assert c.llama_decode(context, batch) == 0

        start = time.perf_counter()
        for row in range(rows):
            text = drawn(prompt, row)
            decode([(token, i, row, i == prompt - 1) for i, token in enumerate(text)])
        c.llama_synchronize(context)
        read = time.perf_counter()
        last = [0] * rows
        for i in range(n):
            decode([(last[row], prompt + i, row, True) for row in range(rows)])
            for row in range(rows):
                logits = c.llama_get_logits_ith(context, row)
                last[row] = int(logits[7] > logits[8])
        written = time.perf_counter()
        c.llama_batch_free(batch)
        c.llama_free(context)
        return rows * prompt / (read - start), rows * n / max(written - read, 1e-9)

    def measure(case: str, scale: float) -> float:
        if case == "prefill":
            return tokens_per_s(1, LONG, 0)[0]
        return tokens_per_s(int(case.rpartition("_")[2]), PROMPT, max(int(WRITTEN * scale), 4))[1]

    return measure


def vllm(directory: Path, dtype: str) -> Measure:
    """Its own scheduler and cache, as `LLM` has them."""
    from vllm import LLM, SamplingParams

    llm = LLM(str(directory), dtype="bfloat16", skip_tokenizer_init=True, max_model_len=LONG, max_num_seqs=64)

    def run(prompts: list[list[int]], settings: list[Any]) -> float:
        llm.reset_prefix_cache()  # which would know the prompts from the turn before
        start = time.perf_counter()
        llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False)
        return time.perf_counter() - start

    def measure(case: str, scale: float) -> float:
        more = {"ignore_eos": True, "detokenize": False}
        if case == "requests":
            requests = mixed(scale)
            settings = [SamplingParams(temperature=0, max_tokens=n, **more) for _, n in requests]
            return sum(n for _, n in requests) / run([p for p, _ in requests], settings)
        n = max(int(WRITTEN * scale), 4)
        return 16 * n / run([drawn(512, 0)], [SamplingParams(n=16, temperature=1, max_tokens=n, seed=0, **more)])

    return measure


def python_of(way: str) -> Path:
    """The Python that has an engine; llama.cpp and vLLM have environments of their own."""
    return PYTHONS.get(way.partition("_")[0], Path(sys.executable))


def takes(way: str, case: str) -> bool:
    """Whether an engine is measured in a case."""
    if way.startswith("llama"):
        return case == "prefill" or case.startswith("decode")
    if way.startswith("vllm"):
        return case in ("requests", "samples")
    return way.startswith("ours") or case != "first"


def work(way: str, directory: Path, threads: int) -> None:
    """A measure for each line of standard input, a case and a scale."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines have to say stands in nobody's way
    if not way.startswith("llama"):
        import torch

        torch.set_num_threads(threads)
    engine, _, dtype = way.partition("_")
    measure = {"ours": ours, "transformers": transformers, "llama": llama, "vllm": vllm}[engine](directory, dtype)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        case, scale = json.loads(line)
        print(json.dumps(measure(case, scale)), file=answers, flush=True)


def memory_speed(threads: int) -> float:
    """GB/s at which threads read 1 GB, each its part: the fastest of five."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    memory = torch.from_numpy(np.ones(1 << 27))  # a dot product of doubles reads twice what it computes with
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        torch.dot(memory[: 1 << 26], memory[1 << 26 :])
        best = max(best, memory.nbytes / (time.perf_counter() - start) / 1e9)
    return best


def make(directory: Path, quick: bool) -> int:
    """The model in Hugging Face's format and as GGUF files; returns its parameters."""
    import torch

    from openherd.cli import main as openherd
    from openherd.model.config import ModelConfig
    from openherd.model.init import initialise
    from openherd.model.transformer import Transformer
    from openherd.model.weights import save_model
    from openherd.tokenizer.files import write_tokenizer
    from openherd.tokenizer.train import learn

    layers = 2 if quick else 16
    shape = ModelConfig(
        n_layers=layers, d_model=1024, n_heads=16, n_kv_heads=4, head_width=64, d_feed_forward=3584, vocabulary=VOCABULARY,
        tied_embeddings=True, max_positions=4096,
    )  # fmt: skip
    model = Transformer(shape)
    initialise(model, 0)
    save_model(model.to(torch.bfloat16), directory)
    write_tokenizer(learn([Path(__file__).read_text(encoding="utf-8")], 304), directory, 4096)
    if PYTHONS["llama"].exists():
        for name, kind in (("bf16", "bf16"), ("q8_0", "q8_0")):
            openherd(
                ["export", str(directory), "--to", "gguf", "--out", str(directory / f"{name}.gguf"), "--type", kind, "--no-check"]
            )
        subprocess.run([PYTHONS["llama"], "-c", TO_F32, directory / "bf16.gguf", directory / "f32.gguf"], check=True, capture_output=True)
    return sum(p.numel() for p in model.parameters())


def main() -> None:
    """Measure the cases asked for and print their figures."""
    parser = argparse.ArgumentParser(description="The engine beside its peers.")
    parser.add_argument("--quick", action="store_true", help="two layers, few tokens, once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[way for way in WAYS if way != "llama_f32"])
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        way, directory = json.loads(asked.work)
        work(way, Path(directory), asked.threads)
        return
    scale, repeats = (0.1, 1) if asked.quick else (1.0, asked.repeats)
    figures: dict[str, Any] = {
        "threads": asked.threads,
        "repeats": repeats,
        "memory_gb_per_s": round(memory_speed(asked.threads), 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        figures["parameters"] = make(Path(folder), asked.quick)
        started: dict[str, subprocess.Popen[str]] = {}
        for way in asked.ways:
            if not python_of(way).exists():
                continue
            command = [str(python_of(way)), __file__, "--work", json.dumps([way, folder]), "--threads", str(asked.threads)]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            given = os.environ | QUIET | {"OMP_NUM_THREADS": str(asked.threads)}
            started[way] = subprocess.Popen(command, env=given, **pipes)
            started[way].stdout.readline()  # type: ignore[union-attr]
        for case in asked.cases:
            found: dict[str, list[float]] = {way: [] for way in started if takes(way, case)}
            for turn in range(repeats + 1):
                for way, values in found.items():
                    process = started[way]
                    print(json.dumps([case, scale if turn else min(scale, 0.1)]), file=process.stdin, flush=True)
                    line = process.stdout.readline()  # type: ignore[union-attr]
                    if not line:
                        sys.exit(f"inference: {way} ended in {case}")
                    if turn:  # the first warms up
                        values.append(json.loads(line))
            figures[case] = {way: round(statistics.median(values), 2) for way, values in found.items()}
            print(case, json.dumps(figures[case]), file=sys.stderr, flush=True)
            if case == "decode_1":
                read = {way: figures["parameters"] * BYTES[way.partition("_")[2]] * speed for way, speed in figures[case].items()}
                figures["bandwidth_share"] = {way: round(n / 1e9 / figures["memory_gb_per_s"], 2) for way, n in read.items()}
        for process in started.values():
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

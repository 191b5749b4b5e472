"""A layout as others take it: a recipe of ours, torchtitan's and Megatron-LM's arguments.

torchtitan's names are those of its version 0.3.0, whose own parser takes them (`--parallelism.tensor_parallel_degree` and so on),
Megatron's those of `megatron/training/arguments.py`. What a layout cannot be said in is refused.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from openherd.core.errors import ConfigError
from openherd.model.config import SIZES
from openherd.planning.engines import MEGATRON, OURS, TORCHTITAN, Engine
from openherd.planning.hardware import is_low
from openherd.planning.memory import FILLED, GIB, memory
from openherd.planning.search import Job, Layout, sharing
from openherd.planning.workload import Step, table

RATES = {"llama3-8b": 3e-4, "llama3-70b": 1.5e-4, "llama3-405b": 8e-5}  # peak, paper's Table 3
FORMATS = ("recipe", "torchtitan", "megatron")


def export(job: Job, layout: Layout, to: str) -> str:
    """In one of `FORMATS`. Raises ConfigError where it cannot be said, or does not fit with that program."""
    if to not in FORMATS:
        raise ConfigError("--export", f"{to!r}", allowed=", ".join(FORMATS))
    engine, write = {"recipe": (OURS, recipe), "torchtitan": (TORCHTITAN, torchtitan), "megatron": (MEGATRON, megatron)}[to]
    return write(job, fitting(job, layout.step, engine, to))


def fitting(job: Job, step: Step, engine: Engine, to: str) -> Step:
    """A layout shared as a program can. Raises ConfigError where what fits one program's memory does not fit the other's."""
    even = replace(step, layers_by_place=None)
    if not np.array_equal(step.layers, even.layers):
        found = f"layers={'+'.join(f'{n:g}' for n in step.layers[0])}"
        raise ConfigError(f"--export {to}", found, allowed="layers as even as can be: these programs cut no others")
    allowed = sharing(engine, step.pp)
    step = step if step.sharding in allowed else replace(step, sharding=allowed[0])
    need = float(memory(table([step]), engine, is_low(job.precision)).total.max()) / GIB
    if need > FILLED * job.hardware.memory_gib:
        found = f"this layout needs {need:.1f} GiB of {job.hardware.memory_gib:g} with that program"
        raise ConfigError(f"--export {to}", found, do=f"plan for it: --engine {engine.name}")
    return step


def recipe(job: Job, step: Step) -> str:
    """A recipe from pages to pre-training, whose settings of curation are the defaults."""
    schedule = "interleaved" if step.virtual_stages > 1 else "1F1B"
    steps = max(round(job.tokens / job.batch_tokens), 1)
    if job.precision not in ("bf16", "fp8"):
        raise ConfigError("--export recipe", f"--precision {job.precision}", allowed="bf16, fp8")
    rate = RATES.get(job.model)
    rates = f"learning_rate = {rate:g}\nfinal_learning_rate = {rate / 100:g}\n" if rate else ""
    low = 'float8 = "every_feed_forward"            # its feed-forward products alone\n' if job.precision == "fp8" else ""
    return f"""\
# {job.model} on {job.gpus:,} {job.hardware.name}, as 'openherd plan' lays it out. Check it: openherd run FILE --dry-run
name = "{job.model}"

[parallel]
tp = {step.tp}
cp = {step.cp}
pp = {step.pp}
dp_shard = {step.dp // step.replicas}
dp_replicate = {step.replicas}
pipeline_schedule = "{schedule}"
virtual_stages = {step.virtual_stages}
reshard_after_forward = {str(step.sharding == "weights").lower()}
recompute = "{step.recompute}"

[[stage]]
use = "sources"
inputs = {{ pages = "./crawl/*.warc.gz" }}       # yours

[[stage]]
use = "extraction"
inputs = {{ documents = "sources" }}

[[stage]]
use = "heuristics"
inputs = {{ documents = "extraction" }}

[[stage]]
use = "holdout"
inputs = {{ documents = "heuristics" }}

[[stage]]
use = "tokenizer"
inputs = {{ documents = "holdout" }}

[[stage]]
use = "token-shards"
inputs = {{ documents = "holdout", tokenizer = "tokenizer" }}

[[stage]]
use = "pretrain"
inputs = {{ shards = "token-shards", tokenizer = "tokenizer" }}
size = "{job.model}"
device = "cuda"
precision = "bfloat16"
{low}steps = {steps:_}
sequence_lengths = [{job.sequence_length:_}]
batch_tokens = [{job.batch_tokens:_}]
ramp_tokens = []
{rates}warmup_steps = {min(8_000, steps // 10)}
decay_steps = {steps:_}
micro_batch_sequences = {step.micro_batch}
"""


def torchtitan(job: Job, step: Step) -> str:
    """Arguments of its trainer."""
    if job.precision != "bf16":  # it takes converters of a model in its configuration alone
        raise ConfigError("--export torchtitan", f"--precision {job.precision}", allowed="bf16")
    schedule = "Interleaved1F1B" if step.virtual_stages > 1 else "1F1B"
    each = step.batch_sequences // step.dp
    given: dict[str, Any] = {
        "training.seq_len": job.sequence_length,
        "training.local_batch_size": each if step.pp > 1 else step.micro_batch,
        "training.global_batch_size": step.batch_sequences,
        "training.steps": max(round(job.tokens / job.batch_tokens), 1),
        "parallelism.tensor_parallel_degree": step.tp,
        "parallelism.context_parallel_degree": step.cp,
        "parallelism.pipeline_parallel_degree": step.pp,
        "parallelism.data_parallel_shard_degree": step.dp // step.replicas,
        "parallelism.data_parallel_replicate_degree": step.replicas,
        "parallelism.fsdp_reshard_after_forward": "always" if step.sharding == "weights" else "never",
    }
    if step.pp > 1:
        less = 2 if (step.n_layers + 2) % (step.pp * step.virtual_stages) == 0 else 0
        per_stage = -(-(step.n_layers + less) // (step.pp * step.virtual_stages))
        given |= {
            "parallelism.pipeline_parallel_schedule": schedule,
            "parallelism.pipeline_parallel_microbatch_size": step.micro_batch,
            "parallelism.pipeline_parallel_layers_per_stage": per_stage,
            "parallelism.pipeline_parallel_first_stage_less_layers": less // 2,
            "parallelism.pipeline_parallel_last_stage_less_layers": less // 2,
        }
        if per_stage * step.pp * step.virtual_stages - less != step.n_layers:
            found = f"{step.n_layers} layers in {step.pp * step.virtual_stages} stages that are not alike"
            raise ConfigError("--export torchtitan", found, allowed="layers, or layers + 2, that the stages divide")
    flags = ["--compile.enable", *(["--training.disable_cuda_graphs"] if step.pp > 1 else [])]  # as it asks of pipelines
    behind = f"activation-checkpoint:{step.recompute}"  # a choice of one among several comes last
    return "\n".join([*(f"--{name} {value}" for name, value in given.items()), *flags, behind])


def megatron(job: Job, step: Step) -> str:
    """Arguments of pretrain_gpt.py, the model's shape among them."""
    shape = SIZES[job.model]
    stages = step.pp * step.virtual_stages
    given: dict[str, Any] = {
        "num-layers": shape.n_layers,
        "hidden-size": shape.d_model,
        "ffn-hidden-size": shape.d_feed_forward,
        "num-attention-heads": shape.n_heads,
        "num-query-groups": shape.n_kv_heads,
        "kv-channels": shape.head_width,
        "seq-length": job.sequence_length,
        "max-position-embeddings": max(job.sequence_length, shape.max_positions),
        "rotary-base": f"{shape.rope_theta:.0f}",
        "position-embedding-type": "rope",
        "normalization": "RMSNorm",
        "norm-epsilon": f"{shape.norm_epsilon:g}",
        "tensor-model-parallel-size": step.tp,
        "context-parallel-size": step.cp,
        "pipeline-model-parallel-size": step.pp,
        "micro-batch-size": step.micro_batch,
        "global-batch-size": step.batch_sequences,
        "train-samples": max(round(job.tokens / job.sequence_length), 1),
    }
    if step.virtual_stages > 1 and step.micro_batches < step.pp:
        found = f"{step.micro_batches:g} micro-batches, virtual stages and pp = {step.pp}"
        raise ConfigError("--export megatron", found, allowed="a multiple of pp micro-batches")
    given |= {"attention-dropout": 0, "hidden-dropout": 0}  # its defaults are 0.1
    flags = ["group-query-attention", "swiglu", "disable-bias-linear", "bf16", "use-distributed-optimizer", "overlap-grad-reduce"]
    flags += ["overlap-param-gather"]
    if not shape.tied_embeddings:
        flags.append("untie-embeddings-and-output-weights")
    if step.tp > 1:
        flags.append("sequence-parallel")
    if step.virtual_stages > 1:
        given["num-virtual-stages-per-pipeline-rank"] = step.virtual_stages
    if step.pp > 1 and shape.n_layers % stages:
        if (shape.n_layers + 2) % stages:
            found = f"{shape.n_layers} layers in {stages} stages"
            raise ConfigError("--export megatron", found, allowed="layers, or layers + 2, that the stages divide")
        flags += ["account-for-embedding-in-pipeline-split", "account-for-loss-in-pipeline-split"]
    if step.recompute == "full":
        given |= {"recompute-granularity": "full", "recompute-method": "uniform", "recompute-num-layers": 1}
    elif step.recompute == "selective":
        given["recompute-granularity"] = "selective"
    if job.precision in ("fp8", "mxfp8"):
        given |= {"fp8-format": "hybrid" if job.precision == "fp8" else "e4m3"}
        given |= {"fp8-recipe": "tensorwise" if job.precision == "fp8" else "mxfp8"}
    elif job.precision != "bf16":
        raise ConfigError("--export megatron", f"--precision {job.precision}", allowed="bf16, fp8, mxfp8")
    return "\n".join([*(f"--{name} {value}" for name, value in given.items()), *(f"--{name}" for name in flags)])

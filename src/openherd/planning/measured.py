"""Tables of measured runs, as their makers published them, read into steps on devices (decision 21).

Each set is known by its header. A row becomes a step, and what was measured of it: seconds, a part of memory, or both. What cannot
be modelled is skipped with its reason.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openherd.core.errors import ConfigError, InputError
from openherd.model.config import SIZES
from openherd.planning.constants import Key
from openherd.planning.engines import (
    FOUNDRY,
    FOUNDRY_PURE,
    LLAMA,
    MEGATRON_2022,
    MEGATRON_BRIDGE,
    MEGATRON_DEEPSPEED,
    OURS,
    TORCHTITAN,
    Engine,
)
from openherd.planning.hardware import HARDWARE, PRECISIONS, is_low
from openherd.planning.memory import FILLED, GIB, memory
from openherd.planning.workload import Step, by_pipeline, shape_of

Row = Mapping[str, str]


class SkippedError(Exception):
    """A row that is not modelled, and why."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row: what was run, and what was measured of it."""

    step: Step
    engine: Engine
    hardware: str
    precision: str
    seconds: float | None = None
    memory_gib: float | None = None
    part: str = "total"  # of the memory
    number: int = 0  # of the row in its file, the first being 0
    fitted: bool = False  # the planner's constants were fitted on such rows: every second, beginning with the first
    label: str = ""

    @property
    def key(self) -> Key:
        """Whose constants it is predicted with."""
        return HARDWARE[self.hardware].kind, self.precision


@dataclass(frozen=True)
class Found:
    """A file that was read."""

    schema: str
    rows: list[Measured]
    skipped: Counter[str] = field(default_factory=Counter)


def whole(row: Row, column: str, otherwise: int | None = None) -> int:
    """A count; the number before a bracket, where two are given. Raises SkippedError where it is none."""
    text = (row[column] or "").split("(")[0].replace(",", "").strip()
    if otherwise is not None and text.lower() in ("", "n/a", "-"):
        return otherwise
    if not re.fullmatch(r"\d+(\.0+)?", text) or float(text) < (0 if otherwise is not None else 1):
        raise SkippedError(f"{column}: no count")
    return int(float(text))


def positive(row: Row, column: str) -> float:
    """A measured value. Raises SkippedError where there is none."""
    try:
        value = float(row[column].split("(")[0].replace(",", ""))
    except (ValueError, AttributeError):
        raise SkippedError(f"{column}: no number") from None
    if not 0 < value < float("inf"):
        raise SkippedError(f"{column}: not above 0")
    return value


def gpt(layers: int, d_model: int, heads: int, positions: int, vocabulary: int = 51_200) -> dict[str, Any]:
    """GPT's shape: four times as wide inside, two matrices, learned positions, tied embeddings, biases."""
    if d_model % heads:
        raise SkippedError("hidden size is no multiple of the heads")
    return {
        "n_layers": layers, "d_model": d_model, "n_heads": heads, "n_kv_heads": heads, "head_width": d_model // heads,
        "d_feed_forward": 4 * d_model, "feed_forward_matrices": 2, "vocabulary": vocabulary, "tied_embeddings": True,
        "positions": positions, "biases": True,
    }  # fmt: skip


def vtrain(row: Row) -> Measured:
    """Megatron-DeepSpeed on A100 nodes of 8: full recomputation, 1F1B, no fused attention."""
    length = whole(row, "sequence length")
    step = Step(
        **gpt(whole(row, "# layers"), whole(row, "hidden size"), whole(row, "attention heads"), length),
        sequence_length=length,
        batch_sequences=whole(row, "global batch"),
        micro_batch=whole(row, "micro batch"),
        tp=whole(row, "tensor parallelism"),
        dp=whole(row, "data parallelism"),
        pp=whole(row, "pipeline parallelism"),
        recompute="full",
        sharding="none",
        sequence_parallel=False,
    )
    if step.gpus != whole(row, "# GPUs"):
        raise SkippedError("TP x DP x PP are not its GPUs")
    seconds = positive(row, "iteration time (ms)") / 1e3
    return Measured(step=step, engine=MEGATRON_DEEPSPEED, hardware="a100-80g", precision="fp16", seconds=seconds)


# MPT's shapes: width, layers, heads.
MPT = {
    "125m": (768, 12, 12), "350m": (1_024, 24, 16), "760m": (1_536, 24, 12), "1b": (2_048, 24, 16), "3b": (2_560, 32, 20),
    "7b": (4_096, 32, 32), "13b": (5_120, 40, 40), "30b": (7_168, 48, 56), "70b": (8_192, 80, 64),
}  # fmt: skip


def mpt_shape(name: str, parameters: int, positions: int) -> tuple[int, int, int]:
    """Width, layers and heads of an MPT: of a known name, or by its parameters, heads 128 wide."""
    if name.lower() in MPT:
        return MPT[name.lower()]
    for d_model in range(512, 20_481, 128):
        for layers in range(8, 129):
            if abs(float(Step(**gpt(layers, d_model, d_model // 128, positions, 50_368)).parameters) / parameters - 1) < 1e-6:
                return d_model, layers, d_model // 128
    raise SkippedError("a model whose shape is not known")


def llm_foundry(row: Row) -> Measured:
    """MPT under FSDP, llm-foundry's tables."""
    length, gpus = whole(row, "SeqLen (T)"), whole(row, "# GPUs")
    hardware = {"a100_40gb": "a100-40g", "a100_80gb": "a100-80g", "h100_80gb": "h100"}.get(row["GPU"])
    precision = {"bf16": "bf16", "amp_bf16": "bf16", "amp_fp8": "fp8"}.get(row["Precision"])
    sharding = {"FULL_SHARD": "weights", "SHARD_GRAD_OP": "gradients"}.get(row["Sharding Strategy"])
    if hardware is None or precision is None or sharding is None:
        raise SkippedError("a GPU, dtype or sharding that is not modelled")
    if row["Activation CPUOffload"] == "True":
        raise SkippedError("activations offloaded to the processor")
    d_model, layers, heads = mpt_shape(row["Model"], whole(row, "NumParams"), length)
    step = Step(
        **gpt(layers, d_model, heads, length, 50_368),
        sequence_length=length,
        batch_sequences=whole(row, "GlobalBatchSize"),
        micro_batch=whole(row, "MicroBatchSize"),
        dp=gpus,
        recompute="full" if row["Activation Checkpointing"] == "True" else "none",
        sharding=sharding,
    )
    engine = FOUNDRY_PURE if row["MP Mode"] == "PURE" else FOUNDRY
    seconds = step.tokens / (positive(row, "Throughput (T/s/GPU)") * gpus)
    return Measured(step=step, engine=engine, hardware=hardware, precision=precision, seconds=seconds)


LLAMAS = {"8b": "llama3-8b", "70b": "llama3-70b", "405b": "llama3-405b"}
BRIDGE_DTYPES = {
    "fp8": "fp8",
    "fp8-cs": "fp8",
    "fp8-ds": "fp8",
    "mxfp8": "mxfp8",
    "fp8-mx": "mxfp8",
    "nvfp4": "nvfp4",
    "bf16": "bf16",
}


def llama(name: str) -> dict[str, Any]:
    """The shape of a Llama 3 by the size at its name's end."""
    found = re.fullmatch(r".*llama.?3(?:\.1)?[-_ ]+(8b|70b|405b)", name.lower())
    if not found:
        raise SkippedError("a model that is no Llama 3")
    return shape_of(SIZES[LLAMAS[found[1]]])


def megatron_bridge(row: Row) -> Measured:
    """Megatron-Bridge's tables. Of values in brackets, which are of a second dtype or layout, the first are taken.

    They do not say what is computed again: the least that fits the device.
    """
    task = row["task"].lower()
    if "pre-training" not in task:
        raise SkippedError("LoRA: frozen weights" if "lora" in task else "SFT: lengths of its packed documents are not given")
    dtype = row["Precision"].split("(")[0].strip().lower()
    if dtype not in BRIDGE_DTYPES:
        raise SkippedError("blank precision" if not dtype else "a dtype that is not modelled")
    hardware = row["System"].lower().removeprefix("dgx-")
    if hardware not in HARDWARE:
        raise SkippedError("a device that is not modelled")
    if whole(row, "EP", 1) > 1:
        raise SkippedError("expert parallelism")
    tp, cp, pp, gpus = whole(row, "TP"), whole(row, "CP", 1), whole(row, "PP"), whole(row, "#-GPUs")
    dp, left_over = divmod(gpus, tp * cp * pp)
    if left_over or not dp:
        raise SkippedError("TP x CP x PP do not divide its GPUs")
    step = Step(
        **llama(row["Model"]),
        sequence_length=whole(row, "Sequence Length"),
        batch_sequences=whole(row, "GBS"),
        micro_batch=whole(row, "MBS"),
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        virtual_stages=whole(row, "VP", 1) if pp > 1 else 1,
        sharding="weights" if whole(row, "FSDP", 0) > 1 else "optimizer",
        overlap_tp=True,
    )
    seconds = step.tokens / (positive(row, "Tokens / sec / GPU") * gpus)
    low = is_low(BRIDGE_DTYPES[dtype])
    step = least_recomputation(step, MEGATRON_BRIDGE, HARDWARE[hardware].memory_gib, low)
    return Measured(step=step, engine=MEGATRON_BRIDGE, hardware=hardware, precision=BRIDGE_DTYPES[dtype], seconds=seconds)


def least_recomputation(step: Step, engine: Engine, device_gib: float, low: bool) -> Step:
    """With as many layers computed again as it takes to fit a device; with none where all fit."""
    needs = [float(memory(by_pipeline([replace(step, recompute=how)])[0][1], engine, low).total.max()) for how in ("none", "full")]
    missing = needs[0] - FILLED * device_gib * GIB
    if missing <= 0:
        return step
    return replace(step, recompute="full", recompute_share=min(missing / max(needs[0] - needs[1], 1.0), 1.0))


def torchtitan(row: Row) -> Measured:
    """torchtitan's tables. Its pipelines cut a batch into as many micro-batches as they have stages."""
    hardware = {"h100-96g-500w": "h100-96g", "h100-80g": "h100", "h200": "h200", "a100-80g": "a100-80g"}.get(
        row["hardware"].lower()
    )
    precision = {"fp8": "fp8", "float8": "fp8", "bf16": "bf16"}.get(row["precision"].lower())
    recompute = row["recompute"] or "none"
    if hardware is None or precision is None or recompute not in ("none", "selective", "full"):
        raise SkippedError("a device, dtype or recomputation that is not modelled")
    tp, cp, pp, gpus = (whole(row, name, 1) for name in ("tp", "cp", "pp", "gpus"))
    dp, left_over = divmod(gpus, tp * cp * pp)
    if left_over or whole(row, "fsdp", 1) not in (dp, dp * cp):  # its FSDP shards over context-parallel processes too
        raise SkippedError("FSDP x TP x PP x CP are not its GPUs")
    virtual = 2 if pp > 1 and "interleaved" in row["schedule"].lower() else 1
    local, total = whole(row, "local_batch_seqs"), whole(row, "global_batch_seqs")
    micro = max(local // (pp * virtual), 1) if pp > 1 else local
    if total % (dp * micro):
        raise SkippedError("its batch is no multiple of its micro-batches")
    step = Step(
        **llama(row["model"]),
        sequence_length=whole(row, "seq_len"),
        batch_sequences=total,
        micro_batch=micro,
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        virtual_stages=virtual,
        recompute=recompute,
        sharding="weights" if pp == 1 else "gradients",
        compiled=row["compile"].lower() == "yes",
        overlap_tp=row["async_tp"].lower() == "yes",
    )
    seconds = step.tokens / (positive(row, "tokens_per_s_per_gpu") * step.gpus) if row["tokens_per_s_per_gpu"] else None
    peak = positive(row, "peak_memory_gib") if row["peak_memory_gib"] else None
    if seconds is None and peak is None:
        raise SkippedError("neither speed nor memory")
    return Measured(step=step, engine=TORCHTITAN, hardware=hardware, precision=precision, seconds=seconds, memory_gib=peak)


# Widths, layers and heads of the papers' GPTs.
GPTS = {
    "megatron-22b": (6_144, 48, 64),
    "gpt3-175b": (12_288, 96, 96),
    "mt-nlg-530b": (20_480, 105, 128),
    "gpt-1t": (25_600, 128, 160),
}


def published(row: Row) -> Measured:
    """Values of papers. Those that are from memory are not used."""
    if not row["provenance"].startswith(("paper", "fetched")):
        raise SkippedError(f"provenance: {row['provenance'].split('(')[0].strip()}")
    metric, value, gpus = row["metric"], positive(row, "value"), whole(row, "gpus")
    tp, cp, pp, dp = (whole(row, name) for name in ("tp", "cp", "pp", "dp"))
    of_llama = row["model"].startswith("llama3")
    if of_llama:
        shape = llama(row["model"])
    elif row["model"] in GPTS:
        d_model, layers, heads = GPTS[row["model"]]
        shape = gpt(layers, d_model, heads, 2_048)
    else:
        raise SkippedError("a model whose shape is not known")
    if metric == "bf16_mfu":
        raise SkippedError("the MFU of a run whose TFLOP/s stand beside it")
    if not of_llama and not row["micro_batch"]:
        raise SkippedError("micro-batch not given")
    recompute = row["recompute"].split("+")[0] or "none"
    step = Step(
        **shape,
        sequence_length=whole(row, "seq_len"),
        batch_sequences=whole(row, "global_batch_seqs"),
        micro_batch=whole(row, "micro_batch", 1),
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        # Not published of Llama 3: a layer a stage, none in the first and the last (126 = 128 - 2).
        virtual_stages=whole(row, "vp", 8 if of_llama else 1),
        recompute=recompute,
        sharding="gradients" if of_llama else "none",
        sequence_parallel=of_llama or "+sp" in row["recompute"],
    )
    if step.gpus != gpus:
        raise SkippedError("TP x CP x PP x DP are not its GPUs")
    known = {"H100-80G": "h100", "A100-80G": "a100-80g"}
    if row["hw"] not in known:
        raise SkippedError("its device is in doubt")
    run = Measured(
        step=step, engine=LLAMA if of_llama else MEGATRON_2022, hardware=known[row["hw"]], precision="bf16" if of_llama else "fp16"
    )
    if metric == "tflops_per_gpu":
        return replace(run, seconds=float(step.flops(causal=False)) / (gpus * value * 1e12))  # the paper's count: attention in full
    if metric == "iter_time":
        return replace(run, seconds=value)
    parts = {"act_mem": "activations", "param_opt_mem": "layer_states"}
    if metric not in parts:
        raise SkippedError(f"{metric}: neither time nor memory")
    return replace(run, memory_gib=value, part=parts[metric])


def own(row: Row) -> Measured:
    """A user's own measurements: `docs/planning.md`."""
    if row["model"] not in SIZES:
        raise SkippedError("a model that 'openherd model list' does not name")
    if (
        row["hardware"] not in HARDWARE
        or row["precision"] not in PRECISIONS
        or row["recompute"] not in ("none", "selective", "full")
    ):
        raise SkippedError("a device, dtype or recomputation that is not modelled")
    step = Step(
        **shape_of(SIZES[row["model"]]),
        **{
            name: whole(row, name)
            for name in ("sequence_length", "batch_sequences", "micro_batch", "tp", "cp", "pp", "dp", "virtual_stages")
        },
        recompute=row["recompute"],
    )
    if problems := step.problems():
        raise SkippedError(problems[0])
    seconds = positive(row, "step_s") if row["step_s"] else None
    peak = positive(row, "memory_gib") if row["memory_gib"] else None
    if seconds is None and peak is None:
        raise SkippedError("neither time nor memory")
    return Measured(step=step, engine=OURS, hardware=row["hardware"], precision=row["precision"], seconds=seconds, memory_gib=peak)


OWN_COLUMNS = (
    "model,hardware,precision,tp,cp,pp,dp,virtual_stages,micro_batch,batch_sequences,sequence_length,recompute,step_s,memory_gib"
)
# Columns that make a file one of a set, and how its rows are read.
SCHEMAS: dict[str, tuple[str, Callable[[Row], Measured]]] = {
    "vtrain": (
        "# GPUs,global batch,micro batch,hidden size,attention heads,# layers,sequence length,tensor parallelism,data parallelism,"
        "pipeline parallelism,iteration time (ms)",
        vtrain,
    ),
    "llm-foundry": (
        "Model,SeqLen (T),# GPUs,GPU,MicroBatchSize,GlobalBatchSize,Throughput (T/s/GPU),Precision,MP Mode,Sharding Strategy,"
        "Activation Checkpointing,Activation CPUOffload,NumParams",
        llm_foundry,
    ),
    "megatron-bridge": (
        "task,Model,System,#-GPUs,Precision,GBS,MBS,Sequence Length,FSDP,TP,PP,CP,VP,EP,Tokens / sec / GPU",
        megatron_bridge,
    ),
    "torchtitan": (
        "model,hardware,gpus,fsdp,tp,pp,cp,schedule,seq_len,local_batch_seqs,global_batch_seqs,precision,compile,async_tp,recompute,"
        "tokens_per_s_per_gpu,peak_memory_gib",
        torchtitan,
    ),
    "published": (
        "provenance,model,hw,gpus,tp,cp,pp,dp,vp,seq_len,global_batch_seqs,micro_batch,recompute,metric,value",
        published,
    ),
    "own": (OWN_COLUMNS, own),
}


def read(file: Path) -> Found:
    """The rows of a file. Raises InputError where it is missing, empty, or of no schema that is known."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            header, rows = set(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(file, f"cannot be read ({error})") from None
    schemas = {name: set(columns.split(",")) for name, (columns, _) in SCHEMAS.items()}
    schema = next((name for name, columns in schemas.items() if columns <= header), None)
    if schema is None:
        nearest = min(schemas, key=lambda name: len(schemas[name] - header) / len(schemas[name]))
        missing = ", ".join(sorted(schemas[nearest] - header)[:6])
        found = f"its header is of no known set; nearest is {nearest}, which has {missing} too"
        raise InputError(file, found, allowed=", ".join(SCHEMAS))
    if not rows:
        raise InputError(file, "has a header and no rows")
    told = Found(schema, [])
    for number, row in enumerate(rows):
        try:
            run = SCHEMAS[schema][1]({name: value or "" for name, value in row.items() if isinstance(name, str)})
            constants_exist(run)
            told.rows.append(replace(run, number=number, fitted=number % 2 == 0 and schema != "published", label=label_of(run)))
        except SkippedError as why:
            told.skipped[str(why)] += 1
    return told


def constants_exist(run: Measured) -> None:
    """Raises SkippedError where the device has no such dtype."""
    try:
        HARDWARE[run.hardware].peak(run.precision)  # type: ignore[arg-type]
    except ConfigError:
        raise SkippedError("a dtype that the device does not have") from None


def label_of(run: Measured) -> str:
    """A row in a few words."""
    s = run.step
    sizes = f"{float(s.parameters) / 1e9:.3g}B, TP{s.tp} CP{s.cp} PP{s.pp} DP{s.dp} V{s.virtual_stages}"
    return f"{sizes}, {s.micro_batch} x {s.sequence_length}, {run.hardware} {run.precision}, recompute {s.recompute}"

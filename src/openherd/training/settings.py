"""Settings that every training stage has, and the processes that a run is made of (paper 3.4)."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.machine import keep_freed_memory
from openherd.core.rundir import Output
from openherd.model.device import Device, Precision, announce, choose_device, choose_precision
from openherd.parallel.float8 import Float8
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World, join
from openherd.training.optimizer import DecaySchedule, MomentsDtype

COMPUTE = "compute.json"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings that every training stage has."""

    seed: Annotated[int, Field(description="seed of initial weights and data order")] = 0
    device: Annotated[Device, Field(description="where to compute; auto: CUDA, else mps, else cpu")] = "auto"
    # The paper computes in bf16 and accumulates gradients in fp32 (3.3.2).
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="compute dtype over fp32 weights; float16 scales its loss; auto: the base run's, else the faster one"),
    ] = "auto"
    # Paper 6.2 computes the same products in FP8 in inference; of training it says nothing.
    float8: Annotated[
        Float8,
        Field(description="products in FP8: none, feed_forward (not of the first and last layer), every_feed_forward"),
    ] = "none"
    beta1: Annotated[float, Field(description="AdamW; not stated in the paper, Llama 2's", ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(description="AdamW; not stated in the paper, Llama 2's", ge=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(description="AdamW; not stated in the paper, Llama 2's", gt=0)] = 1e-5
    weight_decay: Annotated[float, Field(description="AdamW; not stated in the paper, Llama 2's", ge=0)] = 0.1
    # The paper's scaling-law runs decay by 0.1 times the learning rate at that step (3.2.1), which can be read as either of two.
    weight_decay_schedule: Annotated[
        DecaySchedule,
        Field(description="a step decays by weight_decay x: rate (Llama 2's), rate_squared, independent (rate / the phase's peak)"),
    ] = "rate"
    decay_norms: Annotated[bool, Field(description="weight decay on the norms' weights too; not stated, ours")] = False
    decay_embeddings: Annotated[bool, Field(description="weight decay on the token embeddings too; not stated, ours")] = True
    gradient_clip: Annotated[float, Field(description="largest global gradient norm; not stated in the paper, Llama 2's", gt=0)] = (
        1.0
    )
    moments_dtype: Annotated[
        MomentsDtype, Field(description="dtype that AdamW's moments are kept in; the paper is silent; bfloat16 is DeepSeek-V3's")
    ] = "float32"
    optimizer_offload: Annotated[
        bool, Field(description="AdamW's moments in the processor's memory, updated there: 8 bytes a parameter less on a GPU")
    ] = False
    micro_batch_sequences: Annotated[
        int, Field(description="sequences computed at once; gradients are accumulated in fp32", ge=1)
    ] = 1
    deterministic: Annotated[
        bool,
        Field(description="the same bits again on the same device, versions and layout, or an error; slower; a CPU needs it not"),
    ] = False
    most_skipped_steps: Annotated[
        int,
        Field(description="steps in a row without finite loss and gradient that are passed over; one more rolls back; ours", ge=0),
    ] = 3
    spike_deviations: Annotated[
        float,
        Field(description="a loss so many robust deviations over the last ones' median rolls back; 0 = none; ours", ge=0),
    ] = 10.0
    spike_window: Annotated[int, Field(description="accepted steps that a loss is compared with; OLMo's", ge=8)] = 128
    update_norm_factor: Annotated[
        float,
        Field(description="an update's norm so many times the median is suspicious; 0 = none; Marin 32B saw it double", ge=0),
    ] = 2.0
    most_rollbacks: Annotated[
        int, Field(description="rollbacks without good_after_steps clean steps between; one more ends the run; ours", ge=0)
    ] = 3
    good_after_steps: Annotated[
        int, Field(description="a checkpoint is good, and kept, after so many steps without a bad or suspicious one; ours", ge=1)
    ] = 50
    keep_checkpoints: Annotated[int, Field(description="newest checkpoints kept, beside the last good one; ours", ge=1)] = 2
    checkpoint_steps: Annotated[int, Field(description="steps between checkpoints; the paper is silent, ours", ge=1)] = 100
    checkpoint_behind: Annotated[
        bool, Field(description="write checkpoints while training goes on, from a copy in memory; else it waits")
    ] = True
    parallel: Annotated[ParallelConfig, Field(description="the layout over processes: tp, cp, pp, dp_shard and more")] = field(
        default_factory=ParallelConfig
    )


def read_compute(file: Path) -> dict[str, Any]:
    """Device, precision and threads (of one process) of a run. Raises InputError where the file is damaged."""
    try:
        chosen = json.loads(file.read_text(encoding="utf-8"))
        device, precision, threads = str(chosen["device"]), str(chosen["precision"]), int(chosen["threads"])
        if device not in get_args(Device) or precision not in get_args(Precision) or threads < 1:
            raise ValueError(f"{device!r}, {precision!r}, {threads} threads")
        return {"device": device, "precision": precision, "threads": threads}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(file, f"damaged ({error})", do=f"remove {file.parent} and run again") from None


def open_world(config: TrainingConfig, out: Output, base: dict[str, Any] | None = None) -> tuple[World, str]:
    """The processes of this run, and its precision: decided once, written to `compute.json`, the base run's where 'auto'.

    One process takes up device and threads as they were then. Several have the threads that their launcher gives: after a change of
    layout or machine the old number would be too many, or too few.
    """
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    world = join(config.parallel, device)
    file = out.path / COMPUTE
    if world.leads and not file.exists():
        setting = config.precision
        if setting == "auto" and base is not None and base["device"] == device.type:
            setting = base["precision"]
        decided = {"device": device.type, "precision": choose_precision(setting, device), "threads": torch.get_num_threads()}
        with out.write(COMPUTE) as path:
            path.write_text(json.dumps(decided) + "\n", encoding="utf-8")
    world.wait()
    chosen = read_compute(file)
    if world.layout.world == 1:
        torch.set_num_threads(chosen["threads"])
        world = replace(world, device=choose_device(chosen["device"]))
    else:
        out.processes = str(world.layout)
    announce(out, world.device)
    return world, chosen["precision"]

"""The training loop: one for all objectives and phases (paper 3.4).

It takes an objective, a function from step to batch, and a function from step to learning rate. A step is straight-line code. The
state is model, optimizer and the number of steps done; data order and learning rate are pure functions of the step, so that a
resumed run repeats the unbroken one bit for bit (same layout, same thread count, which is recorded and restored).
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from openherd.core.errors import InputError, OpenherdError
from openherd.core.machine import keep_freed_memory
from openherd.core.progress import Progress
from openherd.core.rundir import Output
from openherd.model.device import Device, announce, choose_device, choose_precision
from openherd.parallel.apply import Sharded
from openherd.parallel.checkpoint import Checkpointer, load_moments, load_state, save_state
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World, join
from openherd.parallel.stage import Batch, Objective
from openherd.training.optimizer import make_adamw, set_learning_rate

CHECKPOINTS = ".checkpoints"
STATE = "state"
COMPUTE = "compute.json"
SNAPSHOTS = "snapshots"
TOKENS = "tokens"  # counted beside the objective's terms


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings that every training stage has."""

    seed: Annotated[int, Field(description="seed of initial weights and data order")] = 0
    device: Annotated[Device, Field(description="where to compute; auto: CUDA, else mps, else cpu")] = "auto"
    # The paper computes in bf16 and accumulates gradients in fp32 (3.3.2).
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="compute dtype over fp32 weights; auto: the base run's, else the faster one"),
    ] = "auto"
    beta1: Annotated[float, Field(description="AdamW; not stated in the paper, Llama 2's", ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(description="AdamW; not stated in the paper, Llama 2's", ge=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(description="AdamW; not stated in the paper, Llama 2's", gt=0)] = 1e-5
    weight_decay: Annotated[float, Field(description="AdamW, times the learning rate; not stated, Llama 2's", ge=0)] = 0.1
    decay_norms: Annotated[bool, Field(description="weight decay on the norms' weights too; not stated, ours")] = False
    decay_embeddings: Annotated[bool, Field(description="weight decay on the token embeddings too; not stated, ours")] = True
    gradient_clip: Annotated[float, Field(description="largest global gradient norm; not stated in the paper, Llama 2's", gt=0)] = (
        1.0
    )
    micro_batch_sequences: Annotated[
        int, Field(description="sequences computed at once; gradients are accumulated in fp32", ge=1)
    ] = 1
    most_skipped_steps: Annotated[
        int,
        Field(description="steps in a row without a finite loss and gradient that are not applied; one more ends the run", ge=0),
    ] = 3
    keep_checkpoints: Annotated[int, Field(description="newest checkpoints kept; a damaged one is passed over; ours", ge=1)] = 2
    checkpoint_steps: Annotated[int, Field(description="steps between checkpoints; the paper is silent, ours", ge=1)] = 100
    checkpoint_behind: Annotated[
        bool, Field(description="write checkpoints while training goes on, from a copy in memory; else it waits")
    ] = True
    parallel: Annotated[ParallelConfig, Field(description="the layout over processes: tp, cp, pp, dp_shard and more")] = field(
        default_factory=ParallelConfig
    )


def read_compute(file: Path) -> dict[str, Any]:
    """Device, precision and threads of a run. Raises InputError where the file is damaged."""
    try:
        chosen = json.loads(file.read_text(encoding="utf-8"))
        return {"device": str(chosen["device"]), "precision": str(chosen["precision"]), "threads": int(chosen["threads"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(file, f"damaged ({error})", do=f"remove {file.parent} and run again") from None


def open_world(config: TrainingConfig, out: Output, base: dict[str, Any] | None = None) -> tuple[World, str]:
    """The processes of this run, and its precision: decided once, written to `compute.json`, the base run's where 'auto'."""
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
        world = replace(world, device=torch.device(chosen["device"]))
    else:
        out.processes = str(world.layout)
    announce(out, world.device)
    return world, chosen["precision"]


Part = Callable[[int, int, int], Batch]  # step, place, of how many processes: the rows of that place


def part_of(batch: Batch, place: int, n: int, padding: Mapping[str, int]) -> Batch:
    """The rows of the process at `place` of `n`: as many for each, the last filled up with rows that have no loss."""
    each = -(-batch["tokens_BT"].shape[0] // n)
    mine = {name: tensor[place * each : (place + 1) * each] for name, tensor in batch.items()}
    missing = each - mine["tokens_BT"].shape[0]
    if not missing:
        return mine
    return {name: torch.cat([t, t.new_full((missing, *t.shape[1:]), padding[name])]) for name, t in mine.items()}


def train(
    model: Sharded,
    objective: Objective,
    part: Part,
    learning_rate_at: Callable[[int], float],
    steps: int,
    config: TrainingConfig,
    out: Output,
    *,
    what: str,
    optimizer_from: Path | None = None,
    snapshot_steps: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Train `model` in place for `steps` steps, resuming where an earlier process was stopped; returns metrics.

    `part(step, place, n)` gives this process's rows of a step's batch. Writes a record a step to `metrics.jsonl`, the final
    optimizer state to `state`, and the weights after each of `snapshot_steps` to `snapshots/`. A step whose loss or gradient is
    not finite is not applied, and its data are passed over. `optimizer_from` is the `state` of the phase before, whose moments are
    taken up: not its weights, which may have been averaged since, nor its settings. Raises OpenherdError where more than
    `most_skipped_steps` in a row are not applied.
    """
    world = model.world
    optimizer = make_adamw(
        model.trained(),
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        weight_decay=config.weight_decay,
        decay_norms=config.decay_norms,
        decay_embeddings=config.decay_embeddings,
    )
    reached = resume(out, model, optimizer)
    if not reached["step"] and optimizer_from is not None:
        load_moments(optimizer_from, model, optimizer)
    start_step, tokens = int(reached["step"]), int(reached["tokens"])
    if world.leads:
        out.metrics.rewind(lambda record: record["step"] < start_step)
    world.wait()
    skipped = skipped_at_the_end(out.metrics.read())

    def rotate() -> None:
        for old in checkpoints(out)[config.keep_checkpoints :] if world.leads else []:
            shutil.rmtree(old)

    with Progress(what, steps, "steps") as progress, Checkpointer(model, optimizer, config.checkpoint_behind) as checkpointer:
        progress.resume_at(start_step)
        for step in range(start_step, steps):
            started = time.perf_counter()
            batch = {name: tensor.to(world.device) for name, tensor in part(step, world.index("dp"), world.layout.dp).items()}
            learning_rate = learning_rate_at(step)
            mine = {**objective.counts(batch), TOKENS: batch["tokens_BT"].numel()}
            # Processes that share rows count them alike.
            copies = world.layout.world // world.layout.dp
            counts = {name: n / copies for name, n in zip(mine, world.sum([float(n) for n in mine.values()]), strict=True)}
            tokens += int(counts.pop(TOKENS))
            losses = model.gradients(objective, batch, counts, config.micro_batch_sequences)
            gradient_norm = model.clip(config.gradient_clip)
            finite = math.isfinite(gradient_norm) and all(math.isfinite(v) for v in losses.values())
            skipped = 0 if finite else skipped + 1
            if skipped > config.most_skipped_steps:
                found = f"step {step}: loss {losses['loss_nats']:.4g}, gradient norm {gradient_norm:.4g}"
                found += f", after {skipped - 1} such steps" if skipped > 1 else ""
                raise OpenherdError(out.path, found, do="lower learning_rate, or raise warmup_steps; the checkpoint before is kept")
            if finite:
                set_learning_rate(optimizer, learning_rate)
                model.step(optimizer)
            model.zero()
            record: dict[str, Any] = {
                "step": step,
                "tokens": tokens,
                **losses,
                "learning_rate": learning_rate,
                "gradient_norm": gradient_norm,
            }
            if not finite:  # JSON has no NaN
                record |= {**dict.fromkeys(losses), "gradient_norm": None, "skipped": True}
            out.log(**record, time_s=round(time.perf_counter() - started, 4))
            progress.advance(note=f"loss {losses['loss_nats']:.3f}" if finite else f"{skipped} skipped: no finite loss or gradient")
            if step + 1 in snapshot_steps:
                save_state(out.path / SNAPSHOTS / f"step-{step + 1:08d}", model, None, {})
            if (step + 1) % config.checkpoint_steps == 0 and step + 1 < steps and finite:
                place = out.path / CHECKPOINTS / f"step-{step + 1:08d}"
                checkpointer.save(place, {"step": step + 1, "tokens": tokens}, rotate)
    if 0 < steps <= skipped:
        raise OpenherdError(out.path, "no step had a finite loss and gradient", do="lower learning_rate, or look at the data")
    if broken := model.not_finite():
        found = f"{broken} is not finite after {steps} steps"
        raise OpenherdError(out.path, found, do="lower learning_rate; the checkpoint before is kept")
    if start_step < steps:
        save_state(out.path / STATE, model, optimizer, {"step": steps, "tokens": tokens})
    if world.leads:
        shutil.rmtree(out.path / CHECKPOINTS, ignore_errors=True)
    world.wait()
    records = out.metrics.read()
    seconds = sum(r["time_s"] for r in records)
    losses_nats = [r["loss_nats"] for r in records if not r.get("skipped")] or [math.nan]
    last = losses_nats[-max(len(losses_nats) // 20, 1) :]
    return {
        "steps": steps,
        "tokens": tokens,
        "loss_nats_last_5_percent": sum(last) / len(last),
        "final_loss_nats": losses_nats[-1],
        **({"skipped_steps": n} if (n := sum(r.get("skipped", False) for r in records)) else {}),
        "tokens_per_s": tokens / seconds if seconds else 0.0,
        "precision": model.precision,
    }


def skipped_at_the_end(records: Sequence[dict[str, Any]]) -> int:
    """How many of the last steps in a row were not applied."""
    return next((i for i, record in enumerate(reversed(records)) if not record.get("skipped")), len(records))


def checkpoints(out: Output) -> list[Path]:
    """Where an unfinished run can go on, the best first: its final state, else its checkpoints from the newest to the oldest."""
    return [path for path in (out.path / STATE, *sorted((out.path / CHECKPOINTS).glob("step-*"), reverse=True)) if path.exists()]


def resume(out: Output, model: Sharded, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Read the newest checkpoint that is whole into model and optimizer; returns the steps and tokens it reached, 0 without one.

    Says on standard error which were damaged. Raises InputError where all are.
    """
    start: dict[str, Any] = {"step": 0, "tokens": 0}
    found = checkpoints(out)
    for path in found:
        try:
            return load_state(path, model, optimizer, start)
        except InputError as error:
            if path == found[-1]:
                raise
            if model.world.leads:
                sys.stderr.write(f"  {error.where}: {error.found}; going on from the checkpoint before\n")
    return start


@torch.no_grad()
def average_snapshots(model: Sharded, out: Output) -> int:
    """Replace the weights by the mean of the run's snapshots (paper 3.4.3); returns how many there were."""
    paths = sorted((out.path / SNAPSHOTS).glob("step-*"))
    totals = [torch.zeros_like(local, dtype=torch.float64) for _, local in model.trained()]
    for path in paths:
        load_state(path, model, None, {})
        for total, (_, local) in zip(totals, model.trained(), strict=True):
            total += local
    for total, (_, local) in zip(totals, model.trained(), strict=True):
        local.copy_(total / len(paths))
    return len(paths)

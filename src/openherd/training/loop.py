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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
from pydantic import Field

from openherd.core.errors import InputError, OpenherdError
from openherd.core.progress import Progress
from openherd.core.rundir import Output
from openherd.model.device import Device, announce, choose_device, choose_precision
from openherd.model.transformer import Transformer
from openherd.parallel.checkpoint import load_moments, load_state, save_state
from openherd.training.objective import Batch, Objective
from openherd.training.optimizer import clip_gradients, make_adamw, set_learning_rate
from openherd.training.recompute import Recompute, recomputing

CHECKPOINTS = ".checkpoints"
STATE = "state"
COMPUTE = "compute.json"
SNAPSHOTS = "snapshots"


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
    recompute: Annotated[
        Recompute,
        Field(description="activations computed again instead of kept: none, selective (all but products and attention), full"),
    ] = "none"
    most_skipped_steps: Annotated[
        int,
        Field(description="steps in a row without a finite loss and gradient that are not applied; one more ends the run", ge=0),
    ] = 3
    keep_checkpoints: Annotated[int, Field(description="newest checkpoints kept; a damaged one is passed over; ours", ge=1)] = 2
    checkpoint_steps: Annotated[int, Field(description="steps between checkpoints; the paper is silent, ours", ge=1)] = 100


def read_compute(file: Path) -> dict[str, Any]:
    """Device, precision and threads of a run. Raises InputError where the file is damaged."""
    try:
        chosen = json.loads(file.read_text(encoding="utf-8"))
        return {"device": str(chosen["device"]), "precision": str(chosen["precision"]), "threads": int(chosen["threads"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(file, f"damaged ({error})", do=f"remove {file.parent} and run again") from None


def compute_settings(config: TrainingConfig, out: Output, base: dict[str, Any] | None = None) -> tuple[torch.device, str]:
    """Device and precision of this run: decided once, written to `compute.json`, inherited from the base run's where 'auto'."""
    device = choose_device(config.device)
    file = out.path / COMPUTE
    if file.exists():
        chosen = read_compute(file)
    else:
        setting = config.precision
        if setting == "auto" and base is not None and base["device"] == device.type:
            setting = base["precision"]
        chosen = {"device": device.type, "precision": choose_precision(setting, device), "threads": torch.get_num_threads()}
        with out.write(COMPUTE) as path:
            path.write_text(json.dumps(chosen) + "\n", encoding="utf-8")
    torch.set_num_threads(chosen["threads"])
    device = torch.device(chosen["device"])
    announce(out, device)
    return device, chosen["precision"]


def split_batch(batch: Batch, rows: int) -> list[Batch]:
    """Micro-batches of at most `rows` rows."""
    n = next(iter(batch.values())).shape[0]
    return [{name: tensor[i : i + rows] for name, tensor in batch.items()} for i in range(0, n, rows)]


def backward(model: Transformer, objective: Objective, batch: Batch, rows: int, precision: str) -> dict[str, float]:
    """Accumulate one step's gradients over micro-batches; returns each term's mean over the whole batch."""
    counts = {name: max(n, 1) for name, n in objective.counts(batch).items()}
    totals = dict.fromkeys(counts, 0.0)
    for micro in split_batch(batch, rows):
        tokens_BT, positions_BT, attend = objective.inputs(micro)
        with torch.autocast(tokens_BT.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            hidden_BTD = model.trunk(model.embed(tokens_BT), positions_BT, attend)
            sums = objective.losses(hidden_BTD, model.head, micro)
        means = {name: sums[name] / counts[name] for name in counts}
        torch.stack(list(means.values())).sum().backward()
        for name, mean in means.items():
            totals[name] += float(mean.detach())
    return totals


def train(
    model: Transformer,
    objective: Objective,
    batch_at: Callable[[int], Batch],
    learning_rate_at: Callable[[int], float],
    steps: int,
    config: TrainingConfig,
    out: Output,
    *,
    what: str,
    precision: str,
    optimizer_from: Path | None = None,
    snapshot_steps: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Train `model` in place for `steps` steps, resuming where an earlier process was stopped; returns metrics.

    Writes a record a step to `metrics.jsonl`, the final optimizer state to `state`, and the weights after each of `snapshot_steps`
    to `snapshots/`. A step whose loss or gradient is not finite is not applied, and its data are passed over. `optimizer_from` is
    the `state` of the phase before, whose moments are taken up: not its weights, which may have been averaged since, nor its
    settings. Raises OpenherdError where more than `most_skipped_steps` in a row are not applied.
    """
    optimizer = make_adamw(
        model,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=config.epsilon,
        weight_decay=config.weight_decay,
        decay_norms=config.decay_norms,
        decay_embeddings=config.decay_embeddings,
    )
    device = next(model.parameters()).device
    reached = resume(out, model, optimizer)
    if not reached["step"] and optimizer_from is not None:
        load_moments(optimizer_from, model, optimizer)
    start_step, tokens = int(reached["step"]), int(reached["tokens"])
    out.metrics.rewind(lambda record: record["step"] < start_step)
    skipped = skipped_at_the_end(out.metrics.read())

    with Progress(what, steps, "steps") as progress, recomputing(model, config.recompute):
        progress.resume_at(start_step)
        for step in range(start_step, steps):
            started = time.perf_counter()
            batch = {name: tensor.to(device) for name, tensor in batch_at(step).items()}
            learning_rate = learning_rate_at(step)
            losses = backward(model, objective, batch, config.micro_batch_sequences, precision)
            gradient_norm = clip_gradients(model.parameters(), config.gradient_clip)
            finite = math.isfinite(gradient_norm) and all(math.isfinite(v) for v in losses.values())
            skipped = 0 if finite else skipped + 1
            if skipped > config.most_skipped_steps:
                found = f"step {step}: loss {losses['loss_nats']:.4g}, gradient norm {gradient_norm:.4g}"
                found += f", after {skipped - 1} such steps" if skipped > 1 else ""
                raise OpenherdError(out.path, found, do="lower learning_rate, or raise warmup_steps; the checkpoint before is kept")
            if finite:
                set_learning_rate(optimizer, learning_rate)
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += batch["tokens_BT"].numel()
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
                snapshot(model, out, step + 1)
            if (step + 1) % config.checkpoint_steps == 0 and step + 1 < steps and finite:
                save_state(out.path / CHECKPOINTS / f"step-{step + 1:08d}", model, optimizer, {"step": step + 1, "tokens": tokens})
                for old in checkpoints(out)[config.keep_checkpoints :]:
                    shutil.rmtree(old)
    if 0 < steps <= skipped:
        raise OpenherdError(out.path, "no step had a finite loss and gradient", do="lower learning_rate, or look at the data")
    if broken := [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]:
        found = f"{broken[0]} is not finite after {steps} steps"
        raise OpenherdError(out.path, found, do="lower learning_rate; the checkpoint before is kept")
    if start_step < steps:
        with out.write(STATE) as path:
            save_state(path, model, optimizer, {"step": steps, "tokens": tokens})
    shutil.rmtree(out.path / CHECKPOINTS, ignore_errors=True)
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
        "precision": precision,
    }


def skipped_at_the_end(records: Sequence[dict[str, Any]]) -> int:
    """How many of the last steps in a row were not applied."""
    return next((i for i, record in enumerate(reversed(records)) if not record.get("skipped")), len(records))


def checkpoints(out: Output) -> list[Path]:
    """Where an unfinished run can go on, the best first: its final state, else its checkpoints from the newest to the oldest."""
    return [path for path in (out.path / STATE, *sorted((out.path / CHECKPOINTS).glob("step-*"), reverse=True)) if path.exists()]


def resume(out: Output, model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
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
            sys.stderr.write(f"  {error.where}: {error.found}; going on from the checkpoint before\n")
    return start


def snapshot(model: Transformer, out: Output, step: int) -> None:
    """Write the weights alone, in fp32."""
    with out.write(f"{SNAPSHOTS}/step-{step:08d}.safetensors") as path:
        safetensors.torch.save_file({name: p.detach().cpu() for name, p in model.named_parameters()}, path)


def average_snapshots(model: Transformer, out: Output) -> int:
    """Replace the weights by the mean of the run's snapshots (paper 3.4.3); returns how many there were."""
    files = sorted((out.path / SNAPSHOTS).glob("*.safetensors"))
    parameters = dict(model.named_parameters())
    totals = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    for file in files:
        for name, tensor in safetensors.torch.load_file(file).items():
            totals[name] += tensor.to(totals[name].device, torch.float64)
    with torch.no_grad():
        for name, total in totals.items():
            parameters[name].copy_((total / len(files)).to(parameters[name].dtype))
    return len(files)

"""Training state on disk as a torch distributed checkpoint (paper 3.3.1): saved in one layout, read in any other.

What is kept is weights, AdamW's two moments and a few plain values, under the model's own names; nothing in it says how it was
spread. A checkpoint is written aside, each process its part and the SHA-256 of it, and published by rename: a directory that is
there was whole. What a disk does to it later is seen when it is read. Writing can go on behind the training's back: the state is
copied to the processor's memory, which training waits for, and a thread with a group of processes of its own does the rest.
"""

import errno
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

from openherd.core.errors import DamagedError, InputError, LostError
from openherd.core.rundir import file_sha256, flush_to_disk
from openherd.parallel.apply import Sharded
from openherd.parallel.mesh import World, is_lost

CHECKSUMS = "checksums.json"
FULL_BYTES = 1 << 20  # a disk with less free space is full
WRITE_FAILED = "inline_container"  # the part of torch that writes, named in its errors
MOMENTS = ("exp_avg", "exp_avg_sq")
UPDATES = "updates"  # steps that AdamW has taken


def state_of(model: Sharded, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
    """Weights, and with an optimizer its moments, by name, as this process holds them: the same memory."""
    state: dict[str, Any] = {"weights": {name: p.detach() for name, p, _ in model.parts}}
    if optimizer is not None:
        for moment in MOMENTS:
            state[moment] = {name: _like(p, _moments(optimizer, local)[moment]) for name, p, local in model.parts}
    return state


def _moments(optimizer: torch.optim.Optimizer, local: Tensor) -> dict[str, Tensor]:
    """AdamW's state of one parameter, made where there is none yet."""
    found: dict[str, Tensor] = optimizer.state[local]
    if not found:
        found["step"] = torch.zeros((), dtype=torch.float32, device=local.device)
        found |= {moment: torch.zeros_like(local.detach()) for moment in MOMENTS}
    return found


def _like(parameter: Tensor, local: Tensor) -> Tensor:
    """A local part as part of a tensor that is spread as `parameter`."""
    if not isinstance(parameter, DTensor):
        return local
    meta = TensorMeta(parameter.shape, parameter.stride(), local.dtype)
    # Not by from_local, which copies to the mesh's device what was put into the processor's memory.
    return DTensor(local, DTensorSpec(parameter.device_mesh, parameter.placements, meta), requires_grad=False)


def updates_of(optimizer: torch.optim.Optimizer) -> int:
    """Steps that AdamW has taken."""
    return next((int(found["step"]) for found in optimizer.state.values() if found), 0)


def save_state(directory: Path, model: Sharded, optimizer: torch.optim.Optimizer | None, extra: dict[str, Any]) -> None:
    """Write weights, moments (with an optimizer) and plain values to `directory`; every process takes part."""
    _write(directory, model.world, _with_extra(state_of(model, optimizer), optimizer, extra))


def _with_extra(state: dict[str, Any], optimizer: torch.optim.Optimizer | None, extra: dict[str, Any]) -> dict[str, Any]:
    return {**state, "extra": {**extra, UPDATES: 0 if optimizer is None else updates_of(optimizer)}}


def _write(directory: Path, world: World, state: dict[str, Any]) -> None:
    temporary = directory.with_name(f".{directory.name}.tmp")
    with _refusal(temporary) as made:
        if world.leads:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
    if code := max(world.gather(made.code)):
        raise OSError(code, os.strerror(code), str(directory))
    sums: dict[str, str] = {}
    with _refusal(temporary) as refused:
        with _quiet():
            dcp.save(state, checkpoint_id=temporary, no_dist=world.mesh is None, process_group=world.checkpoint_group)
        for file in sorted(temporary.iterdir()):
            if _is_own(file.name, world):
                sums[file.name] = file_sha256(file)
                flush_to_disk(file)
    found = world.gather((sums, refused.code))
    with _refusal(temporary) as published:
        published.code = max(code for _, code in found)
        if world.leads and not published.code:
            merged = {name: value for part, _ in found for name, value in part.items()}
            (temporary / CHECKSUMS).write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
            flush_to_disk(temporary / CHECKSUMS)
            shutil.rmtree(directory, ignore_errors=True)  # a damaged one, which was passed over
            os.replace(temporary, directory)
    if code := max(world.gather(published.code)):
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(code, os.strerror(code), str(directory))


class _Refused:
    code = 0  # the system's number for why a disk refused to write


@contextmanager
def _refusal(temporary: Path) -> Iterator[_Refused]:
    """Catch what a disk refuses; everything else is raised, and what was written is removed. torch's own errors do not say what the
    disk said."""
    found = _Refused()
    try:
        yield found
    except BaseException as error:
        place = next(path for path in temporary.parents if path.exists())
        full = shutil.disk_usage(place).free < FULL_BYTES
        told = re.search(r"\[Errno (\d+)\]", str(error))
        if isinstance(error, KeyboardInterrupt) or not (full or told or WRITE_FAILED in str(error)):
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        found.code = errno.ENOSPC if full else int(told[1]) if told else errno.EIO


def _is_own(name: str, world: World) -> bool:
    """Whether this process wrote a file of a checkpoint: torch names it after the rank, `__3_0.distcp`; the rest is the first's."""
    rank = name.split("_")[2] if name.startswith("__") else "0"
    return rank == str(world.rank)


class Checkpointer:
    """Writes checkpoints in the order given; `behind` training, one at a time, or while it waits."""

    def __init__(self, model: Sharded, optimizer: torch.optim.Optimizer, behind: bool) -> None:
        self.model, self.optimizer = model, optimizer
        self.thread = ThreadPoolExecutor(1, "checkpoint") if behind else None
        self.writing: Future[None] | None = None
        self.copies: dict[tuple[str, str], Tensor] = {}  # memory for them, which is pinned once

    def save(self, directory: Path, extra: dict[str, Any]) -> None:
        """Write a checkpoint of this moment. Waits for the one before."""
        if self.thread is None:
            save_state(directory, self.model, self.optimizer, extra)
            return
        self.wait()
        state = _with_extra(self._copied(), self.optimizer, dict(extra))
        self.writing = self.thread.submit(_write, directory, self.model.world, state)

    def _copied(self) -> dict[str, Any]:
        """The state of this moment in the processor's memory."""
        copied: dict[str, Any] = {}
        for kind, tensors in state_of(self.model, self.optimizer).items():
            copied[kind] = {}
            for name, tensor in tensors.items():
                local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
                if (kind, name) not in self.copies:
                    self.copies[kind, name] = torch.empty_like(local, device="cpu", pin_memory=local.is_cuda)
                self.copies[kind, name].copy_(local, non_blocking=local.is_cuda)
                copied[kind][name] = _like(tensor, self.copies[kind, name])
        if self.model.world.device.type == "cuda":
            torch.cuda.synchronize()
        return copied

    def wait(self) -> None:
        """Until the last one is published. Raises what its writing raised."""
        if self.writing is not None:
            writing, self.writing = self.writing, None
            writing.result()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            if self.thread is not None:
                # After an error others may never come to write their part: it is left.
                self.thread.shutdown(wait=kind is None or self.model.world.mesh is None)


def load_state(directory: Path, model: Sharded, optimizer: torch.optim.Optimizer | None, extra: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint into `model` and `optimizer`; returns the plain values, whose names and types `extra` gives.

    Raises DamagedError where the checkpoint is not what was written, InputError where it is of another model, LostError where a
    disk or another process does not answer.
    """
    state = {**state_of(model, optimizer), "extra": {**extra, UPDATES: 0}}
    _read(directory, model.world, state)
    _meet_twins(model, optimizer, "weights")
    found = dict(state["extra"])
    updates = found.pop(UPDATES)
    if optimizer is not None:
        _set_updates(model, optimizer, updates)
    return found


def load_moments(directory: Path, model: Sharded, optimizer: torch.optim.Optimizer) -> None:
    """Read a checkpoint's optimizer moments alone: the weights stay, and so do betas, epsilon and weight decay.

    Raises as `load_state`.
    """
    state = {**state_of(model, optimizer), "extra": {UPDATES: 0}}
    del state["weights"]
    _read(directory, model.world, state)
    _meet_twins(model, optimizer)
    _set_updates(model, optimizer, state["extra"][UPDATES])


def _set_updates(model: Sharded, optimizer: torch.optim.Optimizer, updates: int) -> None:
    for _, _, local in model.parts:
        optimizer.state[local]["step"].fill_(updates)


@torch.no_grad()
def _meet_twins(model: Sharded, optimizer: torch.optim.Optimizer | None, weights: str = "") -> None:
    """A tied embedding that one process holds twice was read once."""
    last: dict[str, Tensor] = {}
    for name, _, local in reversed(model.parts):
        if (read := last.setdefault(name, local)) is not local:
            if weights:
                local.copy_(read)
            if optimizer is not None:
                for moment in MOMENTS:
                    optimizer.state[local][moment].copy_(optimizer.state[read][moment])


def verify(directory: Path, world: World) -> None:
    """Raises DamagedError on every process where a file of a checkpoint is not what was written, LostError where a disk does not
    answer. Each looks at some files."""
    where, damaged, unread = directory, "", ""
    try:
        sums = json.loads((directory / CHECKSUMS).read_text(encoding="utf-8"))
        wrong = [n for n in sorted(sums)[world.rank :: world.layout.world] if file_sha256(directory / n) != sums[n]]
        if wrong:
            where, damaged = directory / wrong[0], "damaged: its SHA-256 is not the one written with it"
    except (FileNotFoundError, ValueError, AttributeError) as error:
        damaged = f"a damaged checkpoint ({error})"
    except OSError as error:
        unread = str(error)
    found = world.gather((where, damaged, unread))
    for _, _, reason in found:
        if reason:
            raise _unread(directory, reason)
    for where, damaged, _ in found:
        if damaged:
            raise DamagedError(where, damaged, do=f"remove {directory} and run again")


def _unread(directory: Path, reason: str) -> LostError:
    return LostError(directory, f"not read ({reason})", do="it is kept: run again, and remove it where that does not help")


def _read(directory: Path, world: World, state: dict[str, Any]) -> None:
    verify(directory, world)
    try:
        with _quiet():
            dcp.load(state, checkpoint_id=directory, no_dist=world.mesh is None, process_group=world.checkpoint_group)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, OSError) as error:  # the first is no Exception
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        causes = [cause for cause, _ in error.failures.values()] if isinstance(error, dcp.api.CheckpointException) else [error]
        if any(isinstance(cause, OSError) or is_lost(cause) for cause in causes):
            raise _unread(directory, reason[0]) from None
        raise InputError(directory, f"not a checkpoint of this model ({reason[0]})", do="remove it and run again") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns that one process needs no group, and logs the tracebacks of what it raises."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    finally:
        logging.disable(logging.NOTSET)

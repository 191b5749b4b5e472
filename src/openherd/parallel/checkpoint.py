"""Training state on disk as a torch distributed checkpoint, reshardable (paper 3.3.1).

A checkpoint is written aside, with the SHA-256 of each of its files, and published by rename: a directory that is there was whole.
What a disk does to it later is seen when it is read.
"""

import errno
import json
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from openherd.core.errors import InputError
from openherd.core.rundir import file_sha256, flush_to_disk

CHECKSUMS = "checksums.json"
FULL_BYTES = 1 << 20  # a disk with less free space is full
WRITE_FAILED = "inline_container"  # the part of torch that writes, named in its errors


def save_state(directory: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any]) -> None:
    """Write model, optimizer and plain values to `directory`."""
    weights, moments = get_state_dict(model, optimizer)
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process needs no group
            dcp.save({"model": weights, "optimizer": moments, "extra": extra}, checkpoint_id=temporary, no_dist=True)
        sums = {file.name: file_sha256(file) for file in sorted(temporary.iterdir())}
        (temporary / CHECKSUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
        flush_to_disk(temporary)
    except KeyboardInterrupt:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except BaseException as error:  # torch's own errors do not say what the disk said
        full = shutil.disk_usage(temporary.parent).free < FULL_BYTES
        shutil.rmtree(temporary, ignore_errors=True)
        if full or WRITE_FAILED in str(error):
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, os.strerror(code), str(directory)) from error
        raise
    shutil.rmtree(directory, ignore_errors=True)  # a damaged one, which was passed over
    os.replace(temporary, directory)


def load_state(directory: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, extra: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint into `model` and `optimizer`; returns the plain values, whose names and types `extra` gives.

    Raises InputError where the checkpoint is damaged or of another model.
    """
    weights, moments = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": weights, "optimizer": moments, "extra": dict(extra)}
    _read(directory, state)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return dict(state["extra"])


def load_moments(directory: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Read a checkpoint's optimizer moments alone: the weights stay, and so do betas, epsilon and weight decay.

    Raises InputError where the checkpoint is damaged or of another model.
    """
    moments = get_optimizer_state_dict(model, optimizer)
    state = {"optimizer": {"state": moments["state"]}}
    _read(directory, state)
    set_optimizer_state_dict(model, optimizer, {**moments, **state["optimizer"]})


def verify(directory: Path) -> None:
    """Raises InputError where a file of a checkpoint is not what was written."""
    try:
        sums = json.loads((directory / CHECKSUMS).read_text(encoding="utf-8"))
        wrong = [name for name, wanted in sums.items() if file_sha256(directory / name) != wanted]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(directory, f"a damaged checkpoint ({error})", do="remove it and run again") from None
    if wrong:
        raise InputError(directory / wrong[0], "damaged: its SHA-256 is not the one written with it", do=f"remove {directory}")


def _read(directory: Path, state: dict[str, Any]) -> None:
    verify(directory)
    logging.disable(logging.WARNING)  # torch logs the tracebacks of what it raises then
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(state, checkpoint_id=directory, no_dist=True)
    except (dcp.api.CheckpointException, RuntimeError, ValueError, OSError) as error:  # the first is no Exception
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise InputError(directory, f"not a checkpoint of this model ({reason[0]})", do="remove it and run again") from None
    finally:
        logging.disable(logging.NOTSET)

"""Safetensors written tensor by tensor: the model is never in memory (paper 3.2).

A file is eight bytes that say how long its header is, the header as JSON (type, shape and place of each tensor), and the tensors'
bytes one behind the other. The library writes only what it is given whole; so this is written here, and read by the library.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from openherd.core.progress import Progress

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # as transformers
TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class Planned(NamedTuple):
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def n_bytes(self) -> int:
        """Its bytes in the file."""
        n = self.dtype.itemsize
        for side in self.shape:
            n *= side
        return n


def in_shards(tensors: Sequence[Planned], most: int) -> list[list[Planned]]:
    """Tensors in order, as many to a shard as fit into `most` bytes, at least one."""
    shards: list[list[Planned]] = []
    size = 0
    for tensor in tensors:
        if not shards or size + tensor.n_bytes > most:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.n_bytes
    return shards


def write_shards(
    tensors: Sequence[Planned], read: Callable[[str], Tensor], directory: Path, what: str, most: int = SHARD_BYTES
) -> None:
    """Write tensors into `directory`: `model.safetensors`, or shards of at most `most` bytes and their index.

    `read` gives a tensor by name; it is asked for each once, in order, and nothing is kept.
    """
    shards = in_shards(tensors, most)
    one = len(shards) == 1
    places: dict[str, str] = {}
    with Progress(what, sum(t.n_bytes for t in tensors) // 1_000_000, "MB") as progress:
        done = 0
        for number, shard in enumerate(shards, 1):
            file = WEIGHTS if one else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            with (directory / file).open("wb") as out:
                out.write(header_of(shard))
                for planned in shard:
                    tensor = read(planned.name).to(planned.dtype).contiguous()
                    if tuple(tensor.shape) != planned.shape:
                        raise ValueError(f"{planned.name} is {tuple(tensor.shape)}, planned {planned.shape}")
                    out.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
                    places[planned.name] = file
                    done += planned.n_bytes
                    progress.advance(done // 1_000_000 - progress.done)
    if not one:
        total = sum(t.n_bytes for t in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def header_of(tensors: Sequence[Planned]) -> bytes:
    """The head of a file that holds these tensors in this order; padded so that the first begins at a multiple of 8 bytes."""
    at = 0
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for tensor in tensors:
        header[tensor.name] = {"dtype": TYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": [at, at + tensor.n_bytes]}
        at += tensor.n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text

"""Tensor parallelism with sequence parallelism (paper 3.3.2): each process has some heads, a slice of the feed-forward width and
of the vocabulary; between those, a slice of the sequence.

The norms lie on the mesh too, each process with the whole weight, so that every parameter is of one kind.
"""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from openherd.model.transformer import Transformer
from openherd.parallel.mesh import gather


def layer_plan() -> dict[str, ParallelStyle]:
    """What happens to each module of a layer."""
    return {
        "attention_norm": SequenceParallel(),
        "attention": PrepareModuleInput(
            input_layouts=(Shard(1), None, None, None), desired_input_layouts=(Replicate(), None, None, None)
        ),
        "attention.query": ColwiseParallel(),
        "attention.key": ColwiseParallel(),
        "attention.value": ColwiseParallel(),
        "attention.output": RowwiseParallel(output_layouts=Shard(1)),
        "feed_forward_norm": SequenceParallel(),
        "feed_forward": PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)),
        "feed_forward.gate": ColwiseParallel(),
        "feed_forward.up": ColwiseParallel(),
        "feed_forward.down": RowwiseParallel(output_layouts=Shard(1)),
    }


def apply_tensor(model: Transformer, mesh: DeviceMesh) -> None:
    """Shard a model, or a slice of one, over `mesh`, in place."""
    tied = model.head is not None and model.embed is not None and model.head.weight is model.embed.weight
    plan: dict[str, ParallelStyle] = {}
    if model.embed is not None:
        plan["embed"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
    if model.head is not None:
        plan["norm"] = SequenceParallel(use_local_output=True)
        if not tied:
            plan["head"] = ColwiseParallel()
    parallelize_module(model, mesh, plan)
    if tied:
        model.head.weight = model.embed.weight
    for layer in model.layers.values():
        parallelize_module(layer, mesh, layer_plan())


@dataclass(frozen=True)
class VocabularyShard:
    """The part of the vocabulary whose logits this process has."""

    first: int
    group: dist.ProcessGroup

    def sum(self, tensor: Tensor) -> Tensor:
        """Over the parts, in place; no gradient."""
        dist.all_reduce(tensor, group=self.group)
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        """Over the parts, in place; no gradient."""
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return tensor


@dataclass(frozen=True)
class Head:
    """The output projection as an objective takes it: its rows, and which of the vocabulary they are where others have the rest."""

    weight_VD: Tensor
    shard: VocabularyShard | None = None


def head_of(weight: Tensor, mesh: DeviceMesh | None) -> Head:
    """The head of this process."""
    if mesh is None or not isinstance(weight, DTensor):
        return Head(weight)
    rows = -(-weight.shape[0] // mesh.size())  # torch gives the first processes as many each, the last what is left
    return Head(weight.to_local(), VocabularyShard(rows * mesh.get_local_rank(), mesh.get_group()))


def gather_sequence(x_BTD: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """Hidden states of the whole sequence from its slices; the way back sums what each part of the vocabulary asks of them."""
    return x_BTD if mesh is None else gather(x_BTD, 1, mesh.get_group())

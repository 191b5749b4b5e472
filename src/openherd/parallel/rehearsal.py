"""One rank of a layout without the others: no processes, no device, no memory (paper 3.3.2, Table 4).

The model is built and run by the code of a real run. torch's fake process group says yes to every collective, and its fake tensors
have shapes and dtypes but no values, so only sizes mean anything. They live on a pretended processor, whose fused attention keeps
what flash attention keeps: queries, keys, values, the outcome and a logarithm for each query and head.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openherd.parallel.apply import Sharded, materialise
from openherd.parallel.context import own_chunks
from openherd.parallel.layout import ParallelConfig, Rows
from openherd.parallel.mesh import World, spread
from openherd.parallel.pipeline import Pipeline, own_stages
from openherd.parallel.stage import Objective, Stage

CPU, META = torch.device("cpu"), torch.device("meta")


@contextmanager
def pretended(layout: ParallelConfig, place: int) -> Iterator[World]:
    """The world of the first rank at a place of the pipeline, alone, on the meta device; this process must be in no other."""
    if layout.world == 1:
        yield World(layout, META)
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    rank = place * layout.tp * layout.cp
    dist.init_process_group("fake", rank=rank, world_size=layout.world, store=FakeStore())
    try:
        yield replace(spread(layout, CPU, rank, backend="fake"), device=META)
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # which remembers groups by name


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def storages(tensors: Iterable[Tensor]) -> set[int]:
    """The memory behind tensors."""
    return {local(t).untyped_storage()._cdata for t in tensors}


class Kept(TorchDispatchMode):
    """Sees what operations write, and which of it is still held by anyone: autograd, recomputation, the caller."""

    def __init__(self, stage: Stage, attended: int) -> None:
        """`attended` is how many tokens a query sees: tables of as many columns are masks, which flash attention does without."""
        super().__init__()
        self.stage, self.attended = stage, attended
        self.written: dict[int, StorageWeakRef] = {}
        self.copies: dict[int, int] = {}  # memory with a cast tensor to that which it was cast from

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor) or (tensor.ndim == 4 and tensor.shape[-1] == self.attended):
                continue
            storage = local(tensor).untyped_storage()
            if storage._cdata not in self.written:
                self.written[storage._cdata] = StorageWeakRef(storage)
                if func is torch.ops.aten._to_copy.default:
                    self.copies[storage._cdata] = local(args[0]).untyped_storage()._cdata
        return out

    def bytes(self, given: Iterable[Tensor]) -> int:
        """Bytes still held, but for weights, their casts, and what was `given`."""
        weights = storages(self.stage.parameters())
        apart = weights | storages(given) | {copy for copy, of in self.copies.items() if of in weights}
        alive = [torch.UntypedStorage._new_with_weak_ptr(ref.cdata) for at, ref in self.written.items() if at not in apart]
        return sum(storage.nbytes() for storage in alive if storage is not None)


def kept_bytes(model: Sharded, objective: Objective, rows: Rows) -> dict[int, int]:
    """Bytes that each of a process's stages keeps of a micro-batch of these rows until its way back, by the stage's number.

    What a pipeline gives a stage lies in buffers of its own and is not counted here; what it hands on is.
    """
    layout = model.world.layout
    found = {}
    for stage, number in zip(model.stages, own_stages(layout, model.world.index("pp")), strict=True):
        with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
            # A first stage without layers returns a view of the embedding's outcome, which nothing changes in place.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            materialise(stage, CPU)
            stage.objective = objective
            tokens = torch.zeros(rows.batch_sequences, rows.sequence_length, dtype=torch.int64)
            batch = dict.fromkeys(("tokens_BT", "labels_BT", "positions_BT", "documents_BT"), tokens)
            batch = own_chunks(batch, layout.cp, model.world.index("cp"))
            given = tokens if stage.first else torch.zeros(hidden_shape(model, rows), requires_grad=True)
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=model.precision == "bfloat16")
            with autocast, Kept(stage, rows.sequence_length) as kept:
                out = stage(given, **batch)
            found[number] = kept.bytes([given, *batch.values()])
            del out
    return found


def hidden_shape(model: Sharded, rows: Rows) -> tuple[int, int, int]:
    """The hidden states of a micro-batch that go from one pipeline stage to the next, in fp32."""
    layout = model.world.layout
    return rows.batch_sequences, rows.sequence_length // (layout.cp * layout.tp), model.shape.d_model


def most_kept(model: Sharded, kept: Mapping[int, int], rows: Rows, n: int) -> int:
    """The most that a process keeps at once of `n` micro-batches under its schedule, given what each stage keeps of one."""
    layout, place = model.world.layout, model.world.index("pp")
    if layout.pp == 1:
        return sum(kept.values())
    if layout.pipeline_schedule == "1F1B":  # as many forward first as there are processes from here on
        return min(n, layout.pp - place) * sum(kept.values())
    schedule: Any = Pipeline(model.stages, model.world, (rows.batch_sequences, rows.sequence_length), n, 1).schedule
    now = most = 0
    for action in schedule.pipeline_order[place]:
        if action is not None and action.computation_type.name == "FORWARD":
            now += kept[action.stage_index]
        elif action is not None and action.computation_type.name in ("FULL_BACKWARD", "BACKWARD_WEIGHT"):
            now -= kept[action.stage_index]
        most = max(most, now)
    return most


def pipeline_bytes(model: Sharded, rows: Rows, n: int) -> int:
    """What torch's stages receive into: hidden states and their gradients of every micro-batch, fp32, for the whole run."""
    if model.world.layout.pp == 1:
        return 0
    one = 4 * torch.Size(hidden_shape(model, rows)).numel()
    return n * one * sum((not stage.first) + (not stage.last) for stage in model.stages)


def whole_elements(parameter: nn.Parameter, tp: int) -> int:
    """Elements of a parameter once FSDP has gathered it: a tensor-parallel process's part of it."""
    if not isinstance(parameter, DTensor) or tp == 1 or not parameter.placements[-1].is_shard():
        return parameter.numel()
    dim = parameter.placements[-1].dim
    return parameter.numel() // parameter.shape[dim] * -(-parameter.shape[dim] // tp)

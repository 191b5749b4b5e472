"""One rank of a layout without the others: no processes, no device, no memory (paper 3.3.2, Table 4).

The model is built and run by the code of a real run. torch's fake process group says yes to every collective, and its fake tensors
have shapes and dtypes but no values, so only sizes mean anything. They live on a pretended processor, whose fused attention keeps
what flash attention keeps: queries, keys, values, the outcome and a logarithm for each query and head. Where a processor does
otherwise than a GPU, the GPU's way is taken: `Kernels`, and rows of one document, which need no mask.
"""

import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openherd.model.attention import attention
from openherd.parallel.apply import Sharded, materialise
from openherd.parallel.context import own_chunks
from openherd.parallel.float8 import Float8Linear
from openherd.parallel.layout import ParallelConfig, Rows
from openherd.parallel.mesh import World, spread
from openherd.parallel.pipeline import Pipeline
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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Set timeout is now only supported")  # nobody waits for anyone here
            world = spread(layout, CPU, rank, backend="fake")
        yield replace(world, device=META)
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # which remembers groups by name


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, without the wrappers of torch.distributed."""
    tensor = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    return tensor.elem if isinstance(tensor, AsyncCollectiveTensor) else tensor


def storages(tensors: Iterable[Tensor]) -> set[int]:
    """The memory behind tensors."""
    return {local(t).untyped_storage()._cdata for t in tensors}


class Kernels(TorchFunctionMode):
    """Lets norm and attention keep what kernels for GPUs keep: the norm's input and a number a row, where a processor keeps a copy
    more; and for attention a logarithm a query and head, which ours on a processor does without."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.rms_norm:
            return kernel_norm(*args, **kwargs)
        if func is torch.ops.openherd.causal_attention.default:
            q_BTNH, k_BTGH, v_BTGH, _ = args
            return attention(q_BTNH, k_BTGH, v_BTGH, None)
        return func(*args, **(kwargs or {}))


def kernel_norm(x_BTD: Tensor, shape: Any, weight: Tensor, eps: float) -> Tensor:
    """In the place of `F.rms_norm`."""
    y_BTD: Tensor = _Norm.apply(x_BTD, shape, weight, eps)
    return y_BTD


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, shape: Any, weight_D: Tensor, epsilon: float) -> Tensor:
        y_BTD, inverse_BT1 = torch.ops.aten._fused_rms_norm(x_BTD, shape, weight_D, epsilon)
        ctx.save_for_backward(x_BTD, inverse_BT1, weight_D)
        ctx.epsilon = epsilon
        return y_BTD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, None]:
        """Of input and weight, by torch's own: no dry run goes back, its tests do."""
        x_BTD, _, weight_D = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
        with torch.enable_grad():
            y_BTD = torch.rms_norm(x_BTD, weight_D.shape, weight_D, ctx.epsilon)
        of_x, of_weight = torch.autograd.grad(y_BTD, (x_BTD, weight_D), gradients[0])
        return of_x, None, of_weight, None


class Kept(TorchDispatchMode):
    """Sees what operations write, and which of it is still held by anyone: autograd, recomputation, the caller."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.shards = storages(stage.parameters())
        self.written: dict[int, StorageWeakRef] = {}
        self.copies: dict[int, int] = {}  # memory with a cast tensor to that which it was cast from

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool and isinstance(args[0], FakeTensor):
            return False  # attention asks whether a row has several documents: it has one, and no mask
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
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
        apart = weights | self.shards | storages(given)
        if not isinstance(self.stage, FSDPModule):  # autocast keeps what it casts: `gathered_bytes`
            apart |= {copy for copy, of in self.copies.items() if of in weights}
        alive = [torch.UntypedStorage._new_with_weak_ptr(ref.cdata) for at, ref in self.written.items() if at not in apart]
        return sum(storage.nbytes() for storage in alive if storage is not None)


Action = tuple[str, int]  # of a schedule: what is done, to which stage


@dataclass(frozen=True)
class Rank:
    """What one process of a layout holds, in bytes where no other unit is named."""

    layers: int
    tensors: int  # parameters of its own
    elements: int  # of those
    shapes: tuple[tuple[tuple[int, ...], int], ...]  # of those, each with their number
    weights: int
    trained: int  # of these weights, those that are not frozen
    largest: int  # elements of the largest of these
    summed: int  # gradients of all micro-batches, whole, before they are reduced
    gathered: tuple[int, ...]  # the copies that it computes with, by stage
    kept: tuple[int, ...]  # of a micro-batch until its way back, by stage
    hidden: int  # what goes from stage to stage of a micro-batch, fp32
    received: int  # how many of those, and of their gradients, its stages receive for each micro-batch
    head_rows: int  # of the vocabulary; 0 without the head


def kept_of(model: Sharded, objective: Objective, rows: Rows) -> tuple[int, ...]:
    """What each stage of a process keeps of a micro-batch of these rows, found by running it.

    Stages of as many layers, as many of them in FP8, and the same ends are alike: one of them is run.
    """
    alike: dict[tuple[int, int, bool, bool], int] = {}
    kinds = [(len(s.model.layers), sum(isinstance(m, Float8Linear) for m in s.modules()), s.first, s.last) for s in model.stages]
    for kind, stage in zip(kinds, model.stages, strict=True):
        if kind not in alike:
            alike[kind] = kept_bytes(stage, model.precision, objective, rows)
    return tuple(alike[kind] for kind in kinds)


def rank_of(model: Sharded, kept: tuple[int, ...], rows: Rows, n: int) -> Rank:
    """Reckon one process whose step has `n` micro-batches of these rows, of each of which its stages keep what `kept` says."""
    layout = model.world.layout
    hidden = torch.Size((rows.batch_sequences, rows.sequence_length // (layout.cp * layout.tp), model.shape.d_model))
    fsdp = layout.dp * layout.cp > 1
    whole = sum(whole_elements(p, layout.tp) for _, p, _ in model.parts)
    held = [*model.parts, *model.frozen]
    heads = [whole_elements(s.model.head.weight, layout.tp) for s in model.stages if s.last]
    return Rank(
        layers=sum(len(stage.model.layers) for stage in model.stages),
        tensors=len(held),
        elements=sum(mine.numel() for _, _, mine in held),
        shapes=tuple(Counter(tuple(mine.shape) for _, _, mine in held).items()),
        weights=sum(mine.nbytes for _, _, mine in held),
        trained=sum(mine.nbytes for _, _, mine in model.parts),
        largest=max((mine.numel() for _, _, mine in model.parts), default=0),
        summed=4 * whole if fsdp and n > 1 else 0,  # a single micro-batch reduces layer by layer
        gathered=tuple(gathered_bytes(stage, model.precision, n) for stage in model.stages),
        kept=kept,
        hidden=4 * hidden.numel() if layout.pp > 1 else 0,
        received=sum((not stage.first) + (not stage.last) for stage in model.stages),
        head_rows=heads[0] // model.shape.d_model if heads else 0,
    )


def whole_elements(parameter: Tensor, tp: int) -> int:
    """Elements of a parameter once FSDP has gathered it: a tensor-parallel process's part of it."""
    if tp == 1 or not isinstance(parameter, DTensor) or not isinstance(placement := parameter.placements[-1], Shard):
        return parameter.numel()
    n = parameter.shape[placement.dim]
    return parameter.numel() // n * -(-n // tp)


def gathered_bytes(stage: Stage, precision: str, n: int) -> int:
    """The most copies of its weights that a stage computes with: those FSDP gathers, or those autocast has cast and keeps."""
    layout = stage.world.layout
    layers = [list(layer.parameters()) for layer in stage.model.layers.values()]
    low = 2 if precision == "bfloat16" else 4
    if layout.dp * layout.cp == 1:
        if low == 4:
            return 0
        # Autocast remembers what it has cast of trained weights alone; a frozen one's copy goes with its layer's activations, and
        # FP8 casts at each use.
        apart = {id(module.weight) for module in stage.modules() if isinstance(module, Float8Linear)}
        matrices = [[p for p in layer if p.ndim > 1 and p.dtype == torch.float32 and id(p) not in apart] for layer in layers]
        trained = sum(low * whole_elements(p, layout.tp) for layer in matrices for p in layer if p.requires_grad)
        frozen = [sum(low * whole_elements(p, layout.tp) for p in layer if not p.requires_grad) for layer in matrices]
        return trained + sum(frozen if layout.recompute == "none" else frozen[:1])
    of_layers = [sum(low * whole_elements(p, layout.tp) for p in layer) for layer in layers]
    in_layers = {id(p) for layer in layers for p in layer}
    others = sum(p.element_size() * whole_elements(p, layout.tp) for p in stage.parameters() if id(p) not in in_layers)
    # Without resharding all stay; with it those of one layer and the next, but between micro-batches none are dropped.
    at_once = 2 if layout.reshard_after_forward and n == 1 else len(layers)
    return others + sum(of_layers[:at_once])


def kept_bytes(stage: Stage, precision: str, objective: Objective, rows: Rows) -> int:
    """Bytes that a stage keeps of a micro-batch until its way back, by running it.

    What a pipeline gives it lies in buffers and is not counted; what it hands on is.
    """
    layout, stage.objective = stage.world.layout, objective
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        # A first stage without layers returns a view of the embedding's outcome, which nothing changes in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        materialise(stage, CPU)
        tokens = torch.zeros(rows.batch_sequences, rows.sequence_length, dtype=torch.int64)
        batch = dict.fromkeys(("tokens_BT", "labels_BT", "positions_BT", "documents_BT"), tokens)
        batch = own_chunks(batch, layout.cp, stage.world.index("cp"))
        split = rows.sequence_length // (layout.cp * layout.tp)
        given = tokens if stage.first else torch.zeros(rows.batch_sequences, split, stage.model.config.d_model, requires_grad=True)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
        with autocast, Kernels(), Kept(stage) as kept:
            out = stage(given, **batch)
        found = kept.bytes([given, *batch.values()])
        del out  # held until here, as the pipeline holds it
    return found


def schedule_of(model: Sharded, rows: Rows, n: int) -> list[list[Action]]:
    """What each process of a pipeline does in a step, in order, by its place."""
    layout = model.world.layout
    if layout.pipeline_schedule == "1F1B":  # as many forward first as there are processes from here on
        most = [min(n, layout.pp - place) for place in range(layout.pp)]
        return [[("UNSHARD", place), *[("FORWARD", place)] * most[place]] for place in range(layout.pp)]
    schedule: Any = Pipeline(model.stages, model.world, (rows.batch_sequences, rows.sequence_length), n, 1).schedule
    orders = schedule.pipeline_order_with_comms
    return [[(action.computation_type.name, action.stage_index) for action in orders[place]] for place in range(layout.pp)]


def most_held(actions: Sequence[Action], own: Sequence[int], rank: Rank) -> tuple[int, int]:
    """The most of activations, and of gathered weights, that a process with the stages `own` holds at once."""
    changes = {"FORWARD": 1, "FULL_BACKWARD": -1, "BACKWARD_WEIGHT": -1}, {"UNSHARD": 1, "RESHARD": -1}
    most = []
    for change, sizes in zip(changes, (rank.kept, rank.gathered), strict=True):
        steps = [change.get(what, 0) * sizes[own.index(stage)] for what, stage in actions if what in change]
        most.append(max(itertools.accumulate(steps), default=0))
    return most[0], most[1]

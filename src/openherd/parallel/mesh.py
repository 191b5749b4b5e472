"""The processes of a run and their groups (paper 3.3.2).

Ranks count TP innermost, then CP, PP, and DP outermost, as in the paper: neighbours on a machine share a layer. In the mesh the
data-parallel shards and CP, over both of which FSDP shards, are one dimension.
"""

import json
import logging
import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _set_pg_timeout as set_timeout

from openherd.core.errors import ConfigError, LostError
from openherd.core.machine import place
from openherd.parallel.layout import ParallelConfig

MEETING_S = 300.0  # starting takes one process much longer than another where many share a machine


@dataclass(frozen=True)
class World:
    """This process among those of a run. One process alone has no mesh, and its collectives do nothing."""

    layout: ParallelConfig
    device: torch.device
    rank: int = 0
    mesh: DeviceMesh | None = None
    everyone: dist.ProcessGroup | None = None
    checkpoint_group: dist.ProcessGroup | None = None  # gloo, of its own: a checkpoint is written while training goes on
    cp_group: dist.ProcessGroup | None = None
    ends_group: dist.ProcessGroup | None = None  # first and last pipeline stage, where they are two processes

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def index(self, name: str) -> int:
        """This process's place in one dimension: tp, cp, pp or dp (shards and replicas together)."""
        layout, rank = self.layout, self.rank
        tp, cp, pp = rank % layout.tp, rank // layout.tp % layout.cp, rank // (layout.tp * layout.cp) % layout.pp
        return {"tp": tp, "cp": cp, "pp": pp, "dp": rank // (layout.tp * layout.cp * layout.pp)}[name]

    def sum(self, values: list[float]) -> list[float]:
        """Sums over all processes, in fp64."""
        return self._over_all(values, dist.ReduceOp.SUM)

    def largest(self, values: list[float]) -> list[float]:
        """Largest over all processes."""
        return self._over_all(values, dist.ReduceOp.MAX)

    def _over_all(self, values: list[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        if self.mesh is None:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total, how, group=self.everyone)
        return [float(v) for v in total.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank, in the processor's memory; all have come here then."""
        if self.mesh is None:
            return [value]
        values: list[Any] = [None] * self.layout.world
        dist.all_gather_object(values, value, group=self.checkpoint_group)
        return values

    def send(self, tensor: Tensor, stage: int) -> None:
        """A tensor in the processor's memory to the process at another place of this one's pipeline."""
        dist.send(tensor, self._in_pipeline(stage), group=self.checkpoint_group)

    def receive(self, tensor: Tensor, stage: int) -> Tensor:
        """The other side of `send`, into `tensor`."""
        dist.recv(tensor, self._in_pipeline(stage), group=self.checkpoint_group)
        return tensor

    def _in_pipeline(self, stage: int) -> int:
        assert self.mesh is not None
        return dist.get_global_rank(self.mesh.get_group("pp"), stage)

    def wait(self) -> None:
        """Until every process is here."""
        if self.mesh is not None:
            dist.barrier(group=self.checkpoint_group)


def ranks_of(layout: ParallelConfig) -> Tensor:
    """All ranks, shape (replicas, shards, PP, CP, TP)."""
    return torch.arange(layout.world).view(layout.dp_replicate, layout.dp_shard, layout.pp, layout.cp, layout.tp)


def groups_of(ranks: Tensor, rank: int) -> dist.ProcessGroup | None:
    """Groups of the processes in each row of `ranks`; returns this one's. Every process takes part in the making of every group."""
    mine = None
    for row in ranks.tolist():
        group = dist.new_group(row)
        if rank in row:
            mine = group
    return mine


def meet(layout: ParallelConfig, device: torch.device) -> torch.device:
    """Meet the other processes that were started; returns this one's device. Raises ConfigError where there are more or fewer."""
    here = place()
    if here is None or here.world != layout.world:
        found = f"{layout} is {layout.world} processes, {1 if here is None else here.world} were started"
        raise ConfigError("parallel", found, do="start as many, or change [parallel]")
    if device.type == "cuda":
        device = torch.device("cuda", here.local_rank)
        torch.cuda.set_device(device)
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # it advises on what is done once
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")  # the flight recorder: torch's record of the last collectives
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        patience = timedelta(seconds=max(layout.timeout_s, MEETING_S))
        try:
            store = fresh_store(here.world, patience)
            dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.world, timeout=patience)
        except RuntimeError as error:
            raise LostError("parallel", f"process {here.rank} did not meet the others ({str(error).splitlines()[0]})") from None
    return device


def leave() -> bool:
    """Leave the others, at the end; returns whether there were any."""
    if not dist.is_initialized():
        return False
    dist.destroy_process_group()
    return True


def fresh_store(world: int, patience: timedelta) -> dist.Store | None:
    """torchrun's store, under a name of this attempt's own; None under other launchers.

    torch 2.13 gives a restarted process the store of the attempt before as it is: it may read from there where a dead process
    listened, and fail.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    if attempt is None or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world, is_master=False, timeout=patience)
    return dist.PrefixStore(f"openherd-{attempt}-of-{world}", store)


def join(layout: ParallelConfig, device: torch.device) -> World:
    """This process's world: it meets the others of the layout. Raises ConfigError where there are more or fewer of them."""
    here = place()
    layout = layout.fitted(1 if here is None else here.world)
    if layout.world == 1 and (here is None or here.world == 1):
        return World(layout, device)
    device = meet(layout, device)
    assert here is not None
    return spread(layout, device, here.rank)


def spread(layout: ParallelConfig, device: torch.device, rank: int, backend: str = "gloo") -> World:
    """The groups of a layout, of processes that have met; those with a rank beyond it take part in this alone. `backend` is that of
    the checkpoint's group."""
    ranks = ranks_of(layout)
    by_mesh = ranks.permute(2, 0, 1, 3, 4).reshape(layout.pp, layout.dp_replicate, -1, layout.tp)
    mesh = DeviceMesh(device.type, by_mesh, mesh_dim_names=("pp", "dp_replicate", "shards", "tp"))
    pipelines = ranks.movedim(2, -1).reshape(-1, layout.pp)
    everyone = ranks.reshape(1, -1)
    world = World(
        layout,
        device,
        rank,
        mesh,
        everyone=groups_of(everyone, rank),
        checkpoint_group=dist.new_group(everyone[0].tolist(), backend=backend),
        cp_group=groups_of(ranks.movedim(3, -1).reshape(-1, layout.cp), rank) if layout.cp > 1 else None,
        ends_group=groups_of(pipelines[:, [0, -1]], rank) if layout.pp > 1 else None,
    )
    if rank < layout.world:  # torch's own patience is ten minutes, or thirty; that for checkpoints stays, since disks are slow
        of_mesh = [mesh.get_group(name) for name in mesh.mesh_dim_names or ()]
        for group in filter(None, (*of_mesh, world.everyone, world.cp_group, world.ends_group)):
            set_timeout(timedelta(seconds=layout.timeout_s), group)
    return world


LOST = (  # what torch and gloo say where a process is gone, or its connection
    "timed out", "timeout", "connection reset", "connection closed", "connection refused", "broken pipe", "socket", "nccl",
    "no route to host", "gloo", "wait_for_completion",
)  # fmt: skip


def is_lost(error: BaseException) -> bool:
    """Whether an error of torch says that other processes are gone or do not answer."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in LOST)


def flight_record(file: Path) -> str:
    """Write the last collectives of this process to a file; returns the last of them in words, '' where torch recorded none."""
    dump = getattr(torch._C._distributed_c10d, "_dump_fr_trace_json", None)
    if dump is None:
        return ""
    recorded = dump().decode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(recorded, encoding="utf-8")
    entries = json.loads(recorded).get("entries", [])
    if not entries:
        return ""
    last = max(entries, key=lambda entry: entry["time_created_ns"])
    told = f"{last['profiling_name']} of {last['input_sizes']}, number {last['collective_seq_id']}"
    group = last["process_group"][1]
    return f"{told} of group {group}" if group not in ("", "undefined") else told


def add_up(tensor: Tensor, group: dist.ProcessGroup) -> None:
    """Sum a tensor over a group, in place."""
    dist.all_reduce(tensor, group=group)


def gather(tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """The tensors of a group, one behind the other along `dim`; on the way back each gets the sum of what all ask of its own."""
    whole: Tensor = _Gather.apply(tensor, dim, group)
    return whole


# Their names up to torch 2.12, and since.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Gather(torch.autograd.Function):
    """torch has one too, under a name that changes from version to version."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
        ctx.dim, ctx.group = dim, group
        first = tensor.movedim(dim, 0).contiguous()
        whole = first.new_empty((group.size() * first.shape[0], *first.shape[1:]))
        all_gather(whole, first, group=group)
        return whole.movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Sums in the gradient's dtype."""
        whole = gradients[0].movedim(ctx.dim, 0).contiguous()
        mine = whole.new_empty((whole.shape[0] // ctx.group.size(), *whole.shape[1:]))
        reduce_scatter(mine, whole, group=ctx.group)
        return mine.movedim(0, ctx.dim), None, None

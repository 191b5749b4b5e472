"""Run by several processes at once, as torchrun starts them: `together.py CASES OUT`. One launch holds many cases.

`CASES` is a list of cases as JSON, each with its kind and its name; their outcomes go to `OUT`, by name.
"""

import contextlib
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef

from openherd.core.machine import place
from openherd.core.rundir import Output
from openherd.data.batches import BatchSource
from openherd.data.token_shards import TokenShards
from openherd.model.config import ModelConfig
from openherd.parallel.apply import Sharded, local_gradient
from openherd.parallel.context import own_chunks
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World, meet, spread
from openherd.parallel.stage import Stage
from openherd.training import parity
from openherd.training.dry_run import EveryToken
from openherd.training.loop import TrainingConfig, train
from openherd.training.objective import NextToken
from openherd.training.optimizer import make_adamw

warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
CPU = torch.device("cpu")
SHAPE = ModelConfig(n_layers=3, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=64, vocabulary=96)
ROWS, TOKENS, STEPS = 8, 32, 6


def shape_of(settings):
    return replace(SHAPE, **settings)


def world_of(layout):
    """The world of a layout, on every process; None on those that it does not need."""
    if layout.world == 1:
        return World(layout, CPU) if place().rank == 0 else None
    world = spread(layout, CPU, place().rank)
    return world if place().rank < layout.world else None


def parity_case(case):
    """The differences to one process."""
    shape, layout = shape_of(case["shape"]), ParallelConfig(**case["layout"])
    plain = PLAIN.setdefault(str(shape), parity.plain_run(shape, ROWS, TOKENS, CPU))
    world = world_of(layout)
    if world is None:
        return None
    found = parity.compare(shape, world, plain, ROWS, TOKENS, most_rows=case["most_rows"])
    return {"agrees": found.agrees, **vars(found)}


PLAIN = {}


class OwnCounts(NextToken):
    """A fault that peers have had: each process divides by what it has itself."""

    def __init__(self, world):
        self.world = world

    def losses(self, hidden_BTD, head, batch):
        found = super().losses(hidden_BTD, head, batch)
        mine = (batch["labels_BT"] != -100).sum()
        total = self.world.sum([float(mine)])[0]
        return {name: loss * total / (mine * self.world.layout.dp) for name, loss in found.items()}


def fault_case(case):
    """A run with the fault: it must not agree."""
    layout = ParallelConfig(**case["layout"])
    plain = PLAIN.setdefault(str(SHAPE), parity.plain_run(SHAPE, ROWS, TOKENS, CPU))
    world = world_of(layout)
    if world is None:
        return None
    parity.NextToken = lambda: OwnCounts(world)
    try:
        found = parity.compare(SHAPE, world, plain, ROWS, TOKENS, most_rows=8)
    finally:
        parity.NextToken = NextToken
    return {"agrees": found.agrees, **vars(found)}


def twice_case(case):
    """The same layout twice: are losses and weights the same to the last bit, on every process?"""
    world = world_of(ParallelConfig(**case["layout"]))
    if world is None:
        return None
    one, two = (parity.sharded_run(SHAPE, world, ROWS, TOKENS, 2)[0] for _ in range(2))
    same = one.losses == two.losses and all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)
    return {"same": not world.sum([float(not same)])[0]}


def bf16_case(case):
    """Largest difference between the losses of bf16 in a layout and on one process."""
    world = world_of(ParallelConfig(**case["layout"]))
    losses = {}
    for name, one in (("alone", World(ParallelConfig(), CPU)), ("layout", world)):
        if one is None:
            return None
        model = Sharded(SHAPE, one, "bfloat16")
        model.fill(parity.weights_of(SHAPE))
        batch = parity.batch_of(SHAPE, 0, ROWS, TOKENS)
        each = ROWS // one.layout.dp
        mine = {n: t[one.index("dp") * each :][:each] for n, t in batch.items()}
        losses[name] = model.gradients(NextToken(), mine, NextToken().counts(batch), 2)["loss_nats"]
        assert all(local_gradient(p).dtype == torch.float32 for _, p, _ in model.parts)
    return losses


class Stop(BaseException):
    """Ends a run before its time."""


def token_shards(folder):
    """40 random documents of one source."""
    generator = np.random.default_rng(0)
    starts = np.sort(generator.choice(np.arange(1, 4_000), 39, replace=False))
    tokens = generator.integers(0, SHAPE.vocabulary, 4_000)
    return TokenShards(folder, SHAPE.vocabulary, "", {"web": 4_000}, {"web": np.array([0, *starts])}, {"web": tokens})


def run_in(layout, settings, out, until, seen):
    """Train up to step `until` of STEPS in a layout, going on from what lies in `out`; returns (losses, weights by name)."""
    world = world_of(layout)
    dist.barrier()
    losses = None
    if world is not None:
        shape = shape_of(settings)
        source = BatchSource(token_shards(out), 0, "test", TOKENS, {"web": 1.0})

        def part(step, index, n):
            if step == until:
                raise Stop
            each = ROWS // n
            first = step * ROWS + index * each
            if world.index("tp") == world.index("cp") == world.index("pp") == 0:
                with (out / f"seen-{seen}-{index}.jsonl").open("a") as file:
                    file.write(json.dumps([[step, source.window(i)] for i in range(first, first + each)]) + "\n")
            return {name: torch.from_numpy(array) for name, array in source.batch(first, each).items()}

        model = Sharded(shape, world, "float32")
        model.fill(parity.weights_of(shape))
        config = TrainingConfig(micro_batch_sequences=2, checkpoint_steps=2, parallel=layout)
        output = Output(out, leads=world.leads)
        with contextlib.suppress(Stop):
            train(model, NextToken(), part, lambda step: 1e-3, STEPS, config, output, what="test")
        whole = {name: model.whole(name).clone() for name in model.names()}
        losses = [r["loss_nats"] for r in output.metrics.read()], whole
    dist.barrier()
    return losses


def resume_case(case):
    """Some steps in one layout, the rest in another, against all in one process."""
    out = Path(sys.argv[2]).parent / case["name"]
    first, second = (ParallelConfig(**layout) for layout in case["layouts"])
    if place().rank == 0:
        (out / "whole").mkdir(parents=True)
        (out / "parts").mkdir()
    dist.barrier()
    whole = run_in(ParallelConfig(), case["shape"], out / "whole", STEPS, "whole")
    run_in(first, case["shape"], out / "parts", 5, "first")
    parts = run_in(second, case["shape"], out / "parts", STEPS, "second")
    if place().rank != 0:
        return None
    seen = {}
    for name in ("whole", "first", "second"):
        files = (out / ("whole" if name == "whole" else "parts")).glob(f"seen-{name}-*.jsonl")
        rows = [row for file in files for line in file.read_text().splitlines() for row in json.loads(line)]
        seen[name] = sorted(rows)
    kept = [row for row in seen["first"] if row[0] < 4]  # the checkpoint before step 5
    return {
        "loss": max(abs(a - b) for a, b in zip(whole[0], parts[0], strict=True)),
        "weight": max(float((whole[1][name] - parts[1][name]).abs().max()) for name in whole[1]),
        "steps": len(parts[0]),
        "same_data": sorted(kept + seen["second"]) == seen["whole"],
    }


def memory_case(case):
    """What each process really holds in a step of two micro-batches, in bytes; and of one, counted by hooks."""
    layout = ParallelConfig(**case["layout"])
    world = world_of(layout)
    found = None
    if world is not None:
        model = Sharded(SHAPE, world, case["precision"])
        model.fill(parity.weights_of(SHAPE))
        optimizer = make_adamw(model.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1)
        batch = parity.batch_of(SHAPE, 0, ROWS, TOKENS)
        batch["documents_BT"] *= 0
        rows = ROWS // layout.dp
        mine = {name: t[world.index("dp") * rows :][:rows] for name, t in batch.items()}
        with on_the_way(model) as most:
            model.gradients(EveryToken(), mine, {"loss_nats": 1}, 2)
        gradients = sum(local_gradient(p).nbytes for _, p, _ in model.parts)
        model.step(optimizer)
        states = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
        found = {
            "place": world.index("pp"),
            "most": most[0],
            "weights": sum(p.nbytes for p in (local for _, _, local in model.parts)),
            "gradients": gradients,
            "moments": sum(t.nbytes for t in states),
            "kept": [saved_bytes(stage, case["precision"], own_chunks(mine, layout.cp, world.index("cp"))) for stage in model.stages],
            "gathered": [sum(local_of(p).nbytes for p in set(stage.parameters())) for stage in model.stages],
        }
    everyone = [None] * place().world
    dist.all_gather_object(everyone, found)
    return [found for found in everyone if found is not None]


def local_of(tensor):
    tensor = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    return tensor.elem if isinstance(tensor, AsyncCollectiveTensor) else tensor


@contextlib.contextmanager
def on_the_way(model):
    """The most bytes that autograd holds at once for the way back, of all stages together, looked at after each way forward."""
    held, most, forward = {}, [0], Stage.forward

    def watched(stage, given, **batch):
        with saving(stage, (given, *batch.values())) as found:
            out = forward(stage, given, **batch)
        held.update(found)
        alive = [torch.UntypedStorage._new_with_weak_ptr(ref.cdata) for ref in held.values()]
        most[0] = max(most[0], sum(storage.nbytes() for storage in alive if storage is not None))
        return out

    Stage.forward = watched
    try:
        yield most
    finally:
        Stage.forward = forward


@contextlib.contextmanager
def saving(stage, given):
    """The distinct memory that autograd saves; no weights, no masks, and not what is given."""
    found = {}

    def save(tensor):
        mine = local_of(tensor)
        if not (mine.ndim == 4 and mine.shape[-1] == TOKENS):
            found[mine.untyped_storage()._cdata] = StorageWeakRef(mine.untyped_storage())
        return tensor

    before = list(stage.parameters())
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        yield found
    for tensor in filter(lambda tensor: tensor is not None, (*before, *stage.parameters(), *given)):
        found.pop(local_of(tensor).untyped_storage()._cdata, None)


def saved_bytes(stage, precision, batch):
    """What autograd saves of a micro-batch of two rows, and what the stage hands on."""
    stage.objective = EveryToken()
    micro = {name: t[:2] for name, t in batch.items()}
    layout = stage.world.layout
    hidden = torch.zeros(2, TOKENS // (layout.cp * layout.tp), SHAPE.d_model, requires_grad=True)
    given = micro["tokens_BT"] if stage.first else hidden
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"), saving(stage, (given, *micro.values())) as found:
        out = stage(given, **micro)
    found[local_of(out).untyped_storage()._cdata] = StorageWeakRef(local_of(out).untyped_storage())
    return sum(torch.UntypedStorage._new_with_weak_ptr(ref.cdata).nbytes() for ref in found.values())


CASES = {"memory": memory_case, "parity": parity_case, "fault": fault_case, "twice": twice_case, "bf16": bf16_case, "resume": resume_case}

if __name__ == "__main__":
    torch.set_num_threads(1)
    here = place()
    meet(ParallelConfig(dp_shard=here.world, timeout_s=120), CPU)
    outcomes = {}
    for case in json.loads(Path(sys.argv[1]).read_text()):
        found = CASES[case["kind"]](case)
        dist.barrier()
        if here.rank == 0:
            outcomes[case["name"]] = found
    if here.rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(outcomes))
    dist.destroy_process_group()

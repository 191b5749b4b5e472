"""Run by several processes at once, as torchrun starts them: `together.py CASES OUT`. One launch holds many cases.

`CASES` is a list of cases as JSON, each with its kind and its name; their outcomes go to `OUT`, by name.
"""

import contextlib
import json
import math
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from openherd.core.machine import place
from openherd.core.rundir import Output
from openherd.data.batches import BatchSource
from openherd.data.token_shards import TokenShards
from openherd.model.attention import attention
from openherd.model.config import ModelConfig
from openherd.parallel.apply import Sharded, local_gradient, own_slices
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.lora import Lora, with_adapters
from openherd.parallel.mesh import World, meet, spread
from openherd.parallel.rehearsal import kernel_norm
from openherd.parallel.stage import EMBED, Stage
from openherd.training import parity
from openherd.training.dry_run import EveryToken
from openherd.training.loop import train
from openherd.training.objective import NextToken
from openherd.training.optimizer import make_adamw, set_learning_rate
from openherd.training.settings import TrainingConfig

sys.path.insert(0, str(Path(__file__).parent))
from plain_lora import plain_lora

warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
for of_the_compiler in (".*script_method. is deprecated", "The .grad attribute of a Tensor that is not a leaf"):
    warnings.filterwarnings("ignore", message=of_the_compiler)
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


def low_case(case):
    """A low precision in a layout and on one process, with weights that bf16 holds: losses, and how far the gradients of matrices
    are from the sum in fp32 of each row's on one process, relative to the largest; and how far a sum in bf16 would be."""
    layout = ParallelConfig(**case["layout"])
    world, shape = world_of(layout), shape_of(case["shape"])
    if world is None:
        return None

    def new_model(one):
        model = Sharded(shape, one, case["precision"], case["float8"])
        model.fill(lambda name: parity.weights_of(shape)(name).bfloat16().float())
        return model

    batch = parity.batch_of(shape, 0, ROWS, TOKENS)
    counts = NextToken().counts(batch)
    alone = new_model(World(ParallelConfig(), CPU))
    names = [name for name, _ in alone.trained()]
    wide, narrow = (dict.fromkeys(names, 0.0) for _ in range(2))
    for row in range(ROWS):
        alone.zero()
        alone.gradients(NextToken(), {n: t[row : row + 1] for n, t in batch.items()}, counts, 1)
        for name, p in alone.trained():
            wide[name] += p.grad
            narrow[name] += p.grad.bfloat16()
    alone.zero()
    loss = alone.gradients(NextToken(), batch, counts, 1)["loss_nats"]
    model, each = new_model(world), ROWS // layout.dp
    mine = {n: t[world.index("dp") * each :][:each] for n, t in batch.items()}
    found = {"alone": loss, "layout": model.gradients(NextToken(), mine, counts, 1)["loss_nats"]}
    assert all(local_gradient(p).dtype == torch.float32 for _, p, _ in model.parts)
    away = [0.0, 0.0]
    for name, p, _ in model.parts:
        if p.ndim > 1 and p.numel():
            for i, other in enumerate((local_gradient(p), narrow[name][own_slices(p)].float())):
                away[i] = max(away[i], float((other - wide[name][own_slices(p)]).abs().max() / wide[name].abs().max()))
    found["sums"], found["sums_in_bf16"] = world.largest(away)
    # One process's overflow is everyone's.
    model.zero()
    objective = Infinite() if world.index("dp") == 0 else NextToken()
    model.gradients(objective, mine, counts, 1)
    found["finite_norms"] = world.sum([float(math.isfinite(model.clip(1.0)))])[0]
    return found


class Infinite(NextToken):
    """A finite loss with an infinite gradient."""

    def losses(self, hidden_BTD, head, batch):
        loss = super().losses(hidden_BTD, head, batch)["loss_nats"]
        loss.register_hook(lambda gradient: gradient * math.inf)
        return {"loss_nats": loss}


class Stop(BaseException):
    """Ends a run before its time."""


def token_shards(folder):
    """40 random documents of one source."""
    generator = np.random.default_rng(0)
    starts = np.sort(generator.choice(np.arange(1, 4_000), 39, replace=False))
    tokens = generator.integers(0, SHAPE.vocabulary, 4_000)
    return TokenShards(folder, SHAPE.vocabulary, "", {"web": 4_000}, {"web": np.array([0, *starts])}, {"web": tokens})


def run_in(layout, settings, training, out, until, seen):
    """Train up to step `until` of STEPS in a layout, going on from what lies in `out`; returns losses, weights by name, and how far
    the tied ends of a pipeline are apart."""
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
        config = TrainingConfig(micro_batch_sequences=2, checkpoint_steps=2, parallel=layout, **training)
        output = Output(out, leads=world.leads)
        with contextlib.suppress(Stop):
            train(model, NextToken(), part, lambda step: 1e-3, STEPS, config, output, what="test")
        whole = {name: model.whole(name).clone() for name in model.names()}
        # The same on both ends of a pipeline; processes between them have none.
        twins = [float(p.detach().double().sum()) for name, p in model.trained() if name == EMBED]
        ends = [max(twins, default=-math.inf), -min(twins, default=math.inf)]
        apart = sum(world.largest(ends)) if layout.world == layout.pp else 0.0
        losses = [r["loss_nats"] for r in output.metrics.read()], whole, apart
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
    whole = run_in(ParallelConfig(), case["shape"], case["training"], out / "whole", STEPS, "whole")
    run_in(first, case["shape"], case["training"], out / "parts", 5, "first")
    parts = run_in(second, case["shape"], case["training"], out / "parts", STEPS, "second")
    if place().rank != 0:
        return None
    seen = {}
    for name in ("whole", "first", "second"):
        files = (out / ("whole" if name == "whole" else "parts")).glob(f"seen-{name}-*.jsonl")
        rows = [row for file in files for line in file.read_text().splitlines() for row in json.loads(line)]
        seen[name] = sorted(rows)
    # The newest checkpoint is that of step 4, or of 2 where the other was not written yet when the run was stopped.
    kept = [row for row in seen["first"] if row[0] < min(step for step, _ in seen["second"])]
    return {
        "loss": max(abs(a - b) for a, b in zip(whole[0], parts[0], strict=True)),
        "weight": max(float((whole[1][name] - parts[1][name]).abs().max()) for name in whole[1]),
        "steps": len(parts[0]),
        "resumed_at": min(step for step, _ in seen["second"]),
        "twins_apart": parts[2],
        "same_data": sorted(kept + seen["second"]) == seen["whole"],
    }


def lora_weights(shape, lora):
    """All parameters by name, the adapters' B away from zero, so that A has a gradient."""
    read = with_adapters(parity.weights_of(shape), lora, 0)

    def get(name):
        found = read(name)
        if name.endswith("lora_b"):
            found = torch.randn(found.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1
        return found

    return get


def lora_case(case):
    """The differences of adapters in a layout to summed matrices in plain torch; weights are those that are written."""
    shape, lora = shape_of(case["shape"]), Lora(**case["lora"])
    settings = {"rate": parity.RATE, "clip": parity.CLIP, "decay": parity.DECAY, "epsilon": parity.EPSILON}
    losses, norms, gradients, weights = plain_lora(shape, lora, lora_weights(shape, lora), ROWS, TOKENS, STEPS, **settings)
    world = world_of(ParallelConfig(**case["layout"]))
    if world is None:
        return None
    model = Sharded(shape, world, "bfloat16" if lora.bf16 else "float32", lora=lora)
    model.fill(lora_weights(shape, lora))
    optimizer = make_adamw(model.trained(), beta1=0.9, beta2=0.95, epsilon=parity.EPSILON, weight_decay=parity.DECAY)
    set_learning_rate(optimizer, parity.RATE)
    each = ROWS // world.layout.dp
    found = {"loss": [0.0], "norm": [0.0], "gradient": [0.0], "weight": [0.0]}
    for step in range(STEPS):
        batch = parity.batch_of(shape, step, ROWS, TOKENS)
        mine = {n: t[world.index("dp") * each :][:each] for n, t in batch.items()}
        loss = model.gradients(NextToken(), mine, NextToken().counts(batch), 2)["loss_nats"]
        found["loss"].append(abs(loss - losses[step]))
        if step == 0:
            parts = [(local_gradient(p) - gradients[name][own_slices(p)]).abs() for name, p, _ in model.parts]
            found["gradient"] += [float(part.max()) for part in parts if part.numel()]
        found["norm"].append(abs(model.clip(parity.CLIP) / norms[step] - 1))
        model.step(optimizer)
    for name in model.names():
        whole = model.whole(name)
        if world.leads:
            found["weight"].append(float((whole - weights[name]).abs().max()))
    return dict(zip(found, world.largest([max(values) for values in found.values()]), strict=True))


ATTEND = "openherd.model.attention.causal_attention"


def flash(q_BTNH, k_BTGH, v_BTGH, tables):
    """In the place of ours, which keeps less: what it keeps is what a GPU's does, what it computes is of no matter here."""
    return attention(q_BTNH, k_BTGH, v_BTGH, None)


def memory_case(case):
    """What each process really holds in a step, in bytes."""
    layout = ParallelConfig(**case["layout"])
    world = world_of(layout)
    found = None
    if world is not None:
        model = Sharded(SHAPE, world, case["precision"])
        model.fill(parity.weights_of(SHAPE))
        optimizer = make_adamw(model.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1)
        rows = ROWS // layout.dp
        batch = parity.batch_of(SHAPE, 0, ROWS, TOKENS)
        mine = {name: t[world.index("dp") * rows :][:rows] for name, t in batch.items()}
        with watching() as seen, mock.patch.object(F, "rms_norm", kernel_norm), mock.patch(ATTEND, flash):
            model.gradients(EveryToken(), mine, {"loss_nats": 1}, 2)
        gradients = sum(local_gradient(p).nbytes for _, p, _ in model.parts)
        model.step(optimizer)
        found = {
            **seen,
            "place": world.index("pp"),
            "weights": sum(local.nbytes for _, local in model.trained()),
            "gradients": gradients,
            "moments": sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim),
        }
    everyone = [None] * place().world
    dist.all_gather_object(everyone, found)
    return [found for found in everyone if found is not None]


@contextlib.contextmanager
def watching():
    """After each way forward: the bytes of weights as they are then, and what autograd has saved, of all stages, and still holds.

    Distinct memory, at its most; no weights, no tables of pairs of tokens, which attention on GPUs does without, and not what a
    stage is given.
    """
    seen, held, forward = {"gathered": 0, "activations": 0}, {}, Stage.forward

    def watched(stage, given, **batch):
        found = {}

        def save(tensor):
            storage = local_of(tensor).untyped_storage()
            if not (tensor.ndim == 4 and tensor.shape[-1] == TOKENS):
                found[storage._cdata] = StorageWeakRef(storage)
            return tensor

        before = list(stage.parameters())
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            out = forward(stage, given, **batch)
        after = set(stage.parameters())
        for tensor in (*before, *after, *batch.values(), *([] if given is None else [given])):
            found.pop(local_of(tensor).untyped_storage()._cdata, None)
        held.update(found)
        alive = [torch.UntypedStorage._new_with_weak_ptr(ref.cdata) for ref in held.values()]
        seen["activations"] = max(seen["activations"], sum(storage.nbytes() for storage in alive if storage is not None))
        seen["gathered"] = max(seen["gathered"], sum(local_of(p).nbytes for p in after))
        return out

    Stage.forward = watched
    try:
        yield seen
    finally:
        Stage.forward = forward


def local_of(tensor):
    tensor = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    return tensor.elem if isinstance(tensor, AsyncCollectiveTensor) else tensor


CASES = {
    "parity": parity_case,
    "lora": lora_case,
    "fault": fault_case,
    "twice": twice_case,
    "low": low_case,
    "memory": memory_case,
    "resume": resume_case,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    here = place()
    meet(ParallelConfig(dp_shard=here.world, timeout_s=120), CPU)
    outcomes = {}
    for case in json.loads(Path(sys.argv[1]).read_text()):
        started = time.perf_counter()
        found = CASES[case["kind"]](case)
        dist.barrier()
        if here.rank == 0:
            outcomes[case["name"]] = found
            print(f"{time.perf_counter() - started:6.2f} s {case['name']}", file=sys.stderr)
    if here.rank == 0:
        Path(sys.argv[2]).write_text(json.dumps(outcomes))
    dist.destroy_process_group()

"""Whether a layout trains as one process does: `openherd parity` (paper 3.3.2, which found its own faults by such comparisons).

A small model of the recipe's proportions takes a few steps, clipped, with AdamW, on packed documents with labels left out so that
every process counts another number of them. Beside it stands a loop in plain torch on one process. What is compared: the gradients
of the first step, every loss, every gradient norm, and the weights at the end.
"""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openherd.core.machine import place
from openherd.core.progress import Progress
from openherd.core.seeds import derive_seed
from openherd.data.batches import IGNORED
from openherd.model.attention import CausalAttend
from openherd.model.config import ModelConfig
from openherd.model.transformer import Transformer
from openherd.parallel.apply import Sharded, local_gradient, own_slices
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World, meet, spread
from openherd.parallel.stage import Batch
from openherd.training.objective import NextToken
from openherd.training.optimizer import make_adamw, set_learning_rate

STEPS = 6
AXES = ("tp", "cp", "pp", "dp_shard", "dp_replicate")
ALLOWED = 2e-6  # fp32, over six steps
RATE, CLIP, DECAY = 1e-3, 0.5, 0.1
EPSILON = 1e-4  # a smaller one makes a step of what rounding leaves of the smallest gradients


@dataclass(frozen=True)
class Outcome:
    """What a run left: losses and gradient norms by step, gradients of the first step and final weights by name."""

    losses: list[float]
    norms: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Difference:
    """The largest differences to one process: absolute, of the gradients' norms relative."""

    loss: float
    norm: float
    gradient: float
    weight: float
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether none is over what rounding explains; NaN does not agree."""
        return all(value <= ALLOWED for value in (self.loss, self.norm, self.gradient, self.weight))


def batch_of(shape: ModelConfig, step: int, rows: int, tokens: int) -> Batch:
    """Random tokens in documents of random lengths; of each row another share of the labels is left out, of some nearly all."""
    generator = torch.Generator().manual_seed(derive_seed(step, "parity"))
    drawn = torch.randint(0, shape.vocabulary, (2, rows, tokens), generator=generator)
    left_out = torch.rand(rows, tokens, generator=generator) < torch.rand(rows, 1, generator=generator)
    starts = torch.rand(rows, tokens, generator=generator) < 4 / tokens
    documents = starts.cumsum(1)
    begun = torch.where(starts, torch.arange(tokens), 0).cummax(1).values
    return {
        "tokens_BT": drawn[0],
        "labels_BT": torch.where(left_out, IGNORED, drawn[1]),
        "positions_BT": torch.arange(tokens) - begun,
        "documents_BT": documents,
    }


def weights_of(shape: ModelConfig) -> Callable[[str], Tensor]:
    """Random weights by name, the head's and the norms' too, so that a forgotten one shows."""
    with torch.device("meta"):
        sizes = {name: p.shape for name, p in Transformer(shape).named_parameters()}

    def draw(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(0, "parity", name))
        if len(sizes[name]) == 1:
            return torch.rand(sizes[name], generator=generator) + 0.5
        return torch.randn(sizes[name], generator=generator) * shape.d_model**-0.5

    return draw


def plain_run(shape: ModelConfig, rows: int, tokens: int, device: torch.device, steps: int = STEPS) -> Outcome:
    """The same in plain torch: all logits, `cross_entropy`, clipping, one process."""
    model = Transformer(shape).to(device)
    draw = weights_of(shape)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(draw(name))
    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=EPSILON)
    losses, sizes, gradients = [], [], {}
    for step in range(steps):
        batch = {name: t.to(device) for name, t in batch_of(shape, step, rows, tokens).items()}
        logits = model(batch["tokens_BT"], batch["positions_BT"], CausalAttend(batch["documents_BT"]))
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels_BT"].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {name: p.grad.cpu().clone() for name, p in model.named_parameters() if p.grad is not None}
        # Not by `clip_grad_norm_`, whose sums in fp32 are off by 6e-4 at 16M elements on a processor.
        own = [p.grad for p in model.parameters() if p.grad is not None]
        sizes.append(math.sqrt(sum(float(g.norm(dtype=None if g.device.type == "mps" else torch.float64)) ** 2 for g in own)))
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), CLIP, torch.tensor(sizes[-1]))
        optimizer.step()
        losses.append(loss.item())
    return Outcome(losses, sizes, gradients, {name: p.detach().cpu() for name, p in model.named_parameters()})


def sharded_run(
    shape: ModelConfig, world: World, rows: int, tokens: int, most_rows: int, steps: int = STEPS
) -> tuple[Outcome, Sharded]:
    """The same in a layout; gradients and weights are this process's parts."""
    model = Sharded(shape, world, "float32")
    model.fill(weights_of(shape))
    optimizer = make_adamw(model.trained(), beta1=0.9, beta2=0.95, epsilon=EPSILON, weight_decay=DECAY)
    set_learning_rate(optimizer, RATE)
    objective = NextToken()
    each = rows // world.layout.dp
    losses, sizes, gradients = [], [], {}
    for step in range(steps):
        batch = batch_of(shape, step, rows, tokens)
        counts = objective.counts(batch)
        mine = {name: t[world.index("dp") * each :][:each].to(world.device) for name, t in batch.items()}
        losses.append(model.gradients(objective, mine, counts, most_rows)["loss_nats"])
        if step == 0:
            gradients = {name: local_gradient(p).cpu().clone() for name, p, _ in model.parts}
        sizes.append(model.clip(CLIP))
        model.step(optimizer)
    weights = {name: local.detach().cpu().clone() for name, _, local in model.parts}
    return Outcome(losses, sizes, gradients, weights), model


def compare(shape: ModelConfig, world: World, plain: Outcome, rows: int, tokens: int, most_rows: int = 1) -> Difference:
    """Run a layout and say how far it is from `plain`; the largest over all processes."""
    started = time.monotonic()
    mine, model = sharded_run(shape, world, rows, tokens, most_rows, len(plain.losses))
    seconds = time.monotonic() - started

    def furthest(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
        parts = [(found[name] - wanted[name][own_slices(p)]).abs() for name, p, _ in model.parts]
        return max((float(part.max()) for part in parts if part.numel()), default=0.0)

    found = [
        max(abs(a - b) for a, b in zip(mine.losses, plain.losses, strict=True)),
        max(abs(a / b - 1) for a, b in zip(mine.norms, plain.norms, strict=True)),
        furthest(mine.gradients, plain.gradients),
        furthest(mine.weights, plain.weights),
    ]
    loss, norm, gradient, weight = world.largest(found)
    return Difference(loss, norm, gradient, weight, seconds)


def small_shape(shape: ModelConfig, layers: int) -> ModelConfig:
    """A model of the same heads, tying and RoPE, with narrow heads and few layers."""
    width = 8
    return replace(
        shape,
        n_layers=layers,
        head_width=width,
        d_model=shape.n_heads * width,
        d_feed_forward=2 * shape.n_heads * width,
        vocabulary=min(shape.vocabulary, 512),
    )


def layouts_of(asked: Sequence[ParallelConfig], processes: int) -> list[ParallelConfig]:
    """The layouts asked for, then every axis of theirs alone and in pairs, two processes each, as far as there are processes."""
    found = list(dict.fromkeys(asked))
    axes = [name for name in AXES if any(getattr(layout, name) > 1 for layout in asked)]
    for n in (1, 2):
        for names in itertools.combinations(axes, n):
            two: dict[str, Any] = dict.fromkeys(names, 2)
            layout = ParallelConfig(**two)
            if layout.world <= processes and layout not in found:
                found.append(layout)
    return found


def batch_shape(layouts: Sequence[ParallelConfig]) -> tuple[int, int]:
    """Sequences and tokens that all layouts can cut: two micro-batches for each pipeline process."""
    rows = math.lcm(*(layout.dp * 2 * layout.pp for layout in layouts))
    tokens = math.lcm(*(2 * layout.cp * layout.tp for layout in layouts))
    return rows, -(-32 // tokens) * tokens


def check_parity(
    shape: ModelConfig, layouts: Sequence[ParallelConfig], device: torch.device, rank: int
) -> Iterator[tuple[ParallelConfig, Difference]]:
    """Compare layouts one by one, in processes that have met; those that a layout does not need wait. The first yields them all."""
    rows, tokens = batch_shape(layouts)
    plain = plain_run(shape, rows, tokens, device)
    for layout in layouts:
        world = spread(replace(layout, micro_batches=2 * layout.pp), device, rank)
        if rank < layout.world:
            found = compare(shape, world, plain, rows, tokens, most_rows=rows)
            if rank == 0:
                yield layout, found


def parity_table(results: Sequence[tuple[ParallelConfig, Difference]]) -> str:
    """What `openherd parity` prints."""
    lines = [f"{'layout':<36}{'loss':>9}{'norm':>9}{'gradient':>10}{'weight':>9}  {'seconds':>7}"]
    for layout, d in results:
        verdict = "" if d.agrees else f"  differs: over {ALLOWED:.0e}"
        figures = f"{d.loss:>9.1e}{d.norm:>9.1e}{d.gradient:>10.1e}{d.weight:>9.1e}  {d.seconds:>7.1f}"
        lines.append(f"{layout!s:<36}{figures}{verdict}")
    return "\n".join(lines)


def parity(shape: ModelConfig, asked: Sequence[ParallelConfig], device: torch.device, file: Path) -> None:
    """Be one of the processes that check; the first writes what it finds to `file`."""
    here = place()
    assert here is not None
    most = replace(asked[0], tp=1, cp=1, pp=1, dp_shard=here.world, dp_replicate=1, pipeline_schedule="1F1B", virtual_stages=1)
    meet(most, device)
    layouts = layouts_of(asked, here.world)
    small = small_shape(shape, max(layout.stages for layout in layouts) + 2)
    found = []
    with Progress("parity", len(layouts), "layouts") as progress:
        for layout, difference in check_parity(small, layouts, device, here.rank):
            found.append([asdict(layout), asdict(difference)])
            progress.advance(note=str(layout))
    if here.rank == 0:
        file.write_text(json.dumps(found), encoding="utf-8")

"""How a model and its batches are spread over processes, and whether that can run (paper 3.3.2, Table 4). No torch here.

Rank order is the paper's, innermost first: TP, CP, PP, DP (shards, then replicas). A process's place in the data-parallel
dimension says which rows of a batch are its own, its place in CP which chunks of each row, in PP which layers, in TP which heads.
How a run is spread does not belong to what it computes: it is in no digest, and a run goes on in another layout.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from openherd.core.errors import ConfigError
from openherd.model.config import ModelConfig

Schedule = Literal["1F1B", "interleaved", "ZBV"]
Recompute = Literal["none", "selective", "full"]
NEAREST = 3  # layouts named beside a refused one


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Settings of a layout: the table `[parallel]` of a recipe, or `parallel` of one stage."""

    tp: Annotated[int, Field(description="tensor parallel: processes that share each layer's heads and widths", ge=1)] = 1
    cp: Annotated[int, Field(description="context parallel: processes that share each sequence", ge=1)] = 1
    pp: Annotated[int, Field(description="pipeline parallel: processes that share the layers", ge=1)] = 1
    dp_shard: Annotated[int, Field(description="data parallel, weights and optimizer sharded (FSDP)", ge=1)] = 1
    dp_replicate: Annotated[int, Field(description="data parallel, copies of those shards (HSDP)", ge=1)] = 1
    pipeline_schedule: Annotated[Schedule, Field(description="1F1B, interleaved (the paper's), or ZBV")] = "1F1B"
    virtual_stages: Annotated[int, Field(description="stages of each pipeline process; 1F1B has 1, ZBV 2", ge=1)] = 1
    micro_batches: Annotated[int, Field(description="at least so many micro-batches a step and process", ge=1)] = 1
    # Paper 3.3.2: no, which saves an all-gather on the way back.
    reshard_after_forward: Annotated[bool, Field(description="FSDP drops gathered weights after the way forward")] = False
    recompute: Annotated[
        Recompute,
        Field(description="activations computed again instead of kept: none, selective (all but products and attention), full"),
    ] = "none"
    restarts: Annotated[
        int, Field(description="how often all are started again after a process died, without a further checkpoint", ge=0)
    ] = 3
    elastic: Annotated[
        bool, Field(description="with other numbers of processes than asked, as many data-parallel ones as there are")
    ] = False
    leave_s: Annotated[float, Field(description="seconds for a last checkpoint once asked to leave", gt=0)] = 30.0
    timeout_s: Annotated[float, Field(description="seconds after which a process that waits for others gives up", gt=0)] = 600.0
    compile: Annotated[bool, Field(description="torch.compile each layer; the first step takes a minute")] = False

    def __post_init__(self) -> None:
        wanted = {"1F1B": "1", "interleaved": "at least 2", "ZBV": "2"}[self.pipeline_schedule]
        fits = {"1F1B": self.virtual_stages == 1, "interleaved": self.virtual_stages > 1, "ZBV": self.virtual_stages == 2}
        if not fits[self.pipeline_schedule]:
            found = f"virtual_stages = {self.virtual_stages} with pipeline_schedule = {self.pipeline_schedule!r}"
            raise ConfigError("parallel", found, allowed=wanted)

    @property
    def dp(self) -> int:
        """Data-parallel processes: each has rows of its own."""
        return self.dp_shard * self.dp_replicate

    @property
    def world(self) -> int:
        """All processes."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def stages(self) -> int:
        """Pipeline stages; 1 without a pipeline."""
        return self.pp * self.virtual_stages if self.pp > 1 else 1

    def fitted(self, world: int) -> "ParallelConfig":
        """This layout with as many data-parallel processes as there are, if it is elastic and the rest of it divides them."""
        dp, left_over = divmod(world, self.tp * self.cp * self.pp)
        if not self.elastic or left_over or not dp:
            return self
        replicas = self.dp_replicate if dp % self.dp_replicate == 0 else 1
        return replace(self, dp_shard=dp // replicas, dp_replicate=replicas)

    def __str__(self) -> str:
        sizes = {"TP": self.tp, "CP": self.cp, "PP": self.pp, "DP": self.dp_shard, "replicas": self.dp_replicate}
        text = " x ".join(f"{name}{' ' if name == 'replicas' else ''}{n}" for name, n in sizes.items() if n > 1) or "one process"
        more = f" ({self.pipeline_schedule}, {self.virtual_stages} stages each)" if self.virtual_stages > 1 else ""
        return text + more


@dataclass(frozen=True)
class Rows:
    """Batches of one shape: sequences a step and tokens a sequence."""

    batch_sequences: int
    sequence_length: int


def micro_batches(layout: ParallelConfig, rows: int, most_rows: int) -> int:
    """How many micro-batches a process cuts its `rows` into: of equal size, at least `micro_batches`, at most `most_rows` each."""
    least = max(layout.micro_batches, -(-rows // most_rows))
    return next((n for n in range(least, rows + 1) if rows % n == 0), rows)


def problems(
    layout: ParallelConfig, shape: ModelConfig, batches: Sequence[Rows], most_rows: int, in_layers_alone: bool = False
) -> Iterator[str]:
    """What keeps a layout from running a model on batches of these shapes, each in words with its numbers.

    `in_layers_alone`: what is trained is in layers alone, as adapters are, so that each process needs one.
    """
    for name, n in (("heads", shape.n_heads), ("key/value heads", shape.n_kv_heads), ("d_feed_forward", shape.d_feed_forward)):
        if n % layout.tp:
            yield f"{n} {name} are no multiple of tp = {layout.tp}" if name.endswith("s") else f"{name} = {n}, tp = {layout.tp}"
    if layout.virtual_stages > 1 and layout.pp == 1:
        yield f"pipeline_schedule = {layout.pipeline_schedule!r} with pp = 1"
    if layout.stages > 1 and shape.n_layers < max(layout.stages - 2, 1):
        yield f"{shape.n_layers} layers, {layout.stages} stages (first and last may have none)"
    if in_layers_alone and layout.virtual_stages == 1 and shape.n_layers < layout.pp:
        yield f"{shape.n_layers} layers, pp = {layout.pp}: with adapters each process needs a layer"
    for rows in batches:
        pieces = (2 * layout.cp if layout.cp > 1 else 1, layout.cp * layout.tp)
        if rows.sequence_length % (n := math.lcm(*pieces)):
            yield f"sequences of {rows.sequence_length} tokens are no multiple of {n} (tp = {layout.tp}, cp = {layout.cp})"
        if rows.batch_sequences % layout.dp and not layout.elastic:
            yield f"{rows.batch_sequences} sequences a step are no multiple of dp_shard x dp_replicate = {layout.dp}"
            continue
        each = -(-rows.batch_sequences // layout.dp)
        if each < layout.micro_batches and not layout.elastic:
            yield f"micro_batches = {layout.micro_batches} of {each} sequences a process"
        elif layout.pp > 1:
            yield from schedule_problems(layout, each, most_rows)


def schedule_problems(layout: ParallelConfig, rows: int, most_rows: int) -> Iterator[str]:
    """What a pipeline schedule asks of the number of micro-batches."""
    n = micro_batches(layout, rows, most_rows)
    # The interleaved schedule does with fewer than it has processes, as the paper's; the rest of them wait.
    least = {"1F1B": layout.pp, "interleaved": 1, "ZBV": 2 * layout.pp}[layout.pipeline_schedule]
    rounds = max(1, n // layout.pp)
    if n < least:
        yield f"{n} micro-batches of {rows} sequences a process, pp = {layout.pp} asks for {least}"
    elif layout.pipeline_schedule == "interleaved" and n % rounds:
        yield f"{n} micro-batches in {rounds} rounds of the interleaved schedule"


def check_layout(
    where: object,
    layout: ParallelConfig,
    shape: ModelConfig,
    batches: Sequence[Rows],
    most_rows: int,
    world: int | None = None,
    in_layers_alone: bool = False,
) -> None:
    """Raise ConfigError, with the numbers and the nearest layouts that would run, where this one cannot.

    `world` is how many processes there are, where a launcher has started them already.
    """
    found = next(problems(layout, shape, batches, most_rows, in_layers_alone), "")
    if world is not None and layout.world != world:
        found = f"{layout} is {layout.world} processes, {world} were started"
    if found:
        near = nearest_layouts(layout, shape, batches, most_rows, world or layout.world, in_layers_alone)
        allowed = "; ".join(settings_text(other, layout) for other in near)
        raise ConfigError(where, f"this layout cannot run: {found}", allowed=allowed or "no layout of so many processes")


def settings_text(layout: ParallelConfig, asked: ParallelConfig) -> str:
    """A layout as it is written in a recipe, where another was asked."""
    names = ("tp", "cp", "pp", "dp_shard", "dp_replicate", "virtual_stages")
    told = [f"{name} = {getattr(layout, name)}" for name in names if getattr(layout, name) > 1]
    if layout.micro_batches != asked.micro_batches:
        told.append(f"micro_batches = {layout.micro_batches}")
    return ", ".join(told) or "one process"


def nearest_layouts(
    layout: ParallelConfig, shape: ModelConfig, batches: Sequence[Rows], most_rows: int, world: int, in_layers_alone: bool = False
) -> list[ParallelConfig]:
    """Layouts of `world` processes that would run, nearest first; or of fewer, where none of so many would."""
    asked = (layout.tp, layout.cp, layout.pp, layout.dp)
    for n in range(world, 0, -1):
        found = []
        for tp, cp, pp in itertools.product(divisors(n), repeat=3):
            if n % (tp * cp * pp):
                continue
            dp = n // (tp * cp * pp)
            replicas = layout.dp_replicate if dp % layout.dp_replicate == 0 else 1
            other = replace(layout, tp=tp, cp=cp, pp=pp, dp_shard=dp // replicas, dp_replicate=replicas)
            fewest = min((-(-rows.batch_sequences // dp) for rows in batches), default=layout.micro_batches)
            other = replace(other, micro_batches=min(layout.micro_batches, fewest))
            if pp == 1:
                other = replace(other, pipeline_schedule="1F1B", virtual_stages=1)
            if next(problems(other, shape, batches, most_rows, in_layers_alone), None) is None:
                away = sum(abs(math.log(a / b)) for a, b in zip((tp, cp, pp, dp), asked, strict=True))
                found.append((away, tp, cp, pp, other))
        if found:
            return [item[-1] for item in sorted(found, key=lambda item: item[:-1])[:NEAREST]]
    return []


def divisors(n: int) -> list[int]:
    """Numbers that divide `n`."""
    return [d for d in range(1, n + 1) if n % d == 0]

"""A training stage before its run: what each process would hold, and what its steps would be (paper 3.3.2, Table 4).

The paper chose its layouts with such an estimator. Here one process of each place in the pipeline is built and run on a micro-batch
by the code of the real run, but without values (parallel/rehearsal.py). Processes at places with as many layers and the same ends
are alike: one of them is built. Memory is the sum of what is held at the worst moments of each part. Not in it: what single
operations need while they run, buffers of NCCL, and what the allocator cannot use; leave a tenth for these. What is kept in the
host's memory is reckoned apart.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

from openherd.core.errors import ConfigError
from openherd.data.mix import Mix
from openherd.data.token_shards import TokenShards
from openherd.model.config import ModelConfig
from openherd.model.device import Precision
from openherd.model.flops import flops_per_token, parameters
from openherd.model.slices import stage_layers
from openherd.parallel.apply import Sharded
from openherd.parallel.checkpoint import MOMENTS
from openherd.parallel.float8 import Float8, check_float8, float8_layers
from openherd.parallel.layout import ParallelConfig, Rows, check_layout, micro_batches
from openherd.parallel.lora import Lora
from openherd.parallel.pipeline import own_stages
from openherd.parallel.rehearsal import META, Action, Rank, kept_of, most_held, pretended, rank_of, schedule_of
from openherd.parallel.stage import Batch
from openherd.parallel.tensor import Head
from openherd.training.continued import ContinuePretrainConfig, with_replay
from openherd.training.cross_entropy import MOST_LOGITS, cross_entropy_sum
from openherd.training.long_context import LongContextConfig, rescaled
from openherd.training.objective import NextToken
from openherd.training.optimizer import DTYPES, MomentsDtype
from openherd.training.phase import Piece, all_weights

GIB = 2**30
FIRST_STEPS = 3  # of which the batches are shown
LOGIT_BYTES = 12  # at once: a logit in fp32, its exponential, and a temporary or its gradient
PARTS = ("weights", "gathered", "gradients", "summed", "moments", "activations", "recomputed", "pipeline", "logits")


class Trains(Protocol):
    """What the dry run reads of a training stage's settings."""

    precision: str
    float8: Float8
    moments_dtype: MomentsDtype
    optimizer_offload: bool
    micro_batch_sequences: int
    checkpoint_behind: bool
    parallel: ParallelConfig

    def asked_weights(self) -> dict[str, float]:
        """The weights of the sources that the settings ask for."""

    def pieces(self) -> list[Piece]:
        """Its steps."""

    def learning_rate_at(self, step: int) -> float:
        """Of a step, the first being 0; asked where the number of steps is known."""


class EveryToken(NextToken):
    """The objective of training, with a label on every token: the most it can cost."""

    def losses(self, hidden_BTD: Tensor, head: Head, batch: Batch) -> dict[str, Tensor]:
        """Sum of the cross-entropy."""
        return {"loss_nats": cross_entropy_sum(hidden_BTD.flatten(0, 1), head.weight_VD, batch["labels_BT"].flatten(), head.shard)}


@dataclass(frozen=True)
class Process:
    """One process of a place in the pipeline: what it has, and bytes on its device by part."""

    place: int
    layers: int
    tensors: int  # parameters of its own
    elements: int  # of those
    shapes: tuple[tuple[tuple[int, ...], int], ...]  # of those, each with their number
    weights: int
    gathered: int  # copies of weights that it computes with: bf16 and whole, of layers; FSDP's and fp32, of the rest
    gradients: int
    summed: int  # whole gradients in fp32, where micro-batches are summed before FSDP reduces them
    moments: int
    activations: int  # kept of all micro-batches on their way
    recomputed: int  # of one layer, where activations are computed again
    pipeline: int  # what is received from other stages
    logits: int
    host: (
        int  # not on the device: offloaded moments, the largest weight and gradient, of two on their way; the copy of a checkpoint
    )
    written: int  # of a checkpoint: trained weights and moments

    @property
    def total(self) -> int:
        """All parts."""
        return sum(getattr(self, part) for part in PARTS)


@dataclass(frozen=True)
class Moments:
    """Where AdamW's moments are, and how."""

    dtype: MomentsDtype
    offload: bool
    behind: bool  # checkpoints are written from a copy


@dataclass(frozen=True)
class DryRun:
    """A training stage that was not run."""

    stage: str
    shape: ModelConfig
    precision: Precision
    float8: Float8
    parallel: ParallelConfig
    micro_batch_sequences: int
    pieces: tuple[Piece, ...]  # of 0 steps where their number is not known before
    processes: tuple[Process, ...]
    rates: tuple[float, ...]  # of the first steps; none where the number of steps is not known before
    sources: Mapping[str, float]  # share of each in the first batch; empty where there are no shards yet

    @property
    def steps(self) -> int:
        """All steps."""
        return sum(p.steps for p in self.pieces)

    @property
    def tokens(self) -> int:
        """All tokens."""
        return sum(p.tokens for p in self.pieces)

    @property
    def flops(self) -> int:
        """Of all steps, attention counted causally."""
        return sum(flops_per_token(self.shape, p.sequence_length) * p.tokens for p in self.pieces)

    @property
    def largest(self) -> Process:
        """The process that needs the most."""
        return max(self.processes, key=lambda p: p.total)

    def micro_batches(self, piece: Piece) -> tuple[int, int]:
        """Of a step and process: how many, and of how many sequences."""
        each = -(-piece.batch_sequences // self.parallel.dp)
        n = micro_batches(self.parallel, each, self.micro_batch_sequences)
        return n, each // n


def dry_runs(stages: Sequence[tuple[str, Trains, ModelConfig]]) -> list[DryRun]:
    """Reckon training stages: name, settings, and the shape of the model they begin with.

    Raises ConfigError where a layout cannot run.
    """
    reckoned = cache(_reckon)
    found = []
    for name, config, base in stages:
        shape, layout, pieces = shape_of(config, base), config.parallel, config.pieces()
        lora = adapters_of(config)
        in_layers_alone = lora is not None and lora.in_layers_alone
        rows = [p.rows for p in pieces]
        check_layout(name, layout, shape, rows, config.micro_batch_sequences, in_layers_alone=in_layers_alone)
        longest = max(p.sequence_length for p in pieces)
        if longest > shape.max_positions:
            raise ConfigError(name, f"sequences of {longest:,} tokens", allowed=f"{shape.max_positions:,}, the model's context")
        precision: Precision = "float32" if config.precision == "float32" else "bfloat16"  # auto: a GPU's
        if config.float8 != "none":
            check_float8(config.float8, shape, layout, META, precision if config.precision == "auto" else config.precision)
        dry = DryRun(name, shape, precision, config.float8, layout, config.micro_batch_sequences, tuple(pieces), (), (), {})
        # What changes no memory is left out, so that stages that are alike are reckoned once.
        alike = replace(layout, compile=False, restarts=0, timeout_s=1.0, micro_batches=1)
        plain_shape = replace(shape, rope_theta=1.0, rope_scaling=None, max_positions=longest)
        moments = Moments(config.moments_dtype, config.optimizer_offload, config.checkpoint_behind)
        cases = cases_of([(Rows(each, p.sequence_length), n) for p in pieces for n, each in [dry.micro_batches(p)]])
        low = precision, config.float8
        processes = _most(reckoned(plain_shape, alike, *low, each, ns, moments, lora) for each, ns in cases.items())
        rates = tuple(config.learning_rate_at(step) for step in range(min(dry.steps, FIRST_STEPS)))
        found.append(replace(dry, processes=tuple(processes), rates=rates))
    return found


def shape_of(config: Trains, base: ModelConfig) -> ModelConfig:
    """The shape of the model that a stage makes of `base`; of a longer vocabulary, the longest it can become."""
    base = replace(base, vocabulary=base.vocabulary + getattr(config, "new_tokens", 0))
    return rescaled(base, config) if isinstance(config, LongContextConfig) else base


def adapters_of(config: Trains) -> Lora | None:
    """What a stage trains of a frozen model; None where it trains all. Raises ConfigError as the stage would."""
    if not isinstance(config, ContinuePretrainConfig) or config.lora is None:
        return None
    if config.lora_bf16 and config.precision not in ("auto", "bfloat16"):
        raise ConfigError("continue-pretrain", f"lora_bf16 with precision {config.precision}", allowed="precision = 'bfloat16'")
    return replace(config.lora, alpha=1.0)  # which changes no memory


def first_sources(config: Trains, shards: TokenShards) -> dict[str, float]:
    """The share of each source in the sequences of a stage's first batch."""
    if isinstance(config, ContinuePretrainConfig):
        weights = with_replay(shards, config)
    else:
        weights = all_weights(shards, config.asked_weights())
    n = config.pieces()[0].batch_sequences
    return {name: count / n for name, count in Mix(weights).counts(n).items()}


def cases_of(found: Sequence[tuple[Rows, int]]) -> dict[Rows, tuple[int, ...]]:
    """The shapes of micro-batches that have to be reckoned, and with how many of them in a step.

    Which is the most cannot be told before: several small ones are summed, one large one is not. Left out is what another case of
    as many micro-batches exceeds in sequences and in their length.
    """
    cases: dict[Rows, tuple[int, ...]] = {}
    for rows, n in dict.fromkeys(found):
        others = [other for other, m in found if m == n and other != rows]
        if not any(o.batch_sequences >= rows.batch_sequences and o.sequence_length >= rows.sequence_length for o in others):
            cases[rows] = (*cases.get(rows, ()), n)
    return cases


def _most(cases: Iterable[Sequence[Process]]) -> list[Process]:
    """Of each place the process of that case in which it needs the most."""
    return [max(processes, key=lambda p: p.total) for processes in zip(*cases, strict=True)]


def _reckon(
    shape: ModelConfig,
    layout: ParallelConfig,
    precision: Precision,
    float8: Float8,
    rows: Rows,
    numbers: tuple[int, ...],
    moments: Moments,
    lora: Lora | None,
) -> list[Process]:
    """Every place of the pipeline, of steps with so many micro-batches of these rows: of each the most it needs."""
    keeping = replace(layout, recompute="none")
    again = 0 if layout.recompute == "none" else _layer_kept(shape, keeping, precision, float8, rows, lora)
    places = [_kind(shape, layout, float8, place) for place in range(layout.pp)]
    orders: dict[int, list[list[Action]]] = {}
    ranks: dict[Any, dict[int, Rank]] = {}
    for place, kind in enumerate(places):
        if kind not in ranks:
            with pretended(layout, place) as world:
                model = Sharded(shape, world, precision, float8, lora)
                orders = orders or {n: schedule_of(model, rows, n) for n in numbers}
                kept = kept_of(model, EveryToken(), rows)
                ranks[kind] = {n: rank_of(model, kept, rows, n) for n in numbers}
    return _most(
        [_process(place, layout, rows, n, ranks[kind][n], orders[n][place], again, moments) for place, kind in enumerate(places)]
        for n in numbers
    )


def _kind(shape: ModelConfig, layout: ParallelConfig, float8: Float8, place: int) -> Any:
    """What processes at places that are alike have in common: layers, those in FP8, and ends of their stages."""
    of_stages, low = stage_layers(shape.n_layers, layout.stages), float8_layers(float8, shape.n_layers)
    own = own_stages(layout, place)
    return tuple((len(of_stages[i]), sum(n in low for n in of_stages[i]), i == 0, i == layout.stages - 1) for i in own)


def _process(
    place: int, layout: ParallelConfig, rows: Rows, n: int, rank: Rank, actions: list[Action], again: int, moments: Moments
) -> Process:
    """The process at a place, in a step of `n` micro-batches; one layer computed again is `again` bytes."""
    activations, gathered = most_held(actions, own_stages(layout, place), rank)
    of_moments = len(MOMENTS) * rank.trained * DTYPES[moments.dtype].itemsize // torch.float32.itemsize
    here = 0 if moments.offload else of_moments
    on_the_way = 2 * 2 * rank.largest * torch.float32.itemsize
    logits = rows.batch_sequences * rows.sequence_length // layout.cp * rank.head_rows
    return Process(
        place=place,
        layers=rank.layers,
        tensors=rank.tensors,
        elements=rank.elements,
        shapes=rank.shapes,
        weights=rank.weights,
        gathered=gathered,
        gradients=rank.trained,
        summed=rank.summed,
        moments=here,
        activations=activations,
        recomputed=again if rank.layers else 0,
        pipeline=n * rank.received * rank.hidden,
        logits=LOGIT_BYTES * min(logits, MOST_LOGITS),
        host=(of_moments + on_the_way if moments.offload else 0) + (rank.trained + of_moments if moments.behind else 0),
        written=rank.trained + of_moments,
    )


def _layer_kept(
    shape: ModelConfig, layout: ParallelConfig, precision: Precision, float8: Float8, rows: Rows, lora: Lora | None
) -> int:
    """What one layer keeps of a micro-batch: of two layers more than of one; with FP8 of two that compute in it."""
    kept: list[int] = []
    every: Float8 = "none" if float8 == "none" else "every_feed_forward"
    for layers in (1, 2):
        alone = replace(layout, pp=1, pipeline_schedule="1F1B", virtual_stages=1)
        with pretended(alone, 0) as world:
            model = Sharded(replace(shape, n_layers=layers), world, precision, every, lora)
            kept += kept_of(model, EveryToken(), rows)
    return kept[1] - kept[0]


def plain(dry: DryRun) -> dict[str, Any]:
    """A dry run as plain values: `openherd run --dry-run --json`."""
    totals = {"parameters": parameters(dry.shape), "steps": dry.steps, "tokens": dry.tokens, "flops": dry.flops}
    processes = [{**asdict(p), "total": p.total} for p in dry.processes]
    pieces = [{**asdict(p), "micro_batches": dry.micro_batches(p)[0], "tokens": p.tokens} for p in dry.pieces]
    return {**asdict(dry), "processes": processes, "pieces": pieces, **totals}


def fits_text(dry: DryRun, device_gib: float) -> str:
    """'' where every process fits the device, else how much is missing."""
    most = dry.largest
    if most.total <= device_gib * GIB:
        return ""
    return f"{dry.stage} does not fit: {most.total / GIB:.1f} GiB of {device_gib:g} (place {most.place})"


def dry_run_text(dry: DryRun, device_gib: float, host_ranks: int) -> str:
    """What `openherd run --dry-run` prints of a stage."""
    layout, most = dry.parallel, dry.largest
    n = parameters(dry.shape)
    size = f"{n / 1e9:.4g}B" if n >= 1e9 else f"{n / 1e6:.4g}M"
    precision = dry.precision + (f", float8 = {dry.float8}" if dry.float8 != "none" else "")
    spread = f"{layout}" + (f" = {layout.world:,} processes" if layout.world > 1 else "")
    table = [["place", "layers", "tensors", "elements", *PARTS, "total"]]
    for p in dry.processes:
        sizes = [f"{getattr(p, part) / GIB:.2f}" for part in (*PARTS, "total")]
        table.append([f"{p.place}", f"{p.layers}", f"{p.tensors}", f"{p.elements / 1e6:,.1f}M", *sizes])
    steps = [["from step", "steps", "tokens a sequence", "sequences", "a process", "micro-batches", "tokens a step", "tokens"]]
    first = 0
    for piece in dry.pieces:
        many, each = dry.micro_batches(piece)
        shape = [f"{piece.sequence_length:,}", f"{piece.batch_sequences:,}", f"{many * each:,}", f"{many:,} of {each}"]
        tokens = f"{piece.sequence_length * piece.batch_sequences:,}"
        known = [f"{piece.steps:,}", f"{piece.tokens:.4g}"] if piece.steps else ["?", "?"]
        steps.append([f"{first:,}", known[0], *shape, tokens, known[1]])
        first += piece.steps
    six = 6 * n * dry.tokens
    total = f"{dry.steps:,} steps, {dry.tokens:.4g} tokens, {dry.flops:.3g} FLOPs (6 N D: {six:.3g})"
    written, on_host = most.written / GIB, max(p.host for p in dry.processes) / GIB
    hosts = min(host_ranks, layout.world)
    return "\n".join(
        [
            f"{dry.stage}: {size} parameters, {precision}, {spread}",
            "  GiB on the device, by place in the pipeline:",
            *in_columns(table),
            f"  {fits_text(dry, device_gib) or f'fits: {most.total / GIB:.1f} GiB of {device_gib:g}'}",
            f"  a checkpoint: {written:.2f} GiB a process",
            f"  the host's memory, with the copy of one: {on_host:.2f} GiB a process, {hosts * on_host:.1f} for {hosts} of a host",
            "  steps:",
            *in_columns(steps),
            f"  {total if dry.steps else 'as many steps as its data make'}",
            *first_steps_text(dry),
            "  a process's tensors:",
            *shapes_text(dry.processes),
        ]
    )


def first_steps_text(dry: DryRun) -> list[str]:
    """The batches of the first steps, and where the first one's sequences come from, in lines."""
    if not dry.rates:
        return []
    table = [["step", "learning rate", "a process", "micro-batches", "tokens of all"]]
    pieces = itertools.chain.from_iterable([piece] * piece.steps for piece in dry.pieces)
    for step, (rate, piece) in enumerate(zip(dry.rates, pieces, strict=False)):
        many, each = dry.micro_batches(piece)
        rows = f"{many * each:,} x {piece.sequence_length:,}", f"{many:,} of {each} x {piece.sequence_length:,}"
        table.append([f"{step}", f"{rate:.4g}", *rows, f"{piece.batch_sequences * piece.sequence_length:,}"])
    shares = ", ".join(f"{100 * share:.1f}% {name}" for name, share in dry.sources.items())
    return ["  first steps:", *in_columns(table), f"  the first batch: {shares or 'of shards that are not here yet'}"]


def shapes_text(processes: Sequence[Process]) -> list[str]:
    """The shapes of what processes hold of the parameters, in a line for all places where they are alike."""
    alike: dict[Any, list[int]] = {}
    for p in processes:
        alike.setdefault(p.shapes, []).append(p.place)
    return [
        f"    at {', '.join(map(str, places))}: "
        + ", ".join(f"{n} of {' x '.join(f'{size:,}' for size in shape)}" for shape, n in shapes)
        for shapes, places in alike.items()
    ]


def in_columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows whose columns end below each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]

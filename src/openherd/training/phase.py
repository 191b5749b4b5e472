"""What the three phases of pre-training share: shapes by step, sources by weight, and the hand-over from one to the next (paper
3.4).

Lengths are in tokens. Every phase writes `model/`, a Hugging Face directory with the tokenizer in it, and `state/`, the
optimizer's, which the next phase takes up.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from openherd.core.config import nearest
from openherd.core.errors import ConfigError, InputError
from openherd.core.remote import RemoteRun
from openherd.core.rundir import Output, Run, file_sha256
from openherd.data.batches import IGNORED, BatchSource
from openherd.data.block_cache import BlockCache
from openherd.data.mix import MIXES
from openherd.data.token_shards import TokenShards
from openherd.model.config import ModelConfig
from openherd.model.flops import flops_per_token, parameters
from openherd.model.peaks import mfu, mfu_text
from openherd.model.weights import model_of, read_tensors, write_model
from openherd.parallel.apply import Sharded
from openherd.parallel.layout import Rows, check_layout
from openherd.parallel.lora import Lora, with_adapters
from openherd.parallel.mesh import World
from openherd.parallel.stage import Batch
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.training.goodput import close, goodput_text
from openherd.training.loop import OTHERS, STATE, Part, train
from openherd.training.objective import NextToken
from openherd.training.settings import COMPUTE, TrainingConfig, open_world, read_compute

PHASES = "phases"  # of a run's metrics: how many runs of each phase made its model, one behind the other
WANTED_STEPS = 8  # whose tokens are fetched before they are read, where the shards lie elsewhere; ours


@dataclass(frozen=True, kw_only=True)
class PhaseConfig(TrainingConfig):
    """Settings that every phase has."""

    source_weights: Annotated[dict[str, float], Field(description="share of each source; empty: by its tokens")] = field(
        default_factory=dict
    )
    source_mix: Annotated[
        Literal["given", "paper", "tutorial"],
        Field(description="shares by name, of sources as mix-documents makes them: the paper's, the tutorial's; or source_weights"),
    ] = "given"
    most_epochs: Annotated[float, Field(description="refuse to see a source more often than this", gt=0)] = 4.0
    # Both are in no digest: they say where tokens are kept, not which.
    cache_directory: Annotated[
        str, Field(description="where blocks of shards that lie elsewhere are kept, on a disk of this machine; ours")
    ] = "~/.cache/openherd"
    cache_gb: Annotated[float, Field(description="largest size of that cache, of all processes of this machine; ours", gt=0)] = 10.0

    def asked_weights(self) -> dict[str, float]:
        """The weights that the settings ask for; none: by tokens. Raises ConfigError where they ask twice."""
        if self.source_mix == "given":
            return self.source_weights
        if self.source_weights:
            raise ConfigError("source_weights", f"weights, and source_mix = {self.source_mix!r}", allowed="one of them")
        return dict(MIXES[self.source_mix])


@dataclass(frozen=True)
class Piece:
    """Steps of one shape."""

    sequence_length: int
    batch_sequences: int
    steps: int

    @property
    def rows(self) -> Rows:
        """The shape of a step's batch."""
        return Rows(self.batch_sequences, self.sequence_length)

    @property
    def tokens(self) -> int:
        """Tokens of the whole piece."""
        return self.sequence_length * self.batch_sequences * self.steps


def piece(name: str, sequence_length: int, batch_tokens: int, steps: int) -> Piece:
    """Steps of `batch_tokens` tokens. Raises ConfigError where that is no whole number of sequences."""
    if sequence_length < 1 or batch_tokens < 1:
        raise ConfigError(name, f"sequence length {sequence_length}, batch_tokens {batch_tokens}", allowed="at least 1")
    if batch_tokens % sequence_length:
        raise ConfigError(name, f"batch_tokens = {batch_tokens}", allowed=f"a multiple of the sequence length {sequence_length}")
    return Piece(sequence_length, batch_tokens // sequence_length, steps)


def batches(shards: TokenShards, pieces: Sequence[Piece], seed: int, phase: str, weights: dict[str, float]) -> Part:
    """The rows of one process in a step: a pure function of seed, phase and step; the process is only a slice.

    A piece goes on where those before have come to, and its samples are parts of the windows of the longest sequences that its own
    divide: so a ramp visits each window once an epoch.
    """
    sources: list[BatchSource] = []
    taken: Counter[int] = Counter()  # windows, by their length
    for p in pieces:
        longest = max(q.sequence_length for q in pieces if q.sequence_length % p.sequence_length == 0)
        parts = longest // p.sequence_length
        end = taken[longest] - (-p.batch_sequences * p.steps // parts)
        stretch, taken[longest] = range(taken[longest], end), end
        name = f"{phase}.{longest}"
        sources.append(BatchSource(shards, seed, name, p.sequence_length, weights, parts=parts, stretch=stretch))

    def rows(step: int, place: int, n: int) -> tuple[BatchSource, int, int, int]:
        """A process's source, first sample and number of rows, and how many of these are another's: of an uneven share."""
        for source, p in zip(sources, pieces, strict=True):
            if step < p.steps:
                each = -(-p.batch_sequences // n)
                first = min(place * each, p.batch_sequences - each)
                return source, step * p.batch_sequences + first, each, place * each - first
            step -= p.steps
        raise IndexError(step)

    def part(step: int, place: int, n: int) -> Batch:
        if shards.are_elsewhere:
            for later in range(step, min(step + WANTED_STEPS, sum(p.steps for p in pieces))):
                source, first, each, _ = rows(later, place, n)
                source.want(first, each)
        source, first, each, others = rows(step, place, n)
        arrays = source.batch(first, each)
        if others:
            arrays["labels_BT"][:others] = IGNORED
            arrays[OTHERS] = np.arange(each) < others
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    return part


@contextmanager
def open_shards(run: Run | RemoteRun, tokenizer: Tokenizer, config: PhaseConfig) -> Iterator[TokenShards]:
    """The shards of a run, here or elsewhere. Raises InputError where another tokenizer made them."""
    if isinstance(run, Run):
        yield checked_tokenizer(TokenShards.open(run), tokenizer)
        return
    cache = BlockCache(Path(config.cache_directory).expanduser(), int(config.cache_gb * 1e9))
    try:
        yield checked_tokenizer(TokenShards.open(run, cache), tokenizer)
    finally:
        cache.close()


def checked_tokenizer(shards: TokenShards, tokenizer: Tokenizer) -> TokenShards:
    """The shards, where it is this tokenizer that made them. Raises InputError."""
    file = tokenizer.directory / "tokenizer.json"
    if shards.tokenizer_sha256 != file_sha256(file):
        do = "run token-shards with it, or give the one it was made with"
        raise InputError(shards.path, f"not made with the tokenizer {file}", do=do)
    return shards


def all_weights(shards: TokenShards, given: dict[str, float]) -> dict[str, float]:
    """Weights of the sources that are used: those given, or each by its tokens. Raises ConfigError for an unknown source."""
    for name in given:
        if name not in shards.tokens:
            raise ConfigError("source_weights", f"no source {name!r}", do=nearest(name, shards.tokens))
    if (given and not sum(given.values()) > 0) or any(w < 0 for w in given.values()):
        raise ConfigError("source_weights", str(given), allowed="weights of at least 0, one of them more")
    return {
        name: given.get(name, 0.0) if given else float(n)
        for name, n in shards.tokens.items()
        if not given or given.get(name, 0) > 0
    }


def check_epochs(
    shards: TokenShards, pieces: Sequence[Piece], weights: dict[str, float], most: float, where: str = "training"
) -> dict[str, float]:
    """How often each token of a source is seen, on average. Raises ConfigError where that is more than `most`."""
    tokens = sum(p.tokens for p in pieces)
    total = sum(weights.values())
    epochs = {name: tokens * weight / total / shards.tokens[name] for name, weight in weights.items()}
    for name, n in epochs.items():
        if n > most:
            found = f"source {name!r} has {shards.tokens[name]:,} tokens and would be seen {n:.1f} times"
            do = "give more data, train less, or raise most_epochs"
            raise ConfigError(where, found, allowed=f"most_epochs = {most:g}", do=do)
    return epochs


@dataclass(frozen=True)
class Base:
    """The phase before, opened to go on from."""

    world: World
    shape: ModelConfig
    tensors: dict[str, torch.Tensor]  # the mapped files
    tokenizer: Tokenizer
    state: Path | None  # of the optimizer; None where it has none that fits all weights
    precision: str
    phases: dict[str, int]  # how many runs of each made it

    @classmethod
    def open(cls, run: Run, config: TrainingConfig, out: Output) -> "Base":
        """Find model, tokenizer and where the optimizer's state lies; compute as that phase did where the settings say 'auto'."""
        trained = COMPUTE in run.manifest["outputs"]  # others bring neither settings nor an optimizer
        world, precision = open_world(config, out, read_compute(run.file(COMPUTE)) if trained else None)
        state = run.path / STATE if trained and not run.manifest["settings"].get("lora_rank") else None
        directory = model_of(run)[0]
        shape, tensors = read_tensors(directory)
        phases = run.metrics.get(PHASES, {})
        return cls(world, shape, tensors, Tokenizer.load(directory), state, precision, phases)

    def model(
        self,
        name: str,
        config: TrainingConfig,
        rows: Sequence[Rows],
        shape: ModelConfig | None = None,
        lora: Lora | None = None,
    ) -> Sharded:
        """Its model, in fp32; `shape` may have another RoPE and context.

        Raises ConfigError where sequences are longer than the context, or the layout cannot run it.
        """
        shape = shape or self.shape
        if (longest := max((r.sequence_length for r in rows), default=0)) > shape.max_positions:
            allowed = f"at most {shape.max_positions}, the model's context"
            raise ConfigError(name, f"sequence_length = {longest}", allowed=allowed)
        in_layers_alone = lora is not None and lora.in_layers_alone
        check_layout(name, self.world.layout, shape, rows, config.micro_batch_sequences, in_layers_alone=in_layers_alone)
        model = Sharded(shape, self.world, self.precision, config.float8, lora)
        read = self.tensors.__getitem__
        model.fill(read if lora is None else with_adapters(read, lora, config.seed))
        return model


def train_phase(
    phase: str,
    model: Sharded,
    shards: TokenShards,
    pieces: Sequence[Piece],
    learning_rate_at: Callable[[int], float],
    config: PhaseConfig,
    out: Output,
    *,
    phases: Mapping[str, int],
    optimizer_from: Path | None = None,
    snapshot_steps: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Train `model` in place on the pieces of one phase; returns metrics. `phases` are those behind it: where this one is among
    them, the data come in another order than then. Raises ConfigError where a source is seen too often."""
    if shards.vocabulary > model.shape.vocabulary:  # a model may have more, some tables of embeddings are rounded up
        raise ConfigError(
            shards.path, f"tokens of a vocabulary of {shards.vocabulary:,}", allowed=f"{model.shape.vocabulary:,}, the model's"
        )
    nth = phases.get(phase, 0) + 1
    order = phase if nth == 1 else f"{phase}-{nth}"
    weights = all_weights(shards, config.asked_weights())
    epochs = check_epochs(shards, pieces, weights, config.most_epochs)
    metrics = train(
        model,
        NextToken(),
        batches(shards, pieces, config.seed, order, weights),
        learning_rate_at,
        sum(p.steps for p in pieces),
        config,
        out,
        what=phase,
        optimizer_from=optimizer_from,
        snapshot_steps=snapshot_steps,
    )
    flops = sum(flops_per_token(model.shape, p.sequence_length) * p.tokens for p in pieces)
    applied, seconds = flops * metrics["tokens"] / sum(p.tokens for p in pieces), metrics["goodput_s"]
    used = mfu(applied, seconds.get("productive", 0.0), out.device, metrics["precision"], model.world.layout.world)
    told = mfu_text(used)
    if model.lora is not None:  # frozen weights have no gradients of their own: these are not the model's FLOPs
        used, told = None, "not counted with adapters"
    if out.leads:
        sys.stderr.write(f"      {goodput_text(seconds)} · MFU {told}\n")
    return {
        **metrics,
        "mfu": used or told,
        "parameters": parameters(model.shape),
        "context": model.shape.max_positions,
        "flops": flops,
        "epochs": epochs,
        PHASES: {**phases, phase: nth},
    }


def write_trained(model: Sharded, tokenizer: Tokenizer, out: Output) -> dict[str, Any]:
    """Write `model/`: weights, shape and tokenizer; returns metrics of the time. Every process takes part, one tensor at a time."""
    if not out.leads:
        for name in model.names():
            model.whole(name)
        return {}
    with out.write("model") as path:
        write_model(model.shape, torch.float32, model.whole, path, bos=tokenizer.bos_id, eos=sorted(tokenizer.stop_ids))
        tokenizer.save(path)
    return close(out)

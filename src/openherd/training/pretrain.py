"""Initial pre-training (paper 3.4.1): warm-up, cosine, and a batch that grows with the tokens seen.

The batch ramp is a list of pieces; each has a sequence length, a batch size, and the number of tokens after which the next
begins.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from openherd.core.config import nearest
from openherd.core.errors import ConfigError
from openherd.core.remote import RemoteRun
from openherd.core.rundir import Output, Run
from openherd.model.config import SIZES, ModelConfig
from openherd.model.init import initial_weights
from openherd.parallel.apply import Sharded
from openherd.parallel.layout import check_layout
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.training.phase import PhaseConfig, Piece, open_shards, piece, train_phase, write_trained
from openherd.training.schedule import warmup_cosine
from openherd.training.settings import open_world


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(PhaseConfig):
    """Settings of pre-training; the defaults are the 405B's (paper 3.4.1) where no other source is named."""

    size: Annotated[str, Field(description="a model size: see 'openherd model list'")] = "llama3-405b"
    embedding_std: Annotated[
        float, Field(description="of initial embeddings, small where they are tied; the paper is silent", gt=0)
    ] = 0.02
    depth_scaled_init: Annotated[
        bool, Field(description="divide the residual projections by sqrt(2 layers); the paper is silent")
    ] = True
    # 61 steps of 4M, 342,095 of 8M and 758,771 of 16M tokens make the paper's 15.6T.
    steps: Annotated[int, Field(description="optimizer steps of this phase", ge=1)] = 1_100_927
    sequence_lengths: Annotated[tuple[int, ...], Field(description="tokens per sequence, by piece of the ramp", min_length=1)] = (
        4_096, 8_192, 8_192,
    )  # fmt: skip
    batch_tokens: Annotated[tuple[int, ...], Field(description="tokens per step, by piece", min_length=1)] = (
        4_194_304, 8_388_608, 16_777_216,
    )  # fmt: skip
    # 252M tokens end inside the warm-up; the paper prints it so, and so does every copy.
    ramp_tokens: Annotated[tuple[int, ...], Field(description="tokens seen when the next piece begins")] = (
        252_000_000,
        2_870_000_000_000,
    )
    learning_rate: Annotated[float, Field(description="peak; the paper: 8B 3e-4, 70B 1.5e-4, 405B 8e-5", gt=0)] = 8e-5
    final_learning_rate: Annotated[float, Field(description="floor of the cosine", ge=0)] = 8e-7
    warmup_steps: Annotated[int, Field(description="steps of linear warm-up", ge=0)] = 8_000
    decay_steps: Annotated[int, Field(description="step at which the cosine reaches its floor", ge=1)] = 1_200_000

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ConfigError("pretrain", f"unknown size {self.size!r}", do=nearest(self.size, SIZES))
        check_layout("pretrain", self.parallel, SIZES[self.size], [p.rows for p in self.pieces()], self.micro_batch_sequences)

    def pieces(self) -> list[Piece]:
        """The steps, by piece of the ramp."""
        return ramp(self)

    def shape(self, vocabulary: int) -> ModelConfig:
        """The model that is trained: RoPE as the paper describes it, and a context of the longest sequence."""
        longest = max(p.sequence_length for p in self.pieces())
        return replace(SIZES[self.size], vocabulary=vocabulary, rope_scaling=None, max_positions=longest)


def ramp(config: PretrainConfig) -> list[Piece]:
    """The pieces of the batch ramp that `steps` steps go through. Raises ConfigError where the lists do not fit together."""
    n = len(config.batch_tokens)
    if len(config.sequence_lengths) != n or len(config.ramp_tokens) != n - 1:
        found = f"{n} batch_tokens, {len(config.sequence_lengths)} sequence_lengths, {len(config.ramp_tokens)} ramp_tokens"
        raise ConfigError("pretrain", found, allowed="as many sequence_lengths as batch_tokens, and one ramp_tokens fewer")
    pieces: list[Piece] = []
    seen, left = 0, config.steps
    for i, (length, batch) in enumerate(zip(config.sequence_lengths, config.batch_tokens, strict=True)):
        steps = left if i == n - 1 else min(left, max(-(-(config.ramp_tokens[i] - seen) // batch), 0))
        if steps:
            pieces.append(piece("pretrain", length, batch, steps))
        seen += steps * batch
        left -= steps
    return pieces


def pretrain(config: PretrainConfig, *, shards: Run | RemoteRun, tokenizer: Run, out: Output) -> dict[str, Any]:
    """Train a new model on token shards (paper 3.4.1)."""
    words = Tokenizer.load(tokenizer.file("tokenizer/tokenizer.json").parent)
    peak, floor = config.learning_rate, config.final_learning_rate
    learning_rate_at = partial(
        warmup_cosine, peak=peak, floor=floor, warmup_steps=config.warmup_steps, decay_steps=config.decay_steps
    )
    pieces, shape = config.pieces(), config.shape(words.vocabulary)
    with open_shards(shards, words, config) as tokens:
        world, precision = open_world(config, out)
        check_layout("pretrain", world.layout, shape, [p.rows for p in pieces], config.micro_batch_sequences)
        model = Sharded(shape, world, precision, config.float8)
        model.fill(initial_weights(shape, config.seed, embedding_std=config.embedding_std, depth_scaled=config.depth_scaled_init))
        metrics = train_phase("pretrain", model, tokens, pieces, learning_rate_at, config, out, phases={})
    write_trained(model, words, out)
    return metrics

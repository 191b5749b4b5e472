"""Long-context pre-training (paper 3.4.2): the sequence length raised in stages, with the RoPE change of Llama 3.1.

The paper went from 8K to 128K tokens in six stages over about 800B tokens, at the learning rate it had reached. It does not
mention the frequency scaling that its released code applies (factor 8); whether that was on during training is not known. Here it
is applied from the first stage on, to the context that the model had before any scaling: of a base that is scaled already, such as
Llama 3.1 or an earlier run of this stage, the factor is raised or left. `rope_theta` raises the base instead or as well (the
tutorial's 500K to 8M is one setting away). Its gates are a stage of their own, `context-gate`; where they fail, another run of
this stage behind this one goes on, on the same sources in another order. The tutorial anneals first: the base is then the mean of
annealing's checkpoints, with the optimizer's moments of the last of them.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from openherd.core.errors import ConfigError
from openherd.core.remote import RemoteRun
from openherd.core.rundir import Output, Run
from openherd.model.config import ModelConfig, RopeScaling
from openherd.training.phase import Base, PhaseConfig, Piece, open_shards, piece, train_phase, write_trained
from openherd.training.schedule import warmup_cosine


@dataclass(frozen=True, kw_only=True)
class LongContextConfig(PhaseConfig):
    """Settings of long-context training. The paper gives six stages from 8K to 128K and about 800B tokens, not those between."""

    sequence_lengths: Annotated[tuple[int, ...], Field(description="tokens per sequence, by stage", min_length=1)] = (
        16_384, 32_768, 65_536, 131_072, 131_072, 131_072,
    )  # fmt: skip
    stage_steps: Annotated[tuple[int, ...], Field(description="optimizer steps, by stage", min_length=1)] = (
        8_000, 8_000, 8_000, 8_000, 8_000, 7_684,
    )  # fmt: skip
    batch_tokens: Annotated[int, Field(description="tokens per step (paper, Table 4)", ge=1)] = 16_777_216
    learning_rate: Annotated[
        float, Field(description="constant; the paper is silent, the cosine had come near its floor", gt=0)
    ] = 8e-7
    warmup_steps: Annotated[
        int, Field(description="steps of linear warm-up, for a base that was annealed to zero, as the tutorial's is; ours", ge=0)
    ] = 0
    rope_factor: Annotated[
        float,
        Field(description="Llama 3.1's frequency scaling, the base's counted in; 1 leaves it as it is", ge=1),
    ] = 8.0
    rope_theta: Annotated[
        float,
        Field(description="RoPE base; 0 keeps it, as the paper its 500,000; the tutorial raises it to 8,000,000", ge=0),
    ] = 0.0

    def __post_init__(self) -> None:
        if len(self.sequence_lengths) != len(self.stage_steps) or min(self.stage_steps) < 1:
            found = f"{len(self.sequence_lengths)} sequence_lengths, stage_steps {list(self.stage_steps)}"
            raise ConfigError("long-context", found, allowed="as many of one as of the other, and at least 1 step in each stage")
        self.pieces()

    def pieces(self) -> list[Piece]:
        """The stages. Raises ConfigError where a batch is no whole number of sequences."""
        stages = zip(self.sequence_lengths, self.stage_steps, strict=True)
        return [piece("long-context", length, self.batch_tokens, steps) for length, steps in stages]


def rescaled(shape: ModelConfig, config: LongContextConfig) -> ModelConfig:
    """The shape with the longer context and its RoPE change. Raises ConfigError for a factor under that of the base."""
    scaling = shape.rope_scaling
    if config.rope_factor > 1:
        if scaling is not None and config.rope_factor < scaling.factor:
            found = f"rope_factor = {config.rope_factor:g}"
            raise ConfigError("long-context", found, allowed=f"1, which leaves the base's {scaling.factor:g}, or at least that")
        scaling = replace(scaling or RopeScaling(original_positions=shape.max_positions), factor=config.rope_factor)
    theta = config.rope_theta or shape.rope_theta
    return replace(shape, rope_scaling=scaling, rope_theta=theta, max_positions=max(config.sequence_lengths))


def long_context(config: LongContextConfig, *, base: Run, shards: Run | RemoteRun, out: Output) -> dict[str, Any]:
    """Go on from `base` with longer sequences (paper 3.4.2)."""
    before = Base.open(base, config, out)
    shape = rescaled(before.shape, config)
    peak = config.learning_rate
    with open_shards(shards, before.tokenizer, config) as tokens:
        model = before.model("long-context", config, [p.rows for p in config.pieces()], shape)
        metrics = train_phase(
            "long-context",
            model,
            tokens,
            config.pieces(),
            partial(warmup_cosine, peak=peak, floor=peak, warmup_steps=config.warmup_steps, decay_steps=config.warmup_steps),
            config,
            out,
            phases=before.phases,
            optimizer_from=before.state,
        )
    write_trained(model, before.tokenizer, out)
    return {**metrics, "context_before": before.shape.max_positions}

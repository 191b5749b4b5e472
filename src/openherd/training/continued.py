"""Continued pre-training of a finished model on new text (after paper 3.4): a fresh optimizer, the learning rate warmed up again
and taken down by a cosine, and a replayed share of general text against forgetting.

The paper goes on from its own phases alone. Warming up again, a cosine down and replay are the recipe of Ibrahim et al. 2024
(arXiv 2403.08763), who replayed 5% for text near the old one and 25% and more for another language. With `lora_rank` the base is
frozen and low-rank adapters are trained (Biderman et al. 2024, arXiv 2405.09673: it learns less and forgets less), which `model/`
has added in.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field

from openherd.core.config import nearest
from openherd.core.errors import ConfigError
from openherd.core.remote import RemoteRun
from openherd.core.rundir import Output, Run
from openherd.data.token_shards import TokenShards
from openherd.parallel.lora import Lora, Projection, Whole
from openherd.training.phase import Base, PhaseConfig, Piece, all_weights, open_shards, piece, train_phase, write_trained
from openherd.training.schedule import warmup_cosine


@dataclass(frozen=True, kw_only=True)
class ContinuePretrainConfig(PhaseConfig):
    """Settings of continued pre-training. The paper is silent; where no other source is named the defaults are ours, for an 8B."""

    replay: Annotated[
        dict[str, float],
        Field(description="general sources and each one's share of all sequences; the others share the rest by source_weights"),
    ] = field(default_factory=dict)
    steps: Annotated[int, Field(description="optimizer steps", ge=1)] = 2_000
    sequence_length: Annotated[int, Field(description="tokens per sequence; paper 3.4.1: 8,192", ge=1)] = 8_192
    batch_tokens: Annotated[int, Field(description="tokens per step", ge=1)] = 524_288
    learning_rate: Annotated[
        float, Field(description="peak; a tenth of the paper's for the 8B; adapters want about ten times it", gt=0)
    ] = 3e-5
    final_learning_rate: Annotated[float, Field(description="floor of the cosine; Ibrahim et al.: a tenth of the peak", ge=0)] = (
        3e-6
    )
    warmup_steps: Annotated[int, Field(description="steps of linear warm-up; Ibrahim et al.: 1%; little depends on it", ge=0)] = 20
    lora_rank: Annotated[int, Field(description="rank of low-rank adapters on a frozen base; 0 trains all weights", ge=0)] = 0
    lora_alpha: Annotated[float, Field(description="their product is multiplied by alpha / rank", gt=0)] = 32.0
    lora_projections: Annotated[
        tuple[Projection, ...], Field(description="which get adapters; Biderman et al.: all", min_length=1)
    ] = ("query", "key", "value", "output", "gate", "up", "down")
    lora_whole: Annotated[
        tuple[Whole, ...], Field(description="trained whole beside the adapters: embeddings (with the head), norms")
    ] = ()
    lora_bf16: Annotated[bool, Field(description="keep what is frozen in bf16 instead of fp32; needs bf16 compute")] = False

    def __post_init__(self) -> None:
        self.pieces()
        if self.warmup_steps >= self.steps:
            raise ConfigError("continue-pretrain", f"warmup_steps = {self.warmup_steps}", allowed=f"under steps = {self.steps}")
        if any(share <= 0 for share in self.replay.values()) or sum(self.replay.values()) >= 1:
            raise ConfigError("continue-pretrain", f"replay = {self.replay}", allowed="shares over 0, under 1 together")
        if both := sorted(self.replay.keys() & self.source_weights.keys()):
            raise ConfigError("continue-pretrain", f"{both[0]!r} stands in replay and in source_weights", allowed="one of them")
        if self.lora_rank and self.float8 != "none":
            raise ConfigError("continue-pretrain", f"lora_rank with float8 = {self.float8!r}", allowed="one of them")
        if self.lora_rank and self.parallel.pipeline_schedule == "ZBV":
            # Its way back is in two halves, of which the one for the weights finds none in what is frozen.
            raise ConfigError("continue-pretrain", "lora_rank with pipeline_schedule = 'ZBV'", allowed="1F1B or interleaved")

    def pieces(self) -> list[Piece]:
        """The steps. Raises ConfigError where a batch is no whole number of sequences."""
        return [piece("continue-pretrain", self.sequence_length, self.batch_tokens, self.steps)]

    def learning_rate_at(self, step: int) -> float:
        """Of a step, the first being 0."""
        peak, floor = self.learning_rate, self.final_learning_rate
        return warmup_cosine(step, peak=peak, floor=floor, warmup_steps=self.warmup_steps, decay_steps=self.steps)

    @property
    def lora(self) -> Lora | None:
        """The adapters; None where all weights are trained."""
        if not self.lora_rank:
            return None
        return Lora(self.lora_rank, self.lora_alpha, self.lora_projections, self.lora_whole, self.lora_bf16)


def with_replay(shards: TokenShards, config: ContinuePretrainConfig) -> dict[str, float]:
    """Each source's share of all sequences. Raises ConfigError for an unknown source, and where replay leaves none."""
    for name in config.replay:
        if name not in shards.tokens:
            raise ConfigError("replay", f"no source {name!r}", do=nearest(name, shards.tokens))
    new = {name: w for name, w in all_weights(shards, config.asked_weights()).items() if name not in config.replay}
    if not new:
        raise ConfigError("replay", "every source is replayed", allowed="one source of new text at least")
    rest = (1 - sum(config.replay.values())) / sum(new.values())
    return {name: weight * rest for name, weight in new.items()} | config.replay


def continue_pretrain(config: ContinuePretrainConfig, *, base: Run, shards: Run | RemoteRun, out: Output) -> dict[str, Any]:
    """Go on from any model with a fresh optimizer, on new text and a replayed share of general text."""
    before = Base.open(base, config, out)
    lora = config.lora
    if lora is not None and lora.bf16 and before.precision != "bfloat16":
        raise ConfigError("continue-pretrain", f"lora_bf16 with precision {before.precision}", allowed="precision = 'bfloat16'")
    if lora is not None and base.manifest["stage"] == "extend-tokenizer" and "embeddings" not in lora.whole:
        found = "lora_rank on a base with new tokens, whose rows would stay means"
        raise ConfigError("continue-pretrain", found, allowed="lora_whole = ['embeddings'] with it")
    model = before.model("continue-pretrain", config, [p.rows for p in config.pieces()], lora=lora)
    with open_shards(shards, before.tokenizer, config) as tokens:
        shares = with_replay(tokens, config)
        mixed = replace(config, source_mix="given", source_weights=shares, replay={})
        pieces, rate = config.pieces(), config.learning_rate_at
        metrics = train_phase("continue-pretrain", model, tokens, pieces, rate, mixed, out, phases=before.phases)
    metrics |= write_trained(model, before.tokenizer, out)
    return {**metrics, "shares": shares}

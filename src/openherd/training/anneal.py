"""Annealing (paper 3.4.3): the learning rate falls linearly to zero on upweighted high-quality sources; the checkpoints are
averaged.

The paper prints 40M tokens, which are 2.4 of its steps although it averages checkpoints "during annealing"; its annealing
experiments use 40B (fact sheet 0.2 b). The length is a setting; the default is 40B tokens' steps. The tutorial's 1T tokens are
59,605 steps.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field

from openherd.core.errors import ConfigError
from openherd.core.remote import RemoteRun
from openherd.core.rundir import Output, Run
from openherd.model.transformer import Transformer
from openherd.model.weights import model_of, read_config
from openherd.parallel.apply import Sharded
from openherd.parallel.checkpoint import load_state
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World
from openherd.training.loop import STATE, average_snapshots
from openherd.training.phase import Base, PhaseConfig, Piece, open_shards, piece, train_phase, write_trained
from openherd.training.schedule import linear_to_zero


@dataclass(frozen=True, kw_only=True)
class AnnealConfig(PhaseConfig):
    """Settings of annealing."""

    steps: Annotated[int, Field(description="optimizer steps", ge=1)] = 2_384
    sequence_length: Annotated[int, Field(description="tokens per sequence; the paper keeps the long context", ge=1)] = 131_072
    batch_tokens: Annotated[int, Field(description="tokens per step", ge=1)] = 16_777_216
    learning_rate: Annotated[float, Field(description="where the fall to zero starts; the paper is silent", gt=0)] = 8e-7
    averaged_checkpoints: Annotated[
        int, Field(description="checkpoints averaged; 1 takes the last alone; the paper is silent", ge=1)
    ] = 5
    average_over: Annotated[
        float, Field(description="share of the steps, at the end, that they are spread over; ours", gt=0, le=1)
    ] = 0.25

    def __post_init__(self) -> None:
        self.pieces()
        if self.averaged_checkpoints > self.steps:
            found = f"averaged_checkpoints = {self.averaged_checkpoints}"
            raise ConfigError("anneal", found, allowed=f"at most steps = {self.steps}")

    def pieces(self) -> list[Piece]:
        """The steps. Raises ConfigError where a batch is no whole number of sequences."""
        return [piece("anneal", self.sequence_length, self.batch_tokens, self.steps)]


def snapshot_steps(steps: int, n: int, over: float) -> tuple[int, ...]:
    """Steps after which the averaged checkpoints are taken: evenly over the last `over` of the phase, the last step among them."""
    span = max(steps * over, 1.0)
    return tuple(sorted({max(round(steps - span * i / n), 1) for i in range(n)}))


def last_checkpoint(run: Run, device: torch.device) -> Transformer:
    """The model of a finished phase as its last step left it, before checkpoints were averaged."""
    model = Sharded(read_config(model_of(run)[0]), World(ParallelConfig(), device), "float32")
    load_state(run.path / STATE, model, None, {})
    return model.stages[0].model


def anneal(config: AnnealConfig, *, base: Run, shards: Run | RemoteRun, out: Output) -> dict[str, Any]:
    """Go on from `base` with a learning rate that falls to zero, and average its last checkpoints (paper 3.4.3)."""
    before = Base.open(base, config, out)
    with open_shards(shards, before.tokenizer, config) as tokens:
        model = before.model("anneal", config, [p.rows for p in config.pieces()])
        metrics = train_phase(
            "anneal",
            model,
            tokens,
            config.pieces(),
            lambda step: linear_to_zero(step, peak=config.learning_rate, steps=config.steps),
            config,
            out,
            phases=before.phases,
            optimizer_from=before.state,
            snapshot_steps=snapshot_steps(config.steps, config.averaged_checkpoints, config.average_over),
        )
    averaged = average_snapshots(model, out)
    write_trained(model, before.tokenizer, out)
    return {**metrics, "averaged_checkpoints": averaged}

"""Pipeline parallelism by torch's schedules (paper 3.3.2): 1F1B, interleaved with several stages a process, and ZBV.

A schedule is made for one shape of micro-batches; a run whose sequences grow has one for each. Shapes are told, not tried out.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B, ScheduleZBVZeroBubble
from torch.distributed.pipelining.schedules import _PipelineSchedule

from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World
from openherd.parallel.stage import Batch, Stage


def own_stages(layout: ParallelConfig, place: int) -> list[int]:
    """The numbers of the stages of the process at `place`: in turns, or for ZBV in a V."""
    if layout.pipeline_schedule == "ZBV" and layout.pp > 1:
        return [place, 2 * layout.pp - 1 - place]
    return [place + i * layout.pp for i in range(layout.stages // layout.pp)]


def stage_process(layout: ParallelConfig, stage: int) -> int:
    """The place in the pipeline of the process that has a stage."""
    return next(place for place in range(layout.pp) if stage in own_stages(layout, place))


class Pipeline:
    """The schedule of one shape of micro-batches, shape (B, T) before the sequence is cut."""

    def __init__(self, stages: Sequence[Stage], world: World, shape: tuple[int, int], n: int, terms: int) -> None:
        layout = world.layout
        self.stages = stages
        assert world.mesh is not None
        rows, tokens = shape
        hidden = torch.empty(
            rows, tokens // (layout.cp * layout.tp), stages[0].model.config.d_model, device="meta", requires_grad=True
        )
        sums = torch.empty(terms, device="meta", requires_grad=True)
        made: list[Any] = [
            PipelineStage(
                stage,
                number,
                layout.stages,
                world.device,
                input_args=torch.empty(rows, tokens // layout.cp, dtype=torch.int64, device="meta") if stage.first else hidden,
                output_args=sums if stage.last else hidden,
                group=world.mesh.get_group("pp"),
            )
            for stage, number in zip(stages, own_stages(layout, world.index("pp")), strict=True)
        ]
        more: dict[str, Any] = {"n_microbatches": n, "loss_fn": self.loss, "scale_grads": False}
        self.schedule: _PipelineSchedule
        if layout.pipeline_schedule == "1F1B":
            self.schedule = Schedule1F1B(made[0], **more)
        elif layout.pipeline_schedule == "interleaved":
            self.schedule = ScheduleInterleaved1F1B(made, **more)
        else:
            self.schedule = ScheduleZBVZeroBubble(made, **more)

    def loss(self, sums: Tensor, _: Tensor) -> Tensor:
        """What a micro-batch adds to the step's loss."""
        self.total += sums.detach()
        return (sums / self.counts).sum()

    def run(self, batch: Batch, counts: Tensor) -> Tensor:
        """Forward and backward of all micro-batches; returns the sums of the losses, zero but on the last stage's process."""
        self.counts, self.total = counts, torch.zeros_like(counts)
        first = [batch["tokens_BT"]] if any(stage.first for stage in self.stages) else []
        step: Callable[..., Any] = self.schedule.step
        step(*first, target=batch["tokens_BT"], return_outputs=False, **batch)
        return self.total

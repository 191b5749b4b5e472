"""A pipeline stage: some of the model's layers, the embedding before the first, the norm, the head and the loss after the last.

Without a pipeline the whole model is the one stage. Every stage is given the micro-batch, since each needs its positions and
documents; hidden states alone go from one to the next.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from openherd.model.transformer import Transformer
from openherd.parallel.context import attend_of
from openherd.parallel.mesh import World
from openherd.parallel.tensor import Head, gather_sequence, head_of

Batch = dict[str, Tensor]
EMBED, HEAD = "embed.weight", "head.weight"


class Objective(Protocol):
    """What the loop minimises: the sum over terms of losses / counts."""

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """tokens_BT, positions_BT and documents_BT; tokens attend within their own document."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """What each term is divided by, summed over the whole batch."""

    def losses(self, hidden_BTD: Tensor, head: Head, batch: Batch) -> dict[str, Tensor]:
        """Each term's sum over the micro-batch, fp32."""


class Stage(nn.Module):
    """Embedding (first), layers, norm and the sums of the losses (last): hidden states to hidden states, or to the sums."""

    def __init__(self, model: Transformer, world: World, *, first: bool, last: bool) -> None:
        """`model` has the stage's layers; what belongs to other stages is taken off it, in place."""
        super().__init__()
        self.model, self.world, self.first, self.last = model, world, first, last
        self.objective: Objective | None = None
        if not first:
            model.embed = None  # type: ignore[assignment]
        if not last:
            model.norm = nn.Identity()  # type: ignore[assignment]
            model.head = None  # type: ignore[assignment]
        self.mesh = world.mesh["tp"] if world.mesh is not None and world.layout.tp > 1 else None

    def forward(self, x_BTD: Tensor, **batch: Tensor) -> Tensor:
        """`x_BTD` are hidden states; the first stage ignores them, and the last gives the sums of the losses, shape (terms,)."""
        assert self.objective is not None
        tokens_BT, positions_BT, documents_BT = self.objective.inputs(batch)
        if self.first:
            x_BTD = self.model.embed(tokens_BT)
        layout = self.world.layout
        attend = attend_of(documents_BT, layout.cp, self.world.index("cp"), self.world.cp_group, layout.compile)
        x_BTD = self.model.trunk(x_BTD, positions_BT, attend)
        if not self.last:
            return x_BTD
        hidden_BTD = gather_sequence(x_BTD, self.mesh)
        head = head_of(self.model.head.weight, self.mesh)
        return torch.stack(list(self.objective.losses(hidden_BTD, head, batch).values()))

    def named_weights(self) -> list[tuple[str, nn.Parameter]]:
        """Parameters under the whole model's names; a tied head that stands apart from the embedding has the embedding's."""
        tied = self.model.config.tied_embeddings
        return [(EMBED if tied and name == HEAD else name, p) for name, p in self.model.named_parameters()]

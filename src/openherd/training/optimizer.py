"""AdamW (paper 3.4.1). Betas, epsilon, decay and clipping are not stated for the flagship; the defaults are Llama 2's."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from openherd.parallel.stage import EMBED


def make_adamw(
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decay_norms: bool = False,
    decay_embeddings: bool = True,
) -> torch.optim.AdamW:
    """AdamW in two groups, with weight decay and without; the learning rate is set at every step.

    One-dimensional parameters are norms; embeddings are the model's `embed`, with the head where it is tied.
    """

    def decays(name: str, parameter: nn.Parameter) -> bool:
        return decay_norms if parameter.ndim <= 1 else decay_embeddings or name != EMBED

    trained = [(name, p) for name, p in parameters if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trained if decays(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in trained if not decays(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=(beta1, beta2), eps=epsilon, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set every group's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate

"""AdamW (paper 3.4.1). Betas, epsilon, decay and clipping are not stated for the flagship; the defaults are Llama 2's."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def make_adamw(model: nn.Module, *, beta1: float, beta2: float, epsilon: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW whose weight decay spares norms (one-dimensional parameters); the learning rate is set at every step."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=(beta1, beta2), eps=epsilon, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set every group's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def clip_gradients(parameters: Iterable[Tensor], largest_norm: float) -> float:
    """Scale gradients so that their global norm is at most `largest_norm`; returns the norm before."""
    return float(torch.nn.utils.clip_grad_norm_(parameters, largest_norm))

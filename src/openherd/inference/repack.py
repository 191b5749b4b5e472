"""Other products in place of the model's own: int8 weights, and products whose rows do not depend on each other (paper 6)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openherd.model.transformer import FeedForward, Transformer

TILE = 16  # rows, where the outcome of one must not depend on how many there are


class Int8Linear(nn.Module):
    """x W^T with weights of 8 bits and a scale for each row; a step is the row's largest weight / 127, and none is off by more than
    half a step."""

    def __init__(self, weight_FD: Tensor) -> None:
        super().__init__()
        weight_FD = weight_FD.detach().float()
        self.scale_F = weight_FD.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.rows_FD = (weight_FD / self.scale_F[:, None]).round().to(torch.int8)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape (..., D) to (..., F)."""
        return F.linear(x_BTD, self.rows_FD.to(x_BTD.dtype)) * self.scale_F.to(x_BTD.dtype)


class TiledLinear(nn.Module):
    """Another's product, for `TILE` rows at a time: a row's outcome depends on no other, which with as many rows as there happen to
    be it does, by the kernel that is chosen for them."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape (..., D) to (..., F)."""
        rows = x_BTD.flatten(0, -2)
        whole = F.pad(rows, (0, 0, 0, -len(rows) % TILE))
        out = torch.cat([self.linear(tile) for tile in whole.split(TILE)])
        return out[: len(rows)].view(*x_BTD.shape[:-1], -1)


class TiledFeedForward(nn.Module):
    """Another's, of each row independently: torch's silu of a number may differ in its last bit by its place in a thread's part."""

    def __init__(self, feed_forward: FeedForward) -> None:
        super().__init__()
        self.gate, self.up, self.down = (TiledLinear(m) for m in (feed_forward.gate, feed_forward.up, feed_forward.down))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape (B, T, D) to (B, T, D)."""
        gate_BTF = self.gate(x_BTD)
        exact = gate_BTF.float()
        return self.down((exact / (1 + (-exact).exp())).to(gate_BTF.dtype) * self.up(x_BTD))


def int8(model: Transformer) -> Transformer:
    """A model whose products have int8 weights; embeddings and norms stay as they are."""
    return with_modules(model, lambda module: Int8Linear(module.weight) if isinstance(module, nn.Linear) else None)


def tiled(model: Transformer) -> Transformer:
    """A model that computes the same, of each row independently of the others."""

    def made(module: nn.Module) -> nn.Module | None:
        if isinstance(module, FeedForward):
            return TiledFeedForward(module)
        return TiledLinear(module) if isinstance(module, nn.Linear | Int8Linear) else None

    return with_modules(model, made)


@torch.no_grad()
def with_modules(model: Transformer, made: Callable[[Any], nn.Module | None]) -> Transformer:
    """A model that has what `made` makes of a module in its place, and shares the modules of which it makes nothing."""
    with torch.device("meta"):
        other = Transformer(model.config)
    done: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if not name or any(name.startswith(f"{above}.") for above in done):
            continue
        new = made(module)
        if new is not None or not [*module.children()]:
            parent, _, child = name.rpartition(".")
            setattr(other.get_submodule(parent), child, module if new is None else new)
            done.append(name)
    return other

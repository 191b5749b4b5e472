"""Weights laid out for computing with few rows, in place of the model's own (paper 6).

On a processor oneDNN keeps a matrix in blocks, as its kernels read it. The blocks are a copy in memory; the model's own weights are
mapped from their file and need not stay.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openherd.model.transformer import Transformer

TILE = 16  # rows, where the outcome of one must not depend on how many there are


class PackedLinear(nn.Module):
    """x W^T by oneDNN."""

    def __init__(self, weight_FD: Tensor) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_FD.detach().contiguous())

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape (..., D) to (..., F)."""
        y_BTF: Tensor = torch.ops.mkldnn._linear_pointwise(x_BTD, self.packed, None, "none", [], "")
        return y_BTF


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether torch here has such a layout for a dtype, and computes with it."""
    x, weight = torch.randn(3, 64).to(dtype), torch.randn(96, 64).to(dtype)
    try:
        return torch.allclose(PackedLinear(weight)(x).float(), (x.float() @ weight.float().T), atol=0.2, rtol=0.05)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False


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


def repacked(model: Transformer) -> Transformer:
    """A model that computes the same from packed weights; the model itself where they cannot be packed."""
    weight = model.embed.weight
    if weight.device.type != "cpu" or not can_pack(weight.dtype):
        return model
    return with_linear(model, lambda linear: PackedLinear(linear.weight))


def tiled(model: Transformer) -> Transformer:
    """A model that computes the same, of each row independently of the others."""
    return with_linear(model, TiledLinear)


@torch.no_grad()
def with_linear(model: Transformer, made: Callable[[Any], nn.Module]) -> Transformer:
    """A model with other products; it shares what is none."""
    with torch.device("meta"):
        other = Transformer(model.config)
    own = dict(other.named_modules())
    for name, module in model.named_modules():
        parent, _, child = name.rpartition(".")
        if isinstance(module, (nn.Linear, PackedLinear)):
            setattr(own[parent], child, made(module))
        elif name and not [*module.children()]:
            setattr(own[parent], child, module)
    return other

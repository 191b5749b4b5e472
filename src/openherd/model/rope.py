"""Rotary position embedding, with Llama 3.1's frequency scaling (paper 3.2, Table 3: base 500,000).

Pairs are (x_i, x_{i + H/2}), as in Hugging Face checkpoints; Meta's own checkpoints pair neighbours and need a permutation of the
query and key projections. The scaling stands in Meta's released code, not in the paper: wavelengths under
original_positions / high_frequency_factor stay, those over original_positions / low_frequency_factor are stretched by `factor`, and
those between are blended.
"""

import math
from typing import Any

import torch
from torch import Tensor

from openherd.model.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Angular frequencies in radians per position, fp32, shape (H/2,)."""
    exponent = torch.arange(0, config.head_width, 2, dtype=torch.int64).float() / config.head_width
    frequencies = 1.0 / config.rope_theta**exponent
    return frequencies if config.rope_scaling is None else _scaled(frequencies, config.rope_scaling)


def _scaled(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    wavelengths = 2 * math.pi / frequencies
    low = scaling.original_positions / scaling.low_frequency_factor
    high = scaling.original_positions / scaling.high_frequency_factor
    span = scaling.high_frequency_factor - scaling.low_frequency_factor
    blend = (scaling.original_positions / wavelengths - scaling.low_frequency_factor) / span
    blended = (1 - blend) * frequencies / scaling.factor + blend * frequencies
    stretched = torch.where(wavelengths > low, frequencies / scaling.factor, blended)
    return torch.where(wavelengths < high, frequencies, stretched)


def rotation(frequencies: Tensor, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angles, fp32, shape (B, T, 1, H/2)."""
    angles = positions_BT[:, :, None, None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x_BTNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs of each head by their position's angles; computed in fp32, returned in the input's dtype."""
    if torch.compiler.is_compiling():  # which makes one kernel of it
        first, second = x_BTNH.float().chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_BTNH.dtype)
    rotated: Tensor = _Rotate.apply(x_BTNH, cos, sin)
    return rotated


class _Rotate(torch.autograd.Function):
    """The way back of a rotation is the rotation back, and needs nothing kept but the angles."""

    @staticmethod
    def forward(ctx: Any, x_BTNH: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x_BTNH, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Of the vectors."""
        cos, sin = ctx.saved_tensors
        return _rotated(gradients[0], cos, sin, -1.0), None, None


def _rotated(x_BTNH: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    rotated = torch.empty(x_BTNH.shape, dtype=cos.dtype, device=x_BTNH.device)
    (first, second), (new_first, new_second) = x_BTNH.chunk(2, dim=-1), rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=new_second).addcmul_(first, sin, value=sign)
    return rotated.to(x_BTNH.dtype)

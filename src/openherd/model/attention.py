"""Grouped-query attention (paper 3.2), and the plain ways to attend.

`attend` is the one replaceable part of the model: it takes the layer's index and its rotated queries, keys and values, and
returns the attended values. The mask is inside. Context parallelism, caches and fast kernels each supply their own.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openherd.model.config import ModelConfig
from openherd.model.layers import Linear
from openherd.model.rope import rotate


class Attend(Protocol):
    """Softmax attention of one layer."""

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        """Returns the attended values, shape (B, T, N, H)."""


def attention(q_BTNH: Tensor, k_BSGH: Tensor, v_BSGH: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k / sqrt(H)) v with grouped heads; `mask` (B, 1, T, S) is True where a token may look, None is causal."""
    out = F.scaled_dot_product_attention(
        q_BTNH.transpose(1, 2),
        k_BSGH.transpose(1, 2),
        v_BSGH.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=True,
    )
    return out.transpose(1, 2)


class CausalAttend:
    """Each token attends to itself and to earlier ones; with `documents_BT`, only within its own document (paper 3.2)."""

    def __init__(self, documents_BT: Tensor | None = None) -> None:
        self.mask: Tensor | None = None
        if documents_BT is not None:
            same = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
            n = documents_BT.shape[1]
            self.mask = same & torch.ones(n, n, dtype=torch.bool, device=documents_BT.device).tril()

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        return attention(q_BTNH, k_BTGH, v_BTGH, self.mask)


class Attention(nn.Module):
    """Projections around `attend`; no biases. Head counts are read off the tensors, so that sharded projections just work."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index, self.head_width = index, config.head_width
        self.query = Linear(config.d_model, config.n_heads * config.head_width)
        self.key = Linear(config.d_model, config.n_kv_heads * config.head_width)
        self.value = Linear(config.d_model, config.n_kv_heads * config.head_width)
        self.output = Linear(config.n_heads * config.head_width, config.d_model)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Attention of one layer, shape (B, T, D)."""
        heads = [p(x_BTD).unflatten(-1, (-1, self.head_width)) for p in (self.query, self.key, self.value)]
        q_BTNH, k_BTGH, v_BTGH = rotate(heads[0], cos, sin), rotate(heads[1], cos, sin), heads[2]
        return self.output(attend(self.index, q_BTNH, k_BTGH, v_BTGH).flatten(-2))

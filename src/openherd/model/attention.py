"""Grouped-query attention (paper 3.2), and the plain ways to attend.

`attend` is the one replaceable part of the model: it takes the layer's index and its rotated queries, keys and values, and
returns the attended values. The mask is inside. Context parallelism, caches and fast kernels each supply their own.
"""

import inspect
import itertools
from functools import cache, cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openherd.model.config import ModelConfig
from openherd.model.layers import Linear
from openherd.model.rope import rotate

SHORT = 16  # tokens of a document; see decision 18


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


@cache
def has_kernel() -> bool:
    """Whether this torch has the kernel for rows of documents, with grouped heads (2.13 has)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()


def attention_by_documents(q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor, lengths: list[int]) -> Tensor:
    """Causal attention within documents of these lengths, which follow each other over all rows: one call of a fast kernel."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=q_BTNH.device)
    q, k, v = (x.flatten(0, 1) for x in (q_BTNH, k_BTGH, v_BTGH))
    longest = max(lengths)
    out = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(out, Tensor)
    return out.view_as(q_BTNH)


class CausalAttend:
    """Each token attends to itself and to earlier ones; with `documents_BT`, only within its own document (paper 3.2).

    Rows of one document need no mask, which fast kernels cannot take. On a processor documents attend one by one where they are not
    too short for that: a mask would pay for all the pairs that it hides. So it would on an NVIDIA GPU, which has a kernel for such
    rows in bf16 and fp16 (not tried here: no GPU was lent).
    """

    def __init__(self, documents_BT: Tensor | None = None) -> None:
        self.documents_BT = documents_BT
        self.lengths: list[int] = []  # of the documents, over all rows, where they attend one by one
        if documents_BT is None or not bool((documents_BT != documents_BT[:, :1]).any()):
            self.documents_BT = None
        elif documents_BT.device.type in ("cpu", "cuda"):
            self.lengths = document_lengths(documents_BT)

    @cached_property
    def mask(self) -> Tensor | None:
        """Where a token may look, shape (B, 1, T, T); None is causal."""
        documents_BT = self.documents_BT
        if documents_BT is None:
            return None
        same = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
        n = documents_BT.shape[1]
        return same & torch.ones(n, n, dtype=torch.bool, device=documents_BT.device).tril()

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        if self.lengths and q_BTNH.is_cuda and q_BTNH.dtype in (torch.bfloat16, torch.float16) and has_kernel():
            return attention_by_documents(q_BTNH, k_BTGH, v_BTGH, self.lengths)
        if q_BTNH.is_cuda or not self.lengths or torch.compiler.is_compiling():  # it would compile anew for other lengths
            return attention(q_BTNH, k_BTGH, v_BTGH, self.mask)
        parts = [x.flatten(0, 1).split(self.lengths) for x in (q_BTNH, k_BTGH, v_BTGH)]
        attended = [attention(q[None], k[None], v[None], None) for q, k, v in zip(*parts, strict=True)]
        return torch.cat(attended, dim=1).view_as(q_BTNH)


def document_lengths(documents_BT: Tensor) -> list[int]:
    """Tokens of each document, row by row; none where documents are not in order, or under SHORT tokens on average."""
    steps = documents_BT.diff(dim=1, prepend=documents_BT[:, :1] - 1)
    begins = (steps != 0).flatten().nonzero().flatten()
    if bool((steps < 0).any()) or len(begins) * SHORT > documents_BT.numel():
        return []
    lengths: list[int] = begins.diff(append=begins.new_tensor([documents_BT.numel()])).tolist()
    return lengths


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

"""Grouped-query attention (paper 3.2), and the plain ways to attend.

`attend` is the one replaceable part of the model: it takes the layer's index and its rotated queries, keys and values, and
returns the attended values. The mask is inside. Context parallelism, caches and fast kernels each supply their own.
"""

import inspect
import itertools
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openherd.model.causal import by_length, causal_attention
from openherd.model.config import ModelConfig
from openherd.model.layers import Linear
from openherd.model.rope import rotate

SHORT, LONG = 8, 2_048  # tokens of a document and of a row; see decision 18


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


def has_kernel(device: torch.device) -> bool:
    """Whether there is a kernel for rows of documents with grouped heads: torch 2.13 has one for NVIDIA's 8.0 and later."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return {"window_size", "enable_gqa"} <= inspect.signature(varlen_attn).parameters.keys()


def attention_by_documents(q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor, ends: Tensor) -> Tensor:
    """Causal attention within documents, which follow each other over all rows and end at `ends`, int32, from 0 on."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x.flatten(0, 1) for x in (q_BTNH, k_BTGH, v_BTGH))
    most = q_BTNH.shape[1]  # no document is longer than a row
    out = varlen_attn(q, k, v, ends, ends, most, most, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(out, Tensor)
    return out.view_as(q_BTNH)


class CausalAttend:
    """Each token attends to itself and to earlier ones; with `documents_BT`, only within its own document (paper 3.2).

    Rows of one document need no mask, which fast kernels cannot take. On a processor documents of like length attend together where
    they are not too short for that: a mask would pay for all the pairs that it hides. So it would on an NVIDIA GPU, which has a
    kernel for such rows in bf16 and fp16 (not tried here: no GPU was lent).
    """

    def __init__(self, documents_BT: Tensor | None = None, compiled: bool = False) -> None:
        """`compiled` is for layers that are: they would be compiled anew for documents of other lengths, and take a mask."""
        self.mask: Tensor | None = None
        self.tables: list[Tensor] = []  # of the documents by length, on a processor
        self.ends: Tensor | None = None  # of the documents, for the kernel that takes them all
        if documents_BT is None or not bool((documents_BT != documents_BT[:, :1]).any()):
            return
        device = documents_BT.device
        if device.type == "cuda" and torch.is_autocast_enabled("cuda") and has_kernel(device):
            if lengths := document_lengths(documents_BT, shortest=1):
                self.ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
                return
        elif device.type == "cpu" and not compiled:
            self.tables = by_length(document_lengths(documents_BT))
        if not self.tables:
            same = documents_BT[:, None, :, None] == documents_BT[:, None, None, :]
            n = documents_BT.shape[1]
            self.mask = same & torch.ones(n, n, dtype=torch.bool, device=device).tril()

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        if self.ends is not None:
            return attention_by_documents(q_BTNH, k_BTGH, v_BTGH, self.ends)
        if self.tables:
            return causal_attention(q_BTNH, k_BTGH, v_BTGH, self.tables)
        rows, length = q_BTNH.shape[:2]
        if q_BTNH.device.type == "cpu" and self.mask is None and length <= LONG:
            return causal_attention(q_BTNH, k_BTGH, v_BTGH, [torch.arange(rows * length).view(rows, length)])
        return attention(q_BTNH, k_BTGH, v_BTGH, self.mask)


def document_lengths(documents_BT: Tensor, shortest: int = SHORT) -> list[int]:
    """Tokens of each document, row by row; none where documents are not in order, or under `shortest` tokens on average."""
    steps = documents_BT.diff(dim=1, prepend=documents_BT[:, :1] - 1)
    begins = (steps != 0).flatten().nonzero().flatten()
    if bool((steps < 0).any()) or len(begins) * shortest > documents_BT.numel():
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

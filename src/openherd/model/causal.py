"""Causal attention within documents on a processor, by blocks of queries, with its own way back (paper 3.2; decision 18).

Documents of like length attend together. A block is a product with the keys up to it, a softmax, and a product with the values;
query heads that share a key head are rows of one product. Nothing is kept but queries, keys and values: the way back computes the
scores again, as flash attention does. It is an operation of its own, so that selective recomputation can keep its result and the
compiler leaves it whole.

Beside the package's legend: I documents times G · L tokens of the longest of them, padding behind the others · R is L N / G.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

SCORES = 1 << 23  # bytes of a block's scores, which should stay in the processor's cache
BLOCK = 64  # queries; two of them are one block where there is no more
UNIT = 32  # tokens that lengths are rounded up to: oneDNN compiles a product for each shape that it meets


def by_length(lengths: Sequence[int]) -> list[Tensor]:
    """Documents that follow each other, those of like length together: where their tokens stand, tables of shape (documents, L).
    Padding's place is behind the last token of all."""
    alike: dict[int, list[tuple[int, int]]] = {}
    begin = 0
    for length in lengths:
        alike.setdefault(-(-length // UNIT), []).append((begin, begin + length))
        begin += length
    tables = []
    for n_units, found in sorted(alike.items()):
        begins, ends = torch.tensor(found).T[..., None]
        places = begins + torch.arange(n_units * UNIT if len(alike) > 1 else int((ends - begins).max()))
        tables.append(torch.where(places < ends, places, begin))
    return tables


@torch.library.custom_op("openherd::causal_attention", mutates_args=(), device_types="cpu")
def causal_attention(q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor, tables: list[Tensor]) -> Tensor:
    """softmax(q k / sqrt(H)) v, each token looking at itself and at those before it in its document.

    All are of one dtype; the documents of all rows, in turn, are those of `by_length`.
    """
    groups = k_BTGH.shape[2]
    assert q_BTNH.shape[:2] == k_BTGH.shape[:2] == v_BTGH.shape[:2], "queries and keys of other tokens"
    out = padded(q_BTNH)
    with torch.autocast("cpu", enabled=False):
        for table in parts(tables, q_BTNH):
            q_IRH, k_ILH, v_ILH = (take(x, table, groups) for x in (q_BTNH, k_BTGH, v_BTGH))
            put(attended(q_IRH, k_ILH, v_ILH, q_BTNH.shape[2] // groups), table, groups, out)
    return out[:-1].view(q_BTNH.shape)


@torch.library.custom_op("openherd::causal_attention_backward", mutates_args=(), device_types="cpu")
def causal_attention_backward(
    gradient_BTNH: Tensor, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor, tables: list[Tensor]
) -> list[Tensor]:
    """Gradients of queries, keys and values, given that of the attended values."""
    groups, inputs = k_BTGH.shape[2], (q_BTNH, k_BTGH, v_BTGH)
    heads = q_BTNH.shape[2] // groups
    gradient = padded(gradient_BTNH)  # padding's is zero, and so is what comes of it
    gradient[:-1], gradient[-1] = gradient_BTNH.flatten(0, 1), 0.0
    found = [padded(x) for x in inputs]
    with torch.autocast("cpu", enabled=False):
        for table in parts(tables, q_BTNH):
            q_IRH, k_ILH, v_ILH = (take(x, table, groups) for x in inputs)
            g_IRH = take(gradient[None], table, groups)
            of_q_IRH = torch.empty_like(q_IRH)
            exact_q, exact_k = exact(q_IRH), exact(k_ILH)
            of_k_ILH, of_v_ILH = torch.zeros_like(exact_k), torch.zeros_like(exact_k)  # sums of many parts
            for rows, end, ahead in blocks(exact_q, exact_k, heads):
                q, g, k, v = q_IRH[:, rows], g_IRH[:, rows], k_ILH[:, :end], v_ILH[:, :end]
                share = shares(exact_q[:, rows], exact_k[:, :end], ahead).to(q.dtype)
                of_v_ILH[:, :end] += share.mT @ g
                of_score = torch._softmax_backward_data(g @ v.mT, share, -1, share.dtype).mul_(q.shape[2] ** -0.5)
                of_q_IRH[:, rows] = of_score @ k
                of_k_ILH[:, :end] += of_score.mT @ q
            for x, out in zip((of_q_IRH, of_k_ILH, of_v_ILH), found, strict=True):
                put(x, table, groups, out)
    return [out[:-1].view(x.shape) for out, x in zip(found, inputs, strict=True)]


def padded(x_BTNH: Tensor) -> Tensor:
    """Memory for its tokens, and one for padding: shape (B T + 1, N, H)."""
    b, t, n, h = x_BTNH.shape
    return x_BTNH.new_empty(b * t + 1, n, h)


def parts(tables: Sequence[Tensor], q_BTNH: Tensor) -> Iterator[Tensor]:
    """The documents, few enough at once for their scores."""
    for table in tables if q_BTNH.numel() else ():
        most = table.shape[1]
        of_one = q_BTNH.shape[2] * most * min(most, BLOCK) * max(q_BTNH.element_size(), 4)  # in fp32 at least
        yield from table.split(max(SCORES // of_one, 1))


def take(x_BTNH: Tensor, table: Tensor, groups: int) -> Tensor:
    """The tokens of some documents; heads of a group are rows, token by token. Padding takes anything's place."""
    n, h = x_BTNH.shape[2:]
    places = table.clamp(max=x_BTNH.shape[0] * x_BTNH.shape[1] - 1).flatten()
    tokens = x_BTNH.flatten(0, 1).index_select(0, places).view(*table.shape, groups, n // groups, h)
    return tokens.transpose(1, 2).reshape(len(table) * groups, -1, h)


def put(x_IRH: Tensor, table: Tensor, groups: int, out: Tensor) -> None:
    """Back to their places."""
    tokens = x_IRH.to(out.dtype).view(len(table), groups, table.shape[1], -1, x_IRH.shape[2]).transpose(1, 2)
    out.index_copy_(0, table.flatten(), tokens.reshape(-1, *out.shape[1:]))


def attended(q_IRH: Tensor, k_ILH: Tensor, v_ILH: Tensor, heads: int) -> Tensor:
    """The attended values of rows of `heads` query heads, token by token."""
    out_IRH = torch.empty_like(q_IRH)
    exact_q, exact_k = exact(q_IRH), exact(k_ILH)
    for rows, end, ahead in blocks(exact_q, exact_k, heads):
        share = shares(exact_q[:, rows], exact_k[:, :end], ahead).to(v_ILH.dtype)
        out_IRH[:, rows] = share @ v_ILH[:, :end]
    return out_IRH


def exact(x: Tensor) -> Tensor:
    """In fp32 at least: scores rounded to bf16 would be off by several percent where they are large."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def blocks(q_IRH: Tensor, k_ILH: Tensor, heads: int) -> Iterator[tuple[slice, int, Tensor]]:
    """The blocks: their rows, the end of the keys that they look at, and -inf where a row's last keys are ahead of it."""
    tokens = q_IRH.shape[1] // heads
    length = tokens if tokens <= 2 * BLOCK else BLOCK
    ahead = q_IRH.new_full((length, length), -torch.inf).triu_(1).repeat_interleave(heads, dim=0)
    for begin in range(0, tokens, length):
        n = min(length, tokens - begin)
        yield slice(begin * heads, (begin + n) * heads), begin + n, ahead[: n * heads, :n]


def shares(q_IRH: Tensor, k_ILH: Tensor, ahead: Tensor) -> Tensor:
    """How much each row takes of each value."""
    scores = q_IRH.new_empty(len(q_IRH), q_IRH.shape[1], k_ILH.shape[1])
    scores.baddbmm_(q_IRH, k_ILH.mT, beta=0, alpha=q_IRH.shape[2] ** -0.5)
    scores[..., -ahead.shape[1] :] += ahead
    return scores.softmax(-1)


def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """What the way back needs."""
    *heads, ctx.tables = inputs
    ctx.save_for_backward(*heads)


def way_back(ctx: Any, gradient_BTNH: Tensor) -> tuple[Any, ...]:
    """Of queries, keys and values."""
    return *causal_attention_backward(gradient_BTNH, *ctx.saved_tensors, ctx.tables), [None] * len(ctx.tables)


@causal_attention.register_fake
def _(q_BTNH: Tensor, *_: Any) -> Tensor:
    return q_BTNH.new_empty(q_BTNH.shape)


@causal_attention_backward.register_fake
def _(gradient_BTNH: Tensor, *inputs: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:3]]


causal_attention.register_autograd(way_back, setup_context=keep)

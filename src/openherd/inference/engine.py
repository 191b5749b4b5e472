"""Batched generation with a key/value cache, and the log-probabilities of given text (paper 6).

Prompts of different lengths share a batch: each row writes its keys and values at its own positions, and the mask lets a token
see its row's earlier positions only. Finished rows leave the batch.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openherd.core.progress import track
from openherd.inference.sampling import sample
from openherd.model.attention import attention
from openherd.model.transformer import Transformer
from openherd.tokenizer.tokenizer import Tokenizer


class CachedAttend:
    """Attends to cached keys and values; `positions_BT` says where the new ones go."""

    def __init__(self, model: Transformer, rows: int, length: int) -> None:
        config, weight = model.config, model.embed.weight
        shape = (config.n_layers, rows, length, config.n_kv_heads, config.head_width)
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)

    def place(self, positions_BT: Tensor) -> None:
        """Where the next call's tokens stand; later positions are overwritten before they are seen."""
        self.positions_BT = positions_BT
        self.length = int(positions_BT.max()) + 1
        self.rows_B1 = torch.arange(positions_BT.shape[0], device=positions_BT.device)[:, None]
        self.mask = torch.arange(self.length, device=positions_BT.device) <= positions_BT[:, None, :, None]

    def keep_rows(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        self.keys[layer][self.rows_B1, self.positions_BT] = k_BTGH.to(self.keys.dtype)
        self.values[layer][self.rows_B1, self.positions_BT] = v_BTGH.to(self.values.dtype)
        return attention(q_BTNH, self.keys[layer, :, : self.length], self.values[layer, :, : self.length], self.mask)


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@torch.no_grad()
def stream(
    model: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Collection[int]
) -> Iterator[list[tuple[int, int]]]:
    """Continue prompts together; yields, step by step, (prompt's index, new token) of the rows still running.

    A row ends before a stop token, at `max_new_tokens`, or at the model's `max_positions`.
    """
    if any(not p for p in prompts):
        raise ValueError("an empty prompt")
    device = model.embed.weight.device
    generator = torch.Generator(device=device).manual_seed(sampling.seed) if sampling.temperature else None
    most = model.config.max_positions
    alive = [i for i, p in enumerate(prompts) if len(p) < most]
    if not alive or sampling.max_new_tokens < 1:
        return
    lengths = torch.tensor([len(prompts[i]) for i in alive], device=device)
    longest = int(lengths.max())
    attend = CachedAttend(model, len(alive), min(longest + sampling.max_new_tokens, most))
    padded = torch.tensor([[*prompts[i], *[0] * (longest - len(prompts[i]))] for i in alive], device=device)
    # Padding stands behind a prompt, where nothing looks at it until the row's own tokens have overwritten it.
    positions = torch.arange(longest, device=device).expand(len(alive), -1)
    attend.place(positions)
    hidden = model.trunk(model.embed(padded), positions, attend)
    hidden_BD = hidden[torch.arange(len(alive), device=device), lengths - 1]
    for n in range(sampling.max_new_tokens):
        tokens = sample(model.head(hidden_BD), sampling.temperature, sampling.top_p, generator)
        new = tokens.tolist()
        going = [row for row, token in enumerate(new) if token not in stop]
        yield [(alive[row], new[row]) for row in going]
        going = [row for row in going if int(lengths[row]) < most - 1]
        if not going or n + 1 == sampling.max_new_tokens:
            return
        if len(going) < len(alive):
            rows = torch.tensor(going, device=device)
            alive, tokens, lengths = [alive[row] for row in going], tokens[rows], lengths[rows]
            attend.keep_rows(rows)
        positions = lengths[:, None]
        attend.place(positions)
        hidden_BD = model.trunk(model.embed(tokens[:, None]), positions, attend)[:, 0]
        lengths = lengths + 1


def generate(
    model: Transformer, prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Collection[int], batch_rows: int = 64
) -> list[list[int]]:
    """The continuations of prompts, in their order; prompts of similar length share a batch."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    continued: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_rows):
        rows = order[start : start + batch_rows]
        for step in stream(model, [prompts[i] for i in rows], sampling, stop):
            for row, token in step:
                continued[rows[row]].append(token)
    return continued


@torch.no_grad()
def log_probabilities(model: Transformer, tokens: Sequence[int], context: int, batch_rows: int = 8) -> Tensor:
    """Natural log-probability of every token but the first, fp32, shape (len(tokens) - 1,).

    A text longer than `context` is cut into windows that overlap by half: each token is scored once, in the window where it has at
    least half a context of text before it (the first window scores all of its own).
    """
    ids = torch.tensor(tokens, device=model.embed.weight.device)
    stride = max(context // 2, 1)
    windows: list[tuple[int, int, int]] = [(0, 1, min(context + 1, len(ids)))]  # (first seen, first scored, end)
    while windows[-1][2] < len(ids):
        scored = windows[-1][2]
        windows.append((scored - 1 - (context - stride), scored, min(scored + stride, len(ids))))
    scores = torch.empty(len(ids) - 1, device=ids.device)
    by_length: dict[int, list[tuple[int, int, int]]] = {}
    for window in windows:
        by_length.setdefault(window[2] - window[0], []).append(window)
    for same in by_length.values():
        for i in range(0, len(same), batch_rows):
            rows = same[i : i + batch_rows]
            batch = torch.stack([ids[first:end] for first, _, end in rows])
            log_probs = torch.log_softmax(model(batch[:, :-1]).float(), -1).gather(-1, batch[:, 1:, None])[..., 0]
            for row, (first, scored, end) in zip(log_probs, rows, strict=True):
                scores[scored - 1 : end - 1] = row[scored - 1 - first :]
    return scores


def bits_of(model: Transformer, tokenizer: Tokenizer, texts: list[str], what: str) -> list[float]:
    """Bits of each text under a model."""
    encoded = tokenizer.encode_batch(texts)
    return [
        -float(log_probabilities(model, [tokenizer.bos_id, *ids], model.config.max_positions).sum()) / math.log(2)
        for ids in track(encoded, f"bits per byte, {what}", "documents", len(encoded))
    ]

"""Keys and values in blocks, and attention to them: what the engine gives the model for `attend` (paper 6).

A step's tokens stand in one row, text after text. Each layer writes their keys and values to their texts' blocks. Then texts that
have several tokens in the step attend one by one, as in training, and those with one attend together, like lengths at once. A text
whose blocks follow each other is read where it lies; else its blocks are gathered.

Beside the model's legend: S places in the cache · I texts times G · L tokens of the longest of them · R query heads of a group.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openherd.model.causal import attended, exact
from openherd.model.config import ModelConfig

UNIT = 64  # lengths are rounded up to so many tokens, so that texts of like length attend together


@dataclass(frozen=True)
class Part:
    """Tokens of one text in a step: its blocks, and tokens `first` to `first + n`."""

    blocks: Sequence[int]
    first: int
    n: int


class PagedAttend:
    """The cache of one model, as its `attend`."""

    def __init__(self, config: ModelConfig, blocks: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.size = size
        # Heads are outermost, so that a text's part of one is a matrix.
        shape = (config.n_layers, config.n_kv_heads, blocks * size, config.head_width)
        self.keys_GSH = torch.zeros(shape, dtype=dtype, device=device)
        self.values_GSH = torch.zeros_like(self.keys_GSH)

    def place(self, parts: Sequence[Part]) -> None:
        """Which texts the next call's tokens belong to, in their order."""
        device = self.keys_GSH.device
        most = max(len(part.blocks) for part in parts)
        table = torch.tensor([[*part.blocks, *[0] * (most - len(part.blocks))] for part in parts])
        places = (table[:, :, None] * self.size + torch.arange(self.size)).flatten(1)
        new = [places[i, part.first : part.first + part.n] for i, part in enumerate(parts)]
        self.new_T = torch.cat(new).to(device)
        self.apart: list[tuple[slice, slice | Tensor]] = []  # of each text with several tokens: its rows, and its places
        alike: dict[int, list[tuple[int, int]]] = {}  # by length, of texts with one token: its row, and its place in `parts`
        row = 0
        for i, part in enumerate(parts):
            if part.n > 1:
                self.apart.append((slice(row, row + part.n), self._where(places, parts, i)))
            else:
                alike.setdefault(-(-(part.first + 1) // UNIT), []).append((row, i))
            row += part.n
        self.together: list[tuple[Tensor, Tensor, Tensor]] = []  # rows, places (texts, L), and -inf behind each text's end
        for units, found in sorted(alike.items()):
            if len(found) == 1:
                self.apart.append((slice(found[0][0], found[0][0] + 1), self._where(places, parts, found[0][1])))
                continue
            rows, texts = torch.tensor(found).T
            longest = min(units * UNIT, places.shape[1])
            lengths = torch.tensor([parts[i].first + 1 for _, i in found])
            behind = exact(torch.zeros(len(found), 1, longest, dtype=self.keys_GSH.dtype))
            behind.masked_fill_((torch.arange(longest) >= lengths[:, None])[:, None], -torch.inf)
            self.together.append((rows.to(device), places[texts, :longest].flatten().to(device), behind.to(device)))

    def _where(self, places: Tensor, parts: Sequence[Part], i: int) -> slice | Tensor:
        blocks, length = parts[i].blocks, parts[i].first + parts[i].n
        if all(following == block + 1 for block, following in itertools.pairwise(blocks)):
            return slice(blocks[0] * self.size, blocks[0] * self.size + length)
        return places[i, :length].to(self.keys_GSH.device)

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        """Shape (1, T, N, H)."""
        keys_GSH, values_GSH = self.keys_GSH[layer], self.values_GSH[layer]
        keys_GSH.index_copy_(1, self.new_T, k_BTGH[0].transpose(0, 1).to(keys_GSH.dtype))
        values_GSH.index_copy_(1, self.new_T, v_BTGH[0].transpose(0, 1).to(keys_GSH.dtype))
        n_groups, (n_heads, width) = len(keys_GSH), q_BTNH.shape[2:]
        heads = n_heads // n_groups
        q_TGRH = q_BTNH[0].unflatten(1, (n_groups, heads)).to(keys_GSH.dtype)
        out_TGRH = torch.empty_like(q_TGRH)
        for own, its in self.apart:
            q_IRH = q_TGRH[own].transpose(0, 1).flatten(1, 2)
            if isinstance(its, slice):
                k_ILH, v_ILH = keys_GSH[:, its], values_GSH[:, its]
            else:
                k_ILH, v_ILH = keys_GSH.index_select(1, its), values_GSH.index_select(1, its)
            out_TGRH[own] = attended(q_IRH, k_ILH, v_ILH, heads).unflatten(1, (-1, heads)).transpose(0, 1)
        for rows, where, behind in self.together:
            n, longest = len(rows), behind.shape[2]
            k_ILH, v_ILH = (x.index_select(1, where).view(n_groups * n, longest, width) for x in (keys_GSH, values_GSH))
            q_IRH = q_TGRH.index_select(0, rows).transpose(0, 1).flatten(0, 1)
            scores_IRL = torch.baddbmm(behind.repeat(n_groups, 1, 1), exact(q_IRH), exact(k_ILH).mT, alpha=width**-0.5)
            out_IRH = scores_IRL.softmax(-1).to(v_ILH.dtype) @ v_ILH
            out_TGRH.index_copy_(0, rows, out_IRH.unflatten(0, (n_groups, n)).transpose(0, 1))
        return out_TGRH.to(q_BTNH.dtype).view(q_BTNH.shape)

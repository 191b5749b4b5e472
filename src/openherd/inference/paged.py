"""Keys and values in blocks, and attention to them: what the engine gives the model for `attend` (paper 6).

A step's tokens stand in one row, text after text. Each layer writes their keys and values to their texts' blocks. Then texts that
have several tokens in the step attend one by one, in pieces of queries, and those with one attend together, like lengths at once. A
text whose blocks follow each other is read where it lies; else its blocks are gathered. Pieces and lengths are rounded up: oneDNN
compiles a product for each shape that it meets, which costs time and memory.

Beside the model's legend: S places in the cache · I texts times G · L tokens of the longest of them · R query heads of a group.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from openherd.inference.native import Cache, zeros
from openherd.inference.repack import TILE
from openherd.model.causal import exact, shares
from openherd.model.config import ModelConfig

UNIT = 64  # tokens that lengths are rounded up to, and queries of a piece


@dataclass(frozen=True)
class Part:
    """Tokens of one text in a step: its blocks, and tokens `first` to `first + n`."""

    blocks: Sequence[int]
    first: int
    n: int


@dataclass(frozen=True)
class Piece:
    """Queries of one text, among as many as a piece has from token `begin` on."""

    rows: slice  # of the step
    place: slice  # in the piece
    begin: int


class PagedAttend:
    """The cache of one model, as its `attend`."""

    def __init__(
        self, config: ModelConfig, blocks: int, size: int, dtype: torch.dtype, device: torch.device, deterministic: bool = False
    ) -> None:
        """`deterministic`: a token's outcome does not depend on what else is in a step, to the last bit."""
        self.size, self.deterministic = size, deterministic
        # Heads are outermost, so that a text's part of one is a matrix; what is read in rounding up ends in the cache.
        shape = (config.n_layers, config.n_kv_heads, blocks * size + UNIT, config.head_width)
        on_processor = device.type == "cpu"
        self.keys_GSH, self.values_GSH = (
            zeros(shape, dtype) if on_processor else torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)
        )
        self.nowhere = blocks * size  # a place of no text
        self.parts: Sequence[Part] = ()
        self.placed = False  # in the tables of this class
        self.apart: list[tuple[slice | Tensor, list[Piece]]] = []  # of each text with several tokens: its places, its queries
        # Of texts with one token, of one length: rows, places (texts L), and -inf behind each text's end.
        self.together: list[tuple[Tensor, slice | Tensor, Tensor]] = []
        self.tables: tuple[Tensor, ...] = ()  # those of the kernel
        self.whole = device.type == "cuda" and not deterministic  # a text's queries at once, by torch's own attention
        self.piece = TILE if deterministic else UNIT
        self.heads = config.n_heads // config.n_kv_heads
        ahead = exact(self.keys_GSH.new_full((self.piece, UNIT), -torch.inf)).triu_(1)
        self.ahead = ahead.repeat_interleave(self.heads, 0)

    def place(self, parts: Sequence[Part]) -> None:
        """Which texts the next call's tokens belong to, in their order."""
        self.parts, self.placed, self.tables = parts, False, ()

    def place_together(self, new_T: Tensor, rows: Tensor, where: Tensor, behind: Tensor) -> None:
        """The same from tensors that are there, for texts of one token each: see `_place` for what they are."""
        self.placed, self.new_T, self.apart, self.together = True, new_T, [], [(rows, where, behind)]

    def clear(self, part: Part) -> None:
        """Zeros for the keys and values of its tokens: a mask takes nothing of what is behind a text but what is no number."""
        rows = range(part.first, part.first + part.n)
        places = torch.tensor([part.blocks[i // self.size] * self.size + i % self.size for i in rows], device=self.keys_GSH.device)
        for cached in (self.keys_GSH, self.values_GSH):
            cached.index_fill_(2, places, 0)

    def cache(self, layer: int) -> Cache:
        """For the kernel of our own."""
        if not self.tables:
            most = max(len(part.blocks) for part in self.parts)
            blocks = [[*part.blocks, *[0] * (most - len(part.blocks))] for part in self.parts]
            of_rows = [(i, part.first + j) for i, part in enumerate(self.parts) for j in range(part.n)]
            self.tables = (torch.tensor(blocks, dtype=torch.int32), torch.tensor(of_rows, dtype=torch.int32).T.contiguous())
        blocks_of, (text, position) = self.tables
        keys, values = self.keys_GSH[layer], self.values_GSH[layer]
        addresses = [tensor.data_ptr() for tensor in (keys, values, blocks_of, text, position)]
        return Cache(*addresses[:2], keys.shape[1], self.size, blocks_of.shape[1], *addresses[2:])

    def _place(self) -> None:
        parts, device = self.parts, self.keys_GSH.device
        self.placed = True
        most = max(rounded(part.first + part.n) // self.size + 1 for part in parts)
        table = torch.tensor([[*part.blocks, *[0] * (most - len(part.blocks))] for part in parts])
        places = (table[:, :, None] * self.size + torch.arange(self.size)).flatten(1)
        self.new_T = torch.cat([places[i, part.first : part.first + part.n] for i, part in enumerate(parts)]).to(device)
        self.apart = []
        alike: dict[int, list[tuple[int, int]]] = {}  # by length, of texts with one token: its row, and its place in `parts`
        row = 0
        for i, part in enumerate(parts):
            length = rounded(part.first + part.n)
            if part.n > 1 or self.deterministic:
                self.apart.append((self._where(part, places[i], length), self._pieces(part, row)))
            else:
                alike.setdefault(length, []).append((row, i))
            row += part.n
        self.together = []
        for length, found in alike.items():
            rows, texts = torch.tensor(found).T
            ends = torch.tensor([parts[i].first + 1 for _, i in found])
            behind = exact(torch.zeros(len(found), 1, length, dtype=self.keys_GSH.dtype))
            behind.masked_fill_((torch.arange(length) >= ends[:, None])[:, None], -torch.inf)
            where: slice | Tensor = places[texts, :length].flatten().to(device)
            if len(found) == 1:
                where = self._where(parts[found[0][1]], places[found[0][1]], length)
            self.together.append((rows.to(device), where, behind.to(device)))

    def _pieces(self, part: Part, row: int) -> list[Piece]:
        pieces, first, end = [], part.first, part.first + part.n
        while first < end:
            begin = first // self.piece * self.piece
            last = min(end, begin + self.piece)
            pieces.append(Piece(slice(row, row + last - first), slice(first - begin, last - begin), begin))
            row, first = row + last - first, last
        return pieces

    def _where(self, part: Part, places_S: Tensor, length: int) -> slice | Tensor:
        if all(following == block + 1 for block, following in itertools.pairwise(part.blocks)):
            return slice(part.blocks[0] * self.size, part.blocks[0] * self.size + length)
        return places_S[:length].to(self.keys_GSH.device)

    def _read(self, layer: int, where: slice | Tensor) -> tuple[Tensor, Tensor]:
        keys_GSH, values_GSH = self.keys_GSH[layer], self.values_GSH[layer]
        if isinstance(where, slice):
            return keys_GSH[:, where], values_GSH[:, where]
        return keys_GSH.index_select(1, where), values_GSH.index_select(1, where)

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        """Shape (1, T, N, H)."""
        if not self.placed:
            self._place()
        dtype = self.keys_GSH.dtype
        self.keys_GSH[layer].index_copy_(1, self.new_T, k_BTGH[0].transpose(0, 1).to(dtype))
        self.values_GSH[layer].index_copy_(1, self.new_T, v_BTGH[0].transpose(0, 1).to(dtype))
        groups, width = k_BTGH.shape[2:]
        q_TGRH = q_BTNH[0].unflatten(1, (groups, self.heads)).to(dtype)
        out_TGRH = torch.empty_like(q_TGRH)
        for where, pieces in self.apart:
            k_GLH, v_GLH = self._read(layer, where)
            if self.whole:
                row, end = pieces[0].rows.start, pieces[-1].begin + pieces[-1].place.stop
                own_TGRH = q_TGRH[row : pieces[-1].rows.stop]
                out_TGRH[row : row + len(own_TGRH)] = whole(own_TGRH, k_GLH[:, :end], v_GLH[:, :end])
                continue
            exact_k = exact(k_GLH)
            for piece in pieces:
                end = rounded(piece.begin + self.piece)
                q = q_TGRH.new_zeros(groups, self.piece, self.heads, width)
                q[:, piece.place] = q_TGRH[piece.rows].transpose(0, 1)
                share = shares(exact(q.flatten(1, 2)), exact_k[:, :end], self.ahead[:, : end - piece.begin])
                out = (share.to(dtype) @ v_GLH[:, :end]).view_as(q)
                out_TGRH[piece.rows] = out[:, piece.place].transpose(0, 1)
        for rows, where, behind in self.together:
            n, length = len(rows), behind.shape[2]
            k_ILH, v_ILH = (x.reshape(groups * n, length, width) for x in self._read(layer, where))
            q_IRH = q_TGRH.index_select(0, rows).transpose(0, 1).flatten(0, 1)
            scores_IRL = torch.baddbmm(behind.repeat(groups, 1, 1), exact(q_IRH), exact(k_ILH).mT, alpha=width**-0.5)
            out_IRH = scores_IRL.softmax(-1).to(dtype) @ v_ILH
            out_TGRH.index_copy_(0, rows, out_IRH.unflatten(0, (groups, n)).transpose(0, 1))
        return out_TGRH.to(q_BTNH.dtype).view(q_BTNH.shape)


def whole(q_TGRH: Tensor, k_GLH: Tensor, v_GLH: Tensor) -> Tensor:
    """What the last T tokens of a text look at, by torch's own attention."""
    q_BNTH, mask = q_TGRH.flatten(1, 2).transpose(0, 1)[None], causal_lower_right(len(q_TGRH), k_GLH.shape[1])
    out_BNTH = F.scaled_dot_product_attention(q_BNTH, k_GLH[None], v_GLH[None], attn_mask=mask, enable_gqa=True)
    return out_BNTH[0].transpose(0, 1).view_as(q_TGRH)


def rounded(tokens: int) -> int:
    """Up to whole units."""
    return -(-tokens // UNIT) * UNIT

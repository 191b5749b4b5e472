"""Context parallelism (paper 3.3.2): each process has chunks i and 2 CP - 1 - i of every sequence, gathers keys and values, and
attends for its own tokens.

The two chunks make the causal work equal. Gathering, and not passing around a ring, keeps any mask simple: a token's document and
its place in the sequence decide. Keys and values are few, since heads share them. Written here because torch's own does not run on
a processor; it is a collective and an index.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from openherd.model.attention import Attend, CausalAttend, attention
from openherd.parallel.mesh import gather


def chunk_indices(tokens: int, cp: int, place: int) -> Tensor:
    """Which tokens of a sequence the process at `place` has: chunks `place` and 2 cp - 1 - place."""
    chunks = torch.arange(tokens).chunk(2 * cp)
    return torch.cat([chunks[place], chunks[2 * cp - 1 - place]])


class ContextAttend:
    """Attention of this process's queries to all tokens, gathered; within the token's document and not ahead.

    Each of its two chunks attends to what ends with it: half of the pairs of a sequence are never looked at. Masks are made at each
    use. Kept here they would be kept of every micro-batch on its way, with recomputation too.
    """

    def __init__(self, documents_BT: Tensor, cp: int, place: int, group: dist.ProcessGroup) -> None:
        """`documents_BT` are those of whole sequences."""
        self.documents_BT, self.cp, self.group = documents_BT, cp, group
        length = documents_BT.shape[1] // (2 * cp)
        self.chunks = [range(n * length, (n + 1) * length) for n in (place, 2 * cp - 1 - place)]

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        parts = gather(torch.cat([k_BTGH, v_BTGH], dim=2), 1, self.group).chunk(2 * self.cp, dim=1)
        # A process has its own two behind each other: the first ones go up through the sequence, the second ones down.
        k_BSGH, v_BSGH = torch.cat([*parts[::2], *reversed(parts[1::2])], dim=1).chunk(2, dim=2)
        return torch.cat(
            [
                attention(q, k_BSGH[:, : own.stop], v_BSGH[:, : own.stop], self.mask(own))
                for own, q in zip(self.chunks, q_BTNH.chunk(2, dim=1), strict=True)
            ],
            dim=1,
        )

    def mask(self, own: range) -> Tensor:
        """What the tokens of a chunk see of those up to its end, shape (B, 1, tokens of the chunk, tokens up to its end)."""
        documents_BT = self.documents_BT
        same = documents_BT[:, None, own.start : own.stop, None] == documents_BT[:, None, None, : own.stop]
        return same.tril_(own.start)


def attend_of(documents_BT: Tensor, cp: int, place: int, group: dist.ProcessGroup | None, compiled: bool) -> Attend:
    """How to attend, given the documents of whole sequences."""
    return CausalAttend(documents_BT, compiled) if group is None else ContextAttend(documents_BT, cp, place, group)


def own_chunks(batch: dict[str, Tensor], cp: int, place: int) -> dict[str, Tensor]:
    """The tensors (B, T) of a batch, cut to this process's tokens; `documents_BT` stays whole."""
    if cp == 1:
        return batch
    whole = ("documents_BT",)
    index = chunk_indices(batch["tokens_BT"].shape[1], cp, place).to(batch["tokens_BT"].device)
    return {name: t[:, index] if name.endswith("_BT") and name not in whole else t for name, t in batch.items()}

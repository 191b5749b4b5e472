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
    """Attention of this process's queries to all tokens, gathered; within the token's document and not ahead."""

    def __init__(self, documents_BT: Tensor, cp: int, place: int, group: dist.ProcessGroup) -> None:
        """`documents_BT` are those of whole sequences."""
        indices = [chunk_indices(documents_BT.shape[1], cp, i).to(documents_BT.device) for i in range(cp)]
        mine_T, all_S = indices[place], torch.cat(indices)
        same = documents_BT[:, None, mine_T, None] == documents_BT[:, None, None, all_S]
        self.mask = same & (all_S <= mine_T[:, None])
        self.group = group

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        k_BSGH, v_BSGH = gather(torch.cat([k_BTGH, v_BTGH], dim=2), 1, self.group).chunk(2, dim=2)
        return attention(q_BTNH, k_BSGH, v_BSGH, self.mask)


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

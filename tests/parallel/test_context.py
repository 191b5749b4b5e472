"""Context parallelism, process by process without the others: attention to whole sequences, and what of it is in memory."""

import pytest
import torch
from torch import Tensor

from openherd.model.attention import attention
from openherd.model.config import ModelConfig
from openherd.parallel import context
from openherd.parallel.context import ContextAttend, chunk_indices
from openherd.parallel.layout import ParallelConfig
from openherd.training.anneal import AnnealConfig
from openherd.training.dry_run import dry_runs

SHAPE = ModelConfig(n_layers=3, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=64, vocabulary=96)


@pytest.mark.parametrize("cp", [2, 3])
def test_each_process_attends_as_if_alone(cp, monkeypatch):
    """Outcome and gradients; documents of uneven lengths, one of them over several chunks."""
    tokens, generator = 24, torch.Generator().manual_seed(0)
    documents_BT = torch.tensor([[0] * 5 + [1] * 17 + [2] * 2, [0] * 24])
    q, k, v = (torch.randn(2, tokens, n, 8, generator=generator, requires_grad=True) for n in (4, 2, 2))
    sees = (documents_BT[:, :, None] == documents_BT[:, None, :]) & torch.ones(tokens, tokens).tril().bool()
    whole = attention(q, k, v, sees[:, None])
    ask = torch.randn(whole.shape, generator=generator)
    places = [chunk_indices(tokens, cp, place) for place in range(cp)]
    everyone = torch.cat([torch.cat([k, v], dim=2)[:, index] for index in places], dim=1)
    monkeypatch.setattr(context, "gather", lambda mine, dim, group: everyone)
    parts = []
    for place, index in enumerate(places):
        attend = ContextAttend(documents_BT, cp, place, None)  # type: ignore[arg-type]
        held = [value for value in vars(attend).values() if isinstance(value, Tensor)]
        assert sum(t.numel() for t in held) <= documents_BT.numel()  # no mask: it would be held until the way back
        out = attend(0, q[:, index], k[:, index], v[:, index])
        assert torch.allclose(out, whole[:, index], atol=1e-6)
        parts.append((out * ask[:, index]).sum())
    wanted = torch.autograd.grad((whole * ask).sum(), (q, k, v))
    for mine, its in zip(torch.autograd.grad(sum(parts), (q, k, v)), wanted, strict=True):
        assert torch.allclose(mine, its, atol=1e-5)


@pytest.mark.parametrize(("precision", "n_bytes", "of_norms"), [("float32", 4, 0), ("bfloat16", 2, 2 * 4 * 32)])
def test_a_dry_run_counts_the_tables_of_one_layer(precision, n_bytes, of_norms):
    """What is kept grows with the tokens; what is computed again has the tables too: of the 2 CP chunks squared, 2 CP + 1."""
    cp, rows = 2, 2

    def process(tokens):
        config = AnnealConfig(
            steps=5, averaged_checkpoints=1, sequence_length=tokens, batch_tokens=rows * tokens, micro_batch_sequences=rows,
            precision=precision, parallel=ParallelConfig(cp=cp, recompute="full"),
        )  # fmt: skip
        return dry_runs([("test", config, SHAPE)])[0].processes[0]

    short, long = process(64), process(128)
    assert long.activations <= 2 * short.activations
    tables = n_bytes * rows * (2 * cp + 1) * (32**2 - 2 * 16**2)
    assert long.recomputed - 2 * short.recomputed == tables - of_norms  # whose fp32 copies are as large at any length

"""Attention to a cache in blocks against attention to whole texts, under random steps."""

import os
import random
from pathlib import Path

import pytest
import torch

from openherd.inference.paged import PagedAttend, Part
from openherd.model.config import ModelConfig
from tiny import tiny_model

CONFIG = ModelConfig(
    n_layers=2, d_model=32, n_heads=6, n_kv_heads=2, head_width=8, d_feed_forward=48, vocabulary=50, max_positions=400
)


@pytest.mark.parametrize("seed", range(12))
@torch.no_grad()
def test_texts_in_random_parts_and_blocks_have_their_own_logits(seed):
    draw = random.Random(seed)
    model = tiny_model(CONFIG, seed)
    size = draw.choice([1, 4, 16])
    lengths = [draw.choice([1, 3, 20, 70, 200]) + draw.randrange(3) for _ in range(draw.randint(1, 7))]
    texts = [torch.randint(50, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in lengths]
    needed = [-(-n // size) for n in lengths]
    order = list(range(sum(needed)))
    if seed % 2:  # else each text's blocks follow each other
        draw.shuffle(order)
    attend = PagedAttend(CONFIG, len(order), size, torch.float32, torch.device("cpu"))
    attend.keys_GSH.fill_(1e4)  # what another text has left there
    attend.values_GSH.fill_(1e4)
    blocks = [[order.pop(0) for _ in range(n)] for n in needed]
    done, logits = [0] * len(texts), [[] for _ in texts]
    while any(n < len(text) for n, text in zip(done, texts, strict=True)):
        chosen = [i for i, text in enumerate(texts) if done[i] < len(text) and draw.random() < 0.7]
        parts = [(i, min(draw.choice([1, 1, 1, 2, 30, 150]), len(texts[i]) - done[i])) for i in chosen]
        if not parts:
            continue
        attend.place([Part(blocks[i][: -(-(done[i] + n) // size)], done[i], n) for i, n in parts])
        tokens = torch.tensor([[token for i, n in parts for token in texts[i][done[i] : done[i] + n]]])
        positions = torch.tensor([[at for i, n in parts for at in range(done[i], done[i] + n)]])
        found = model.head(model.trunk(model.embed(tokens), positions, attend))[0]
        for (i, n), rows in zip(parts, found.split([n for _, n in parts]), strict=True):
            logits[i].append(rows)
            done[i] += n
    for text, rows in zip(texts, logits, strict=True):
        torch.testing.assert_close(torch.cat(rows), model(torch.tensor([text]))[0], rtol=0, atol=2e-5)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no Linux")
def test_a_cache_takes_memory_as_it_is_written_to():
    """That of a model with a long context would else take gigabytes before the first token."""

    def resident_bytes():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident_bytes()
    attend = PagedAttend(CONFIG, 1 << 17, 16, torch.float32, torch.device("cpu"))
    assert attend.keys_GSH.nbytes + attend.values_GSH.nbytes > 500e6
    assert resident_bytes() - before < 100e6
    assert not attend.values_GSH[..., :1_000, :].any()

"""What a phase shows: a ramp each window once an epoch, and another order in each phase."""

from pathlib import Path

import numpy as np
import pytest
import torch

from openherd.core.errors import ConfigError
from openherd.data.mix import MIXES
from openherd.data.token_shards import TokenShards
from openherd.training.phase import Piece, batches, check_epochs
from openherd.training.pretrain import PretrainConfig


def counting(**sources):
    """Shards whose tokens are their own places, in one document each."""
    starts, tokens = ({name: make(n) for name, n in sources.items()} for make in (lambda n: np.array([0]), np.arange))
    return TokenShards(Path(), max(sources.values()), "", sources, starts, tokens)


def seen(shards, pieces, steps, weights, n=1):
    """How often a token of the one source is an input in some steps, over `n` processes."""
    part = batches(shards, pieces, 0, "test", weights)
    shown = [part(step, place, n)["tokens_BT"].flatten() for step in steps for place in range(n)]
    return np.bincount(torch.cat(shown), minlength=shards.vocabulary)


def steps_of(pieces):
    return sum(p.steps for p in pieces)


@pytest.mark.parametrize(
    "pieces",
    [
        [Piece(16, 4, 40), Piece(16, 8, 80)],  # as the paper's 8M and 16M tokens
        [Piece(8, 4, 40), Piece(16, 4, 20), Piece(16, 8, 75)],  # and 4,096 and 8,192
        [Piece(4, 4, 30), Piece(8, 2, 35), Piece(16, 2, 300)],
        [Piece(16, 4, 50), Piece(4, 8, 100)],
    ],
    ids=["one length", "halves", "quarters and halves", "longest first"],
)
def test_a_ramp_visits_each_token_once_an_epoch(pieces):
    shards = counting(web=16 * 800)
    found = seen(shards, pieces, range(steps_of(pieces)), {"web": 1.0})
    assert found.sum() == sum(p.tokens for p in pieces)
    assert found.max() == 1
    longer = [*pieces, Piece(16, 1, 2 * 800 - int(found.sum()) // 16)]  # up to the end of the second epoch
    assert seen(shards, longer, range(steps_of(longer)), {"web": 1.0}).tolist() == [2] * shards.vocabulary


def test_the_paper_ramp_at_a_small_scale():
    """4,096 tokens a sequence, then 8,192, twice as many of them, all in one epoch: 405B's shares, a window being 16 tokens."""
    pieces = [Piece(8, 8, 2), Piece(16, 8, 92), Piece(16, 16, 203)]
    shards = counting(web=16 * (8 + 8 * 92 + 16 * 203))
    assert seen(shards, pieces, range(297), {"web": 1.0}).tolist() == [1] * shards.vocabulary
    assert check_epochs(shards, pieces, {"web": 1.0}, 4.0) == {"web": 1.0}


def test_the_parts_of_a_window_are_in_different_steps():
    pieces = [Piece(4, 10, 4), Piece(16, 2, 1)]
    part = batches(counting(web=16 * 50), pieces, 0, "test", {"web": 1.0})
    for step in range(4):
        starts = part(step, 0, 1)["tokens_BT"][:, 0]
        between = (starts[:, None] - starts).abs() + 16 * torch.eye(10, dtype=torch.int64)
        assert between.min() >= 16


def test_a_ramp_is_the_same_over_any_number_of_processes():
    """From any step on, as after a resume with more or fewer."""
    pieces, shards, weights = [Piece(8, 12, 5), Piece(16, 12, 7)], counting(web=16 * 60, books=16 * 30), {"web": 2.0, "books": 1.0}
    whole = batches(shards, pieces, 0, "test", weights)
    for n in (2, 3, 4, 12):
        part = batches(shards, pieces, 0, "test", weights)
        for step in reversed(range(12)):
            parts = [part(step, place, n) for place in range(n)]
            for name, rows in whole(step, 0, 1).items():
                assert torch.equal(torch.cat([p[name] for p in parts]), rows), (n, step)
    with pytest.raises(IndexError):
        whole(12, 0, 1)


def test_lengths_that_do_not_divide_have_orders_of_their_own():
    shards, pieces = counting(web=4800), [Piece(12, 1, 200), Piece(16, 1, 150)]
    assert seen(shards, pieces, range(200), {"web": 1.0}).max() == 1
    assert seen(shards, pieces, range(200, 350), {"web": 1.0}).max() == 1
    assert seen(shards, pieces, range(350), {"web": 1.0}).max() == 2


def test_epochs_are_what_a_token_is_shown():
    """Of a source of less than three sequences: 11 of 64 tokens are 3.7 times its 191."""
    shards, pieces = counting(web=191), [Piece(64, 1, 11)]
    stated = check_epochs(shards, pieces, {"web": 1.0}, 4.0)["web"]
    found = seen(shards, pieces, range(11), {"web": 1.0})
    assert found.mean() == pytest.approx(stated)
    assert found.max() <= 6  # 11 sequences are five and a half times two windows


def test_a_mix_by_name_is_its_weights():
    assert PretrainConfig(source_mix="paper").asked_weights() == MIXES["paper"]
    assert PretrainConfig(source_mix="tutorial").asked_weights()["web"] == 0.85
    assert PretrainConfig(source_weights={"a": 2.0}).asked_weights() == {"a": 2.0}
    with pytest.raises(ConfigError, match="weights, and source_mix = 'paper'; allowed: one of them"):
        PretrainConfig(source_mix="paper", source_weights={"a": 1.0}).asked_weights()

"""The cached engine against the twin without a cache, and windows against one long forward pass."""

import pytest
import torch

from openherd.inference.engine import Sampling, generate, log_probabilities, stream
from openherd.inference.reference import generate_greedy
from openherd.inference.sampling import sample
from openherd.model.config import ModelConfig
from tiny import tiny_model

CONFIG = ModelConfig(
    n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=48, vocabulary=50, max_positions=48
)


@pytest.fixture(scope="module")
def model():
    return tiny_model(CONFIG, 3)


def prompts(lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(50, (n,), generator=generator).tolist() for n in lengths]


def test_greedy_equals_generation_without_a_cache(model):
    given = prompts([3, 17, 1, 9, 9, 30])
    slow = [generate_greedy(model, p, 12, stop={7}) for p in given]
    assert generate(model, given, Sampling(12), stop={7}, batch_rows=4) == slow


def test_a_stop_token_ends_one_row_only(model):
    given = prompts([5, 5])
    free = generate(model, given, Sampling(8), stop=())
    stop = free[0][3]
    stopped = generate(model, given, Sampling(8), stop={stop})
    assert stopped[0] == free[0][: free[0].index(stop)]
    assert stopped[1] == (free[1][: free[1].index(stop)] if stop in free[1] else free[1])


def test_generation_ends_at_the_context(model):
    given = prompts([46, 10, 48, 60])
    lengths = [len(c) for c in generate(model, given, Sampling(100), stop=())]
    assert lengths == [2, 38, 0, 0]


def test_sampling_is_seeded_and_top_p_cuts(model):
    given = prompts([4])
    one, again, other = (generate(model, given, Sampling(20, 1.0, 1.0, seed), stop=()) for seed in (1, 1, 2))
    assert one == again != other
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(500, 1)
    drawn = sample(logits, 1.0, 0.7, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {0, 1}


def test_streamed_steps_are_the_generation(model):
    given = prompts([6, 2])
    rows = [[], []]
    for step in stream(model, given, Sampling(9), stop=()):
        for row, token in step:
            rows[row].append(token)
    assert rows == generate(model, given, Sampling(9), stop=())


@pytest.mark.parametrize("n", [2, 16, 17, 18, 40, 41])
def test_windows_score_each_token_once_with_its_context(model, n):
    tokens = prompts([n])[0]
    context = 16
    scores = log_probabilities(model, tokens, context)
    expected = []
    first_window = min(context + 1, n)
    for i in range(1, n):  # the slow twin: the window of each token worked out alone
        start = 0 if i < first_window else (i - first_window) // 8 * 8 + 8
        row = torch.log_softmax(model(torch.tensor([tokens[start:i]])), -1)[0, -1, tokens[i]]
        expected.append(row)
        assert i == len(expected)
        assert i - start >= min(i, context // 2)
    assert torch.allclose(scores, torch.stack(expected).detach(), atol=1e-5)

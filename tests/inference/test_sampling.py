"""The draw against transformers' processors, worked cases, and itself in other batches."""

import math
import os
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.errors import ConfigError
from openherd.inference.sampling import Sampling, edit, kept, random_bits, sample

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from transformers.generation import logits_process as oracle

VOCABULARY = 700


def logits(rows: int, seed: int = 0, vocabulary: int = VOCABULARY, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def probabilities(row_V: torch.Tensor, request: Sampling, prompt=(), output=()) -> torch.Tensor:
    """What a row is drawn from."""
    scores = edit(row_V[None], [request], [prompt], [output], None)
    [(rows, ids, weights)] = kept((scores - scores.max()) / request.temperature, [request])
    assert rows == [0]
    assert (ids.diff() >= 0).all()
    found = torch.zeros(len(row_V), dtype=torch.float64)
    return found.scatter_add(0, ids[0], weights[0] / weights.sum().double())


def by_transformers(row_V: torch.Tensor, request: Sampling, seen: list[int]) -> torch.Tensor:
    steps = []
    if request.repetition_penalty != 1:
        steps.append(oracle.RepetitionPenaltyLogitsProcessor(request.repetition_penalty))
    steps.append(oracle.TemperatureLogitsWarper(request.temperature))
    if request.min_p:
        steps.append(oracle.MinPLogitsWarper(request.min_p))
    if request.top_k:
        steps.append(oracle.TopKLogitsWarper(request.top_k))
    if request.top_p < 1:
        steps.append(oracle.TopPLogitsWarper(request.top_p))
    scores = row_V[None].clone()
    for step in steps:
        scores = step(torch.tensor([seen]), scores)
    return scores[0].double().softmax(-1)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    [
        *product([0.7, 1.0], [0, 1, 40], [1.0, 0.9, 0.3], [0.0, 0.05], [1.0]),
        (1.5, 0, 0.999, 0.0, 1.3),  # more candidates than are looked at first
        (5.0, 650, 0.9, 0.001, 0.8),
        (0.05, 30, 0.95, 0.1, 1.1),
        (1.0, 10_000, 1.0, 0.0, 1.0),  # more than there are
        (1.0, 0, 1.0, 1.0, 1.0),
    ],
)
def test_the_distribution_is_that_of_transformers(temperature, top_k, top_p, min_p, repetition_penalty):
    request = Sampling(
        max_new_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )
    for seed in range(4):
        row = logits(1, seed)[0]
        ours = probabilities(row, request, prompt=[3, 5, 5], output=[8, 3])
        theirs = by_transformers(row, request, [3, 5, 5, 8, 3])
        # A token of less than 2^-40 of the likeliest's probability weighs nothing.
        assert torch.equal(ours > 0, theirs > theirs.max() * 2.0**-40)
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-11)


def test_presence_and_frequency_by_hand():
    row = torch.zeros(6)
    request = Sampling(
        max_new_tokens=1, temperature=1.0, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={4: 1.5, 5: -math.inf}
    )
    found = probabilities(row, request, prompt=[0, 1, 1], output=[1, 2, 2, 4])
    # Token 0 stands in the prompt alone, 1 once in the output, 2 twice, 4 once with a bias.
    expected = torch.tensor([0, -0.75, -1.0, 0, 0.75, -math.inf], dtype=torch.float64).softmax(-1)
    assert torch.allclose(found, expected, rtol=1e-6)


def test_repetition_penalty_then_bias_by_hand():
    row = torch.tensor([[2.0, -2.0, 1.0, 0.9]])
    request = Sampling(max_new_tokens=1, repetition_penalty=2.0)
    assert sample(row, [request], [[0]], [[]]).tokens == [0]  # 2 / 2 = 1: a tie with token 2
    assert sample(row, [Sampling(max_new_tokens=1, repetition_penalty=2.5)], [[0]], [[2]]).tokens == [3]
    biased = Sampling(max_new_tokens=1, repetition_penalty=2.0, logit_bias={1: 5.5})  # -2 * 2 + 5.5
    assert sample(row, [biased], [[0, 1]], [[]]).tokens == [1]


def test_greedy_ties_go_to_the_lowest_id():
    row = torch.zeros(3, 5000)
    row[1, [4321, 99, 3000]] = 1
    row[2, [4999, 4998]] = 2
    for kind in (torch.float32, torch.bfloat16):
        assert sample(row.to(kind), [Sampling(max_new_tokens=1)] * 3, [[]] * 3, [[]] * 3).tokens == [0, 99, 4998]


def test_equals_stay_or_fall_together():
    row = torch.tensor([3.0] + [2.0] * 400 + [1.0] * 50)
    for request in (
        Sampling(max_new_tokens=1, temperature=1.0, top_k=3),
        Sampling(max_new_tokens=1, temperature=1.0, top_p=0.1),
        Sampling(max_new_tokens=1, temperature=1.0, min_p=0.3),
        Sampling(max_new_tokens=1, temperature=1.0, top_k=3, top_p=0.5),
    ):
        assert (probabilities(row, request) > 0).nonzero()[:, 0].tolist() == list(range(401))


def test_draws_follow_the_distribution():
    """Chi-square over seeds, and over the tokens of one output."""
    row = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0, -30.0])
    requests = [Sampling(max_new_tokens=1, temperature=0.8, min_p=0.01, seed=seed - 3000) for seed in range(6000)]
    along = [Sampling(max_new_tokens=1, temperature=0.8, top_k=5, seed=9)] * 6000
    outputs = [[0] * n for n in range(6000)]
    expected = (row[:5] / 0.8).double().softmax(-1) * 6000
    for given_requests, given_outputs in ((requests, [[]] * 6000), (along, outputs)):
        drawn = sample(row.expand(6000, -1), given_requests, [[]] * 6000, given_outputs).tokens
        counts = torch.tensor(drawn).bincount(minlength=6).double()
        assert counts[5] == 0
        assert float(((counts[:5] - expected) ** 2 / expected).sum()) < 18.5  # 0.1% of 4 degrees of freedom


def slow_draw(row_V: torch.Tensor, request: Sampling, index: int) -> int:
    """The draw token by token, the whole vocabulary sorted."""
    scaled = (row_V - row_V.max()) / torch.tensor(request.temperature)
    weight = dict(enumerate((scaled.exp() * 2**40).long().tolist()))
    order = scaled.argsort(descending=True).tolist()
    logit = scaled.tolist()
    least = math.log(request.min_p) if request.min_p else -math.inf
    if request.top_k:
        least = max(least, logit[order[: request.top_k][-1]])
    if request.top_p < 1:
        left = [i for i in order if logit[i] >= least]
        total, passed = sum(weight[i] for i in left), 0
        for i in left:
            if passed < request.top_p * total:
                least = logit[i]
            passed += weight[i]
    left = [i for i in range(len(row_V)) if logit[i] >= least]
    target = random_bits(request.seed, index) * sum(weight[i] for i in left) >> 64
    for i in left:
        target -= weight[i]
        if target < 0:
            return i
    raise AssertionError


@given(
    st.lists(
        st.builds(
            Sampling,
            max_new_tokens=st.just(1),
            temperature=st.sampled_from([1e-4, 0.3, 1.0, 1e6]),
            top_k=st.sampled_from([0, 1, 2, 50, 256, 1000]),
            top_p=st.sampled_from([1.0, 1e-9, 0.3, 0.9, 0.9999999]),
            min_p=st.sampled_from([0.0, 1e-6, 0.1]),
            seed=st.integers(-(2**63), 2**63 - 1),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([2, 50, 257, 300, 1500]),
    st.integers(0, 1000),
    st.sampled_from([0.1, 1.0, 20.0]),
    st.booleans(),
)
def test_every_row_is_drawn_as_the_slow_twin_draws_it_alone(requests, vocabulary, seed, scale, equals):
    batch = logits(len(requests), seed, vocabulary, scale)
    if equals:
        batch = batch.round()
    outputs = [[0] * (i % 3) for i in range(len(requests))]
    tokens = sample(batch, requests, [[]] * len(requests), outputs).tokens
    assert tokens == [slow_draw(*row, len(o)) for *row, o in zip(batch, requests, outputs, strict=True)]


def any_request(i: int) -> Sampling:
    """Request number i of a batch in which no two are alike."""
    return Sampling(
        max_new_tokens=1,
        temperature=[0.0, 0.6, 1.0, 30.0][i % 4],
        top_k=[0, 0, 7, 300][i // 2 % 4],
        top_p=[1.0, 0.8, 0.99][i % 3],
        min_p=[0.0, 0.0, 0.02][i // 3 % 3],
        repetition_penalty=[1.0, 1.2][i // 5 % 2],
        frequency_penalty=[0.0, 0.3][i // 7 % 2],
        logit_bias={5: 1.0} if i % 11 == 0 else {},
        seed=i,
        logprobs=i % 4,
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_row_alone_is_the_row_in_a_batch(kind):
    rows = 48
    batch = logits(rows, vocabulary=5000, scale=2.0).to(kind)  # bf16: many equals
    requests = [any_request(i) for i in range(rows)]
    prompts, outputs = [[i, i + 1] for i in range(rows)], [list(range(i % 5)) for i in range(rows)]
    allowed = logits(rows, 1, 5000) > -3
    whole = sample(batch, requests, prompts, outputs, allowed)
    again = torch.randperm(rows, generator=torch.Generator().manual_seed(0)).tolist()
    for some in (*([i] for i in range(rows)), again[:17], again[:40], again):
        part = sample(
            batch[some], [requests[i] for i in some], [prompts[i] for i in some], [outputs[i] for i in some], allowed[some]
        )
        assert part.tokens == [whole.tokens[i] for i in some]
        assert part.logprobs == [whole.logprobs[i] for i in some]
        assert part.top == [whole.top[i] for i in some]


def test_the_seed_and_the_place_decide():
    batch = logits(400)

    def drawn(seed, output):
        return sample(batch, [Sampling(max_new_tokens=1, temperature=1.0, seed=seed)] * 400, [[]] * 400, [output] * 400).tokens

    assert drawn(1, []) == drawn(1, []) != drawn(2, [])
    assert drawn(1, [7]) == drawn(1, [8]) != drawn(1, [])
    assert drawn(-(2**63), []) != drawn(2**63 - 1, [])


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(0, 100))
def test_the_token_is_allowed(seed, n_allowed, i):
    batch = logits(2, seed)
    allowed = torch.zeros(2, VOCABULARY, dtype=torch.bool)
    chosen = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(seed))[:n_allowed]
    allowed[:, chosen] = True
    tokens = sample(batch, [any_request(i), any_request(i + 1)], [[1], [2]], [[3], []], allowed).tokens
    assert allowed[[0, 1], tokens].all()


def test_log_probabilities_are_the_models_own():
    batch = logits(12, vocabulary=300)
    before = batch.clone()
    requests = [
        Sampling(max_new_tokens=1, temperature=0.5, top_k=3, repetition_penalty=1.5, logit_bias={4: 9.0}, logprobs=n, seed=n)
        for n in range(12)
    ]
    found = sample(batch, requests, [[1, 2]] * 12, [[3]] * 12)
    assert torch.equal(batch, before)
    expected = torch.log_softmax(batch.double(), -1)
    assert found.logprobs == pytest.approx(expected[range(12), found.tokens].tolist(), abs=1e-5)
    for n, top in enumerate(found.top):
        values, ids = expected[n].sort(descending=True)
        assert [i for i, _ in top] == ids[:n].tolist()
        assert [p for _, p in top] == pytest.approx(values[:n].tolist(), abs=1e-5)


def test_equal_log_probabilities_are_told_in_the_order_of_ids():
    row = torch.zeros(1, 4000)
    row[0, 77] = 1
    assert [i for i, _ in sample(row, [Sampling(max_new_tokens=1, logprobs=4)], [[]], [[]]).top[0]] == [77, 0, 1, 2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("row", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]])
def test_a_row_without_a_token_has_none_and_leaves_the_others_theirs(row, temperature):
    logits, request = torch.tensor([[0.0, 1.0], row, [1.0, 0.0]]), Sampling(max_new_tokens=1, temperature=temperature)
    nothing = [[]] * 3
    found = sample(logits, [request] * 3, nothing, nothing)
    alone = [sample(logits[[i]], [request], [[]], [[]]) for i in (0, 2)]
    assert found.tokens == [alone[0].tokens[0], -1, alone[1].tokens[0]]
    assert [found.logprobs[i] for i in (0, 2)] == [one.logprobs[0] for one in alone]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": -1},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.nan},
        {"presence_penalty": 2.5},
        {"frequency_penalty": -2.5},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: math.nan}},
        {"logit_bias": {1: math.inf}},
        {"seed": 2**63},
        {"stop_strings": ("a", "")},
        {"stop_strings": "abc"},
        {"logprobs": -1},
    ],
)
def test_values_out_of_range_are_told_in_one_line(wrong):
    with pytest.raises(ConfigError, match=rf"^sampling\.{next(iter(wrong))}: .*; allowed: [^\n]*$"):
        Sampling(**{"max_new_tokens": 1, **wrong})


def test_a_bias_of_no_token():
    request = Sampling(max_new_tokens=1, logit_bias={10: 1.0})
    request.check_vocabulary(11)
    with pytest.raises(ConfigError, match="allowed: token ids below 10"):
        request.check_vocabulary(10)

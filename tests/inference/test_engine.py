"""The engine against the twin without a cache, alone against among others, and windows against one long forward pass."""

import copy
import math
import random
from dataclasses import replace

import pytest
import torch

from openherd.core.errors import ConfigError
from openherd.inference.engine import Engine, EngineConfig, generate, log_probabilities, score
from openherd.inference.graphs import Graphs, Step
from openherd.inference.native import Compiling, library
from openherd.inference.paged import Part
from openherd.inference.reference import generate_greedy
from openherd.inference.sampling import Sampling
from openherd.model.attention import CausalAttend
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


def greedy(n):
    return Sampling(max_new_tokens=n)


def small(model, **settings):
    """An engine in which little fits at once, so that texts wait, come in parts and are preempted."""
    return Engine(model, config=EngineConfig(block=4, most_tokens=9, most_texts=5, **settings), tokens=64)


def test_greedy_equals_generation_without_a_cache(model):
    given = prompts([3, 17, 1, 9, 9, 30])
    slow = [generate_greedy(model, p, 12, stop={7}) for p in given]
    assert generate(model, given, greedy(12), stop={7}) == slow
    engine = small(model)
    answers = [engine.add(p, greedy(12), stop={7}) for p in given]
    texts = list(engine.answers)
    engine.run()
    assert [a.tokens for a in answers] == slow
    assert sum(text.preempted for text in texts) > 0
    assert engine.scheduler.blocks.available() == engine.scheduler.blocks.count


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_deterministic_is_alone_what_it_is_in_a_batch(dtype, compiled):
    """To the last bit: tokens, log-probabilities, hidden states; with prompts in parts, shared beginnings and preemptions."""
    shape = replace(CONFIG, d_model=64, n_heads=4, head_width=32, d_feed_forward=128, max_positions=200)
    model = tiny_model(shape, 1).to(dtype)
    if compiled and not library.load():
        pytest.skip(f"the kernel cannot be compiled here: {library.error}")
    model = Compiling(model) if compiled else model
    draw = random.Random(0)
    opening = prompts([40])[0]
    asked = [
        (
            opening[: draw.choice([0, 20, 40])] + [draw.randrange(50) for _ in range(draw.randint(1, 50))],
            Sampling(max_new_tokens=draw.randint(1, 30), temperature=draw.choice([0.0, 1.0]), seed=i),
        )
        for i in range(12)
    ]

    def answered(config, tokens, *which, deterministic=True):
        engine = Engine(model, config=replace(config, deterministic=deterministic), tokens=tokens)
        hidden = {}
        for i in which:
            hidden[i] = []
            engine.read(asked[i][0], len(asked[i][0]) // 2, lambda part, _, own=hidden[i]: own.append(part.clone()))
        answers = {i: engine.add(*asked[i]) for i in which}
        texts = [*engine.answers]
        engine.run()
        found = {i: (answers[i].tokens, answers[i].logprobs, torch.cat(hidden[i]).tolist()) for i in which}
        return found, sum(text.preempted for text in texts)

    together, preempted = answered(
        EngineConfig(block=16 if compiled else 4, most_tokens=37, most_texts=7), 160 if compiled else 240, *range(12)
    )
    assert preempted
    for i in range(12):
        assert answered(EngineConfig(), 208, i)[0][i] == together[i]
    if dtype == torch.float32 and not compiled:  # which is not so by itself
        assert answered(EngineConfig(), 2_000, *range(12), deterministic=False)[0] != together


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]),
    ],
)
def test_steps_of_fixed_shapes_write_the_same(model, device):
    """On CUDA they are captured as graphs; on a processor the same operations are launched one by one."""
    given = prompts([3, 17, 1, 9, 9, 30])
    slow = [generate_greedy(model, p, 12, stop={7}) for p in given]
    engine = small(copy.deepcopy(model).to(device))
    engine.graphs = Graphs(engine.model, engine.attend, capture=device == "cuda")
    engine.attend.whole = True  # and attention of prompts as on CUDA
    answers = [engine.add(p, greedy(12), stop={7}) for p in given]
    texts = list(engine.answers)
    engine.run()
    assert [a.tokens for a in answers] == slow
    assert sum(text.preempted for text in texts) > 0
    assert {rows for rows, _ in engine.graphs.steps} > {1, 4}  # 3 and 5 texts among them, with rows of none


@torch.no_grad()
def test_what_is_captured_copies_nothing_from_the_host(model, monkeypatch):
    def from_the_host(config):
        raise AssertionError("RoPE's frequencies are made on the host")

    engine = small(model)
    step = Step(model, engine.attend, 1, 256, capture=False)
    monkeypatch.setattr("openherd.model.transformer.inverse_frequencies", from_the_host)
    assert step.run([7], [Part([1], 2, 1)]).shape == (1, 32)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_load_gives_each_what_it_gets_alone(model, seed):
    """Arrivals, cancellations, samplers and stops at random; log-probabilities too, and readings among the answers."""
    draw = random.Random(seed)
    openings = prompts([4, 12, 20])
    requests = []
    for i in range(14):
        prompt = draw.choice(openings) + [draw.randrange(50) for _ in range(draw.randint(0, 8))]
        sampling = Sampling(
            max_new_tokens=draw.randint(1, 14),
            temperature=draw.choice([0.0, 0.7, 1.3]),
            top_k=draw.choice([0, 5]),
            top_p=draw.choice([1.0, 0.8]),
            repetition_penalty=draw.choice([1.0, 1.2]),
            seed=i,
            logprobs=draw.choice([0, 2]),
        )
        requests.append((prompt, sampling, {draw.randrange(50)}))
    alone = []
    for request in requests:
        engine = Engine(model, tokens=48)
        alone.append(engine.add(*request))
        engine.run()
    engine, waiting, running, cancelled, read = small(model), [*enumerate(requests)], {}, set(), {}
    while waiting or engine.busy:
        if waiting and draw.random() < 0.6:
            i, request = waiting.pop(0)
            running[i] = engine.add(*request)
            if draw.random() < 0.3:
                read[i] = []
                engine.read(request[0], len(request[0]) // 2, lambda hidden, first, i=i: read[i].append((first, hidden)))
        if running and draw.random() < 0.1:
            i = draw.choice(list(running))
            if not running[i].finished:
                cancelled.add(i)
                engine.cancel(running[i])
        engine.step()
    for i, found in running.items():
        if i in cancelled:
            assert found.tokens == alone[i].tokens[: len(found.tokens)]
            continue
        assert (found.tokens, found.finished) == (alone[i].tokens, alone[i].finished)
        assert found.logprobs == pytest.approx(alone[i].logprobs, abs=1e-5)
        assert [[token for token, _ in top] for top in found.top] == [[token for token, _ in top] for top in alone[i].top]
    for i, parts in read.items():
        prompt = requests[i][0]
        assert parts[0][0] == len(prompt) // 2
        tokens = torch.tensor([prompt])
        hidden = model.trunk(model.embed(tokens), torch.arange(len(prompt))[None], CausalAttend()).detach()[0]
        assert torch.allclose(torch.cat([h for _, h in parts]), hidden[len(prompt) // 2 :], atol=1e-5)
    assert engine.scheduler.blocks.available() == engine.scheduler.blocks.count


def test_a_stop_token_ends_one_row_only(model):
    given = prompts([5, 5])
    free = generate(model, given, greedy(8), stop=())
    stop = free[0][3]
    stopped = generate(model, given, greedy(8), stop={stop})
    assert stopped[0] == free[0][: free[0].index(stop)]
    assert stopped[1] == (free[1][: free[1].index(stop)] if stop in free[1] else free[1])


def test_generation_ends_at_the_context(model):
    given = prompts([46, 10, 48, 60])
    lengths = [len(c) for c in generate(model, given, greedy(100), stop=())]
    assert lengths == [2, 38, 0, 0]


def test_sampling_is_seeded(model):
    given = prompts([4])
    one, again, other = (
        generate(model, given, Sampling(max_new_tokens=20, temperature=1.0, seed=seed), stop=(), samples=3) for seed in (1, 1, 2)
    )
    assert one == again != other
    assert len({tuple(tokens) for tokens in one}) == 3  # samples of one prompt have seeds of their own


def test_samples_share_their_prompt(model):
    """Sixteen of one prompt take little more memory than their own ends, and are what each would be alone."""
    prompt = prompts([33])[0]
    engine = Engine(model, config=EngineConfig(block=4), tokens=400)
    sampling = Sampling(max_new_tokens=6, temperature=1.0)
    answers = [engine.add(prompt, replace(sampling, seed=seed)) for seed in range(16)]
    most = 0
    while engine.busy:
        engine.step()
        most = max(most, engine.scheduler.blocks.count - engine.scheduler.blocks.available())
    assert most <= 8 + 16 * 2
    for seed, answer in enumerate(answers):
        alone = Engine(model, tokens=48)
        wanted = alone.add(prompt, replace(sampling, seed=seed))
        alone.run()
        assert answer.tokens == wanted.tokens


@pytest.mark.parametrize("rows", [3, 256])
@pytest.mark.parametrize("make", [small, Engine])
def test_scores_are_log_probabilities(model, monkeypatch, make, rows):
    monkeypatch.setattr("openherd.inference.engine.LOGIT_ROWS", rows)
    begun, gone_on = prompts([3, 20, 20, 1]), prompts([5, 1, 0, 30])
    for text, prompt, found in zip(gone_on, begun, score(model, begun, gone_on, make(model)), strict=True):
        rows = torch.log_softmax(model(torch.tensor([[*prompt, *text]])), -1)[0].detach()
        wanted = [float(rows[len(prompt) + i - 1, token]) for i, token in enumerate(text)]
        assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_what_cannot_be_is_refused(model):
    engine = Engine(model, tokens=16)
    with pytest.raises(ValueError, match="an empty prompt"):
        engine.add([], greedy(3))
    for token in (-1, 50):
        with pytest.raises(ValueError, match=f"token {token}; the model has 50"):
            engine.add([1, token], greedy(3))
        with pytest.raises(ValueError, match=f"token {token}; the model has 50"):
            engine.read([1, token], 0, print)
    with pytest.raises(ValueError, match="an empty prompt"):
        score(model, [[1], []], [[2], [3]], engine)
    most = model.config.max_positions
    with pytest.raises(ValueError, match=f"a text of {most + 1} tokens; the model's context has {most}"):
        engine.read([1] * (most + 1), 0, print)
    with pytest.raises(ConfigError, match="20 tokens of one text"):
        engine.add(prompts([10])[0], greedy(10))
    with pytest.raises(ValueError, match="stop strings need a tokenizer"):
        engine.add([1], Sampling(max_new_tokens=3, stop_strings=("a",)))
    assert not engine.busy


@pytest.mark.parametrize("kind", ["plain", "deterministic", "steps of fixed shapes"])
@torch.no_grad()
def test_a_text_whose_states_are_no_numbers_ends_alone(kind):
    """Through masks, what is no number comes to texts beside it and to those that come after."""
    model, settings = tiny_model(CONFIG, 3), {"deterministic": kind == "deterministic"}
    model.embed.weight[49] = torch.nan
    wanted = generate(model, [[1, 2, 3], [4] * 20], greedy(6), ())
    for broken_first in (False, True):
        engine = Engine(model, config=EngineConfig(block=4, most_tokens=30, **settings), tokens=96)
        if kind == "steps of fixed shapes":
            engine.graphs = Graphs(engine.model, engine.attend, capture=False)
        broken, read = [[5, 6, 49, 7], [8] * 9 + [49]], []
        for prompt in broken if broken_first else ():
            engine.add(prompt, greedy(6))
        engine.read(broken[1], 2, lambda hidden, first, read=read: read.append((first, hidden)))
        answers = [engine.add(prompt, greedy(6)) for prompt in ([1, 2, 3], [4] * 20, *broken)]
        engine.run()
        answers += [engine.add(prompt, greedy(6)) for prompt in ([1, 2, 3], [4] * 20)]  # into the memory of the broken
        engine.run()
        assert [a.tokens for a in answers] == [*wanted, [], [], *wanted]
        assert [a.finished for a in answers] == ["length", "length", "error", "error", "length", "length"]
        assert sum(len(hidden) for _, hidden in read) == 8
        assert read[-1][1][-1].isnan().all()
        assert engine.scheduler.blocks.available() == engine.scheduler.blocks.count
    with pytest.raises(ValueError, match="what is no number"):
        generate(model, broken, greedy(6), ())


def test_a_request_that_no_token_can_follow_ends_alone(model):
    engine = Engine(model, tokens=96)
    forbidden = dict.fromkeys(range(50), -math.inf)
    never = [engine.add([3], Sampling(max_new_tokens=5, temperature=t, logit_bias=forbidden)) for t in (0.0, 1.0)]
    other = engine.add([1, 2, 3], greedy(5))
    engine.run()
    assert [(a.finished, a.error) for a in never] == [("error", "no token can be chosen")] * 2
    assert [other.tokens] == generate(model, [[1, 2, 3]], greedy(5), ())


@pytest.mark.parametrize("n", [2, 16, 17, 18, 40, 41])
def test_windows_score_each_token_once_with_its_context(model, n):
    tokens = prompts([n])[0]
    context = 16
    others = prompts([30, 1, 0])
    scores, *rest = log_probabilities(model, [tokens, *others], context)
    assert [len(s) for s in rest] == [29, 0, 0]
    expected = []
    first_window = min(context + 1, n)
    for i in range(1, n):  # the slow twin: the window of each token worked out alone
        start = 0 if i < first_window else (i - first_window) // 8 * 8 + 8
        row = torch.log_softmax(model(torch.tensor([tokens[start:i]])), -1)[0, -1, tokens[i]]
        expected.append(row)
        assert i == len(expected)
        assert i - start >= min(i, context // 2)
    assert torch.allclose(scores, torch.stack(expected).detach(), atol=1e-5)

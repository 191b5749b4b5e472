"""Answers of the engine as text: stop strings across tokens, whole characters, and output kept to a schema."""

import json
from pathlib import Path

import pytest
import torch

from openherd.core.errors import InputError
from openherd.inference.constraint import Constraint
from openherd.inference.engine import Engine, EngineConfig, stream
from openherd.inference.sampling import Sampling
from openherd.model.config import ModelConfig
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn
from tiny import tiny_model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("words")
    write_tokenizer(learn([Path(__file__).read_text(encoding="utf-8")], 300), path, 128)
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def model(tokenizer):
    shape = ModelConfig(
        n_layers=1,
        d_model=16,
        n_heads=2,
        n_kv_heads=1,
        head_width=8,
        d_feed_forward=24,
        vocabulary=tokenizer.vocabulary,
        max_positions=256,
    )
    return tiny_model(shape, 0)


def written(model, tokenizer, **settings):
    engine = Engine(model, tokenizer, tokens=256)
    answer = engine.add([1, 2, 3], Sampling(max_new_tokens=60, temperature=2.0, **settings), tokenizer.stop_ids)
    engine.run()
    return answer


@pytest.mark.parametrize("seed", range(10))
def test_a_stop_string_ends_an_answer_before_it(model, tokenizer, seed):
    free = written(model, tokenizer, seed=seed)
    assert tokenizer.special_ids & set(free.tokens)  # which have no text
    whole = tokenizer.decode(token for token in free.tokens if token not in tokenizer.special_ids)
    assert free.text == whole
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    if not stop or "\ufffd" in stop:
        pytest.skip("no text to stop at")
    stopped = written(model, tokenizer, seed=seed, stop_strings=(stop, "not there"))
    assert stopped.finished == "stop"
    assert stopped.text == whole[: whole.index(stop)]
    assert len(stopped.tokens) <= len(free.tokens)


def test_a_stop_string_that_is_certain_only_at_the_end_ends_an_answer_too(model, tokenizer):
    free = next(answer for answer in (written(model, tokenizer, seed=seed) for seed in range(50)) if answer.finished == "length")
    stop, longer = free.text[-2:], free.text[-3:] + "?"  # the longer one begins first, and could still come
    answer = written(model, tokenizer, seed=free.sampling.seed, stop_strings=(longer, stop))
    assert (answer.finished, answer.text) == ("stop", free.text[: free.text.index(stop)])


def test_what_a_model_is_padded_with_is_never_said(tokenizer):
    n = tokenizer.vocabulary
    shape = ModelConfig(
        n_layers=1, d_model=16, n_heads=2, n_kv_heads=1, head_width=8, d_feed_forward=24, vocabulary=8 * n, max_positions=256
    )
    found = written(tiny_model(shape, 0), tokenizer, logprobs=5, logit_bias={n: 100.0, 8 * n - 1: 100.0})
    assert found.tokens
    assert max(token for top in found.top for token, _ in top) < n > max(found.tokens)


def test_pieces_that_are_streamed_are_the_answer(model, tokenizer):
    sampling = Sampling(max_new_tokens=60, temperature=2.0, seed=3)
    pieces = [*stream(model, tokenizer, [1, 2, 3], sampling, tokenizer.stop_ids)]
    assert "".join(pieces) == written(model, tokenizer, seed=3).text
    assert len(pieces) > 3


def test_answers_keep_to_their_schemas_beside_free_ones(model, tokenizer):
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }
    engine = Engine(model, tokenizer, EngineConfig(most_tokens=16, most_texts=4), tokens=1_000)
    sampling = [Sampling(max_new_tokens=200, temperature=1.0, seed=i) for i in range(8)]
    kept = [engine.add([1], s, tokenizer.stop_ids, Constraint.json_schema(schema, tokenizer)) for s in sampling]
    matched = [engine.add([1], s, tokenizer.stop_ids, Constraint.regex("[a-c]{2,5}!", tokenizer)) for s in sampling]
    free = [engine.add([1], s, ()) for s in sampling]
    engine.run()
    for answer in kept:
        assert answer.finished == "stop"
        assert isinstance(json.loads(answer.text)["n"], int)
    for answer in matched:
        assert answer.finished == "stop"
        assert answer.text.endswith("!")
        assert set(answer.text[:-1]) <= set("abc")
    assert all(len(answer.tokens) == 200 for answer in free)


def test_log_probabilities_beside_an_answer_are_the_models_own(model, tokenizer):
    engine = Engine(model, tokenizer, tokens=256)
    answer = engine.add([1, 2, 3], Sampling(max_new_tokens=10, temperature=1.5, top_k=3, logprobs=4))
    engine.run()
    rows = torch.log_softmax(model(torch.tensor([[1, 2, 3, *answer.tokens]])), -1)[0, 2:].detach()
    for i, token in enumerate(answer.tokens):
        assert answer.logprobs[i] == pytest.approx(float(rows[i, token]), abs=1e-5)
        assert [t for t, _ in answer.top[i]] == rows[i].topk(4).indices.tolist()


@pytest.mark.parametrize("at", ["fill", "accept"])
def test_a_constraint_that_gives_up_ends_its_answer_alone(model, at):
    def fails(_):
        raise InputError("constraint", "too complex")

    class GivesUp:
        fill = accept = staticmethod(lambda _: None)

    setattr(GivesUp, at, staticmethod(fails))
    engine = Engine(model, tokens=256)
    failed = engine.add([1], Sampling(max_new_tokens=5), (), GivesUp())
    other = engine.add([1], Sampling(max_new_tokens=5))
    engine.run()
    assert (failed.finished, len(failed.tokens)) == ("error", at == "accept")
    assert "too complex" in failed.error
    assert (other.finished, len(other.tokens)) == ("length", 5)
    with pytest.raises(ValueError, match="position 2 of 2 tokens"):
        engine.read([1, 2], 2, print)

"""Random logits under a constraint: whatever the model wants, the text keeps to it."""

import json
import re
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core.errors import ConfigError, InputError
from openherd.inference.constraint import Constraint
from openherd.inference.sampling import Sampling, sample
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.special import END_OF_TURN, SPECIAL_TOKENS
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn

TEXTS = [f'The {{"name": "Ada", "age": {i}}} of <|eot_id|> letters, [true, false, null], Ünïcödé 日本.' for i in range(30)]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "<|eot_id|>"]}, "minItems": 1, "maxItems": 3},
        "married": {"type": ["boolean", "null"]},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(learn(iter(TEXTS), 400), path, 64)
    return Tokenizer.load(path)


def mask_of(constraint: Constraint, tokenizer: Tokenizer) -> torch.Tensor:
    allowed = torch.zeros(tokenizer.vocabulary, dtype=torch.bool)
    constraint.fill(allowed)
    return allowed


def allowed_ids(constraint: Constraint, tokenizer: Tokenizer) -> set[int]:
    return set(mask_of(constraint, tokenizer).nonzero()[:, 0].tolist())


def generate(constraint: Constraint, tokenizer: Tokenizer, seed: int, most: int = 3000) -> str:
    """Sample until a stop id; every special token is what the model would rather say."""
    generator = torch.Generator().manual_seed(seed)
    wish = torch.zeros(tokenizer.vocabulary)
    wish[sorted(tokenizer.special_ids - tokenizer.stop_ids)] = 20
    request = Sampling(max_new_tokens=most, temperature=1.0, seed=seed)
    output: list[int] = []
    while len(output) < most:
        logits = torch.randn(1, tokenizer.vocabulary, generator=generator) * 3 + wish
        allowed = mask_of(constraint, tokenizer)
        assert allowed.any()
        assert bool(allowed[sorted(tokenizer.stop_ids)].all()) == constraint.complete
        [token] = sample(logits, [request], [[]], [output], allowed[None]).tokens
        constraint.accept(token)
        if token in tokenizer.stop_ids:
            return tokenizer.decode_bytes(output).decode("utf-8")
        assert token not in tokenizer.special_ids
        output.append(token)
    raise AssertionError("it never ends")


@pytest.mark.parametrize("given_schema", [SCHEMA, json.dumps(SCHEMA)])
def test_json_keeps_to_its_schema(tokenizer, given_schema):
    constraint = Constraint.json_schema(given_schema, tokenizer)
    for seed in range(40):
        found = json.loads(generate(constraint.copy(), tokenizer, seed))
        assert {"name", "age", "tags"} <= set(found) <= set(SCHEMA["properties"])
        assert isinstance(found["name"], str)
        assert len(found["name"]) <= 12
        assert type(found["age"]) is int
        assert 0 <= found["age"] <= 130
        assert 1 <= len(found["tags"]) <= 3
        assert set(found["tags"]) <= {"red", "green", "<|eot_id|>"}
        assert found.get("married") in (True, False, None)


@pytest.mark.parametrize(
    "pattern",
    [
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
        r"(yes|no|perhaps)( sir)?",
        r"^[a-z]{1,8}@[a-z]{1,8}\.(com|org)$",
        r"[^\n]{0,20}",
        r"(äö|日本|é){2,5}/\\",
        r"<\|eot_id\|>{1,2}",  # its letters, not the token
    ],
)
def test_a_pattern_is_matched_as_a_whole(tokenizer, pattern):
    constraint = Constraint.regex(pattern, tokenizer)
    for seed in range(15):
        assert re.fullmatch(pattern, generate(constraint.copy(), tokenizer, seed))


@settings(max_examples=30)
@given(words=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_any_enumeration(tokenizer, words, seed):
    text = generate(Constraint.json_schema({"enum": words}, tokenizer), tokenizer, seed)
    assert json.loads(text) in words


def test_whitespace_has_an_end(tokenizer):
    constraint = Constraint.json_schema({"type": "array", "items": {"type": "null"}}, tokenizer)
    for text in ("[", "\n", " " * 32):
        for token in tokenizer.encode(text):
            constraint.accept(token)
    assert {tokenizer.decode([i])[0] for i in allowed_ids(constraint, tokenizer)} == {"n", "]"}
    pretty = Constraint.json_schema({}, tokenizer)
    for token in tokenizer.encode(json.dumps({"a": [1, {"b": None}]}, indent=4)):
        pretty.accept(token)
    assert pretty.complete


def test_only_stop_ids_end_and_only_where_the_text_may(tokenizer):
    constraint = Constraint.regex("ab?", tokenizer)
    assert not allowed_ids(constraint, tokenizer) & tokenizer.special_ids
    [a], [b] = tokenizer.encode("a"), tokenizer.encode("b")
    constraint.accept(a)
    assert (constraint.complete, constraint.finished) == (True, False)
    assert allowed_ids(constraint, tokenizer) == {b} | tokenizer.stop_ids
    constraint.accept(b)
    assert (constraint.complete, constraint.finished) == (True, True)
    assert allowed_ids(constraint, tokenizer) == tokenizer.stop_ids
    constraint.accept(tokenizer.id(END_OF_TURN))
    constraint.rollback(1)
    assert allowed_ids(constraint, tokenizer) == {b} | tokenizer.stop_ids
    constraint.accept(tokenizer.id(END_OF_TURN))
    constraint.rollback(1)
    assert allowed_ids(constraint, tokenizer) == {a}


def test_copies_go_their_own_ways_and_tokens_are_taken_back(tokenizer):
    constraint = Constraint.regex("[ab]c", tokenizer)
    [a], [b], [c] = map(tokenizer.encode, "abc")
    other = constraint.copy()
    other.accept(b)
    assert allowed_ids(constraint, tokenizer) >= {a, b}
    assert c not in allowed_ids(constraint, tokenizer)
    other.accept(c)
    assert other.finished
    other.rollback(2)
    assert allowed_ids(other, tokenizer) == allowed_ids(constraint, tokenizer)


def test_a_token_that_is_not_allowed_changes_nothing(tokenizer):
    constraint = Constraint.regex("[ab]c", tokenizer)
    before = allowed_ids(constraint, tokenizer)
    for wrong in (*tokenizer.encode("c"), tokenizer.id(END_OF_TURN), tokenizer.bos_id):
        with pytest.raises(ValueError, match=f"token {wrong} is not allowed here"):
            constraint.accept(wrong)
    assert allowed_ids(constraint, tokenizer) == before


def test_a_row_of_a_padded_model(tokenizer):
    row = torch.ones(tokenizer.vocabulary + 64, dtype=torch.bool)
    constraint = Constraint.regex("a", tokenizer)
    constraint.fill(row)
    assert set(row.nonzero()[:, 0].tolist()) == allowed_ids(constraint, tokenizer) == set(tokenizer.encode("a"))
    assert len(SPECIAL_TOKENS) == len(tokenizer.special_ids)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda t: Constraint.regex("[a-z", t), r"regular expression: cannot be kept to \(unclosed character class\)"),
        (lambda t: Constraint.regex(r"(a)\1", t), r"regular expression: .*backreferences are not supported"),
        (lambda t: Constraint.regex(r"\bfoo", t), r"regular expression: .*lookarounds not supported"),
        (lambda t: Constraint.regex(r"[^\s\S]", t), r"regular expression: cannot be kept to \(no text does\)"),
        (lambda t: Constraint.json_schema({"type": "wat"}, t), r"JSON schema: cannot be kept to \(Invalid type: wat\)"),
        (lambda t: Constraint.json_schema("{bad", t), r"JSON schema: cannot be kept to \(key must be a string"),
        (lambda t: Constraint.json_schema({"not": {"type": "string"}}, t), r'JSON schema: .*Unimplemented keys: \["not"\]'),
        (lambda t: Constraint.json_schema({"type": "integer", "minimum": 5, "maximum": 2}, t), r"JSON schema: .*Unsatisfiable"),
        (lambda t: Constraint.json_schema({"default": {1, 2}}, t), r"JSON schema: .*not JSON serializable"),
    ],
)
def test_what_cannot_be_kept_to_is_told_in_one_line(tokenizer, make, what):
    with pytest.raises(InputError, match=rf"^{what}[^\n]*$"):
        make(tokenizer)


def test_without_the_package_the_line_says_how_to_get_it(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConfigError, match=r"needs llguidance.*pip install 'openherd\[constrained\]'"):
        Constraint.regex("a", tokenizer)

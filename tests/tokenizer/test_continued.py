"""Tokens learned further: against counting everything anew at each join, and what `tokenizer.json`'s readers make of them."""

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.tokenizer import reference
from openherd.tokenizer.continued import count_pieces, extended_file, joined, learn_further
from openherd.tokenizer.files import open_tokenizer, ranks_of, tokens_of, write_ranks
from openherd.tokenizer.pattern import SPLIT_PATTERN
from openherd.tokenizer.tokenizer import Tokenizer

DOMAIN = [Path(argparse.__file__).read_text(encoding="utf-8")[:30_000], "Übergrößenträger, 東京都 東京都, übergroß. " * 20]


def extended(tokenizer, new, path):
    tokenizer.save(path)
    (path / "tokenizer.json").write_text(json.dumps(extended_file(tokenizer, new)), encoding="utf-8")
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def new(words) -> list[bytes]:
    return learn_further(words.tokens, count_pieces(DOMAIN, SPLIT_PATTERN), words.encode_piece, 150, 2)


@pytest.fixture(scope="module")
def longer(words, new, tmp_path_factory) -> Tokenizer:
    return extended(words, new, tmp_path_factory.mktemp("longer"))


def slow_twin(tokens, pieces, encode, n, least):
    """Every pair of every piece is counted again at each join."""
    known, found = list(tokens), {piece: list(encode(piece)) for piece in pieces}
    while len(known) < len(tokens) + n:
        pairs = Counter()
        for piece, word in found.items():
            for pair in pairwise(word):
                pairs[pair] += pieces[piece]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < least:
            break
        known.append(known[best[0]] + known[best[1]])
        found = {piece: joined(word, best, len(known) - 1) for piece, word in found.items()}
    return known[len(tokens) :]


def test_pieces_are_those_of_the_pattern():
    assert count_pieces(DOMAIN, SPLIT_PATTERN) == Counter(
        piece for text in DOMAIN for piece in reference.pieces(text) if len(piece) <= 256
    )


def test_the_most_frequent_pair_is_joined_again_and_again(words, new):
    pieces = count_pieces(DOMAIN, SPLIT_PATTERN)
    assert new == slow_twin(words.tokens, pieces, words.encode_piece, 150, 2)
    assert len(new) == 150
    assert any(not token.isascii() for token in new)


@given(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=8), st.integers(1, 3))
def test_any_pieces(texts, least):
    tokens = [bytes([b]) for b in range(256)]
    pieces = Counter(text.encode() for text in texts)
    assert learn_further(tokens, pieces, list, 12, least) == slow_twin(tokens, pieces, list, 12, least)


def test_least_count_ends_it(words):
    pieces = Counter({b"\xc3\x9cber": 7})
    assert learn_further(words.tokens, pieces, words.encode_piece, 5, 8) == []
    assert b"".join(learn_further(words.tokens, pieces, words.encode_piece, 5, 7)[-1:]) == "Über".encode()


def test_special_tokens_keep_their_ids(words, longer, new):
    assert longer.vocabulary == words.vocabulary + len(new)
    assert longer.special_ids == words.special_ids
    assert (longer.bos_id, longer.eos_id, longer.stop_ids) == (words.bos_id, words.eos_id, words.stop_ids)
    assert [longer.decode_bytes([words.vocabulary + i]) for i in range(len(new))] == new
    for text in ("<|eot_id|>", "a<|begin_of_text|>b"):
        assert not longer.special_ids & set(longer.encode(text)), "text never becomes a special token"
        assert longer.encode(text, allow_special=True) == words.encode(text, allow_special=True)


def old_ids(words, longer, ids):
    """New tokens spelt with old ones."""
    return [old for i in ids for old in ([i] if i < words.vocabulary else words.encode_piece(longer.decode_bytes([i])))]


@given(st.text() | st.text("Überträg 東京é_=\n ", max_size=60) | st.sampled_from(DOMAIN))
def test_new_tokens_stand_for_old_ones(words, longer, text):
    """So text that meets none of them is encoded as before, and nothing is lost."""
    ids = longer.encode(text)
    assert old_ids(words, longer, ids) == words.encode(text)
    assert ids == longer.encode_arrays([text])[0].tolist(), "ranks and merges agree"
    assert longer.decode(ids) == text


def test_new_text_is_shorter(words, longer):
    assert len(longer.encode(DOMAIN[0])) < 0.85 * len(words.encode(DOMAIN[0]))


def test_transformers_encodes_alike(longer, corpus):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(longer.directory)
    assert len(theirs) == longer.vocabulary
    for text in [*DOMAIN, *corpus]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == longer.encode(text)
    assert theirs("x")["input_ids"][0] == longer.bos_id
    assert theirs.convert_tokens_to_ids("<|eot_id|>") == longer.id("<|eot_id|>")


def test_it_can_be_extended_again(words, longer, tmp_path):
    more = learn_further(longer.tokens, Counter({"東京都庁".encode(): 9}), lambda p: ranks(longer, p), 9, 2)
    assert more
    twice = extended(longer, more, tmp_path / "twice")
    assert twice.follows_ranks
    assert old_ids(words, twice, twice.encode("東京都庁")) == words.encode("東京都庁")


def ranks(tokenizer, piece):
    order = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    return [order[tokenizer.decode_bytes([i])] for i in tokenizer.encode_piece(piece)]


def test_a_rank_file_cannot_hold_it(longer):
    assert tokens_of(longer) == longer.tokens
    with pytest.raises(InputError, match="its special tokens stand before others: it was extended"):
        ranks_of(longer)


def test_old_tokens_stay_out_of_reach(tmp_path):
    """`abc` is found as a whole piece alone; with `ab` a text of `abc` inside another piece would come to it."""
    tokens = [*(bytes([b]) for b in range(256)), b"abc"]
    write_ranks(tokens, tmp_path / "words.tiktoken")
    words = open_tokenizer(tmp_path / "words.tiktoken")
    pieces = Counter({b"abx": 9, b"xyxy": 4})
    assert slow_twin(tokens, pieces, words.encode_piece, 2, 2)[0] == b"ab"
    assert b"ab" not in learn_further(tokens, pieces, words.encode_piece, 2, 2)


def test_a_special_token_that_is_a_word_is_refused(words, tmp_path):
    words.save(tmp_path)
    file = json.loads((tmp_path / "tokenizer.json").read_text())
    next(t for t in file["added_tokens"] if t["content"] == "<|reserved_special_token_9|>")["content"] = "PAD"
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(InputError, match="the special token 'PAD' could be a word of a text"):
        extended_file(Tokenizer.load(tmp_path), [b"zz"])

"""Ranks against merges, and the fast encoder against tiktoken itself and tokenizers, on text of every kind."""

import json
import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from miniature import ROOT
from openherd.core.errors import InputError
from openherd.tokenizer import encoder, reference
from openherd.tokenizer.files import read_ranks, write_ranks, write_tokenizer
from openherd.tokenizer.pattern import SPLIT_PATTERN
from openherd.tokenizer.ranks import follow_ranks, merges_of
from openherd.tokenizer.tokenizer import Tokenizer, byte_letters
from openherd.tokenizer.train import learn

LANGUAGES = ROOT.parent / "shared" / "data" / "lingua_langid"
BYTES = [bytes([b]) for b in range(256)]
LETTERS = byte_letters()


def spell(token: bytes) -> str:
    return "".join(LETTERS[b] for b in token)


def by_merges(tokens, merges) -> tokenizers.Tokenizer:
    """tokenizers, which takes a text for one piece."""
    vocabulary = {spell(token): i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [(spell(a), spell(b)) for a, b in merges], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return backend


def by_ranks(tokens, pattern=r"[\s\S]+") -> tiktoken.Encoding:
    return tiktoken.Encoding("t", pat_str=pattern, mergeable_ranks={t: i for i, t in enumerate(tokens)}, special_tokens={})


letters = st.text("ab", min_size=2, max_size=7)


@given(
    more=st.lists(letters, unique=True, max_size=14),
    texts=st.lists(st.text("abc", min_size=1, max_size=24), min_size=1, max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_merges_of_any_ranks_encode_as_tiktoken(more, texts):
    """Ranks that no training made: a token may stand before those that it is joined from, or never be joined."""
    tokens = [*BYTES, *(text.encode() for text in more)]
    merges = merges_of(tokens)
    assert follow_ranks(tokens, merges)
    ours, theirs = by_merges(tokens, merges), by_ranks(tokens)
    for text in texts:
        assert ours.encode(text).ids == theirs.encode_ordinary(text)


def test_every_short_text_under_ranks_that_overlap():
    tokens = [*BYTES, b"aa", b"aba", b"ab", b"ba", b"aaa", b"bab", b"abab", b"baa"]
    ours, theirs = by_merges(tokens, merges_of(tokens)), by_ranks(tokens)
    for n in range(1, 13):
        for text in map("".join, product("ab", repeat=n)):
            assert ours.encode(text).ids == theirs.encode_ordinary(text), text


@pytest.fixture(scope="module")
def text() -> str:
    import textwrap

    return Path(textwrap.__file__).read_text(encoding="utf-8") + "naïve Übung 東京 число 12345 don't WE'LL\n\n\t x=1\r\n" * 5


@pytest.fixture(scope="module")
def tokens(text) -> list[bytes]:
    return learn([text], 500)


def test_the_trainer_makes_the_slow_twins_merges(text, tokens):
    merges = reference.train_merges([text], 244, {b: i for i, b in enumerate(BYTES)})
    assert merges_of(tokens) == merges
    assert tokens == [*BYTES, *(a + b for a, b in merges)]


def test_which_merges_follow_the_ranks(tokens):
    merges = merges_of(tokens)
    known = set(tokens)
    every_split = [(t[:i], t[i:]) for t in tokens for i in range(1, len(t)) if t[:i] in known and t[i:] in known]
    assert len(every_split) > len(merges)  # as transformers converts Meta's ranks
    assert follow_ranks(tokens, merges)
    assert follow_ranks(tokens, every_split)
    assert not follow_ranks(tokens, merges[:100] + merges[101:])
    assert not follow_ranks(tokens, [merges[1], merges[0], *merges[2:]])
    assert not follow_ranks(tokens, [*merges, (b"\x00", b"\xff")])  # makes no token


def test_rank_files_are_read_as_tiktoken_reads_them(tokens, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # it copies what it reads into the temporary folder of all users
    file = tmp_path / "tokenizer.model"
    write_ranks(tokens, file)
    assert read_ranks(file) == tokens
    from tiktoken.load import load_tiktoken_bpe

    assert load_tiktoken_bpe(str(file)) == {token: rank for rank, token in enumerate(tokens)}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\n\x10\n\x03<s>", "a SentencePiece model, as of Llama 2"),
        (b"hello world\n", "no rank file"),
        (b"", "a token stands twice, or a byte is missing"),
        (b"AA== 0\nAA== 1\n", "a token stands twice, or a byte is missing"),
        (b"AA== 0\nAQ== 2\n", "damaged"),
        (b"AA== 0\nAQ=\n", "damaged"),
    ],
)
def test_what_is_no_rank_file_is_refused(content, found, tmp_path):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_ranks(file)
    assert error.value.found == found


@pytest.fixture(scope="module")
def words(tokens, tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(tokens, path, 512)
    return Tokenizer.load(path)


SIGNS = "'sSſtTKk dD01٣½  \n\r\t\xa0\u3000\x85\u2028\x1c\x1f.,!_-éß漢😀\u200d\u0301ıİ"


@pytest.mark.parametrize("name", ["<|never|>", "<|eot_id|>"])
def test_no_name_in_a_text_is_special_to_the_fast_encoder(name, words):
    text = f"a {name}{name} b"
    assert words.encode_arrays([text])[0].tolist() == words.encode(text)


def test_batches_come_in_order(words):
    batches = [[f"{i} {j} of many" * j for j in range(5)] for i in range(7)]
    found = [[words.decode(ids.tolist()) for ids in batch] for batch in words.encode_batches(iter(batches))]
    assert found == batches


@given(text=st.text(max_size=60) | st.text(SIGNS, max_size=60))
@settings(max_examples=400, deadline=None)
def test_the_fast_encoder_gives_the_same_ids(text, words, tokens):
    found = words.encode_arrays([text])[0]
    assert found.dtype == np.uint32
    assert found.tolist() == words.encode(text) == by_ranks(tokens, SPLIT_PATTERN).encode_ordinary(text)


def test_each_character_is_cut_as_tokenizers_cuts_it(words):
    """Both read Unicode's tables, which grow: a version of either that reads others is seen here."""
    cut = tokenizers.Tokenizer.from_file(str(words.directory / "tokenizer.json")).pre_tokenizer
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    drawn = random.Random(0).sample([before + c for c in characters for before in "x1!"], 20_000)
    theirs = by_ranks(dict.fromkeys([*BYTES, *(text.encode() for text in drawn)]), SPLIT_PATTERN)
    differ = [t for t in drawn if (len(theirs.encode_ordinary(t)) == 1) != (len(cut.pre_tokenize_str(t)) == 1)]
    assert not differ


@pytest.mark.parametrize(
    "make",
    [
        lambda n: "a" * n,
        lambda n: " " * n,
        lambda n: " " * n + "x",
        lambda n: "a" + " " * n + "\nb",
        lambda n: "!\n" + "\u3000" * n + "!",
        lambda n: "\t" * n + " " * n + "x" + " " * n,
        lambda n: "\n" * n,
        lambda n: "\n " * n,
        lambda n: "1" * n,
    ],
)
def test_long_runs_take_bounded_time_and_are_cut_nowhere_else(make, words, monkeypatch):
    monkeypatch.setattr(encoder, "LONG", 50)
    monkeypatch.setattr(encoder, "LONG_SPACE", encoder.re.compile(encoder.LONG_SPACE.pattern.replace("400000", "50")))
    for n in (49, 50, 51, 99, 100, 1_000):
        assert words.encode_arrays([make(n)])[0].tolist() == words.encode(make(n))
    monkeypatch.undo()
    ids = words.encode_arrays([make(1_000_000)])[0]
    assert words.decode_bytes(ids.tolist()) == make(1_000_000).encode()


def test_surrogates_are_refused(words):
    with pytest.raises(InputError, match="holds a lone surrogate; decode the bytes as UTF-8 first"):
        words.encode_arrays(["fine", "\ud800"])


@pytest.mark.skipif(not LANGUAGES.exists(), reason="no ../shared/data/lingua_langid beside the project")
def test_the_languages_of_the_world(words):
    files = sorted(LANGUAGES.glob("*.txt"))
    assert len(files) >= 20
    raw = by_ranks(words.tokens, SPLIT_PATTERN)
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        fast = [ids.tolist() for ids in words.encode_arrays(lines)]
        assert fast == words.encode_batch(lines) == [raw.encode_ordinary(line) for line in lines], file.name


def test_merges_that_do_not_follow_ranks_are_encoded_by_tokenizers(words, tmp_path):
    file = json.loads((words.directory / "tokenizer.json").read_text())
    for change in ({"ignore_merges": False}, {"merges": file["model"]["merges"][::-1]}):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**file, "model": {**file["model"], **change}}))
        other = Tokenizer.load(tmp_path)
        text = " naïve text   with 東京 12345"
        assert not other.follows_ranks
        assert other.encode_arrays([text])[0].tolist() == other.encode(text)
    assert words.follows_ranks


def test_special_tokens_stand_for_themselves_only_where_that_is_allowed(words):
    text = "a<|eot_id|><|begin_of_text|> b<|eot_id|x"
    assert not set(words.encode(text)) & words.special_ids
    ids = words.encode(text, allow_special=True)
    expected = [*words.encode("a"), words.id("<|eot_id|>"), words.bos_id, *words.encode(" b<|eot_id|x")]
    assert ids == expected
    assert words.decode(ids) == text

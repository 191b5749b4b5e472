"""Training and encoding against the slow twin, tiktoken and transformers."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core import rundir
from openherd.core.errors import ConfigError, InputError
from openherd.core.records import ParquetWriter
from openherd.core.rundir import Job, Run
from openherd.data.documents import LANGUAGE_SCHEMA
from openherd.tokenizer import reference, train
from openherd.tokenizer.pattern import SPLIT_PATTERN
from openherd.tokenizer.ranks import split_of
from openherd.tokenizer.special import SPECIAL_TOKENS
from openherd.tokenizer.tokenizer import Tokenizer, byte_letters
from openherd.tokenizer.train import Corpus, TokenizerConfig, learn, tokenizer

N_PAIRS = 600  # as conftest.py
LETTERS = {letter: byte for byte, letter in byte_letters().items()}


def token_bytes(token: str) -> bytes:
    return bytes(LETTERS[c] for c in token)


@pytest.fixture(scope="session")
def merges(directory) -> list[tuple[bytes, bytes]]:
    pairs = json.loads((directory / "tokenizer.json").read_text())["model"]["merges"]
    return [(token_bytes(a), token_bytes(b)) for a, b in pairs]


class Oracle(dict):
    """What the slow twin and tiktoken know; short to print, as hypothesis prints arguments."""

    def __repr__(self):
        return "Oracle()"


@pytest.fixture(scope="session")
def oracle(directory, merges, transformers_tokenizer) -> Oracle:
    import tiktoken

    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    ranks = {token_bytes(t): i for t, i in vocabulary.items()}
    encoding = tiktoken.Encoding("t", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
    return Oracle(merges=merges, ranks=ranks, tiktoken=encoding, transformers=transformers_tokenizer)


def test_the_same_merges_as_the_slow_twin(corpus, merges, directory):
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    ids = {token_bytes(t): i for t, i in vocabulary.items() if i < 256}
    assert len(ids) == 256
    assert reference.train_merges(corpus, 120, ids) == merges[:120]


@given(text=st.text(max_size=60) | st.text(alphabet="ab '12\n\r\t.éß東ll ", max_size=60))
@settings(max_examples=150, deadline=None)
def test_encoding_equals_slow_twin_tiktoken_and_transformers(text, words, oracle):
    ids = words.encode(text)
    assert [words.decode_bytes([i]) for i in ids] == reference.encode(text, oracle["merges"], oracle["ranks"])
    assert words.decode_bytes(ids) == text.encode()
    assert ids == oracle["tiktoken"].encode_ordinary(text)
    if not any(token in text for token in SPECIAL_TOKENS):  # transformers reads their names in a text as the tokens themselves
        assert ids == oracle["transformers"].encode(text, add_special_tokens=False)


def test_special_tokens_come_last_in_llama_3s_order(words):
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == 256
    assert [words.id(t) for t in SPECIAL_TOKENS] == list(range(N_PAIRS, N_PAIRS + 256))
    assert words.vocabulary == N_PAIRS + 256
    assert json.loads((words.directory / "tokenizer.json").read_text())["model"]["ignore_merges"]  # as in Meta's encoder
    # ids of Meta's tokenizer, less its 128,000 byte pairs
    assert [SPECIAL_TOKENS.index(t) for t in ("<|eot_id|>", "<|eom_id|>", "<|python_tag|>", "<|start_header_id|>")] == [9, 8, 10, 6]
    assert words.stop_ids == {N_PAIRS + 1, N_PAIRS + 8, N_PAIRS + 9}


@pytest.mark.parametrize("token", ["<|eot_id|>", "<|begin_of_text|>", "<|reserved_special_token_7|>"])
def test_text_never_becomes_a_special_token(words, token):
    ids = words.encode(f"a {token} b{token}")
    assert not set(ids) & words.special_ids
    assert words.decode(ids) == f"a {token} b{token}"


def test_lone_surrogates_are_refused(words):
    with pytest.raises(InputError, match="text 1: holds a lone surrogate"):
        words.encode_batch(["fine", "\ud800"])


def test_one_long_letter_run_is_bounded(words):
    assert words.decode(words.encode("a" * 200_000)) == "a" * 200_000


def test_a_damaged_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="not a readable tokenizer"):
        Tokenizer.load(tmp_path)


def test_in_a_model_directory_transformers_loads_the_same_tokenizer(directory, words, tmp_path):
    from transformers import AutoTokenizer

    words.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = " It's  12345\r\n\t東京 naïve"
    # Llama 3's tokenizer begins a text, as our documents begin.
    assert theirs.encode(text) == [words.bos_id, *words.encode(text)]
    assert theirs.decode(words.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (words.bos_id, words.eos_id)
    assert (directory / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_a_tokenizer_with_other_special_tokens_is_read(directory, tmp_path):
    """Llama 3 of April 2024 has no end of message, and others add tokens of their own."""
    text = (directory / "tokenizer.json").read_text()
    text = text.replace("<|eom_id|>", "<|april|>").replace("<|reserved_special_token_9|>", "<|ünlike|>")
    (tmp_path / "tokenizer.json").write_text(text)
    other = Tokenizer.load(tmp_path)
    assert other.stop_ids == {N_PAIRS + 1, N_PAIRS + 9}
    assert other.decode([other.id("<|ünlike|>")]) == "<|ünlike|>"
    assert len(other.special_ids) == 256


@pytest.fixture(scope="session")
def documents(corpus, tmp_path_factory) -> Run:
    """A finished run with the corpus in `train.parquet`."""

    def stage(config, *, out):
        with out.write("train.parquet") as path, ParquetWriter(path, LANGUAGE_SCHEMA) as writer:
            for i, text in enumerate(corpus):
                writer.write({"id": f"{i:032x}", "language": "en", "text": text})
        return {}

    return rundir.make(Job("holdout", "3.1.3", 1, {}, {}, {}), tmp_path_factory.mktemp("documents"), stage, None, {})[0]


def run_tokenizer(path: Path, documents: Run, **settings) -> Run:
    return rundir.make(
        Job("tokenizer", "3.2", 1, {}, {}, {}), path, tokenizer, TokenizerConfig(**settings), {"documents": documents}
    )[0]


def test_the_stage_writes_the_same_bytes_each_time(documents, corpus, tmp_path):
    one, other = (run_tokenizer(tmp_path / name, documents, merges_base=144, merges_multilingual=0) for name in ("one", "other"))
    assert one.manifest["outputs"] == other.manifest["outputs"]
    assert set(one.manifest["outputs"]) == {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
    words = Tokenizer.load(one.path / "tokenizer")
    n_bytes = sum(len(text.encode()) for text in corpus)
    n_tokens = sum(len(words.encode(t)) for t in corpus)
    expected = {
        "vocabulary": 656,
        "bytes_per_token": n_bytes / n_tokens,
        "sample_bytes": n_bytes,
        "bytes_by_language": {"en": n_bytes},
    }
    assert one.metrics == expected


def test_the_bytes_alone_are_a_vocabulary(documents, tmp_path):
    words = Tokenizer.load(run_tokenizer(tmp_path, documents, merges_base=0, merges_multilingual=0).path / "tokenizer")
    assert sorted(words.decode_bytes([i]) for i in range(256)) == [bytes([b]) for b in range(256)]
    assert len(words.encode("naïve 東京")) == len("naïve 東京".encode())


def test_too_little_text_for_the_vocabulary_is_refused(documents, tmp_path):
    with pytest.raises(
        InputError, match=r"train.parquet: the text of the base part gives only [\d,]+ tokens; allowed: 100,256 asked; lower mer"
    ):
        run_tokenizer(tmp_path, documents)
    assert not (tmp_path / "tokenizer").exists()


GERMAN = ["Die Straße führt über die Brücke, und über den Fluss fährt ein Schiff. " * 20, "Über Österreich und Ölfässer. " * 20]
ENGLISH = ["The road leads over the bridge, and over the river goes a ship. " * 20, "Of roads and bridges. " * 20]


def corpus_run(path: Path, texts: list[tuple[str, str]]) -> Run:
    """A finished run whose `train.parquet` holds texts with their languages."""

    def stage(config, *, out):
        with out.write("train.parquet") as file, ParquetWriter(file, LANGUAGE_SCHEMA) as writer:
            for i, (language, text) in enumerate(texts):
                writer.write({"id": f"{i:032x}", "language": language, "text": text})
        return {}

    return rundir.make(Job("holdout", "3.1.3", 1, {}, {}, {}), path, stage, None, {})[0]


@pytest.fixture(scope="session")
def two_languages(tmp_path_factory) -> Run:
    texts = [*(("de", text) for text in GERMAN), *(("en", text) for text in ENGLISH)]
    return corpus_run(tmp_path_factory.mktemp("two"), texts)


TWO_PARTS = {"merges_base": 40, "merges_multilingual": 30}


def test_the_part_for_other_languages_stands_behind_the_base(two_languages, tmp_path):
    words = Tokenizer.load(run_tokenizer(tmp_path, two_languages, **TWO_PARTS).path / "tokenizer")
    base = learn(ENGLISH, 296)
    assert words.tokens[:296] == base
    added = words.tokens[296:]
    others = [token for token in learn(GERMAN, 326) if token not in base]
    places = [others.index(token) for token in added]
    assert len(added) == 30
    assert places == sorted(places)
    alone = Tokenizer.load(
        run_tokenizer(tmp_path / "alone", two_languages, merges_base=40, merges_multilingual=0).path / "tokenizer"
    )
    assert alone.tokens == learn([*GERMAN, *ENGLISH], 296)
    for token in added:  # every one of them can be reached by joining: it stands in a text that is no whole piece
        split = split_of(token, {t: i for i, t in enumerate(words.tokens)})
        assert split is not None
        assert {*split} <= {*words.tokens[: words.tokens.index(token)]}


def test_languages_count_as_they_weigh(two_languages, tmp_path):
    """A weight of 2 is the same as every document twice, a weight of 0 as none."""
    settings = {"merges_base": 40, "merges_multilingual": 0}
    heavy = run_tokenizer(tmp_path / "2", two_languages, **settings, language_weights={"de": 2.0})
    assert Tokenizer.load(heavy.path / "tokenizer").tokens == learn([*GERMAN, *GERMAN, *ENGLISH], 296)
    without = run_tokenizer(tmp_path / "0", two_languages, **settings, language_weights={"de": 0.0})
    assert Tokenizer.load(without.path / "tokenizer").tokens == learn(ENGLISH, 296)
    with pytest.raises(ConfigError, match="language_weights: no text in 'fr'"):
        run_tokenizer(tmp_path / "fr", two_languages, **settings, language_weights={"fr": 1.0})
    with pytest.raises(ConfigError, match="at least 0"):
        TokenizerConfig(language_weights={"de": -1.0})


def test_of_a_larger_corpus_documents_are_drawn(tmp_path):
    texts = [f"document number {i} of many, many documents. " * 3 for i in range(400)]
    documents = corpus_run(tmp_path / "corpus", [("en", text) for text in texts])
    config = TokenizerConfig(merges_base=0, merges_multilingual=0, max_bytes=10_000)
    file = documents.file("train.parquet")
    drawn = list(Corpus.open(file, config).texts("base", lambda language: True))
    assert 5_000 < sum(len(text) for text in drawn) < 20_000
    assert set(drawn) < set(texts)
    assert drawn == list(Corpus.open(file, config).texts("base", lambda language: True))
    other = TokenizerConfig(merges_base=0, merges_multilingual=0, max_bytes=10_000, seed=1)
    assert drawn != list(Corpus.open(file, other).texts("base", lambda language: True))


def test_a_stopped_run_keeps_its_base_part(two_languages, tmp_path, monkeypatch):
    whole = run_tokenizer(tmp_path / "whole", two_languages, **TWO_PARTS)
    learnt = []

    def stopped(texts, n):
        learnt.append(n)
        if len(learnt) == 2:
            raise KeyboardInterrupt
        return learn(texts, n)

    monkeypatch.setattr(train, "learn", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_tokenizer(tmp_path / "stopped", two_languages, **TWO_PARTS)
    run = run_tokenizer(tmp_path / "stopped", two_languages, **TWO_PARTS)
    assert learnt == [296, 326, 326]
    assert run.manifest["outputs"] == whole.manifest["outputs"]


def test_too_little_text_of_other_languages_is_refused(two_languages, tmp_path):
    with pytest.raises(InputError, match=r"the text of the multilingual part gives only 3\d\d tokens; .*lower merges_multilingual"):
        run_tokenizer(tmp_path, two_languages, merges_base=40, merges_multilingual=5_000)


def test_a_million_spaces_can_be_learned_from():
    parts = ["to be", " or not to be" * 9]
    assert learn([parts[0] + " " * 1_000_100 + parts[1]], 262) == learn(parts, 262)

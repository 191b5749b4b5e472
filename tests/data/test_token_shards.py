"""Documents to shards and back; odd source names; damaged shards."""

import hashlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core import rundir
from openherd.core.errors import InputError
from openherd.core.records import ParquetWriter, read_parquet
from openherd.core.rundir import Job, Run, file_sha256
from openherd.data.documents import LANGUAGE_SCHEMA
from openherd.data.token_files import block_sums
from openherd.data.token_shards import TokenShards, TokenShardsConfig, file_name, token_shards
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import TokenizerConfig, tokenizer

SOURCES = ["web", "Web", "../code/π", ".", "web", "Web", "web"]
TEXTS = ["the first the first page", "", "def f():\n\treturn 東京", "<|end_of_text|> is no end", "the last", "the\r\n\r\nlast", "é"]


@pytest.fixture(scope="module")
def holdout(tmp_path_factory):
    """A function that makes a run with a `train.parquet` of (source, text) pairs."""

    def make(pairs):
        def stage(config, *, out):
            with out.write("train.parquet") as path, ParquetWriter(path, LANGUAGE_SCHEMA) as writer:
                for i, (source, text) in enumerate(pairs):
                    writer.write({"id": f"{i:032x}", "source": source, "text": text})
            return {}

        return rundir.make(Job("holdout", "3.1.3", 1, {}, {}, {}), tmp_path_factory.mktemp("holdout"), stage, None, {})[0]

    return make


@pytest.fixture(scope="module")
def documents(holdout):
    return holdout(list(zip(SOURCES, TEXTS)))


@pytest.fixture(scope="module")
def words(run_stage, documents):
    return run_stage(tokenizer, TokenizerConfig(merges_base=14, merges_multilingual=0), documents=documents)


@pytest.fixture(scope="module")
def shards(run_stage, documents, words):
    return run_stage(token_shards, TokenShardsConfig(), documents=documents, tokenizer=words)


def damaged(shards: Run, folder, name: str, content: bytes) -> Run:
    """A copy of a run with one file of it replaced, as if the manifest had not noticed."""
    for file in shards.path.glob("shards/*"):
        (folder / "shards").mkdir(exist_ok=True)
        (folder / "shards" / file.name).write_bytes(content if file.name == name else file.read_bytes())
    return Run(folder, shards.manifest)


def test_every_token_is_traced_to_its_document(shards, words):
    reader, vocabulary = TokenShards.open(shards), Tokenizer.load(words.path / "tokenizer")
    found = {}
    for row in read_parquet(shards.file("shards/documents.parquet")):
        bounds = [*reader.starts[row["source"]], reader.tokens[row["source"]]]
        ids = reader.read(row["source"], bounds[row["number"]], bounds[row["number"] + 1])
        assert (ids[0], ids[-1]) == (vocabulary.bos_id, vocabulary.eos_id)
        assert not set(ids[1:-1].tolist()) & vocabulary.special_ids
        found[int(row["id"], 16)] = (row["source"], vocabulary.decode(ids[1:-1].tolist()))
    assert found == dict(enumerate(zip(SOURCES, TEXTS)))


def test_metrics_are_those_of_the_files(shards, words):
    reader = TokenShards.open(shards)
    bins = sum(f.stat().st_size for f in shards.path.glob("shards/*.bin"))
    assert shards.metrics["train_tokens"] == sum(reader.tokens.values()) == bins / 4
    assert shards.metrics["tokens_by_source"] == reader.tokens
    assert shards.metrics["documents"] == len(TEXTS)
    assert shards.metrics["bytes_per_token"] == sum(len(t.encode()) for t in TEXTS) / (bins / 4)
    assert reader.tokenizer_sha256 == file_sha256(words.file("tokenizer/tokenizer.json"))
    assert reader.vocabulary == 270 + 256


def test_tokens_are_little_endian_and_read_back_as_written(shards):
    reader = TokenShards.open(shards)
    raw = (shards.path / "shards" / "000-web.bin").read_bytes()
    assert reader.read("web", 0, reader.tokens["web"]).tolist() == [
        int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)
    ]


def test_documents_encoded_one_by_one_give_the_same_bytes(shards, run_stage, documents, words):
    other = run_stage(token_shards, TokenShardsConfig(batch_documents=1), documents=documents, tokenizer=words)
    digests = [{name: entry["sha256"] for name, entry in run.manifest["outputs"].items()} for run in (shards, other)]
    assert digests[0] == digests[1]


@given(sources=st.lists(st.text(min_size=1) | st.sampled_from(["..", "A/b", "a", "A", "\0", "x" * 300]), unique=True))
@settings(max_examples=60)
def test_file_names_are_safe_whatever_a_source_is_called(sources):
    names = [file_name(i, source) for i, source in enumerate(sources)]
    assert len({name.lower() for name in names}) == len(names)
    assert all(name[0].isdigit() and len(name) < 60 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


def test_no_documents_and_no_source_are_refused(run_stage, holdout, words):
    with pytest.raises(InputError, match=r"train.parquet: no documents"):
        run_stage(token_shards, TokenShardsConfig(), documents=holdout([]), tokenizer=words)
    with pytest.raises(InputError, match=r"document 0{31}1 has no source"):
        run_stage(token_shards, TokenShardsConfig(), documents=holdout([("a", "x"), ("", "y")]), tokenizer=words)


def of_numbers(*numbers: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(numbers, np.int64))
    return file.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"no numbers", of_numbers(0, 5), of_numbers(0, 9, 9), of_numbers(1, 5, 9), of_numbers(0, 5, 10_000)]
)
def test_damaged_document_starts_are_refused(shards, tmp_path, content):
    assert len(TokenShards.open(damaged(shards, tmp_path, "", b"")).starts["web"]) == 3
    with pytest.raises(InputError, match=r"000-web.starts.npy: a corrupt index of document starts"):
        TokenShards.open(damaged(shards, tmp_path, "000-web.starts.npy", content))


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"sources": {"web": {}}}), json.dumps({"sources": {"web": 3}})])
def test_a_damaged_index_is_refused(shards, tmp_path, content):
    with pytest.raises(InputError, match=r"index.json: a corrupt index"):
        TokenShards.open(damaged(shards, tmp_path, "index.json", content.encode()))


def test_a_file_of_another_length_is_refused(shards, tmp_path):
    whole = (shards.path / "shards" / "000-web.bin").read_bytes()
    for content in (whole[:-1], whole[:-4], whole + b"\0\0\0\0"):
        with pytest.raises(InputError, match=rf"000-web.bin: a corrupt shard: {len(content):,} bytes"):
            TokenShards.open(damaged(shards, tmp_path, "000-web.bin", content))


def test_each_block_is_checked_once_when_it_is_first_read(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("openherd.data.token_files.BLOCK_BYTES", 32)
    file = damaged(shards, tmp_path, "", b"").path / "shards" / "000-web.bin"
    whole = bytearray(file.read_bytes())
    assert len(whole) > 64
    for bin_file in file.parent.glob("*.bin"):
        np.save(bin_file.with_suffix(".blocks.npy"), block_sums(bin_file))
    reader = TokenShards.open(Run(tmp_path, shards.manifest))
    whole[40] ^= 1
    with file.open("r+b") as opened:  # in place: the file stays mapped
        opened.write(whole)
    assert len(reader.read("web", 0, 8)) == 8
    with pytest.raises(InputError, match=r"000-web.bin: changed: bytes 32 to 64 have another SHA-256 than when it was written"):
        reader.read("web", 7, 9)
    again = TokenShards.open(Run(tmp_path, shards.manifest))
    sums = []
    monkeypatch.setattr("hashlib.sha256", lambda data, sha256=hashlib.sha256: sums.append(len(data)) or sha256(data))
    for _ in range(2):
        again.read("web", 0, 8)
        again.read("web", len(whole) // 4 - 1, len(whole) // 4)
    assert len(sums) == 2

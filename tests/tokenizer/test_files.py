"""Rank files and tokenizer.json, from one to the other, and two tokenizers compared, through the command line."""

import json
from pathlib import Path

import pytest
import tiktoken

from openherd.cli import main
from openherd.core.records import write_jsonl
from openherd.tokenizer.files import read_ranks, write_tokenizer
from openherd.tokenizer.pattern import SPLIT_PATTERN
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn

TEXT = "The quick brown fox jumps over the lazy dog; the dogs jump over the foxes. " * 30


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(learn([TEXT], 290), path, 512)
    return path


def test_to_ranks_and_back(directory, tmp_path, capsys):
    assert main(["tokenizer", "convert", str(directory), "--out", str(tmp_path / "tokenizer.model")]) == 0
    assert "290 tokens and 256 special ones, read back and found the same" in capsys.readouterr().out
    assert main(["tokenizer", "convert", str(tmp_path / "tokenizer.model"), "--out", str(tmp_path / "back")]) == 0
    assert (tmp_path / "back" / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()
    ranks = {token: rank for rank, token in enumerate(read_ranks(tmp_path / "tokenizer.model"))}
    theirs = tiktoken.Encoding("t", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
    assert Tokenizer.load(tmp_path / "back").encode(TEXT) == theirs.encode_ordinary(TEXT)
    assert main(["tokenizer", "convert", str(directory), "--out", str(tmp_path / "back")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_what_cannot_be_converted_is_refused(directory, tmp_path, capsys):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00")
    assert main(["tokenizer", "convert", str(tmp_path / "tokenizer.model"), "--out", str(tmp_path / "out")]) == 2
    assert "a SentencePiece model, as of Llama 2" in capsys.readouterr().err
    file = json.loads((directory / "tokenizer.json").read_text())
    file["model"]["ignore_merges"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    assert main(["tokenizer", "convert", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "its merges cannot be written as ranks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def bytes_alone(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bytes")
    write_tokenizer([bytes([b]) for b in range(256)], path, 512)
    return path


def test_two_tokenizers_are_compared_by_language(directory, bytes_alone, tmp_path, capsys):
    rows = [{"language": "en", "text": TEXT}, {"language": "de", "text": "süß \nsüß"}, {"language": "en", "text": "the fox"}]
    write_jsonl(tmp_path / "data.jsonl", rows)
    page = tmp_path / "compare.html"
    command = ["tokenizer", "compare", str(directory), str(bytes_alone), "--on", str(tmp_path / "data.jsonl"), "--page", str(page)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines if line.split()[:1] in (["en"], ["de"], ["all"])}
    words = Tokenizer.load(directory)
    n_a = len(words.encode(TEXT)) + len(words.encode("the fox"))
    n_bytes = len(TEXT) + len("the fox")
    n_words = len(TEXT.split()) + 2
    per_byte, per_token = f"{n_bytes / n_bytes:.2f}", f"{n_bytes / n_a:.2f}"
    expected = [
        per_token,
        per_byte,
        per_token,
        per_byte,
        f"{n_a / n_words:.2f}",
        f"{n_bytes / n_words:.2f}",
        f"{n_bytes / n_a:.3f}",
    ]
    assert table["en"] == [f"{n_bytes:,}", *expected]
    # bytes alone: 8 characters, 12 bytes, 2 words
    assert table["de"][0] == "12"
    assert (table["de"][2], table["de"][4], table["de"][6]) == ("0.67", "1.00", "6.00")
    assert list(table) == ["en", "de", "all"]  # the most text first
    assert "290 tokens, 88.3% of them in B" in lines[0]
    assert "256 tokens, 100.0% of them in A" in lines[1]
    text = page.read_text(encoding="utf-8")
    assert f'<td class="number">{table["en"][-1]}</td>' in text
    assert "http://" not in text.split("</style>")[0]


@pytest.mark.parametrize("kind", ["folder", "parquet", "run"])
def test_what_text_is_read_from(kind, directory, tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "folder":
        (tmp_path / "xx.txt").write_text("fox and dog")
        data = tmp_path
    else:
        name = "documents.parquet" if kind == "run" else "some.parquet"
        pq.write_table(pa.table({"text": ["fox and dog"], "language": ["xx"]}), tmp_path / name)
        data = tmp_path if kind == "run" else tmp_path / name
    assert main(["tokenizer", "compare", str(directory), str(directory), "--on", str(data)]) == 0
    assert any(line.split()[:2] == ["xx", "11"] for line in capsys.readouterr().out.splitlines() if line)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.parquet", None, "no such file or directory"),
        ("x.csv", "a", "no documents; allowed: .parquet, .jsonl"),
        ("x.jsonl", '{"body": "a"}\n', "row 1: no text"),
        ("x.jsonl", '{"text": ""}\n', "no text"),
        ("x.txt", b"\xff\xfe\xff", "not UTF-8"),
    ],
)
def test_text_that_cannot_be_read_is_refused(name, content, said, directory, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["tokenizer", "compare", str(directory), str(directory), "--on", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err

"""Miniature runs of what training is given, made once on the spot by the command line."""

from pathlib import Path

import pytest

from small_training import SMALL, told, write_documents


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A folder with the runs `documents`, `tokenizer`, `shards` and `pretrain`, and `other-tokenizer`, `other-shards` of as large
    a vocabulary."""
    folder = tmp_path_factory.mktemp("made")
    for i, name in enumerate(("", "other-")):
        write_documents(folder / f"{name}documents", i, 400)
        words = ["--documents", folder / f"{name}documents", "--merges-base", "40", "--merges-multilingual", "0"]
        assert told("tokenizer", *words, "--out", folder / f"{name}tokenizer") == 0
        given = ["--documents", folder / f"{name}documents", "--tokenizer", folder / f"{name}tokenizer"]
        assert told("token-shards", *given, "--out", folder / f"{name}shards") == 0
    given = ["--shards", folder / "shards", "--tokenizer", folder / "tokenizer"]
    assert told("pretrain", *given, *SMALL, "--steps", "2", "--out", folder / "pretrain") == 0
    return folder

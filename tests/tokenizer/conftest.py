"""A tokenizer that the tests of this folder share."""

from pathlib import Path

import pytest

from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn

N_PAIRS = 600


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    """Text that is always there: the source of the standard library's json and of this package's core."""
    import json as package

    files = sorted(Path(package.__file__).parent.glob("*.py"))
    return [f.read_text() for f in files] + ["naïve Übung 東京 число 12345 don't WE'LL\n\n\t x=1\r\n" * 5]


@pytest.fixture(scope="session")
def directory(corpus, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(learn(iter(corpus), N_PAIRS), path, 512)
    return path


@pytest.fixture(scope="session")
def words(directory) -> Tokenizer:
    return Tokenizer.load(directory)


@pytest.fixture(scope="session")
def transformers_tokenizer(directory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)

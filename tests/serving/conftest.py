"""What the tests of the server share."""

from dataclasses import replace
from pathlib import Path

import pytest

from small_server import load, running, write_directory


@pytest.fixture(scope="session")
def directory(tmp_path_factory) -> Path:
    """A model directory."""
    return write_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny(directory):
    """The server that most tests share."""
    with running(load(directory)) as server:
        yield server


@pytest.fixture
def client(tiny):
    """OpenAI's client of it."""
    with tiny.client() as client:
        yield client


@pytest.fixture
def alone(directory):
    """An engine of its own for the same model."""
    served = load(directory)

    def answer(prompt, sampling, stop=None, **settings):
        found = served.engine.add(prompt, replace(sampling, **settings), served.tokenizer.stop_ids if stop is None else stop)
        served.engine.run()
        return found

    answer.tokenizer = served.tokenizer
    return answer

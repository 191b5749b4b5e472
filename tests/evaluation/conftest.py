"""Finished runs to evaluate: documents, and models that nobody trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openherd.core import rundir
from openherd.core.records import ParquetWriter, write_jsonl
from openherd.core.rundir import Job, Run
from openherd.data.documents import TEXT_SCHEMA
from openherd.model.config import ModelConfig
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn
from tiny import tiny_model, write_tiny

CONTEXT = 32
TRAIN = [f"The module number{i} does this. The class number{i} does that, and {'nothing ' * i}else." for i in range(20)]
HELDOUT = ["The module zero does nothing else, and the class does this. " * 8, "Ünïcode, as well.", "", "The class."]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Callable[..., Run]:
    """A function that runs a stage, or anything like one, and gives the finished run."""

    def make(name: str, stage: Callable[..., Any], config: Any = None, **inputs: Any) -> Run:
        return rundir.make(Job(name, "0", 1, {}, {}, {}), tmp_path_factory.mktemp(name), stage, config, inputs)[0]

    return make


@pytest.fixture(scope="session")
def documents(finished) -> Run:
    """A holdout run."""
    lineage = {"url": "", "date": "", "source": "", "file": "", "offset": 0, "title": ""}

    def stage(config, *, out):
        for name, texts in (("train.parquet", TRAIN), ("heldout.parquet", HELDOUT)):
            with out.write(name) as path, ParquetWriter(path, TEXT_SCHEMA) as writer:
                for i, text in enumerate(texts):
                    writer.write({**lineage, "id": f"{i:032x}", "text": text})
        return {}

    return finished("holdout", stage)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(learn(iter(TRAIN), 300), path, CONTEXT)
    return Tokenizer.load(path)


@pytest.fixture(scope="session")
def model_run(finished, tokenizer) -> Callable[..., Run]:
    """A function that makes the run of a stage that wrote a model, random by its seed."""

    def make(name: str, seed: int, context: int = CONTEXT) -> Run:
        shape = {"n_layers": 2, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "head_width": 8, "d_feed_forward": 24}
        config = ModelConfig(**shape, vocabulary=tokenizer.vocabulary, max_positions=context)

        def stage(settings, *, out):
            write_tiny(tiny_model(config, seed), tokenizer, out)
            return {}

        return finished(name, stage)

    return make


@pytest.fixture(scope="session")
def dialogs_run(finished) -> Callable[..., Run]:
    """A function that makes a dialogs run of (entry, phrasing, question, answer) per set."""

    def make(**sets: Any) -> Run:
        def stage(config, *, out):
            for name, rows in sets.items():
                with out.write(f"{name}.jsonl") as path:
                    write_jsonl(path, (dialog(*row) for row in rows))
            return {}

        return finished("dialogs", stage)

    return make


def dialog(entry: str, phrasing: int, question: str, answer: str) -> dict[str, Any]:
    """A row of a dialogs run."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "entry": entry, "phrasing": phrasing}

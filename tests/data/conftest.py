"""Finished runs to test curation stages on."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from curated_runs import curation
from openherd.core import rundir
from openherd.core.records import ParquetWriter, read_parquet
from openherd.core.rundir import Job, Output, Run
from openherd.data.documents import DOCUMENTS, LANGUAGE_SCHEMA


def document(text: str, **fields: Any) -> dict[str, Any]:
    """A row of LANGUAGE_SCHEMA; its id follows from its fields."""
    digest = hashlib.sha256(repr((text, sorted(fields.items()))).encode()).hexdigest()[:32]
    row = {
        "id": digest,
        "url": f"https://example.org/{digest[:6]}",
        "date": "2026-01-01T00:00:00Z",
        "source": "web",
        "file": "a.warc",
    }
    return {**row, "offset": 0, "title": "", "text": text, "language": "en", "language_score": 1.0, **fields}


@pytest.fixture(scope="session")
def documents_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """A function that makes a finished run of the texts, or rows, given."""

    def make(texts: Iterable[str | Mapping[str, Any]], schema: Any = LANGUAGE_SCHEMA, rows_per_group: int = 2_000) -> Run:
        rows = [document(text, id=f"{i:032x}") if isinstance(text, str) else dict(text) for i, text in enumerate(texts)]

        def stage(config: None, *, out: Output) -> dict[str, Any]:
            with out.write(DOCUMENTS) as path, ParquetWriter(path, schema, rows_per_group) as writer:
                for row in rows:
                    writer.write({name: row.get(name) for name in schema.names})
            return {}

        return rundir.make(Job("given", "3.1", 1, {}, {}, {}), tmp_path_factory.mktemp("given"), stage, None, {})[0]

    return make


@pytest.fixture(scope="session")
def run_stage(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """A function that runs a stage on given inputs."""

    def make(stage: Callable[..., Any], config: Any, **inputs: Any) -> Run:
        if hasattr(config, "engine"):
            config = replace(config, engine=replace(config.engine, processes=1))  # tests have few documents
        job = Job(stage.__name__.replace("_", "-"), "3.1", 1, {}, {}, {})
        return rundir.make(job, tmp_path_factory.mktemp(stage.__name__), stage, config, inputs)[0]

    return make


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[dict[str, Any]]]:
    """A function that reads an output of a run."""
    return lambda run, name=DOCUMENTS: list(read_parquet(run.file(name)))


@pytest.fixture(scope="session")
def small_curation(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The stages of a small curation by name."""
    return curation(tmp_path_factory.mktemp("curation"))

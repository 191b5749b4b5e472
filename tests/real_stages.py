"""Stages of curation that look at one document at a time, one behind the other over real pages, for the tests of the engine."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from openherd.core import rundir
from openherd.core.records import ParquetWriter, read_parquet
from openherd.core.rundir import Job, Output, Outside, Run
from openherd.data.documents import DOCUMENTS, PAGE_SCHEMA
from openherd.data.engine import EngineConfig
from openherd.data.extraction import ExtractionConfig, extraction
from openherd.data.heuristics import HeuristicsConfig, heuristics
from openherd.data.language import LanguageConfig, language
from openherd.data.pii import PiiConfig, pii
from openherd.data.sources import SourcesConfig, sources

CHAIN: dict[str, tuple[Callable[..., dict[str, Any]], Any]] = {
    "extraction": (extraction, ExtractionConfig()),
    "language": (language, LanguageConfig(languages=())),
    "heuristics": (heuristics, HeuristicsConfig()),
    "pii": (pii, PiiConfig()),
}


def made(name: str, folder: Path, stage: Callable[..., Any], config: Any, inputs: dict[str, Any]) -> Run:
    """A stage's run in a folder; one that is done is opened."""
    return rundir.make(Job(name, "3.1", 1, {}, {}, {}), folder / name, stage, config, inputs)[0]


def real_pages(data: Path, folder: Path, times: int) -> Run:
    """The pages of real WARC files and articles, each so many times and each time with other personal data at its end."""
    read = made(
        "sources", folder, sources, SourcesConfig(on_damage="skip"), {"pages": (Outside(str(data / "warc" / "*.warc.gz")),)}
    )
    rows = list(read_parquet(read.file(DOCUMENTS)))
    for file in sorted((data / "article_extraction").glob("*.html.gz")):
        rows.append({**rows[0], "url": f"https://example.org/{file.name}", "content": gzip.decompress(file.read_bytes())})

    def stage(config: None, *, out: Output) -> dict[str, Any]:
        with out.write(DOCUMENTS) as path, ParquetWriter(path, PAGE_SCHEMA) as writer:
            for i, row in enumerate(rows * times):
                more = f"<p>This copy of the page was sent to us by reader{i}@example.com, telephone 212-555-{i:04}.</p>".encode()
                writer.write({**row, "id": f"{i:032x}", "content": row["content"].replace(b"</body>", more + b"</body>")})
        return {}

    return made("pages", folder, stage, None, {})


def curated(pages: Run, folder: Path, engine: EngineConfig) -> list[Run]:
    """The runs of all stages; done ones are opened."""
    runs = [pages]
    for name, (stage, config) in CHAIN.items():
        runs.append(made(name, folder, stage, replace(config, engine=engine), {"documents": runs[-1]}))
    return runs[1:]

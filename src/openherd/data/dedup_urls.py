"""Of the versions of one page the newest stays (paper 3.1.1: URL-level deduplication keeps the most recent version).

Two addresses are one page where `same_page` (data/urls.py) spells them alike. The newest is the one with the latest date, and
of equal dates the first of the input. A document without an address that names a host is left alone: a row's number or name is
no address. Where documents have a language, one address has a version in each: `language-split` makes several documents of a page.

Memory is bounded: sixteen bytes of an address's hash, the date and the place of each document go through DuckDB with a limit,
half of the engine's, which spills into the run directory; addresses and contents do not. Two different addresses share a hash
once in 10^18 among 20 billion.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import Field

from openherd.core.progress import track
from openherd.core.records import count_rows
from openherd.core.rundir import Output, Run
from openherd.data.documents import DOCUMENTS, Drop, curate, read_documents
from openherd.data.engine import EngineConfig, EngineSetting
from openherd.data.tables import connect
from openherd.data.urls import TRACKING_PARAMETERS, normalise, same_page

if TYPE_CHECKING:
    import duckdb

ROWS_AT_ONCE = 50_000
VERSIONS = pa.schema(
    [("high", pa.uint64()), ("low", pa.uint64()), ("date", pa.string()), ("place", pa.int64()), ("id", pa.string())]
)


@dataclass(frozen=True, kw_only=True)
class DedupUrlsConfig:
    """Settings of `dedup-urls`. The paper says only that the newest version of a URL stays; what is one URL is ours."""

    tracking_parameters: Annotated[
        tuple[str, ...], Field(description="parameters that name no page; one that ends in '*' stands for all that begin so")
    ] = TRACKING_PARAMETERS
    ignore_scheme: Annotated[bool, Field(description="http and https are one page")] = True
    ignore_www: Annotated[bool, Field(description="a host is one with and without 'www.'")] = False
    threads: Annotated[int, Field(description="threads of the database", ge=1)] = 2
    engine: EngineSetting = field(default_factory=EngineConfig)


def key_of(config: DedupUrlsConfig, url: str, language: str = "") -> str:
    """What is equal for the versions of one page, or of its part in a language; empty for what is no address of a page."""
    address = normalise(url)
    tracking = frozenset(name.lower() for name in config.tracking_parameters)
    key = same_page(address, tracking, config.ignore_scheme, config.ignore_www) if "://" in address else ""
    return f"{key}\0{language}" if key and language else key


def fill(config: DedupUrlsConfig, documents: Run, database: "duckdb.DuckDBPyConnection") -> None:
    """The table `versions`: a row for each document that has an address."""
    database.execute("CREATE TABLE versions (high UBIGINT, low UBIGINT, date VARCHAR, place BIGINT, id VARCHAR)")
    rows: list[tuple[int, int, str, int, str]] = []

    def store() -> None:
        batch = pa.table([list(column) for column in zip(*rows, strict=True)] or [[]] * 5, schema=VERSIONS)
        database.register("batch", batch)
        database.execute("INSERT INTO versions SELECT * FROM batch")
        database.unregister("batch")
        rows.clear()

    file = documents.file(DOCUMENTS)
    columns = [name for name in ("id", "url", "date", "language") if name != "language" or name in pq.read_schema(file).names]
    rows_read = track(read_documents(documents, columns), "addresses", "documents", count_rows(file) or 0)
    for place, row in enumerate(rows_read):
        if key := key_of(config, row["url"], row.get("language") or ""):
            digest = xxhash.xxh3_128_intdigest(key.encode("utf-8", "surrogatepass"))
            rows.append((digest >> 64, digest & (2**64 - 1), row["date"] or "", place, row["id"]))
        if len(rows) == ROWS_AT_ONCE:
            store()
    store()


OLDER = """
    WITH newest AS (
        SELECT high, low, max(date) AS date, count(*) AS n FROM versions GROUP BY high, low HAVING n > 1
    ), kept AS (
        SELECT versions.high, versions.low, min(place) AS place, arg_min(id, place) AS id
        FROM versions JOIN newest USING (high, low, date) GROUP BY versions.high, versions.low
    )
    SELECT versions.place, kept.id FROM versions JOIN kept USING (high, low)
    WHERE versions.place <> kept.place ORDER BY versions.place
"""


def older_versions(database: "duckdb.DuckDBPyConnection") -> Iterator[tuple[int, str]]:
    """(place, id of the one that is kept) of each document that goes, in order."""
    found = database.execute(OLDER)
    while rows := found.fetchmany(ROWS_AT_ONCE):
        yield from rows


def dedup_urls(config: DedupUrlsConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Keep the newest version of each page. Takes pages and documents."""
    with (
        tempfile.TemporaryDirectory(prefix=".spill", suffix=".tmp", dir=out.path) as folder,
        connect(Path(folder), config.engine.table_gb(), config.threads) as database,
    ):
        fill(config, documents, database)
        older = older_versions(database)

        def decide(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
            place, kept = next(older, (-1, ""))
            for number, row in enumerate(rows):
                if number == place:
                    yield row, Drop("older version", f"kept: {kept}")
                    place, kept = next(older, (-1, ""))
                else:
                    yield row, None

        return curate("dedup-urls", documents, out, pq.read_schema(documents.file(DOCUMENTS)), decide)

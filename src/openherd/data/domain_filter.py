"""Dropping whole domains by what the corpus itself shows of them (paper 3.1.1: domains with much personal data, and harmful ones).

Two passes. The first adds up, for each registrable domain (data/urls.py: of `ann.github.io` and `bob.github.io` each its own),
what the stages before counted for each document: `pii` its findings by kind, `safety-filter` what it dropped or found harmful.
The second drops the documents of domains over a threshold. The paper publishes neither threshold nor the ranking of harm; ours
are settings. A domain of few documents is left alone, since one page says little. The sums run through DuckDB with a memory
limit.

`domains.parquet` has every domain with its counts and the verdict; `denied_domains.txt` is a list as `url-filter` takes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.records import ParquetWriter
from openherd.core.rundir import Output, Run
from openherd.data.documents import MEASURES, Drop, Judge, Judged
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents
from openherd.data.pii import KINDS, domain_of
from openherd.data.tables import connect

if TYPE_CHECKING:
    import duckdb

DOMAINS = "domains.parquet"
DENIED = "denied_domains.txt"
COUNTED = ("pii", "safety-filter")  # the stages that count
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True)
class DomainFilterConfig:
    """Settings of `domain-filter`. The paper says "high volumes" and "ranked as harmful" and no numbers: these are ours."""

    kinds: Annotated[
        tuple[Literal["email", "phone", "ip", "card", "iban", "national_id", "address", "name"], ...],
        Field(description="kinds of personal data that count"),
    ] = ("email", "phone", "card", "iban", "national_id", "address")
    # A page with a firm's own address has an e-mail address and a telephone number; a page of a directory has many of each.
    min_findings: Annotated[
        int, Field(description="findings from which on a document counts as one with much personal data", ge=1)
    ] = 5
    max_personal_share: Annotated[
        float, Field(description="largest share of a domain's documents with much personal data; 1 = off", ge=0, le=1)
    ] = 0.5
    max_harmful_share: Annotated[
        float, Field(description="largest share of a domain's documents that are harmful; 1 = off", ge=0, le=1)
    ] = 0.3
    min_documents: Annotated[int, Field(description="documents from which on a domain is judged", ge=1)] = 10
    threads: Annotated[int, Field(description="threads of the database", ge=1)] = 2
    engine: EngineSetting = field(default_factory=EngineConfig)


def domains_schema() -> pa.Schema:
    """The schema of `domains.parquet`."""
    counts = ("documents", "characters", "personal_documents", "harmful_documents", *KINDS)
    return pa.schema([("domain", pa.string()), *((name, pa.int64()) for name in counts), ("dropped", pa.string())])


def sums(
    config: DomainFilterConfig, personal: Sequence[str], harmful: Sequence[str], database: "duckdb.DuckDBPyConnection"
) -> None:
    """The view `sums`: a row for each domain, with the reason for which it is dropped, or an empty one."""
    much = " + ".join(config.kinds) or "0"
    kinds = ", ".join(f"sum({kind}) AS {kind}" for kind in KINDS)
    none = ", ".join(f"0 AS {kind}" for kind in KINDS)
    parts = []
    if personal:
        parts.append(
            "SELECT domain, count(*) AS seen, 0 AS judged, sum(characters) AS characters,"
            f" count(*) FILTER ({much} >= {config.min_findings}) AS personal_documents,"
            f" 0 AS harmful_documents, {kinds} FROM read_parquet(getvariable('personal')) GROUP BY domain"
        )
    if harmful:
        parts.append(
            f"SELECT domain, 0, count(*), 0, 0, count(*) FILTER (harmful), {none} FROM read_parquet(getvariable('harmful'))"
            " GROUP BY domain"
        )
    database.execute("SET VARIABLE personal = ?", [list(personal)])
    database.execute("SET VARIABLE harmful = ?", [list(harmful)])
    totals = ", ".join(
        f"sum({name})::BIGINT AS {name}" for name in ("characters", "personal_documents", "harmful_documents", *KINDS)
    )
    # The shares are of the documents that the stage in question saw: one of them may have stood behind the other.
    database.execute(f"""
        CREATE TABLE sums AS SELECT *, CASE
            WHEN seen >= {config.min_documents} AND personal_documents > {config.max_personal_share} * seen THEN 'personal data'
            WHEN judged >= {config.min_documents} AND harmful_documents > {config.max_harmful_share} * judged THEN 'harmful'
            ELSE '' END AS dropped
        FROM (SELECT domain, greatest(sum(seen), sum(judged))::BIGINT AS documents, sum(seen) AS seen, sum(judged) AS judged,
            {totals}
              FROM ({" UNION ALL ".join(parts)}) WHERE domain <> '' GROUP BY domain)
    """)


def write_domains(database: "duckdb.DuckDBPyConnection", out: Output) -> dict[str, tuple[str, str]]:
    """Write the table and the list; returns (reason, detail) of each dropped domain."""
    denied = {}
    schema = domains_schema()
    found = database.execute(f"SELECT {', '.join(schema.names)}, seen, judged FROM sums ORDER BY documents DESC, domain")
    with out.write(DOMAINS) as path, ParquetWriter(path, schema) as writer:
        while rows := found.fetchmany(ROWS_AT_ONCE):
            for *values, seen, judged in rows:
                row = dict(zip(schema.names, values, strict=True))
                writer.write(row)
                if reason := row["dropped"]:
                    n, of = (row["personal_documents"], seen) if reason == "personal data" else (row["harmful_documents"], judged)
                    denied[row["domain"]] = f"domain: {reason}", f"{row['domain']}: {n} of {of} documents"
    with out.write(DENIED) as path:
        path.write_text("".join(f"{domain}\n" for domain in sorted(denied)), encoding="utf-8")
    return denied


def prepare_domain_filter(config: DomainFilterConfig, *, denied: dict[str, tuple[str, str]]) -> Judge:
    """The judgement over batches of documents by the domain of their address."""

    def drop_of(url: str | None) -> Drop | None:
        reason = denied.get(domain_of(url))
        return Drop(*reason) if reason else None

    return lambda batch: Judged(batch, [drop_of(url) for url in batch.column("url").to_pylist()])


def domain_filter(config: DomainFilterConfig, *, documents: Run, counted: tuple[Run, ...], out: Output) -> dict[str, Any]:
    """Drop the documents of domains with much personal data or much harm. `counted`: finished runs of `pii` and `safety-filter`."""
    personal, harmful = ([str(run.file(MEASURES)) for run in counted if run.manifest["stage"] == name] for name in COUNTED)
    if len(personal) + len(harmful) < len(counted) or not counted:
        other = [str(run.path) for run in counted if run.manifest["stage"] not in COUNTED]
        raise InputError(", ".join(other) or "counted", "counts nothing by document", allowed="runs of pii and of safety-filter")
    with (
        TemporaryDirectory(prefix=".spill", suffix=".tmp", dir=out.path) as folder,
        connect(Path(folder), config.engine.table_gb(), config.threads) as database,
    ):
        sums(config, personal, harmful, database)
        denied = write_domains(database, out)
    prepare = partial(prepare_domain_filter, config, denied=denied)
    metrics = judge_documents("domain-filter", prepare, documents, out, config.engine, needs="")
    n_domains = pq.read_metadata(out.path / DOMAINS).num_rows
    return metrics | {"domains": n_domains, "domains_dropped": len(denied)}

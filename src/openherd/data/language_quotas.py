"""How much of each language is kept (paper 3.1.1, 3.1.2: the amount of multilingual text was chosen by experiment).

Over its quota a language keeps its best documents by a column of scores, such as the quality classifier's; without one, a fixed
choice by id, which is as good as random since ids are digests. Ties go by id, so the outcome does not depend on the input's order.
A quota is a number of documents, of bytes, or a share of all bytes that are kept. Ranks and sums are DuckDB's, which spills.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Output, Run
from openherd.data.documents import DOCUMENTS, Drop, check_content, check_numbers, curate
from openherd.data.engine import EngineConfig, EngineSetting
from openherd.data.tables import connect

if TYPE_CHECKING:
    import duckdb

REST = "*"  # languages that no quota names


@dataclass(frozen=True, kw_only=True)
class LanguageQuotasConfig:
    """Settings of `language-quotas`; the paper gives 8% of all tokens as multilingual, and no quota of a language."""

    max_documents: Annotated[
        dict[str, int], Field(description="most documents by language, as { de = 1000, '*' = 500 }; '*' is any other language")
    ] = field(default_factory=dict)
    max_bytes: Annotated[dict[str, int], Field(description="most bytes of text (UTF-8) by language")] = field(default_factory=dict)
    max_shares: Annotated[
        dict[str, float], Field(description="largest share of all bytes kept, by language; '*' is each other one's")
    ] = field(default_factory=dict)
    score: Annotated[str, Field(description="column of which the highest are kept; empty: a fixed choice by id")] = ""
    engine: EngineSetting = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        for name, most in (("max_documents", None), ("max_bytes", None), ("max_shares", 1)):
            for code, value in getattr(self, name).items():
                if value < 0 or (most is not None and value > most):
                    raise ConfigError("language-quotas", f"{name}: {code} = {value}", allowed="0 to 1" if most else "0 or more")


def largest_total(sizes: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """The most bytes in all with which no language has more than its share: the largest T = sum of min(size, share x T)."""
    total = float(sum(sizes.values()))
    while True:
        lower = sum(min(size, shares.get(code, shares.get(REST, 1.0)) * total) for code, size in sizes.items())
        if total - lower < 0.5:
            return lower if lower >= 1 else 0.0
        total = lower


def byte_quotas(config: LanguageQuotasConfig, sizes: Mapping[str, int]) -> dict[str, float]:
    """The most bytes of each language. Raises ConfigError where the shares leave nothing."""
    most = {code: min(size, config.max_bytes.get(code, config.max_bytes.get(REST, size))) for code, size in sizes.items()}
    if not config.max_shares or not sum(most.values()):
        return {code: float(size) for code, size in most.items()}
    total = largest_total(most, config.max_shares)
    if not total:
        raise ConfigError(
            "max_shares", "no text keeps to them", allowed="shares of the languages that are there, together 1 or more"
        )
    return {code: min(size, config.max_shares.get(code, config.max_shares.get(REST, 1.0)) * total) for code, size in most.items()}


def bytes_of_first(tables: "duckdb.DuckDBPyConnection", code: str, most: int | None) -> int:
    """The bytes of a language's first documents by rank, or of all."""
    condition = "true" if most is None else f"place <= {most}"
    found = tables.execute(f"select sum(size)::bigint from ranked where code = ? and {condition}", [code]).fetchone()
    return int((found and found[0]) or 0)


def language_quotas(config: LanguageQuotasConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Drop what is over a language's quota, the lowest scores first. Returns documents and bytes by language besides the funnel."""
    check_content(documents)
    file = documents.file(DOCUMENTS)
    schema = pq.read_schema(file)
    if "language" not in schema.names:
        raise InputError(file, "no column 'language'", allowed=f"columns here: {', '.join(schema.names)}")
    if config.score:
        check_numbers(schema, config.score, file)
    score = f'"{config.score}"' if config.score else "0"
    if config.score and pa.types.is_floating(schema.field(config.score).type):
        score = f"case when isnan({score}) then null else {score} end"  # what is no number is as good as nothing
    kept: dict[str, dict[str, int]] = {}
    with connect(out.work, config.engine.table_gb(), 1) as tables:
        tables.execute(
            f"""create table ranked as
                select file_row_number as n, coalesce(language, '') as code, strlen(text) as size,
                row_number() over best as place, sum(strlen(text)) over best as so_far
                from read_parquet(?, file_row_number = true)
                window best as (partition by coalesce(language, '') order by {score} desc nulls last, id
                                rows between unbounded preceding and current row)""",
            [str(file)],
        )
        codes = [code for (code,) in tables.execute("select distinct code from ranked order by code").fetchall()]
        most_documents = {code: config.max_documents.get(code, config.max_documents.get(REST)) for code in codes}
        sizes = {code: bytes_of_first(tables, code, most) for code, most in most_documents.items()}
        quotas = byte_quotas(config, sizes)
        cursor = tables.execute("select code, size, place, so_far::bigint from ranked order by n")

        def ranks() -> Iterator[tuple[str, int, int, int]]:
            while rows := cursor.fetchmany(10_000):
                yield from rows

        def decide(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
            for row, (code, size, place, so_far) in zip(rows, ranks(), strict=True):
                if (most := most_documents[code]) is not None and place > most:
                    yield row, Drop("language quota", f"{code}: number {place:,}, limit {most:,} documents")
                elif so_far > quotas[code]:
                    yield row, Drop("language quota", f"{code}: byte {so_far:,}, limit {quotas[code]:,.0f} bytes")
                else:
                    counts = kept.setdefault(code, {"documents": 0, "bytes": 0})
                    counts["documents"] += 1
                    counts["bytes"] += size
                    yield row, None

        metrics = curate("language-quotas", documents, out, schema, decide)
    return metrics | {"kept_by_language": dict(sorted(kept.items()))}

"""Documents and bytes of each curation stage by language and by registered domain, in bounded memory.

DuckDB groups, with a limit beyond which it spills into a folder that goes afterwards. Domains are counted by host first, so that
the public-suffix list is asked once a host.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pyarrow.parquet as pq

from openherd.data.curated import Curated
from openherd.data.documents import DROPPED
from openherd.data.tables import connect
from openherd.data.urls import plain_host, registrable_domain

if TYPE_CHECKING:
    import duckdb

Key = Literal["language", "domain"]
# The host of an address: behind the scheme and a user's name, before port, path, query and fragment.
HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#]*@)?(\[[^\]]*\]|[^/?#:]*)"


class Share(NamedTuple):
    """Documents and bytes of one key at one stage."""

    key: str
    stage: int  # its place among the stages
    kept: bool
    documents: int
    bytes: int


@contextmanager
def database(memory_gb: float, threads: int = 2) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A database with a limit, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        connection = connect(Path(folder), memory_gb, threads)
        try:
            yield connection
        finally:
            connection.close()


def count_shares(connection: "duckdb.DuckDBPyConnection", stages: Sequence[Curated]) -> None:
    """Make the table `shares`: what each stage kept and dropped, by language and domain."""
    connection.execute("CREATE TABLE hosts (stage INT, kept BOOL, host VARCHAR, language VARCHAR, documents BIGINT, bytes BIGINT)")
    for number, stage in enumerate(stages):
        for file in stage.files:
            names = pq.read_schema(file).names
            language = "coalesce(language, '')" if "language" in names else "''"
            size = "strlen(text)" if "text" in names else "octet_length(content)" if "content" in names else "0"
            connection.execute(
                f"""INSERT INTO hosts
                SELECT ?, ?, lower(regexp_extract(coalesce(url, ''), ?, 1)) AS host, {language} AS language, count(*),
                    coalesce(sum({size}), 0)
                FROM read_parquet(?) GROUP BY host, {language}""",
                [number, file.name != DROPPED, HOST, str(file)],
            )
    connection.create_function("registered", lambda host: registrable_domain(plain_host(host.strip("[]"))), ["VARCHAR"], "VARCHAR")
    connection.execute("CREATE TABLE domains AS SELECT host, registered(host) AS domain FROM (SELECT DISTINCT host FROM hosts)")
    connection.execute(
        """CREATE TABLE shares AS
        SELECT stage, kept, domain, language, sum(documents) AS documents, sum(bytes) AS bytes
        FROM hosts JOIN domains USING (host) GROUP BY stage, kept, domain, language"""
    )
    connection.execute("DROP TABLE hosts")


def largest(connection: "duckdb.DuckDBPyConnection", key: Key, last: Sequence[int], most: int) -> list[str]:
    """The keys with the most documents at the end, `last` being the places of the last stages; then those with the most before."""
    found = connection.execute(
        f"""SELECT {key} FROM shares WHERE {key} <> '' GROUP BY {key}
        ORDER BY coalesce(sum(documents) FILTER (kept AND list_contains(?, stage)), 0) DESC, sum(documents) DESC, {key} LIMIT ?""",
        [list(last), most],
    ).fetchall()
    return [name for (name,) in found]


def keys(connection: "duckdb.DuckDBPyConnection", key: Key) -> int:
    """How many there are."""
    found = connection.execute(f"SELECT count(DISTINCT {key}) FROM shares WHERE {key} <> ''").fetchone()
    return int(found[0]) if found else 0


def shares_of(connection: "duckdb.DuckDBPyConnection", key: Key, chosen: Sequence[str]) -> list[Share]:
    """The shares of the chosen keys; all others together are "others", and what has no key is "none"."""
    found = connection.execute(
        f"""SELECT CASE WHEN list_contains(?, {key}) THEN {key} WHEN {key} = '' THEN '' ELSE NULL END AS name,
            stage, kept, sum(documents), sum(bytes)
        FROM shares GROUP BY name, stage, kept ORDER BY ALL""",
        [list(chosen)],
    ).fetchall()
    return [
        Share("others" if name is None else name or "none", stage, kept, int(n), int(size)) for name, stage, kept, n, size in found
    ]

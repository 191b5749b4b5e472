"""Documents on disk, and the one loop by which a curation stage keeps, changes or drops them (paper 3.1.1).

Every stage reads `documents.parquet` and writes `documents.parquet` and `dropped.parquet`: each document that comes in goes out
or is dropped with stage, reason and detail. What must not be kept (illegal, or personal where asked) is dropped without its
content. The counts by reason are the stage's metrics, from which the report draws the funnel.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from openherd.core.progress import Progress
from openherd.core.records import ParquetWriter, count_rows, read_parquet
from openherd.core.rundir import Output, Run

DOCUMENTS = "documents.parquet"
DROPPED = "dropped.parquet"

# Lineage stays with a document to the end: `file` and `offset` find the record that it was read from.
LINEAGE = [
    ("id", pa.string()),  # 32 hexadecimal digits of the SHA-256 of URL and content as read
    ("url", pa.string()),
    ("date", pa.string()),  # ISO 8601, UTC; empty where the input gives none
    ("source", pa.string()),  # the part of the corpus that the mix weighs
    ("file", pa.string()),  # where it was read from
    ("offset", pa.int64()),  # byte of the WARC record; number of the row, line, page or file in others
    ("license", pa.string()),  # SPDX, or what the source says; empty where it says nothing
    ("attribution", pa.string()),  # whom the licence asks to name
    ("programming_language", pa.string()),  # of source code
]
PAGE_SCHEMA = pa.schema([*LINEAGE, ("content_type", pa.string()), ("content", pa.binary())])
TEXT_SCHEMA = pa.schema([*LINEAGE, ("title", pa.string()), ("text", pa.string())])
LANGUAGE_SCHEMA = pa.schema([*TEXT_SCHEMA, ("language", pa.string()), ("language_score", pa.float32())])


@dataclass(frozen=True)
class Drop:
    """Why a document goes. `keep_content` is False for what must not be kept."""

    reason: str
    detail: str = ""
    keep_content: bool = True


@dataclass(frozen=True)
class Judged:
    """What a stage makes of a batch: the same number of rows in the same order, each to be kept (None) or dropped.

    The row of a dropped document is what `dropped.parquet` will show of it. An empty batch is judged too: it tells the schemas.
    """

    batch: pa.RecordBatch
    drops: Sequence[Drop | None]
    measures: pa.RecordBatch | None = None  # numbers of each row, for plots

    def __post_init__(self) -> None:
        found = {len(self.batch), len(self.drops), len(self.batch if self.measures is None else self.measures)}
        if len(found) > 1:
            raise AssertionError(f"{len(self.batch)} rows, {len(self.drops)} decisions, {sorted(found)}")


Judge = Callable[[pa.RecordBatch], Judged]  # a stage that looks at one document at a time, ready to work; it is pure


def judge_rows(schema: pa.Schema, decide: Callable[[dict[str, Any]], tuple[Mapping[str, Any], Drop | None]]) -> Judge:
    """A stage's function on one row, as a function on batches; columns beyond `schema` go."""

    def judge(batch: pa.RecordBatch) -> Judged:
        decided = [decide(row) for row in batch.to_pylist()]
        rows = [{name: row.get(name) for name in schema.names} for row, _ in decided]
        return Judged(pa.RecordBatch.from_pylist(rows, schema=schema), [drop for _, drop in decided])

    return judge


def content_bytes(row: Mapping[str, Any]) -> int:
    """Size of a row's text (UTF-8) or of its page content."""
    return len(row["text"].encode()) if "text" in row else len(row["content"])


def read_documents(run: Run, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The documents that a curation stage kept, in order."""
    return read_parquet(run.file(DOCUMENTS), columns)


def dropped_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of `dropped.parquet` for documents of `schema`."""
    return pa.schema([*schema, ("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


class Funnel:
    """Writes kept and dropped documents side by side and counts them; a context manager."""

    def __init__(self, stage: str, out: Output, schema: pa.Schema) -> None:
        self.stage, self.out, self.schema = stage, out, schema
        self.n_in = self.bytes_in = self.n_out = self.bytes_out = 0
        self.reasons: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def __enter__(self) -> "Funnel":
        self._files = [self.out.write(DOCUMENTS), self.out.write(DROPPED)]
        paths: list[Path] = [file.__enter__() for file in self._files]
        self._kept = ParquetWriter(paths[0], self.schema)
        self._dropped = ParquetWriter(paths[1], dropped_schema(self.schema))
        return self

    def __exit__(self, *error: Any) -> None:
        for writer in (self._kept, self._dropped):
            writer.__exit__(*error)
        for file in reversed(self._files):
            try:
                file.__exit__(*error)
            except BaseException as again:
                if again is not error[1]:
                    raise

    def take(self, row: Mapping[str, Any]) -> None:
        """Count a document that came in."""
        self.n_in += 1
        self.bytes_in += content_bytes(row)

    def keep(self, row: Mapping[str, Any]) -> None:
        """A document goes out."""
        self.n_out += 1
        self.bytes_out += content_bytes(row)
        self._kept.write({name: row.get(name) for name in self.schema.names})

    def drop(self, row: Mapping[str, Any], drop: Drop) -> None:
        """A document is dropped, with its reason."""
        counts = self.reasons[drop.reason]
        counts[0] += 1
        counts[1] += content_bytes(row)
        kept = {name: row.get(name) for name in self.schema.names}
        if not drop.keep_content:
            kept = {"id": row["id"]}
        self._dropped.write({**kept, "stage": self.stage, "reason": drop.reason, "detail": drop.detail})

    def metrics(self) -> dict[str, Any]:
        """Documents and bytes in and out, and dropped by reason."""
        return {
            "documents_in": self.n_in,
            "documents_out": self.n_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "dropped": {reason: {"documents": n, "bytes": b} for reason, (n, b) in sorted(self.reasons.items())},
        }


def curate(
    stage: str,
    documents: Run,
    out: Output,
    schema: pa.Schema,
    decide: Callable[[Iterable[dict[str, Any]]], Iterable[tuple[dict[str, Any], Drop | None]]],
) -> dict[str, Any]:
    """Run `decide` over the documents of a run: it yields each row, perhaps changed, with None (keep) or a Drop.

    It may look ahead, but must yield every row that it is given once, in any order; anything else is a bug and raises.
    """
    with Funnel(stage, out, schema) as funnel, Progress(stage, count_rows(documents.file(DOCUMENTS)) or 0, "documents") as progress:

        def rows() -> Iterator[dict[str, Any]]:
            for row in read_documents(documents):
                funnel.take(row)
                yield row

        for row, drop in decide(rows()):
            if drop is None:
                funnel.keep(row)
            else:
                funnel.drop(row, drop)
            progress.advance()
        accounted = funnel.n_out + sum(n for n, _ in funnel.reasons.values())
        if accounted != funnel.n_in:
            raise AssertionError(f"{stage}: {funnel.n_in} documents in, {accounted} accounted for")
    return funnel.metrics()

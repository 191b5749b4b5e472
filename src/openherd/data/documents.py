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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openherd.core.errors import InputError
from openherd.core.progress import Progress
from openherd.core.records import ParquetWriter, count_rows, read_parquet
from openherd.core.rundir import Output, Run

DOCUMENTS = "documents.parquet"
DROPPED = "dropped.parquet"
MEASURES = "measures.parquet"  # what a stage measured of all documents, by id, with the reason where one was dropped

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
TITLE = ("title", pa.string())
PAGE_SCHEMA = pa.schema([*LINEAGE, TITLE, ("content_type", pa.string()), ("content", pa.binary())])
TEXT_SCHEMA = pa.schema([*LINEAGE, TITLE, ("text", pa.string())])
LANGUAGE_SCHEMA = pa.schema([*TEXT_SCHEMA, ("language", pa.string()), ("language_score", pa.float32())])


@dataclass(frozen=True)
class Drop:
    """Why a document goes. `keep_content` is False for what must not be kept."""

    reason: str
    detail: str = ""
    keep_content: bool = True


DETAIL_CHARACTERS = 300


def failure(error: Exception) -> Drop:
    """Why a document goes at which ours, or a parser, raised."""
    reason = "out of memory" if isinstance(error, MemoryError) else f"failed: {type(error).__name__}"
    return Drop(reason, " ".join(str(error).split())[:DETAIL_CHARACTERS])


@dataclass(frozen=True)
class Judged:
    """What a stage makes of a batch: the same number of rows in the same order, each to be kept (None) or dropped.

    The row of a dropped document is what `dropped.parquet` will show of it. An empty batch is judged too: it tells the schemas.
    """

    batch: pa.RecordBatch
    drops: Sequence[Drop | None]
    measures: pa.RecordBatch | None = None  # numbers of each row, for plots


Judge = Callable[[pa.RecordBatch], Judged]  # a stage that looks at one document at a time, ready to work; it is pure


def judge_rows(schema: pa.Schema, decide: Callable[[dict[str, Any]], tuple[Mapping[str, Any], Drop | None]]) -> Judge:
    """A stage's function on one row, as a function on batches; columns beyond `schema` go."""

    def judge(batch: pa.RecordBatch) -> Judged:
        decided = [decide(row) for row in batch.to_pylist()]
        rows = [{name: row.get(name) for name in schema.names} for row, _ in decided]
        return Judged(pa.RecordBatch.from_pylist(rows, schema=schema), [drop for _, drop in decided])

    return judge


def account_of(judged: Judged, came: pa.RecordBatch, is_lost: bool = False) -> pa.RecordBatch:
    """What is judged as one batch, the way it goes from process to process and lies on disk until all of a run is judged.

    `is_lost` marks documents that the stage could not judge: they have a reason and nothing that it found out. Raises
    AssertionError unless it answers for each document that came, in order.
    """
    batch, drops, measures = judged.batch, judged.drops, judged.measures
    rows = {len(batch), len(drops), len(batch if measures is None else measures)}
    if rows != {len(came)} or not batch.column("id").equals(came.column("id")):
        raise AssertionError(f"{len(came)} documents in, {sorted(rows)} accounted for, or others, or in another order")
    kept = pa.array([drop is None or drop.keep_content for drop in drops], pa.bool_())
    if kept.false_count:  # what must not be kept is nowhere on the disk: `if_else` would leave its bytes behind the null
        places = pa.array([i if keep else None for i, keep in enumerate(kept.to_pylist())], pa.int64())
        bare = [column if name == "id" else column.take(places) for name, column in zip(batch.schema.names, batch.columns)]
        batch = pa.RecordBatch.from_arrays(bare, schema=batch.schema)
    columns = {
        "document": batch.to_struct_array(),
        "reason": pa.array([drop and drop.reason for drop in drops], pa.string()),
        "detail": pa.array([drop and drop.detail for drop in drops], pa.string()),
        "keep_content": kept,
        "bytes_in": batch_bytes(came),
        "lost": pa.array([is_lost] * len(came), pa.bool_()),
    }
    if measures is not None:
        columns["measures"] = measures.to_struct_array()
    return pa.RecordBatch.from_pydict(columns)


def judged_of(account: pa.RecordBatch) -> Judged:
    """What an account tells."""
    told = zip(*(account.column(name).to_pylist() for name in ("reason", "detail", "keep_content")), strict=True)
    measures = pa.RecordBatch.from_struct_array(account.column("measures")) if "measures" in account.schema.names else None
    drops = [None if reason is None else Drop(reason, detail, keep) for reason, detail, keep in told]
    return Judged(pa.RecordBatch.from_struct_array(account.column("document")), drops, measures)


def batch_bytes(batch: pa.RecordBatch) -> pa.Array:
    """Size of each row's text (UTF-8) or of its page content; 0 where there is none."""
    return pc.fill_null(pc.binary_length(batch.column("text" if "text" in batch.schema.names else "content")), 0).cast(pa.int64())


def content_bytes(row: Mapping[str, Any]) -> int:
    """Size of a row's text (UTF-8) or of its page content."""
    return len(row["text"].encode()) if "text" in row else len(row["content"])


def check_content(run: Run, column: str = "text") -> None:
    """Raise InputError where a run's documents are pages and texts are needed, or the other way round (`column` is "content")."""
    file = run.file(DOCUMENTS)
    if column not in pq.read_schema(file).names:
        do = "run extraction on them before" if column == "text" else "leave extraction out"
        raise InputError(file, "pages without text" if column == "text" else "texts and no pages", do=do)


def check_numbers(schema: pa.Schema, column: str, file: Path) -> None:
    """Raise InputError where documents have no such column, or it holds no numbers."""
    if column not in schema.names:
        raise InputError(file, f"no column {column!r}", allowed=f"columns here: {', '.join(schema.names)}")
    kind = schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        numbers = [field.name for field in schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]
        raise InputError(file, f"column {column!r} holds no numbers", allowed=", ".join(numbers))


def read_documents(run: Run, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The documents that a curation stage kept, in order."""
    return read_parquet(run.file(DOCUMENTS), columns)


def dropped_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of `dropped.parquet` for documents of `schema`."""
    return pa.schema([*schema, ("stage", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


class Funnel:
    """Writes kept and dropped documents, and measures where there are any, side by side and counts them; a context manager."""

    def __init__(self, stage: str, out: Output, schema: pa.Schema, measures: pa.Schema | None = None) -> None:
        self.stage, self.out, self.schema, self.measures = stage, out, schema, measures
        self.n_in = self.bytes_in = self.n_out = self.bytes_out = 0
        self.reasons: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def __enter__(self) -> "Funnel":
        schemas = {DOCUMENTS: self.schema, DROPPED: dropped_schema(self.schema)}
        if self.measures is not None:
            schemas[MEASURES] = pa.schema([("id", pa.string()), ("reason", pa.string()), *self.measures])
        self._files = [self.out.write(name) for name in schemas]
        paths: list[Path] = [file.__enter__() for file in self._files]
        self._writers = [ParquetWriter(path, schema) for path, schema in zip(paths, schemas.values(), strict=True)]
        self._kept, self._dropped = self._writers[:2]
        return self

    def __exit__(self, *error: Any) -> None:
        for writer in self._writers:
            writer.__exit__(*error)
        for file in reversed(self._files):
            try:
                file.__exit__(*error)
            except BaseException as again:
                if again is not error[1]:
                    raise

    def add(self, account: pa.RecordBatch) -> None:
        """Write and count what is judged of a batch."""
        documents = pa.RecordBatch.from_struct_array(account.column("document"))
        reasons = account.column("reason")
        came, goes = account.column("bytes_in"), batch_bytes(documents)
        kept = pc.is_null(reasons)
        out = documents.filter(kept) if reasons.null_count < len(account) else documents
        self.n_in += len(account)
        self.bytes_in += pc.sum(came).as_py() or 0
        self.n_out += len(out)
        self.bytes_out += pc.sum(goes.filter(kept)).as_py() or 0
        self._kept.write_batch(out)
        for reason, size, shown in zip(reasons.to_pylist(), came.to_pylist(), goes.to_pylist(), strict=True):
            if reason is not None:
                counts = self.reasons[reason]
                counts[0] += 1
                counts[1] += shown or size
        if self.measures is not None:
            measured = pa.RecordBatch.from_struct_array(account.column("measures"))
            columns = [documents.column("id"), pc.fill_null(reasons, ""), *measured.columns]
            self._writers[2].write_batch(pa.RecordBatch.from_arrays(columns, schema=self._writers[2].schema))
        gone = account.filter(pc.invert(kept))
        if len(gone):
            self._dropped.write_batch(self._dropped_rows(gone))

    def _dropped_rows(self, gone: pa.RecordBatch) -> pa.RecordBatch:
        rows = pa.RecordBatch.from_struct_array(gone.column("document"))
        may_stay = gone.column("keep_content")
        columns = [
            column if name == "id" else pc.if_else(may_stay, column, pa.scalar(None, column.type))
            for name, column in zip(rows.schema.names, rows.columns, strict=True)
        ]
        columns += [pa.repeat(self.stage, len(gone)), gone.column("reason"), gone.column("detail")]
        return pa.RecordBatch.from_arrays(columns, schema=dropped_schema(self.schema))

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

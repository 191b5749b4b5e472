"""Rows on disk: Parquet for documents, JSON Lines for dialogs, scores and metrics.

Both are read and written in streams. Parquet is zstd-compressed; a writer buffers at most `rows_per_group` rows.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openherd.core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


GROUP_BYTES = 1 << 27  # a row group of larger rows has fewer of them: one must fit into memory with what reads it


class ParquetWriter:
    """Writes dictionaries or batches with one schema to a Parquet file; a context manager."""

    def __init__(self, path: Path, schema: "pa.Schema", rows_per_group: int = 2_000) -> None:
        import pyarrow.parquet as pq

        self.schema = schema
        self.rows = 0
        self._rows_per_group = rows_per_group
        self._buffer: list[dict[str, Any]] = []
        self._held: list[pa.RecordBatch] = []
        self._n_held = self._bytes_held = 0
        self._file = pq.ParquetWriter(path, schema, compression="zstd")

    def write(self, row: dict[str, Any]) -> None:
        """Add one row; a key that the schema lacks is an error, a missing one is null."""
        unknown = row.keys() - set(self.schema.names)
        if unknown:
            raise KeyError(f"row has columns that the schema lacks: {sorted(unknown)}")
        self._buffer.append(row)
        self.rows += 1
        if len(self._buffer) >= self._rows_per_group:
            self._release_rows()

    def write_batch(self, batch: "pa.RecordBatch") -> None:
        """Add rows; how they come in batches shows in the file only where they are large."""
        self._release_rows()
        self.rows += len(batch)
        self._hold(batch)

    def _hold(self, batch: "pa.RecordBatch") -> None:
        while len(batch):
            piece = batch.slice(0, self._rows_per_group - self._n_held)
            batch = batch.slice(len(piece))
            self._held.append(piece)
            self._n_held += len(piece)
            self._bytes_held += piece.nbytes
            if self._n_held >= self._rows_per_group or self._bytes_held >= GROUP_BYTES:
                self._flush()

    def _release_rows(self) -> None:
        import pyarrow as pa

        if self._buffer:
            rows, self._buffer = self._buffer, []
            self._hold(pa.RecordBatch.from_pylist(rows, schema=self.schema))

    def _flush(self) -> None:
        import pyarrow as pa

        self._release_rows()
        if self._held:
            self._file.write_table(pa.Table.from_batches(self._held, schema=self.schema).combine_chunks())
            self._held, self._n_held, self._bytes_held = [], 0, 0

    def __enter__(self) -> "ParquetWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._flush()
        self._file.close()


def read_parquet(path: Path, columns: list[str] | None = None, rows_per_batch: int = 1_000) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, in order. Raises InputError for a missing or damaged file, or a missing column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise InputError(path, "no such file")
    try:
        with pq.ParquetFile(path) as file:
            if columns is not None and (missing := set(columns) - set(file.schema_arrow.names)):
                raise InputError(
                    path, f"no column {sorted(missing)}", allowed=f"columns here: {', '.join(file.schema_arrow.names)}"
                )
            for batch in file.iter_batches(batch_size=rows_per_batch, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(path, f"not a readable Parquet file ({error})", do="make it again") from None


def count_rows(path: Path) -> int | None:
    """Rows of a Parquet or JSON Lines file; None for other files."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(path).num_rows)
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            return sum(1 for _ in file)
    return None


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write rows as JSON Lines; returns how many."""
    n = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            n += 1
    return n


def read_jsonl(path: Path) -> Iterator[Any]:
    """The rows of a JSON Lines file. Raises InputError that names the line of a damaged one."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except json.JSONDecodeError as error:
                        raise InputError(
                            f"{path}, line {number}", f"not valid JSON ({error.msg})", do="mend or remove the line"
                        ) from None
    except FileNotFoundError:
        raise InputError(path, "no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"not UTF-8 ({error.reason} at byte {error.start})", do="convert it to UTF-8") from None

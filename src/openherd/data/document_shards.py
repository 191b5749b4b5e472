"""Shards of a run's documents: ranges of rows that are judged one by one, each with a mark when it is done (paper 3.1).

What is judged of a shard is one file, written under another name first: where it lies, the shard is done. It carries the digest of
what it depends on, so that no other setting or input ever takes it for its own. Where shards are cut follows from the input alone.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from openherd.core.errors import InputError
from openherd.core.rundir import Run
from openherd.data.documents import DOCUMENTS

BATCH_ROWS = 64  # a batch goes to a process as one; what it loses to a crash is asked again row by row
SHARD_ROWS = 512
MOST_SHARDS = 4096  # of a large input each has more rows


@dataclass(frozen=True)
class Shard:
    """A range of rows of a Parquet file and where the account of it lies when it is judged."""

    documents: Path
    first: int
    end: int
    done: Path
    mark: str  # digest of all that the account depends on

    @property
    def rows(self) -> int:
        """How many documents it has."""
        return self.end - self.first

    def is_done(self) -> bool:
        """Whether it was judged. A file that a power cut spoilt, or another's, counts as none."""
        try:
            with pa.OSFile(str(self.done)) as source, pa.ipc.open_file(source) as file:
                return bool((file.schema.metadata or {}).get(b"mark") == self.mark.encode())
        except (OSError, pa.ArrowInvalid):
            return False

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its documents."""
        return read_rows(self.documents, self.first, self.end)

    def judge(self, judge: Callable[[pa.RecordBatch], pa.RecordBatch], progress: Callable[[int], None] = lambda n: None) -> None:
        """Judge it and leave the account; `judge` gives that of a batch. `progress` is told of each batch's rows."""
        temporary = self.done.with_name(f".{self.done.name}.tmp")
        writer = None
        for batch in self.batches():
            account = judge(batch)
            if writer is None:
                schema = account.schema.with_metadata({"mark": self.mark})
                writer = pa.ipc.new_file(str(temporary), schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
            writer.write_batch(account.replace_schema_metadata({"mark": self.mark}))
            progress(len(batch))
        assert writer is not None
        writer.close()
        os.replace(temporary, self.done)

    def accounts(self) -> Iterator[pa.RecordBatch]:
        """What was judged. Raises AssertionError unless it answers for as many documents as it has."""
        n = 0
        with pa.OSFile(str(self.done)) as source, pa.ipc.open_file(source) as file:
            for i in range(file.num_record_batches):
                account = file.get_batch(i)
                n += len(account)
                yield account
        if n != self.rows:
            raise AssertionError(f"{self.done}: {self.rows} documents in, {n} accounted for")


def read_rows(path: Path, first: int, end: int) -> Iterator[pa.RecordBatch]:
    """Rows `first` to `end` of a Parquet file in batches. Raises InputError for a damaged file."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            place = 0
            for group in range(file.num_row_groups):
                n = file.metadata.row_group(group).num_rows
                if place + n > first and place < end:
                    at = place
                    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], use_threads=False):
                        low, high = max(first - at, 0), min(end - at, len(batch))
                        if low < high:
                            yield batch.slice(low, high - low)
                        at += len(batch)
                        if at >= end:
                            return
                place += n
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(path, f"not a readable Parquet file ({error})", do="make it again") from None


def shards_of(documents: Run, work: Path, mark: str) -> list[Shard]:
    """The shards of a run's documents."""
    file = documents.file(DOCUMENTS)
    n = pq.read_metadata(file).num_rows
    rows = max(SHARD_ROWS, -(-n // MOST_SHARDS))
    return [Shard(file, first, min(first + rows, n), work / f"{i:05d}.arrow", mark) for i, first in enumerate(range(0, n, rows))]

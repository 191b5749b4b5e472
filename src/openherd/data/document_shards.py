"""Shards of a run's documents: ranges of rows that are judged one by one, each with a mark when it is done (paper 3.1).

What is judged of a shard is one file (`work.py`): where it lies, the shard is done. Where they are cut follows from the
input alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from openherd.core.errors import InputError
from openherd.core.rundir import Run
from openherd.data.documents import DOCUMENTS
from openherd.data.work import account_file, accounts_in, told_by

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
    def size(self) -> int:
        """How many documents it has."""
        return self.end - self.first

    @property
    def done_size(self) -> int:
        """How many of them were judged before: all or none."""
        return self.size if self.is_done() else 0

    def is_done(self) -> bool:
        """Whether it was judged."""
        return told_by(self.done, self.mark) is not None

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its documents."""
        return read_rows(self.documents, self.first, self.end)

    def do(self, ask: Callable[[pa.RecordBatch], pa.RecordBatch], progress: Callable[[int], None] = lambda n: None) -> None:
        """Judge it and leave the account; `ask` gives that of a batch. `progress` is told of each batch's rows."""
        accounts = map(ask, self.batches())
        first = next(accounts)
        with account_file(self.done, first.schema, self.mark) as write:
            for account in chain([first], accounts):
                write(account)
                progress(len(account))

    def accounts(self) -> Iterator[pa.RecordBatch]:
        """What was judged. Raises AssertionError unless it answers for as many documents as it has."""
        n = 0
        for account in accounts_in([self.done]):
            n += len(account)
            yield account
        if n != self.size:
            raise AssertionError(f"{self.done}: {self.size} documents in, {n} accounted for")


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

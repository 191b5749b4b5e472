"""Pieces of an engine's work, and the files that they leave: what was judged of some documents, and that it was (paper 3.1).

Such a file is written under another name first and is on the disk before it is renamed: where it lies, it is whole. It carries the
digest of what it depends on (its mark), so that no other setting or input ever takes it for its own.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from openherd.core.rundir import flush_to_disk

MARK = "mark"


class Work(Protocol):
    """A piece of work that one process does, with a mark when it is done; what it leaves follows from its input alone."""

    @property
    def size(self) -> int:
        """How much it is, in what progress counts."""

    @property
    def done_size(self) -> int:
        """How much of it was done before."""

    def is_done(self) -> bool:
        """Whether all of it was."""

    def do(self, ask: Callable[[Any], Any], progress: Callable[[int], None] = lambda n: None) -> None:
        """Do what is left by asking a process, or a function here; `progress` is told how much was."""

    def accounts(self) -> Iterator[pa.RecordBatch]:
        """What it left."""


Piece = TypeVar("Piece", bound=Work)


@contextmanager
def account_file(path: Path, schema: pa.Schema, mark: str, **told: str) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Gives what writes accounts to a file that is there when the block ends well, with its mark and what it tells besides."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # one whose engine was killed may still write
    schema = schema.with_metadata({MARK: mark, **told})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
        yield lambda account: writer.write_batch(account.replace_schema_metadata(schema.metadata))
    flush_to_disk(temporary)
    os.replace(temporary, path)


def told_by(path: Path, mark: str) -> dict[str, str] | None:
    """What a finished file of this mark tells; None where there is none, another's, or one that is spoilt."""
    try:
        with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
            told = {key.decode(): value.decode() for key, value in (file.schema.metadata or {}).items()}
    except (OSError, pa.ArrowInvalid):
        return None
    return told if told.get(MARK) == mark else None


def accounts_in(paths: Iterable[Path]) -> Iterator[pa.RecordBatch]:
    """The accounts of finished files."""
    for path in paths:
        with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as file:
            for i in range(file.num_record_batches):
                yield file.get_batch(i)

"""Tables that may be larger than memory: DuckDB with a limit, spilling into a folder of the run."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def connect(folder: Path, memory_gb: float, threads: int) -> "duckdb.DuckDBPyConnection":
    """A database of its own whose tables lie in memory up to `memory_gb`, then in `folder`, which goes with the caller's files.

    Rows come in no order unless it is asked for. Nothing is fetched from anywhere.
    """
    import duckdb

    return duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{memory_gb:.3f}GB",
            "temp_directory": str(folder),
            "threads": threads,
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )

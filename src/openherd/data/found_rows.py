"""A few rows of a large Parquet file, by their key, by their place or at random, without reading the others whole.

Row groups are read one at a time: the key's column of each, and all columns only where a row is wanted.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openherd.core.seeds import derive_seed

Integers = npt.NDArray[np.int64]
ROWS_PER_BATCH = 10_000


def columns_of(path: Path) -> list[str]:
    """The names of the columns."""
    return list(pq.read_schema(path).names)


def batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """These columns of all rows, in order."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(ROWS_PER_BATCH, columns=list(columns))


def rows_with(path: Path, column: str, wanted: Collection[Any], columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows whose `column` holds one of the values, in order."""
    read = None if columns is None else list(columns)
    with pq.ParquetFile(path) as file:
        values = pa.array(list(wanted), file.schema_arrow.field(column).type)
        for group in range(file.num_row_groups):
            has = pc.is_in(file.read_row_group(group, [column]).column(0), value_set=values)
            if pc.any(has).as_py():
                yield from file.read_row_group(group, read).filter(has).to_pylist()


def rows_at(path: Path, places: Iterable[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows at these places, in the order of the places."""
    wanted = sorted(set(places))
    read = None if columns is None else list(columns)
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as file:
        begin = 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            here = [place - begin for place in wanted if begin <= place < end]
            if here:
                found += file.read_row_group(group, read).take(pa.array(here)).to_pylist()
            begin = end
    return found


def sampled_places(path: Path, column: str | None, most: int, seed: int) -> dict[Any, list[int]]:
    """Places of at most `most` rows of each value of a column (all rows: None), any of them as likely as any other.

    Each row draws a number, and the smallest of each value win.
    """
    random = np.random.default_rng(derive_seed(seed, path.name))
    drawn: dict[Any, tuple[npt.NDArray[np.float64], Integers]] = {}
    begin = 0
    if column is None:
        n = int(pq.read_metadata(path).num_rows)
        return {None: sorted(random.choice(n, min(most, n), replace=False).tolist())} if n else {}
    for batch in batches(path, [column]):
        coded = pc.dictionary_encode(batch.column(0), null_encoding="encode")
        codes, keys = coded.indices.to_numpy(zero_copy_only=False), random.random(len(batch))
        for code, value in enumerate(coded.dictionary.to_pylist()):
            places = np.flatnonzero(codes == code)
            before = drawn.get(value, (np.empty(0), np.empty(0, np.int64)))
            both = np.concatenate([before[0], keys[places]]), np.concatenate([before[1], begin + places])
            smallest = np.argsort(both[0], kind="stable")[:most]
            drawn[value] = both[0][smallest], both[1][smallest]
        begin += len(batch)
    return {value: sorted(places.tolist()) for value, (_, places) in drawn.items()}

"""Rows: what is written is read, and what is damaged is named by file and line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core import records
from openherd.core.errors import InputError
from openherd.core.records import ParquetWriter, count_rows, read_jsonl, read_parquet, write_jsonl

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64())])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ROWS = st.lists(st.fixed_dictionaries({"id": TEXT, "n": st.none() | st.integers(-(2**63), 2**63 - 1)}), max_size=12)


@given(rows=ROWS, per_group=st.integers(1, 5))
def test_parquet_rows_come_back(tmp_path_factory, rows, per_group):
    path = tmp_path_factory.mktemp("rows") / "a.parquet"
    with ParquetWriter(path, SCHEMA, per_group) as writer:
        for row in rows:
            writer.write(row)
    assert writer.rows == len(rows) == count_rows(path)
    assert list(read_parquet(path, rows_per_batch=3)) == rows
    assert list(read_parquet(path, ["n"])) == [{"n": row["n"]} for row in rows]


@given(sizes=st.lists(st.integers(0, 25), max_size=8), rows_first=st.booleans())
def test_batches_and_rows_make_the_same_file(tmp_path_factory, sizes, rows_first):
    schema = pa.schema([("i", pa.int64()), ("text", pa.string())])
    rows = [{"i": i, "text": "x" * (i % 7)} for i in range(sum(sizes))]
    folder = tmp_path_factory.mktemp("batches")
    with ParquetWriter(folder / "rows.parquet", schema, rows_per_group=10) as writer:
        for row in rows:
            writer.write(row)
    with ParquetWriter(folder / "batches.parquet", schema, rows_per_group=10) as writer:
        at = 0
        for i, size in enumerate(sizes):
            piece = rows[at : at + size]
            at += size
            if rows_first and i == 0:
                for row in piece:
                    writer.write(row)
            else:
                writer.write_batch(pa.RecordBatch.from_pylist(piece, schema=schema))
    assert writer.rows == len(rows)
    assert (folder / "batches.parquet").read_bytes() == (folder / "rows.parquet").read_bytes()


def test_groups_of_large_rows_are_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "GROUP_BYTES", 100)
    schema = pa.schema([("text", pa.string())])
    with ParquetWriter(tmp_path / "a.parquet", schema) as writer:
        for _ in range(5):
            writer.write_batch(pa.RecordBatch.from_pylist([{"text": "x" * 60}], schema=schema))
    groups = pq.read_metadata(tmp_path / "a.parquet")
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [2, 2, 1]


def test_parquet_that_is_none(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(InputError, match="no such file"):
        list(read_parquet(path))
    with ParquetWriter(path, SCHEMA) as writer:
        writer.write({"id": "x"})
        with pytest.raises(KeyError, match=r"columns that the schema lacks: \['m'\]"):
            writer.write({"id": "x", "m": 1})
    assert list(read_parquet(path)) == [{"id": "x", "n": None}]
    with pytest.raises(InputError, match=r"no column \['text'\]; allowed: columns here: id, n"):
        list(read_parquet(path, ["text"]))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        list(read_parquet(path))


JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.dictionaries(TEXT, inner, max_size=3))


@given(rows=st.lists(JSON, max_size=6))
def test_json_lines_come_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    assert write_jsonl(path, rows) == len(rows) == count_rows(path)
    assert list(read_jsonl(path)) == rows
    assert [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n\n{"a": \n', r"a.jsonl, line 3: not valid JSON .*; mend or remove the line"),
        (b'{"a": 1}\n\xff\n', r"a.jsonl: not UTF-8 \(invalid start byte at byte \d+\); convert it to UTF-8"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_jsonl(tmp_path / "a.jsonl"))
    with pytest.raises(InputError, match="no such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_other_files_have_no_rows(tmp_path):
    (tmp_path / "a.txt").write_text("1\n")
    assert count_rows(tmp_path / "a.txt") is None

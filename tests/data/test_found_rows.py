"""Rows found by key and by place, and samples, beside a list of all rows."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core.records import ParquetWriter
from openherd.data.found_rows import rows_at, rows_with, sampled_places

ROWS = [{"id": f"{i:03}", "reason": "ab"[i % 7 == 0], "n": i} for i in range(100)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    schema = pa.schema([("id", pa.string()), ("reason", pa.string()), ("n", pa.int64())])
    with ParquetWriter(path, schema, rows_per_group=9) as writer:
        for row in ROWS:
            writer.write(row)
    return path


@settings(max_examples=40)
@given(st.sets(st.integers(0, 120)))
def test_rows_by_key_and_by_place(file, numbers):
    wanted = [row for row in ROWS if row["n"] in numbers]
    assert list(rows_with(file, "n", numbers)) == wanted
    assert rows_at(file, numbers) == wanted
    assert rows_at(file, numbers, ["id"]) == [{"id": row["id"]} for row in wanted]


@settings(max_examples=40)
@given(st.integers(0, 2**40), st.integers(1, 200))
def test_a_sample_of_each_value(file, seed, most):
    found = sampled_places(file, "reason", most, seed)
    assert found == sampled_places(file, "reason", most, seed)
    for value in "ab":
        places = found[value]
        assert places == sorted(set(places))
        assert all(ROWS[place]["reason"] == value for place in places)
        assert len(places) == min(most, sum(row["reason"] == value for row in ROWS))
    assert len(sampled_places(file, None, most, seed)[None]) == min(most, len(ROWS))


def test_every_row_is_drawn_as_often_as_any_other(file):
    drawn = [place for seed in range(600) for place in sampled_places(file, "reason", 5, seed)["b"]]
    assert {drawn.count(place) > 120 for place in range(0, 100, 7)} == {True}  # 5 of 15 rows: 200 each, deviation 11.5

"""A table beyond its memory spills, and is whole."""

from openherd.data.tables import connect


def test_a_table_beyond_its_memory_spills(tmp_path):
    with connect(tmp_path, memory_gb=0.05, threads=1) as tables:
        tables.execute("create table keys as select i, hash(i) as key from range(5000000) t(i)")
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 0
        assert tables.execute("select count(*), sum(i)::bigint from keys").fetchone() == (5_000_000, 12_499_997_500_000)
        limit = tables.execute("select value from duckdb_settings() where name = 'memory_limit'").fetchone()
        assert limit == ("47.6 MiB",)
    assert not any(tmp_path.iterdir())

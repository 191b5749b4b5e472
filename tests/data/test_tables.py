"""A table beyond its memory spills, and is whole."""

import pytest

from openherd.data import dedup_urls, language_quotas
from openherd.data.engine import EngineConfig
from openherd.data.tables import connect


def test_a_table_beyond_its_memory_spills(tmp_path):
    with connect(tmp_path, memory_gb=0.05, threads=1) as tables:
        tables.execute("create table keys as select i, hash(i) as key from range(5000000) t(i)")
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 0
        assert tables.execute("select count(*), sum(i)::bigint from keys").fetchone() == (5_000_000, 12_499_997_500_000)
        limit = tables.execute("select value from duckdb_settings() where name = 'memory_limit'").fetchone()
        assert limit == ("47.6 MiB",)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("module", [dedup_urls, language_quotas])
def test_a_stage_gives_its_table_half_of_the_engines_memory(documents_run, run_stage, monkeypatch, module):
    given = []
    monkeypatch.setattr(module, "connect", lambda folder, memory_gb, threads: given.append(memory_gb) or connect(folder, 1, 1))
    stage = module.__name__.rpartition(".")[2]
    config = getattr(module, f"{stage.title().replace('_', '')}Config")(engine=EngineConfig(memory_gb=3))
    run_stage(getattr(module, stage), config, documents=documents_run(["a"]))
    assert given == [1.5]

"""`scripts/bench` keeps a benchmark's figures with the machine in words."""

import json
from pathlib import Path

import pytest

from test_install import load

bench = load("bench")


def script(folder: Path, text: str) -> Path:
    """A benchmark of one line."""
    path = folder / "speed.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_figures_are_kept_with_the_machine_in_words(tmp_path: Path) -> None:
    text = "import json, sys; print('busy', file=sys.stderr); print('first'); print(json.dumps({'ratio': 2.5}))"
    path = bench.run_benchmark(script(tmp_path, text), tmp_path / "results", "2026-01-02")
    assert path == tmp_path / "results" / "2026-01-02-speed.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["figures"] == {"ratio": 2.5}
    assert set(record) == {"benchmark", "date", "machine", "packages", "wall_s", "figures"}
    assert "cores of" in record["machine"]
    assert str(tmp_path) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["print('no figures')", "print('[1]')", "", "print('{}'); raise SystemExit(3)"])
def test_a_benchmark_without_figures_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"bench: speed\.py"):
        bench.run_benchmark(script(tmp_path, text), tmp_path / "results", "2026-01-02")
    assert not (tmp_path / "results").exists()

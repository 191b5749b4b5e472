"""What is compiled when it is needed: kept by what it was made from; why it is not there."""

import pytest

from openherd.core import compiled
from openherd.core.compiled import Compiled


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "own.cpp"
    file.write_text('extern "C" int answer() { return 42; }\n', encoding="utf-8")
    return file


def test_source_and_flags_make_another_file(source):
    paths = {Compiled(source).path, Compiled(source, "-O1").path, Compiled(source, "-O2").path}
    source.write_text('extern "C" int answer() { return 43; }\n', encoding="utf-8")
    assert len(paths | {Compiled(source).path}) == 4


def test_why_there_is_none_is_told_in_a_line(source, monkeypatch):
    monkeypatch.setattr(compiled, "COMPILE", "import sys; sys.exit('In file own.cpp:\\nown.cpp:3: error: no such thing\\nmore')")
    broken = Compiled(source)
    assert not broken.load()
    assert not broken.load()  # it is not tried again
    assert broken.error == "own.cpp:3: error: no such thing"
    stopped = Compiled(source)
    stopped.stop()
    assert not stopped.load()
    assert stopped.error == "stopped"
    assert list(source.parent.glob("cache/openherd/kernels/*")) == []


@pytest.mark.slow
def test_it_is_compiled_once_and_kept(source, monkeypatch):
    own = Compiled(source, "-O2")
    if not own.load():
        pytest.skip(f"no compiler here: {own.error}")
    assert own.functions.answer() == 42
    monkeypatch.setattr(compiled, "COMPILE", "raise SystemExit('compiled again')")
    again = Compiled(source, "-O2")
    assert again.load()
    assert again.functions.answer() == 42

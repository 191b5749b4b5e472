"""What several packages' tests share."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from miniature import ROOT, RUN, SETTINGS, openherd

# No test measures time; in CI the examples are the same at every run.
settings.register_profile("house", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("house")


@pytest.fixture(scope="session")
def miniature_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `recipes/` and the finished run `runs/laptop`; what the command printed lies in `printed.txt`."""
    folder = tmp_path_factory.mktemp("miniature")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    done = openherd(folder, "run", "recipes/laptop.toml", "--out", RUN, *SETTINGS)
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """The folder of a set of real data by its name; a test that asks for one that is absent is skipped."""

    def folder(name: str) -> Path:
        found = ROOT.parent / "shared" / "data" / name
        if not found.is_dir():
            pytest.skip(f"../shared/data/{name} is not here")
        return found

    return folder

"""What several packages' tests share."""

import fcntl
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


# What takes longest goes first, so that no worker is left alone with it at the end.
LONGEST = ("tests/parallel/test_together.py", "tests/test_docs.py", "tests/training/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests by the place of their file in `LONGEST`; the others stay in their order behind."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: min((place for name, place in places.items() if item.nodeid.startswith(name)), default=len(places)))


@pytest.fixture(scope="session")
def miniature_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `recipes/` and the finished run `runs/laptop`; what the command printed lies in `printed.txt`."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # one folder for all workers: the first that comes makes the run, the others wait
    folder = shared / "miniature"
    with (shared / "miniature.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "printed.txt").exists():
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

"""The measured sets, where they are."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "planner"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of measured runs; a test that asks for it is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip("the measured runs are not here (../shared/data/planner)")
    return DATA

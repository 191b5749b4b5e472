"""Published runs, where they are."""

from pathlib import Path

import pytest

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "scaling"


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published runs; a test that needs it skips where it is absent."""
    if not PUBLISHED.exists():
        pytest.skip("the published runs (shared/data/scaling) are not here")
    return PUBLISHED

"""Published runs, where they are."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def published(shared_data) -> Path:
    """The folder of published runs."""
    return shared_data("scaling")

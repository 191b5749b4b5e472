"""The measured sets, where they are."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data(shared_data) -> Path:
    """The folder of measured runs."""
    return shared_data("planner")

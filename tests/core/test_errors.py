"""Errors go from process to process whole."""

import pickle

import pytest

from openherd.core import errors
from openherd.core.errors import OpenherdError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OpenherdError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_as_it_was(kind):
    error = kind("a place", "a thing", allowed="others", do="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "a place: a thing; allowed: others; mend it"
    assert vars(again) == vars(error)

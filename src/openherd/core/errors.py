"""The errors that a person can mend; everything else that is raised is a bug of ours.

Each says in one line where, what was found, what is allowed and what to do. The command line prints that line and exits with code
2, or the error's own.
"""

from functools import partial
from typing import Any


class OpenherdError(Exception):
    """Base of all errors that a person can mend."""

    exit_code = 2

    def __init__(self, where: object, found: str, *, allowed: str = "", do: str = "") -> None:
        self.where, self.found, self.allowed, self.do = str(where), found, allowed, do
        parts = [f"{where}: {found}"]
        if allowed:
            parts.append(f"allowed: {allowed}")
        if do:
            parts.append(do)
        super().__init__(" ".join("; ".join(parts).split()))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), allowed=self.allowed, do=self.do), (self.where, self.found)  # it goes from process to process


def reason(error: BaseException) -> str:
    """What an error says, or the one behind it where it names a file and nothing else; its kind where it says nothing."""
    said = str(error)
    if isinstance(error, FileNotFoundError) and "://" in said and " " not in said and error.__cause__ is not None:
        return reason(error.__cause__)
    return said or type(error).__name__


class ConfigError(OpenherdError):
    """A setting or a recipe is wrong."""


class InputError(OpenherdError):
    """An input is missing, empty or damaged."""


class DamagedError(InputError):
    """A file is not what was written to it: another copy, or an earlier one, is needed."""


class StaleError(OpenherdError):
    """A directory holds the work of other settings or other inputs."""


class LostError(OpenherdError):
    """Other processes of the run are gone or hang, or a disk does not answer: all are started again."""

    exit_code = 70


class RequeueError(OpenherdError):
    """The work stopped because it was asked to, and goes on when the same command is given again: for schedulers, EX_TEMPFAIL."""

    exit_code = 75

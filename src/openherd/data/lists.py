"""Lists of a user's own for the filters (paper 3.1.1): text files, one entry a line; what stands behind '#' is a comment."""

import fsspec

from openherd.core.errors import InputError
from openherd.core.rundir import Outside


def read_list(given: Outside | None) -> list[str]:
    """The entries of list files. Raises InputError for a file that is missing or no text."""
    entries: list[str] = []
    for name in given.files() if given else []:
        try:
            with fsspec.open(name, "rt", encoding="utf-8") as file:
                entries += [line.split("#")[0].strip() for line in file]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(name, f"cannot be read as a list ({error})", allowed="text in UTF-8, one entry a line") from None
    return [entry for entry in entries if entry]

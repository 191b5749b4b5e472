"""A finished run directory elsewhere: s3://, https:// and whatever else fsspec opens, read in ranges.

Its manifest says what it is, as that of a run on this machine does: the digest is the same wherever the run lies, so that a copy in
object storage is the same input. What fails on the way is tried again, longer and longer after; what is not there, is not.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openherd.core.errors import InputError, reason
from openherd.core.rundir import MANIFEST, checked_manifest

OPENING_WAITS_S = (1.0, 2.0)  # a mistyped address is told soon
READING_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # a storage that restarts is waited for
ANSWER_S = 60.0  # longest wait for one answer
CHECK = "check the address and your access to it"
COPY = "copy the run again"


Pause = Callable[[str, float], bool]  # what was found, seconds until the next try: whether to go on


def say_and_wait(found: str, wait_s: float) -> bool:
    """The pause between two tries, told on standard error."""
    sys.stderr.write(f"  {found}; again in {wait_s:g} s\n")
    time.sleep(wait_s)
    return True


def is_address(location: str) -> bool:
    """Whether a location is one elsewhere."""
    return "://" in location


@dataclass(frozen=True)
class RemoteRun:
    """A finished run directory that lies elsewhere. `digest` and `manifest` are those of a `Run`."""

    location: str
    manifest: dict[str, Any]

    @classmethod
    def open(cls, location: str) -> "RemoteRun":
        """Read a run's manifest. Raises InputError where there is none, or it is damaged or out of reach."""
        location = location.rstrip("/")
        where = f"{location}/{MANIFEST}"
        manifest = checked_manifest(read_range(where, 0, None, OPENING_WAITS_S), where, COPY)
        return cls(location, manifest)

    @property
    def digest(self) -> str:
        """The digest of stage, version, settings and inputs."""
        return str(self.manifest["digest"])

    def address(self, name: str) -> str:
        """The address of an output. Raises InputError where this run wrote none of that name."""
        if name not in self.manifest["outputs"]:
            found = f"no output {name!r} of stage {self.manifest['stage']!r}"
            raise InputError(self.location, found, allowed=f"outputs here: {', '.join(sorted(self.manifest['outputs'])) or 'none'}")
        return f"{self.location}/{name}"

    def n_bytes(self, name: str) -> int:
        """Bytes of an output, as the manifest says."""
        self.address(name)
        return int(self.manifest["outputs"][name]["bytes"])

    def sha256(self, name: str) -> str:
        """SHA-256 of an output, as the manifest says."""
        self.address(name)
        return str(self.manifest["outputs"][name]["sha256"])

    def read(self, name: str, start: int, end: int, sha256: str = "", pause: Pause = say_and_wait) -> bytes:
        """Bytes [start, end) of an output. Raises InputError where they cannot be had, or their SHA-256 is another: the output
        was cut off or changed."""
        return read_range(self.address(name), start, end, READING_WAITS_S, sha256, pause)


def other_sum(start: int, end: int) -> str:
    """What is found where bytes [start, end) of an output are not those that were written."""
    return f"changed: bytes {start:,} to {end:,} have another SHA-256 than when it was written"


def read_range(
    where: str, start: int, end: int | None, waits_s: Sequence[float], sha256: str = "", pause: Pause = say_and_wait
) -> bytes:
    """Bytes [start, end) at an address, to its end where `end` is None, tried again after each of `waits_s`. Raises InputError."""
    import fsspec

    try:
        filesystem, path = fsspec.url_to_fs(where)
    except ImportError as error:
        do = "pip install 'openherd[remote]' brings those of s3:// and https://"
        raise InputError(where, f"needs more packages ({error})", do=do) from None
    except ValueError as error:
        raise InputError(where, f"no address ({error})", allowed="s3://, https:// and what else fsspec opens") from None
    more = {"timeout": ANSWER_S} if filesystem.async_impl else {}
    n = None if end is None else end - start
    for wait_s in (*waits_s, None):
        try:
            data: bytes = filesystem.cat_file(path, start=start or None, end=end, **more)
            if n is not None and len(data) > n:
                found = f"the server sends {len(data):,} bytes where {n:,} are asked for (no HTTP ranges)"
                raise InputError(where, found, do="fetch the file, and give it from here")
            if n is not None and len(data) != n:
                found, do = f"cut off or changed: {len(data):,} bytes from byte {start:,} on instead of {n:,}", COPY
            elif sha256 and hashlib.sha256(data).hexdigest() != sha256:
                found, do = other_sum(start, start + len(data)), COPY
            else:
                return data
        except InputError:
            raise
        except Exception as error:  # each storage's client has errors of its own
            found, do = f"cannot be read ({reason(error)})", CHECK
            if is_final(error):
                raise InputError(where, found, do=do) from None
        if wait_s is None or not pause(f"{where}: {found}", wait_s):
            break
    raise InputError(where, f"{found}, tried {len(waits_s) + 1} times", do=f"{do}; the same command goes on")


def is_final(error: Exception) -> bool:
    """Whether another try would end the same way: nothing there, or no access. HTTP's 408 and 429 ask for another."""
    status = getattr(error, "status", 0)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    return refused or isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError))

"""Progress of long work: a bar with rate and time left on a terminal, a line now and then elsewhere. Written to stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from openherd.core.machine import leads

Item = TypeVar("Item")

LINE_EVERY_S = 15.0


def format_duration(seconds: float) -> str:
    """'4.2 s', '3 min 05 s', '2 h 10 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


class Progress:
    """Counts `unit`s up to `total` (0 where it is not known); a context manager."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.note = ""
        self._start = self._last = time.monotonic()
        self._resumed_at = 0
        self._terminal = sys.stderr.isatty()
        self._shown = leads()

    def resume_at(self, done: int) -> None:
        """Work that an earlier process did: counted as done, but not in the rate."""
        self.done = self._resumed_at = done

    def reach(self, done: int, note: str = "") -> None:
        """So much is done; less than before where work is done again, which no rate counts."""
        n = done - self.done
        self._resumed_at += min(n, 0)
        self.advance(n, note)

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more are done; `note` is shown beside the bar."""
        self.done += n
        self.note = note or self.note
        now = time.monotonic()
        if self._shown and now - self._last >= (0.2 if self._terminal else LINE_EVERY_S):
            self._last = now
            self._print(now, end="\r" if self._terminal else "\n")

    def _print(self, now: float, end: str) -> None:
        rate = (self.done - self._resumed_at) / max(now - self._start, 1e-9)
        text = f"  {self.what}: {self.done:,}"
        if self.total:
            share = min(self.done / self.total, 1.0)
            text = f"  {self.what}: {'█' * round(20 * share):░<20} {share:4.0%}"
        text += f" · {rate:,.0f} {self.unit}/s" if rate >= 10 else f" · {rate:.2g} {self.unit}/s"
        if self.total and rate > 0 and self.done < self.total:
            text += f" · {format_duration((self.total - self.done) / rate)} left"
        text += f" · {self.note}" if self.note else ""
        sys.stderr.write(text + ("\x1b[K" if self._terminal else "") + end)
        sys.stderr.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._terminal and self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def track(items: Iterable[Item], what: str, unit: str, total: int = 0) -> Iterator[Item]:
    """Iterate with progress."""
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()

"""Batches made ahead of the training that takes them (paper 3.1.2: data must not be what it waits for).

A batch is a pure function of its step, so one thread makes the next ones while the model computes; what it raises is raised in the
step that asks for that batch. Any step may be asked for: after a rollback, what was made for others is thrown away.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")

DEPTH = 2  # one is taken, one is ready, one is being made
LEAVE_S = 5.0  # longest wait at the end for what is still being made


class Prefetch(Generic[Item]):
    """`make(step)` for steps before `end`, made up to DEPTH steps ahead; a context manager."""

    def __init__(self, make: Callable[[int], Item], end: int) -> None:
        self.make, self.end = make, end
        self._ahead: deque[tuple[int, Future[Item]]] = deque()
        self._asked: SimpleQueue[tuple[int, Future[Item]] | None] = SimpleQueue()
        # A daemon: a read from a storage that does not answer must not keep a stopped process from ending.
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def get(self, step: int) -> tuple[Item, float]:
        """The item of a step, and the seconds that it was waited for. Raises what `make` raised for that step."""
        started = time.perf_counter()
        if not self._ahead or self._ahead[0][0] != step:
            self._drop()
        first = step + len(self._ahead)
        for ahead in range(first, max(min(step + DEPTH + 1, self.end), step + 1)):
            future: Future[Item] = Future()
            self._ahead.append((ahead, future))
            self._asked.put((ahead, future))
        item = self._ahead.popleft()[1].result()
        return item, time.perf_counter() - started

    def _drop(self) -> None:
        while self._ahead:
            self._ahead.popleft()[1].cancel()

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            step, future = asked
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self.make(step))
                except BaseException as error:
                    future.set_exception(error)

    def __enter__(self) -> "Prefetch[Item]":
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()
        self._asked.put(None)
        self._thread.join(LEAVE_S)

"""A process of its own for what may die of a document, without harm to the others (paper 3.1).

A parser can crash, run without end or take all memory, none of which an exception tells of. So what is asked goes to a process that
is killed at limits and replaced when it dies (`Child`). A stage's function is asked for batches (`Guard`): what it died of is found
by asking again row by row, and is lost with a reason. A time limit counts processor time, since a busy machine is no fault of the
document's; ten times as much time on the clock ends what only waits. The limit is the whole batch's first, so that no document is
lost that alone keeps to it.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Self

import pyarrow as pa

from openherd.core.errors import ConfigError, OpenherdError
from openherd.core.machine import resident_bytes
from openherd.data.documents import Drop, Judge, Judged, account_of, failure

CLOCK_FACTOR = 10  # clock time allowed for each second of processor time
LOOK_S = 0.1  # between looks at the process's memory
PROGRAM = "import sys; from openherd.data.guard import serve; serve(*map(int, sys.argv[1:]))"
TIMED_OUT, OUT_OF_MEMORY, CRASHED = "timed out", "out of memory", "crashed"


def lost(came: pa.RecordBatch, schemas: pa.RecordBatch, drop: Drop) -> pa.RecordBatch:
    """The account of documents that a stage could not judge: of theirs what the stage's own output has too, if it may be kept."""
    account = schemas.schema
    columns = []
    for field in account.field("document").type:
        given = came.column(field.name) if field.name in came.schema.names else None
        columns.append(given if given is not None and given.type == field.type else pa.nulls(len(came), field.type))
    documents = pa.RecordBatch.from_arrays(columns, schema=pa.schema(list(account.field("document").type)))
    measures = None
    if "measures" in account.names:
        fields = list(account.field("measures").type)
        measures = pa.RecordBatch.from_arrays([pa.nulls(len(came), field.type) for field in fields], schema=pa.schema(fields))
    return account_of(Judged(documents, [drop] * len(came), measures), came, is_lost=True)


def judged_rows(judge: Judge, came: pa.RecordBatch, schemas: pa.RecordBatch, keep_lost: bool = True) -> pa.RecordBatch:
    """The account of a batch; a document at which the function raises is lost, not the batch.

    What a person can mend (OpenherdError) is no document's fault and raises. Unless `keep_lost`, nothing of a lost document's
    content is kept, nor what the error says, which may quote it.
    """
    try:
        judged = judge(came)
    except OpenherdError:
        raise
    except Exception as error:
        if len(came) > 1:
            return joined([judged_rows(judge, came.slice(i, 1), schemas, keep_lost) for i in range(len(came))])
        drop = failure(error)
        return lost(came, schemas, drop if keep_lost else Drop(drop.reason, "", keep_content=False))
    return account_of(judged, came)


def joined(accounts: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Several accounts as one."""
    return pa.concat_batches(accounts)


class Room:
    """A file in memory through which two processes hand each other one thing at a time.

    A socket holds 0.2 MB: on a busy machine a batch of 9 MB would wait some forty times for its reader to have its turn.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def make(cls) -> "Room":
        """A new one."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("openherd"))
        with tempfile.TemporaryFile() as file:  # macOS
            return cls(os.dup(file.fileno()))

    def put(self, data: Any) -> int:
        """Leave bytes, in place of what was there; returns how many."""
        view = memoryview(data)
        os.ftruncate(self.descriptor, 0)
        n = 0
        while n < len(view):
            n += os.pwrite(self.descriptor, view[n:], n)
        return n

    def get(self, size: int) -> bytes:
        """The bytes that were left."""
        pieces: list[bytes] = []
        while (n := sum(map(len, pieces))) < size:
            pieces.append(os.pread(self.descriptor, size - n, n))
        return b"".join(pieces)

    def note(self, data: bytes) -> None:
        """Leave a few bytes in one write, so that a process which is ended leaves them whole."""
        os.pwrite(self.descriptor, len(data).to_bytes(4, "little") + data, 0)

    def noted(self) -> bytes:
        """The few bytes that were left."""
        return os.pread(self.descriptor, int.from_bytes(os.pread(self.descriptor, 4, 0), "little"), 4)

    def put_batch(self, batch: pa.RecordBatch) -> int:
        """Leave a batch."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return self.put(sink.getvalue())

    def get_batch(self, size: int) -> pa.RecordBatch:
        """The batch that was left."""
        return pa.ipc.open_stream(self.get(size)).read_next_batch()


@contextmanager
def limited(timeout_s: float) -> Iterator[None]:
    """Have signals end this process, wherever it is, if the block takes too long."""
    signal.setitimer(signal.ITIMER_PROF, timeout_s)
    signal.setitimer(signal.ITIMER_REAL, CLOCK_FACTOR * timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


Answer = Callable[[Any], Any]


def serve(descriptor: int, of_room: int) -> None:
    """Be the process: begin as it is told, then answer until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    pa.set_cpu_count(1)
    connection, room = Connection(descriptor), Room(of_room)

    def tell(answer: Any) -> None:
        with suppress(ConnectionError):  # who asked was killed
            connection.send(answer)

    try:
        begin: Callable[[Room], tuple[Answer, Any]] = pickle.loads(room.get(connection.recv()))
        answer, hello = begin(room)
        tell(hello)
        while True:
            try:
                asked = connection.recv()
            except (EOFError, ConnectionError):
                return
            tell(answer(asked))
    except OpenherdError as error:
        tell(error)
    except Exception:
        tell(RuntimeError(traceback.format_exc()))


def judging(prepare: Callable[[], Judge], schema: pa.Schema, timeout_s: float, keep_lost: bool, room: Room) -> tuple[Answer, int]:
    """What a process answers that judges batches, and what it says of itself: the account of none."""
    judge = prepare()
    empty = pa.RecordBatch.from_pylist([], schema=schema)
    schemas = account_of(judge(empty), empty)

    def answer(size: int) -> int:
        came = room.get_batch(size)
        with limited(timeout_s):
            account = judged_rows(judge, came, schemas, keep_lost)
        return room.put_batch(account)

    return answer, room.put_batch(schemas)


class DiedError(Exception):
    """The process ended before it answered."""

    def __init__(self, drop: Drop, first: bool) -> None:
        super().__init__(drop.reason)
        self.drop = drop
        self.first = first  # it had answered nothing before


class Child:
    """A process that answers and may die of what it is asked; a context manager."""

    def __init__(self, begin: Callable[[Room], tuple[Answer, Any]], timeout_s: float, memory_bytes: int) -> None:
        """`begin` makes what answers, and what the process says of itself when it is ready."""
        self.timeout_s, self.memory_bytes = timeout_s, memory_bytes
        self._begin = pickle.dumps(begin)
        self._process: subprocess.Popen[bytes] | None = None
        self._room: Room | None = None  # of all processes, one after the other: what one left when it died can be read
        self._n_answered = 0  # by the process that is there
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        if self._room is not None:
            os.close(self._room.descriptor)
            self._room = None

    def __call__(self, question: Any) -> Any:
        """What the process answers."""
        raise NotImplementedError

    def end(self) -> None:
        """End the process from another thread: what it is asked raises InterruptedError."""
        self._ended = True
        if (process := self._process) is not None:
            process.kill()

    @property
    def room(self) -> Room:
        """Where it and this process leave each other what is large."""
        if self._room is None:
            self._room = Room.make()
        return self._room

    def started(self, hello: Any) -> None:
        """What a process says that is ready."""

    def start(self) -> None:
        """See that there is a process. Raises RuntimeError where it cannot begin, and what a person can mend."""
        if self._process is not None:
            return
        if self._ended:
            raise InterruptedError("the engine was stopped")
        ours, theirs = socket.socketpair()
        ends = [theirs.fileno(), self.room.descriptor]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM, *map(str, ends)]
        nothing = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=ends, env=environment, stdin=nothing, stdout=nothing)
        if self._ended:  # by another thread, which saw no process
            self._process.kill()
        theirs.close()
        self._connection = Connection(ours.detach())
        self._n_answered = 0
        try:
            self._connection.send(self.room.put(self._begin))
            self.started(self._answer())
        except (EOFError, OSError):
            code = self._process.wait()
            self._stop()
            if self._ended:
                raise InterruptedError("the engine was stopped") from None
            raise RuntimeError(f"a process for the stage ended with code {code} before it had judged anything") from None
        if self.memory_bytes and (found := resident_bytes(self._process.pid)) > self.memory_bytes:
            self._stop()
            share, needs = self.memory_bytes / 1e9, found / 1e9
            raise ConfigError(
                "engine", f"{share:.3g} GB for each process, which needs {needs:.3g} GB for the stage alone",
                do="raise memory_gb, or give fewer processes",
            )  # fmt: skip

    def ask(self, question: Any) -> Any:
        """What the process answers. Raises DiedError where it ends before, and what it raises that a person can mend."""
        assert self._process is not None
        first = not self._n_answered
        try:
            self._connection.send(question)
            while not self._connection.poll(LOOK_S):
                if self.memory_bytes and resident_bytes(self._process.pid) > self.memory_bytes:
                    self._stop()
                    raise DiedError(Drop(OUT_OF_MEMORY, f"more than {self.memory_bytes / 1e9:.2g} GB"), first)
            answer = self._answer()
        except (EOFError, OSError):
            code = self._process.wait()
            self._stop()
            if self._ended:
                raise InterruptedError("the engine was stopped") from None
            raise DiedError(self._cause(code), first) from None
        self._n_answered += 1
        return answer

    def _cause(self, code: int) -> Drop:
        if code in (-signal.SIGPROF, -signal.SIGALRM):
            kind, limit = ("processor", self.timeout_s) if code == -signal.SIGPROF else ("clock", CLOCK_FACTOR * self.timeout_s)
            return Drop(TIMED_OUT, f"more than {limit:g} s of {kind} time")
        return Drop(CRASHED, signal.Signals(-code).name if code < 0 else f"code {code}")

    def _answer(self) -> Any:
        found = self._connection.recv()
        if isinstance(found, Exception):
            self._stop()
            raise found
        return found

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._connection.close()
            self._process = None


class Guard(Child):
    """A stage's function in a process of its own, with what becomes of the documents that it dies of."""

    def __init__(
        self, prepare: Callable[[], Judge], schema: pa.Schema, timeout_s: float, memory_bytes: int, keep_lost: bool = True
    ) -> None:
        super().__init__(partial(judging, prepare, schema, timeout_s, keep_lost), timeout_s, memory_bytes)
        self._keep_lost = keep_lost
        self._schemas: pa.RecordBatch | None = None

    def started(self, hello: int) -> None:
        """Know the account of none."""
        self._schemas = self.room.get_batch(hello)

    def __call__(self, came: pa.RecordBatch) -> pa.RecordBatch:
        """The account of a batch. Raises what a person can mend, and RuntimeError for a stage that cannot be made."""
        self.start()
        try:
            return self.room.get_batch(self.ask(self.room.put_batch(came)))
        except DiedError as died:
            if len(came) > 1:
                return joined([self(came.slice(i, 1)) for i in range(len(came))])
            if died.first or died.drop.reason == TIMED_OUT:
                return lost(came, self._schemas, replace(died.drop, keep_content=self._keep_lost))
            return self(came)  # perhaps what came before did the harm

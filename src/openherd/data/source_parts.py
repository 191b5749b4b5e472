"""Files read part by part by processes that may die of them (paper 3.1): work that was stopped goes on inside a file.

A unit is one file, or small ones that follow each other; a process reads it. A part is what it finds from a spot on, at most
PART_RECORDS records; it is a file when it is done (`work.py`), which tells the spot of what follows. Parts are cut by what is read
alone, so that they are the same whoever reads them. A record of which the process dies, or of which nothing can be made, is
dropped with its reason; where a reader dies between two records, so is the rest of the file.
"""

import itertools
import json
import os
import struct
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from openherd.core.errors import OpenherdError
from openherd.core.remote import is_address
from openherd.core.rundir import digest_of
from openherd.data.documents import Drop, Judged, account_of, content_bytes, failure
from openherd.data.guard import TIMED_OUT, Answer, Child, DiedError, Room, limited
from openherd.data.locations import NamedFile, opened
from openherd.data.pages import START, DamageError, Page, Passed, Place, Record, RestError, found_of
from openherd.data.reading import rest_of_file
from openherd.data.work import account_file, accounts_in, told_by

PART_RECORDS = 512
PART_BYTES = 1 << 25  # of a part's pages: one that has more ends
BATCH_RECORDS, BATCH_BYTES = 64, 1 << 23
UNIT_FILES, UNIT_BYTES = 256, 1 << 23  # most of the small files that are one unit
KB = 1_000  # sizes are counted in these

Row = tuple[dict[str, Any], Drop | None]
Opener = Callable[[str], BinaryIO]


class Reader(NamedTuple):
    """How files are read, and what becomes of what they hold."""

    schema: pa.Schema
    records: Callable[[NamedFile, Place, Opener], Iterator[Record]]
    row: Callable[[NamedFile, Page | DamageError], Row]


class Spot(NamedTuple):
    """Where reading stands in a unit: in which of its files, and where in that."""

    file: int = 0
    place: Place = START
    offset: int = 0  # of the record before it


@dataclass(frozen=True)
class Unit:
    """Files that are read one after the other, in parts."""

    files: tuple[NamedFile, ...]
    sizes: tuple[int, ...]  # in kB; of 1 each where one is not known
    in_kb: bool
    parts: str  # path of the parts, without their number
    mark: str

    @property
    def size(self) -> int:
        """Of all files, as progress counts it."""
        return sum(self.sizes)

    @property
    def done_size(self) -> int:
        """How much of that was read before."""
        return self.reached().at

    def file_behind(self, spot: Spot) -> Spot | None:
        """Where the file after that of a spot begins; None where it is the last."""
        return Spot(spot.file + 1) if spot.file + 1 < len(self.files) else None

    def part(self, number: int) -> Path:
        """Where a part lies when it is done."""
        return Path(f"{self.parts}-{number:05d}.arrow")

    def done_parts(self) -> Iterator["Reached"]:
        """What each finished part tells, as far as each begins where the one before ended."""
        begins: Spot | None = Spot()
        for number in itertools.count():
            told = told_by(self.part(number), self.mark)
            if told is None or begins is None or told["begins"] != json.dumps(begins):
                return
            reached = Reached.of(told["reached"])
            yield reached
            begins = reached.next

    def reached(self) -> "Reached":
        """How far it was read."""
        return deque((Reached(Spot()), *self.done_parts()), maxlen=1)[0]

    def is_done(self) -> bool:
        """Whether it was read to its end."""
        return self.reached().next is None

    def do(self, ask: Callable[["Ask"], "Reached"], progress: Callable[[int], None] = lambda n: None) -> None:
        """Read what is left."""
        done = [Reached(Spot()), *self.done_parts()]
        number, reached = len(done) - 1, done[-1]
        while reached.next is not None:
            before, reached = reached, ask(Ask(self, number, reached.next, reached.at))
            number += 1
            progress(reached.at - before.at)

    def accounts(self) -> Iterator[pa.RecordBatch]:
        """All that was read. Raises AssertionError where that is not the whole unit."""
        yield from accounts_in(self.part(number) for number, _ in enumerate(self.done_parts()))
        if not self.is_done():
            raise AssertionError(f"{self.parts}: what was read ends at {self.reached().next}, which is not the end")

    def passed(self) -> Counter[str]:
        """How many records of each kind were none that could be a document."""
        return sum((Counter(reached.passed) for reached in self.done_parts()), Counter())


class Reached(NamedTuple):
    """What a part tells: where the next begins (None: it was the last), how much of the unit is read, and what was passed."""

    next: Spot | None
    at: int = 0
    passed: dict[str, int] = {}  # noqa: RUF012

    @classmethod
    def of(cls, text: str) -> "Reached":
        """From its JSON."""
        following, at, passed = json.loads(text)
        return cls(following and Spot(following[0], Place(*following[1]), following[2]), at, passed)


class Ask(NamedTuple):
    """What is asked of a process: the part of a unit that begins at a spot."""

    unit: Unit
    number: int
    spot: Spot
    at: int  # how much of the unit is read
    most: int = PART_RECORDS  # records


def units_of(files: Sequence[NamedFile], work: Path, mark: str) -> list[Unit]:
    """The files as units, in order. Which are in one follows from their sizes, so these are in its mark."""
    sizes = [_size_of(file.path) for file in files]
    mark = digest_of([mark, sizes])
    in_kb = None not in sizes
    groups: list[list[int]] = []
    total = 0
    for i, size in enumerate(sizes):
        total += UNIT_BYTES if size is None else size
        if not groups or total > UNIT_BYTES or len(groups[-1]) == UNIT_FILES:
            groups.append([])
            total = UNIT_BYTES if size is None else size
        groups[-1].append(i)
    return [
        Unit(
            tuple(files[i] for i in group), tuple(-(-(sizes[i] or 0) // KB) if in_kb else 1 for i in group), in_kb,
            str(work / f"{number:06d}"), mark,
        )
        for number, group in enumerate(groups)
    ]  # fmt: skip


def _size_of(name: str) -> int | None:
    """Bytes of a file or a tree here; None elsewhere: each would have to be asked for."""
    if is_address(name):
        return None
    if Path(name).is_dir():
        return sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())
    try:
        return os.stat(name).st_size
    except OSError:
        return 0  # reading it tells


class Part:
    """The rows of a part as they come."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.bytes = 0
        self.passed: Counter[str] = Counter()
        self._rows: list[Row] = []
        self._bytes_held = 0
        self._accounts = [self._account()]  # of no rows: it tells the schema

    def add(self, row: Row) -> None:
        """Add a row, kept or dropped."""
        self._rows.append(row)
        size = content_bytes(row[0])
        self.bytes += size
        self._bytes_held += size
        if len(self._rows) == BATCH_RECORDS or self._bytes_held >= BATCH_BYTES:
            self._release()

    def write(self, ask: Ask, reached: Reached) -> Reached:
        """Leave the part."""
        self._release()
        empty, *accounts = self._accounts
        told = {"begins": json.dumps(ask.spot), "reached": json.dumps(reached)}
        with account_file(ask.unit.part(ask.number), empty.schema, ask.unit.mark, **told) as write:
            for account in accounts:
                write(account)
        return reached

    def _release(self) -> None:
        if self._rows:
            self._accounts.append(self._account())
            self._rows, self._bytes_held = [], 0

    def _account(self) -> pa.RecordBatch:
        batch = pa.RecordBatch.from_pylist([row for row, _ in self._rows], schema=self.schema)
        return account_of(Judged(batch, [drop for _, drop in self._rows]), batch)


class Note(NamedTuple):
    """What a process came to, which is known when it dies: how many records of a part before, and where in which file."""

    n: int
    file: int
    byte: int
    skip: int
    offset: int  # of the record, or of the last one before
    is_record: bool  # it has the record, and makes a row of it; else it looks for one


NOTE = struct.Struct("<5q?")


class UnitReader:
    """Reads parts, in whatever process. It stays where it is between two parts of a unit: not every file can be entered at once."""

    def __init__(
        self,
        reader: Reader,
        limit: Callable[[], AbstractContextManager[None]] = nullcontext,
        note: Callable[[bytes], None] = lambda data: None,
    ) -> None:
        """Within `limit` stands what is done with one record; `note` is told of each."""
        self.reader, self.limit = reader, limit
        self._note = lambda *values: note(NOTE.pack(*values))
        self._open_at: tuple[str, Spot | None] | None = None  # in which unit
        self._records: Iterator[Record] = iter(())
        self._file: BinaryIO | None = None

    def __call__(self, ask: Ask) -> Reached:
        """Read a part and leave it."""
        unit, part = ask.unit, Part(self.reader.schema)
        spot: Spot | None = ask.spot
        if self._open_at != (unit.parts, spot):
            self._open(unit, ask.spot)
        n = 0
        while spot is not None and n < ask.most and part.bytes < PART_BYTES:
            self._note(n, spot.file, *spot.place, spot.offset, False)
            record = next(self._records, None)
            if record is not None:
                self._note(n, spot.file, *record.place, record.offset, True)
                self._take(unit.files[spot.file], record, part)
                n += 1
            if record is None or isinstance(record, RestError):
                spot = unit.file_behind(spot)
                if spot is not None:
                    self._open(unit, spot)
            else:
                spot = Spot(spot.file, record.place.behind(), record.offset)
        self._open_at = unit.parts, spot
        return part.write(ask, Reached(spot, self._at(unit, spot), dict(part.passed)))

    def _open(self, unit: Unit, spot: Spot) -> None:
        self._records, self._file = iter(()), None

        def open_file(name: str) -> BinaryIO:
            self._file = opened(name)
            return self._file

        self._records = self.reader.records(unit.files[spot.file], spot.place, open_file)

    def _take(self, file: NamedFile, record: Record, part: Part) -> None:
        with self.limit():
            found = found_of(record)
            if isinstance(found, Passed):
                part.passed[found.kind] += 1
                return
            try:
                row = self.reader.row(file, found)
            except OpenherdError:
                raise
            except Exception as error:
                row = self.reader.row(file, Page(record.offset, drop=failure(error)))
        part.add(row)

    def _at(self, unit: Unit, spot: Spot | None) -> int:
        if spot is None:
            return unit.size
        is_within = unit.in_kb and self._file is not None and not self._file.closed
        within = min(self._file.tell() // KB, unit.sizes[spot.file]) if is_within and self._file else 0
        return sum(unit.sizes[: spot.file]) + within


def reading(prepare: Callable[[], Reader], timeout_s: float, room: Room) -> tuple[Answer, None]:
    """What a process answers that reads parts."""
    parent = os.getppid()

    def note(data: bytes) -> None:
        if os.getppid() != parent:  # it was killed, and perhaps another reads on
            os._exit(1)
        room.note(data)

    return UnitReader(prepare(), partial(limited, timeout_s), note), None


class ReadingProcess(Child):
    """Reads parts in a process of its own, and says what becomes of a record, or a file, of which that dies."""

    def __init__(self, prepare: Callable[[], Reader], timeout_s: float, memory_bytes: int) -> None:
        super().__init__(partial(reading, prepare, timeout_s), timeout_s, memory_bytes)
        self._reader = prepare()

    def __call__(self, ask: Ask) -> Reached:
        """Have a part read. Raises what a person can mend."""
        self.start()
        self.room.note(NOTE.pack(0, ask.spot.file, *ask.spot.place, ask.spot.offset, False))
        try:
            reached: Reached = self.ask(ask)
            return reached
        except DiedError as died:
            note = Note(*NOTE.unpack(self.room.noted()))
            if note.n:  # what was read before it is a part; then it stands at the beginning of one
                return self(ask._replace(most=note.n))
            if not died.first and died.drop.reason != TIMED_OUT:
                return self(ask)  # perhaps what came before did the harm
            return self._without(note, ask, died.drop)

    def _without(self, note: Note, ask: Ask, drop: Drop) -> Reached:
        """Leave a part that has nothing but the loss of a record, or of the rest of a file."""
        place = Place(note.byte, note.skip)
        found = Page(note.offset, drop=drop, place=place) if note.is_record else rest_of_file(note.offset, place, drop)
        spot = Spot(note.file, place)
        part = Part(self._reader.schema)
        part.add(self._reader.row(ask.unit.files[note.file], found))
        following = Spot(note.file, place.behind(), note.offset) if note.is_record else ask.unit.file_behind(spot)
        return part.write(ask, Reached(following, ask.at))

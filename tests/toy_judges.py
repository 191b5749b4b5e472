"""Stages on single documents that misbehave where a document's text says so, for the tests of the engine."""

import ctypes
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa

from openherd.core import rundir
from openherd.core.errors import InputError
from openherd.core.rundir import Job, Run
from openherd.data.documents import LANGUAGE_SCHEMA, Drop, Judged, judge_rows
from openherd.data.engine import EngineConfig, judge_documents


def act(text):
    """Do what a text says."""
    if text == "raise":
        raise ValueError("a bad\ndocument")
    if text == "exit":
        os._exit(3)
    if text == "segfault":
        ctypes.string_at(0)
    if text == "spin":
        while True:
            pass
    if text == "sleep":
        time.sleep(1000)
    if text == "fill":
        held = []
        while True:
            held.append(b"x" * 10_000_000)
    if text == "memory error":
        raise MemoryError
    if text == "mend":
        raise InputError("a list", "missing")


def prepare_toy(unwanted="", slow_s=0.0):
    """Drops what contains `unwanted`; the title says what it looked at."""

    def decide(row):
        act(row["text"])
        time.sleep(slow_s)
        drop = Drop("unwanted", row["text"]) if unwanted and unwanted in row["text"] else None
        return {**row, "title": row["text"].upper()}, drop

    judge = judge_rows(LANGUAGE_SCHEMA, decide)

    def measured(batch):
        judged = judge(batch)
        lengths = [float(len(text)) for text in batch.column("text").to_pylist()]
        return Judged(judged.batch, judged.drops, pa.RecordBatch.from_pydict({"characters": pa.array(lengths, pa.float64())}))

    return measured


def prepare_after(text):
    """Dies of any document that comes to a process after one with this text."""
    seen = []

    def decide(row):
        if text in seen:
            os._exit(4)
        seen.append(row["text"])
        return row, None

    return judge_rows(LANGUAGE_SCHEMA, decide)


def prepare_deadly(prepare, victim, how):
    """A stage's own function that does what `how` says when the document `victim` comes."""
    judge = prepare()

    def judged(batch):
        if victim in batch.column("id").to_pylist():
            act(how)
        return judge(batch)

    return judged


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Settings of the toy stage."""

    unwanted: str = "7"
    slow_s: float = 0.0
    engine: EngineConfig = field(default_factory=EngineConfig)


def toy(config, *, documents, out):
    """The toy stage."""
    prepare = partial(prepare_toy, config.unwanted, config.slow_s)
    return judge_documents("toy", prepare, documents, out, config.engine)


def make_toy(given, folder, **settings):
    """Run the toy stage, or go on with it."""
    config, documents = ToyConfig(**settings), Run.open(given)
    job = Job("toy", "3.1", 1, {"unwanted": config.unwanted}, {"documents": documents.digest}, {"documents": str(given)})
    return rundir.make(job, Path(folder), toy, config, {"documents": documents})[0]


def prepare_short():
    """Loses a document."""
    return lambda batch: Judged(batch.slice(1), [None] * len(batch.slice(1)))


def prepare_reversed():
    """Mixes up the order."""
    return lambda batch: Judged(batch.take(pa.array(range(len(batch)), pa.int64())[::-1]), [None] * len(batch))

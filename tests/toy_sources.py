"""The stage `sources` with records that misbehave where their text says so, for the tests of reading in parts."""

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from openherd.core import rundir
from openherd.core.rundir import Job, Outside
from openherd.data import sources as stage
from openherd.data.engine import EngineConfig
from openherd.data.pages import Page, Unread
from openherd.data.sources import SourcesConfig, prepare_sources
from toy_judges import act

READ = []  # the texts of the records that were read here


class Lines:
    """A file of lines that ends the process behind one that says "leave", and fails behind one that says "lose"."""

    def __init__(self, file):
        self.file, self.tell, self.close, self.closed = file, file.tell, file.close, False

    def __iter__(self):
        for line in self.file:
            yield line
            if b"leave" in line:
                os._exit(5)
            if b"lose" in line:
                raise KeyError("where")


def prepare(slow_s, config):
    """As `prepare_sources`, but for what records and lines say."""
    reader = prepare_sources(config)

    def read(record):
        found = record.read()
        if isinstance(found, Page):
            READ.append(found.content.decode())
            time.sleep(slow_s)
            act(READ[-1])
        return found

    def records(file, place, open_file):
        is_lines = file.path.endswith(".jsonl")
        for record in reader.records(file, place, (lambda name: Lines(open_file(name))) if is_lines else open_file):
            yield replace(record, read=partial(read, record)) if isinstance(record, Unread) else record

    return reader._replace(records=records)


def make(location, folder, processes=1, slow_s=0.0, on_damage="skip", timeout_s=20.0):
    """Run the stage, or go on with it."""
    READ.clear()
    config = SourcesConfig(on_damage=on_damage, engine=EngineConfig(processes=processes, timeout_s=timeout_s))
    before, stage.prepare_sources = stage.prepare_sources, partial(prepare, slow_s)
    try:
        job = Job("sources", "3.1", 1, {}, {}, {})
        return rundir.make(job, Path(folder), stage.sources, config, {"pages": (Outside(str(location)),)})[0]
    finally:
        stage.prepare_sources = before

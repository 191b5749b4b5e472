"""What training stages log, for other trackers: TensorBoard's event files, a CSV file, Weights & Biases.

The numbers are those of `metrics.jsonl`, by their own names; each stage is a run of its own, with its own steps. An export can
follow a run that goes on. What a stage takes back, since it resumed at an earlier step, is taken back there too (not from W&B,
which keeps both). TensorBoard's format is written here: a length, a checksum, and a protobuf message with five fields are no
reason for a dependency with seven of its own. Times are the stage's beginning plus the time of its steps: a log holds no clock.
"""

import csv
import importlib
import itertools
import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from openherd.core.config import read_toml
from openherd.core.errors import InputError
from openherd.core.metrics import MetricsLog
from openherd.core.rundir import CONFIG, MANIFEST, METRICS

Records = Sequence[Mapping[str, Any]]
EVENTS = "events.out.tfevents.openherd"
CASTAGNOLI = 0x82F63B78  # CRC-32C's polynomial, reversed


class Sink(Protocol):
    """Where records go."""

    def write(self, stage: str, path: Path, records: Records, kept: int) -> None:
        """All records of a stage so far; before this call the first `kept` of them had been written, and perhaps others behind."""

    def close(self) -> str:
        """Finish; returns how to look at it."""


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record but its step; a loss that was not finite is none."""
    return {name: float(value) for name, value in record.items() if name != "step" and isinstance(value, (int, float))}


def _table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (CASTAGNOLI if value & 1 else 0) for value in table]
    return table


CRC_TABLE = _table()


def masked_crc(data: bytes) -> bytes:
    """CRC-32C, rotated and shifted as TensorFlow's record files want it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record_bytes(data: bytes) -> bytes:
    """One entry of a TensorFlow record file."""
    length = struct.pack("<Q", len(data))
    return length + masked_crc(length) + data + masked_crc(data)


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes([*out, n])


def _sized(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def event(wall_time: float, step: int, *more: bytes) -> bytes:
    """TensorBoard's Event message, framed: field 1 is the time, 2 the step."""
    return record_bytes(b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + b"".join(more))


def scalars(values: Mapping[str, float]) -> bytes:
    """A Summary (field 5 of an Event) of values: each has a tag (1) and a simple_value (2)."""
    return _sized(5, b"".join(_sized(1, _sized(1, tag.encode()) + b"\x15" + struct.pack("<f", v)) for tag, v in values.items()))


FILE_VERSION = _sized(3, b"brain.Event:2")
STARTS_AGAIN = _sized(7, b"\x08\x01")  # a SessionLog of status START: what stands at this step and later is void


class TensorBoard:
    """One event file a stage, written anew by each export."""

    def __init__(self, out: Path) -> None:
        """Raises InputError where `out` is a file."""
        if out.is_file():
            raise InputError(out, "is a file", allowed="a folder", do="give another --out")
        self.out = out
        self.written: dict[str, int] = {}

    def write(self, stage: str, path: Path, records: Records, kept: int) -> None:
        """Append what is new."""
        begun = (path / CONFIG).stat().st_mtime
        times = [begun, *itertools.accumulate((r.get("time_s") or 0.0 for r in records), initial=begun)][1:]
        file = self.out / stage / EVENTS
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = []
        if stage not in self.written:
            parts.append(event(begun, 0, FILE_VERSION))
        elif self.written[stage] > kept and len(records) > kept:
            parts.append(event(times[kept + 1], records[kept]["step"], STARTS_AGAIN))
        parts += [event(times[i + 1], records[i]["step"], scalars(numbers(records[i]))) for i in range(kept, len(records))]
        with file.open("ab" if stage in self.written else "wb") as opened:
            opened.write(b"".join(parts))
        if len(records) > kept:  # else steps were taken back: they are void where the next begin
            self.written[stage] = len(records)

    def close(self) -> str:
        """The command that shows it."""
        return f"tensorboard --logdir {self.out}"


class Csv:
    """One file: a row a step, a column a metric."""

    def __init__(self, out: Path) -> None:
        """Of a folder it is `metrics.csv`."""
        self.out = out / "metrics.csv" if out.is_dir() else out
        self.stages: dict[str, Records] = {}

    def write(self, stage: str, path: Path, records: Records, kept: int) -> None:
        """Write all anew, since a later record may bring a new column."""
        self.stages[stage] = records
        columns = dict.fromkeys(name for rows in self.stages.values() for r in rows for name in r)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.out.with_name(f".{self.out.name}.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["stage", *columns], lineterminator="\n")
            writer.writeheader()
            writer.writerows({"stage": name, **r} for name, rows in self.stages.items() for r in rows)
        os.replace(temporary, self.out)

    def close(self) -> str:
        """Its path."""
        return str(self.out)


class WeightsAndBiases:
    """One run a stage, in one group; where it goes, online or not, W&B's own settings decide."""

    def __init__(self, project: str, group: str) -> None:
        """Raises InputError where wandb is not installed."""
        try:
            self.wandb = importlib.import_module("wandb")
        except ImportError:
            raise InputError("--to wandb", "wandb is not installed", do="pip install wandb, then wandb login") from None
        self.project, self.group = project, group
        self.runs: dict[str, Any] = {}

    def write(self, stage: str, path: Path, records: Records, kept: int) -> None:
        """Log what is new; W&B has steps of its own, so ours are a metric that the others are drawn over."""
        if stage not in self.runs:
            settings = read_toml(path / CONFIG).get("settings", {})
            self.runs[stage] = self.wandb.init(
                project=self.project, group=self.group, name=stage, config=settings, reinit="create_new"
            )
            self.runs[stage].define_metric("*", step_metric="step")
        for record in records[kept:]:
            self.runs[stage].log({"step": record["step"], **numbers(record)})

    def close(self) -> str:
        """Wait for what is on its way."""
        for run in self.runs.values():
            run.finish()
        return f"W&B project {self.project}, group {self.group}"


def export(places: Mapping[str, Path], sink: Sink, every_s: float = 0.0) -> str:
    """Write the records of all stages that log steps; with `every_s` look again so often until all have finished.

    Raises InputError where no stage has logged a step and none is to be waited for.
    """
    written: dict[str, Records] = {}
    while True:
        finished = all((path / MANIFEST).exists() for path in places.values())  # asked first: what comes then is read below
        for stage, path in places.items():
            records = [r for r in MetricsLog(path / METRICS).read() if "step" in r]
            before = written.get(stage, ())
            pairs = enumerate(zip(before, records, strict=False))
            kept = next((i for i, (a, b) in pairs if a != b), min(len(before), len(records)))
            if len(records) > kept or kept < len(before):
                sink.write(stage, path, records, kept)
                written[stage] = records
        if finished or not every_s:
            break
        time.sleep(every_s)
    if not written:
        raise InputError(", ".join(map(str, places.values())), "no stage here has logged a step", do="train first, or add --follow")
    how = sink.close()
    return f"{sum(map(len, written.values())):,} steps of {', '.join(written)}: {how}"

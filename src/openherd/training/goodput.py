"""Where a run's time went (paper 3.3.4: more than 90% effective training time): every second is in one class.

`goodput.jsonl` has a line for every step, and one for every start of the run; each accounts for the time since the line before,
over restarts too. What a killed process did after its last line is told apart by the heartbeats of all processes: up to one step of
it is work done again, what is over is a stall, and from the last heartbeat on it is restart.
"""

import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from openherd.core.metrics import MetricsLog
from openherd.core.rundir import Output
from openherd.parallel.mesh import World

LEDGER = "goodput.jsonl"
ALIVE = ".alive"
SLOW, SLOW_S = 1.5, 0.005  # a process is slow at so many times the usual time, and so many seconds over it
HEARTBEAT_S, SLOWEST_S = 0.5, 10.0
LOOKERS = 64  # processes that look for those that are gone: each looks at the files of all
CLASSES = {
    "productive": "steps applied for the first time",
    "data": "waiting for batches",
    "checkpoint": "waiting for checkpoints",
    "writing": "averaging checkpoints and writing the model",
    "recompute": "steps done again, or not applied",
    "restart": "starting, and starting again",
    "stalled": "hanging until somebody noticed",
}


def heartbeat_s(world: int) -> float:
    """Seconds between a process's signs of life: a disk that many share is not to be flooded, and nobody waits for minutes."""
    return min(max(HEARTBEAT_S, world / 64), SLOWEST_S)


class Heartbeat:
    """A file that this process touches every `heartbeat_s` seconds, so that others can see that it is there."""

    def __init__(self, out: Output, world: World) -> None:
        self.file = out.path / ALIVE / f"{world.rank}.{os.getpid()}"
        self.every_s = heartbeat_s(world.layout.world)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def _beat(self) -> None:
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(str(time.time()), encoding="utf-8")  # when it began
        while not self.ended.wait(self.every_s):
            self.file.touch()

    def __enter__(self) -> "Heartbeat":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()


def silent(out: Output, world: int, longer_than_s: float) -> dict[int, float]:
    """Ranks that have given no sign of life for longer than that, with the seconds."""
    now = time.time()
    last = dict.fromkeys(range(world), 0.0)
    for file in (out.path / ALIVE).glob("*.*"):
        rank = int(file.stem)
        last[rank] = max(last.get(rank, 0.0), file.stat().st_mtime)
    return {rank: now - beat for rank, beat in last.items() if rank < world and longer_than_s < now - beat < now}


def last_sign_of_life(out: Output, before: float) -> float:
    """Unix time of the last heartbeat of processes that began before; they are gone, and so are their files then."""
    beats = [before]
    for file in (out.path / ALIVE).glob("*.*"):
        began = file.read_text(encoding="utf-8")
        if began and float(began) < before:
            beats.append(file.stat().st_mtime)
            file.unlink()
    return max(beats)


class Ledger:
    """The account of one process's time; the first process of several keeps it."""

    def __init__(self, out: Output) -> None:
        self.log = MetricsLog(out.path / LEDGER) if out.leads else None
        lines = self.log.read() if self.log else []
        self.goes_on = bool(lines)  # an earlier process began the run
        self.furthest = max((int(line.get("step", -1)) for line in lines), default=-1)
        self.spent = dict.fromkeys(("data", "checkpoint"), 0.0)
        self.last = time.time()
        if self.log is None:
            return
        if lines:
            before = float(lines[-1]["at"])
            alive = min(last_sign_of_life(out, before), self.last)
            a_step = max((float(line["s"]) for line in lines[-20:] if "step" in line), default=0.0)
            lost = min(alive - before, a_step)
            self._write({"recompute": lost, "stalled": alive - before - lost, "restart": self.last - alive})
        else:
            self._write({"restart": self.last - out.begun})

    def end(self) -> None:
        """The run is done; what has passed since the last step was for its final state."""
        now = time.time()
        self.last, seconds = now, now - self.last
        if self.log is not None:
            self._write({"checkpoint": seconds})

    def _write(self, seconds: dict[str, float], **more: Any) -> None:
        assert self.log is not None
        told = {name: round(s, 4) for name, s in seconds.items() if s >= 5e-5}
        self.log.append({"at": round(self.last, 4), **more, "s": round(sum(seconds.values()), 4), **told})

    def begin(self) -> None:
        """The first step follows: what was read and made since the start belongs to that."""
        now = time.time()
        if self.log is not None:
            self.last, seconds = now, now - self.last
            self._write({"restart": seconds})
        self.last = now

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Time that belongs to 'data' or 'checkpoint'."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[name] += time.perf_counter() - start

    def step(self, step: int, applied: bool) -> None:
        """A step has ended; what was not waited is productive, or done again."""
        now = time.time()
        seconds = {**self.spent, "productive": max(now - self.last - sum(self.spent.values()), 0.0)}
        if step <= self.furthest or not applied:
            seconds["recompute"] = seconds.pop("productive")
        self.furthest = max(self.furthest, step)
        self.spent = dict.fromkeys(self.spent, 0.0)
        self.last = now
        if self.log is not None:
            self._write(seconds, step=step)


class Pace:
    """Which process keeps the others waiting. In a step all wait for the slowest, so their steps take equally long; what differs is
    the time that each has for itself, between two steps' collectives, and that of the same small matrix product on each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.own_s: list[float] = []
        self.left = time.perf_counter()

    def arrive(self) -> None:
        """The first collective of a step follows."""
        self.own_s.append(time.perf_counter() - self.left)

    def leave(self) -> None:
        """The last collective of a step is done."""
        self.left = time.perf_counter()

    def slow(self) -> list[dict[str, Any]]:
        """The slow ones since the last call, by rank: every process takes part."""
        if self.world.mesh is None:
            return []
        mine = {"own": statistics.median(self.own_s or [0.0]), "product": product_seconds(self.world.device)}
        self.own_s.clear()
        found = self.world.gather(mine)
        told = []
        for name in mine:
            usual = statistics.median_low(values[name] for values in found)
            for rank, values in enumerate(found):
                if values[name] > max(SLOW * usual, usual + SLOW_S):
                    told.append({"rank": rank, "of": name, "s": round(values[name], 4), "usual_s": round(usual, 4)})
        return told


def product_seconds(device: torch.device, repeats: int = 5) -> float:
    """Median seconds of a small matrix product: the same work on every process."""
    x = torch.ones(512, 512, device=device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        float((x @ x)[0, 0])  # waits for the device
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def close(out: Output) -> dict[str, dict[str, float]]:
    """Account for the time since the last step, in which the model was written; returns what the manifest says of all time.

    It is the last thing that a stage does: what follows is the manifest, for which every output is read once more.
    """
    log, now = MetricsLog(out.path / LEDGER), time.time()
    seconds = round(now - float(log.read()[-1]["at"]), 4)
    log.append({"at": round(now, 4), "s": seconds, "writing": seconds})
    return {"goodput_s": goodput(out.path)}


def goodput(path: Path) -> dict[str, float]:
    """Seconds by class of a run's ledger, empty without one."""
    totals: dict[str, float] = {}
    for line in MetricsLog(path / LEDGER).read():
        for name in CLASSES:
            if name in line:
                totals[name] = totals.get(name, 0.0) + line[name]
    return {name: round(totals[name], 3) for name in CLASSES if name in totals}


def goodput_text(seconds: dict[str, float]) -> str:
    """Shares in words: 'effective 91.2% of 312 s: 4.1% restart, ...'."""
    total = sum(seconds.values())
    if not total:
        return ""
    rest = [f"{100 * s / total:.1f}% {name}" for name, s in seconds.items() if name != "productive"]
    return f"effective {100 * seconds.get('productive', 0.0) / total:.1f}% of {total:,.0f} s: {', '.join(rest)}"

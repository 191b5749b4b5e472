"""A rehearsal of what happens to long runs: `openherd drill` (paper 3.3.4: 419 unexpected interruptions in 54 days).

The real loop trains a small model of a recipe's proportions, in the recipe's layout, on real processes; a seeded schedule injects
faults into it. What is injected is real too: signals, reset connections, files cut short, a disk that refuses. Beside it the same
run is made without faults, on the same data less what the first one passed over; it must end with the same weights, to the last bit
in the same layout, within rounding after a change of layout. The model is a toy: it learns to count.
"""

import ctypes
import hashlib
import json
import os
import random
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openherd.core.metrics import MetricsLog
from openherd.core.rundir import Output
from openherd.data.batches import IGNORED, BatchSource
from openherd.data.token_shards import TokenShards
from openherd.model.config import ModelConfig
from openherd.parallel.apply import Sharded
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.mesh import World, join
from openherd.parallel.stage import Batch
from openherd.training.goodput import goodput, goodput_text
from openherd.training.loop import EVENTS, checkpoints, train
from openherd.training.objective import NextToken
from openherd.training.parity import batch_shape, small_shape, weights_of
from openherd.training.resilience import read_skips
from openherd.training.settings import TrainingConfig

FAULTS = {
    "nan": "a batch whose loss is NaN",
    "spike": "a batch with the labels of another task",
    "kill": "kill -9 of a process inside a collective",
    "reset": "every connection of a process reset inside a collective",
    "truncate": "the newest checkpoint cut short, and kill -9",
    "stop": "a process stopped (SIGSTOP) inside a collective",
    "disk": "a disk that refuses to write a checkpoint",
    "agent": "kill -9 of half the processes and their agent: the rest goes on",
}
BEGIN, APART, AFTER = 24, 8, 10  # steps before the first fault, between two, after the last
CHECKPOINT_STEPS, GOOD_AFTER, WINDOW = 6, 4, 16
RATE = 3e-3
AMID_S, LATE_S = 0.15, 0.6  # the fault comes while its process waits in a collective for the others, which come late
ALLOWED = 2e-6  # nats, after a change of layout
INJECTED, OUTCOME = "injected.jsonl", "outcome.json"


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, the step in which it comes, and the rank of the process."""

    kind: str
    step: int
    rank: int

    @property
    def is_in_data(self) -> bool:
        """Whether it comes again whenever that step is computed."""
        return self.kind in ("nan", "spike")


def schedule_of(kinds: Sequence[str], world: int, seed: int) -> list[Fault]:
    """When each fault comes and in which process, by seed; the loss of an agent comes last, since it changes the layout."""
    random_ = random.Random(seed)
    order = sorted(kinds, key=lambda kind: (kind == "agent", random_.random()))
    found = []
    for i, kind in enumerate(order):
        begin = BEGIN + i * APART
        step = begin + random_.randrange(APART - 4)
        if kind == "disk":  # just before a checkpoint
            step = begin + (CHECKPOINT_STEPS - 1 - begin) % CHECKPOINT_STEPS
        rank = world - 1 if kind == "agent" else 0 if kind == "truncate" else random_.randrange(min(1, world - 1), world)
        found.append(Fault(kind, step, rank))
    return found


def shards_of(vocabulary: int) -> TokenShards:
    """Documents that count upwards from a random token."""
    generator = np.random.default_rng(0)
    starts = np.arange(0, 40_000, 100)
    tokens = (generator.integers(0, vocabulary, len(starts))[:, None] + np.arange(100)) % vocabulary
    return TokenShards(Path(), vocabulary, "", {"drill": tokens.size}, {"drill": starts}, {"drill": tokens.ravel()})


class Rehearsed(NextToken):
    """The objective, and the batches, of a run into which faults are injected."""

    def __init__(self, source: BatchSource, rows: int, drill: "Drill", world: World, out: Output) -> None:
        self.source, self.rows, self.faults, self.parent = source, rows, drill.faults, drill.parent
        self.world, self.out = world, out

    def part(self, step: int, place: int, n: int) -> Batch:
        """This process's rows of a step."""
        each = self.rows // n
        arrays = self.source.batch(step * self.rows + place * each, each)
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        batch["step_B"] = torch.full((each,), step)
        if self.due("spike", step):
            labels, v = batch["labels_BT"], self.source.shards.vocabulary
            batch["labels_BT"] = torch.where(labels == IGNORED, IGNORED, (labels + v // 2) % v)
        return batch

    def due(self, kind: str, step: int) -> bool:
        """Whether a fault that is in the data is in those of a step."""
        return any((fault.kind, fault.step) == (kind, step) for fault in self.faults)

    def counts(self, batch: Batch) -> dict[str, int]:
        """The step begins: what is due comes."""
        step = int(batch["step_B"][0])
        for number, fault in enumerate(self.faults):
            if fault.step != step:
                continue
            if fault.is_in_data:
                if self.world.leads:
                    self.note(fault)
            elif not (fired := self.out.path / f".fired-{number}").exists():
                self.inject(fault, fired)
        return super().counts(batch)

    def losses(self, hidden_BTD: Any, head: Any, batch: Batch) -> dict[str, torch.Tensor]:
        """The loss; NaN where that is due."""
        found = super().losses(hidden_BTD, head, batch)
        poisoned = self.due("nan", int(batch["step_B"][0]))
        return {name: loss * float("nan") for name, loss in found.items()} if poisoned else found

    def note(self, fault: Fault) -> None:
        """Say that a fault was injected now."""
        MetricsLog(self.out.path / INJECTED).append({**asdict(fault), "at": time.time()})

    def inject(self, fault: Fault, fired: Path) -> None:
        """Let a fault come on its process a moment from now; the other processes come late, so that it waits for them by then."""
        # Of two agents that which the drill's own process is not.
        mine = os.getppid() != self.parent if fault.kind == "agent" else fault.rank == self.world.rank
        if not mine:
            if fault.kind != "disk":
                time.sleep(LATE_S)
            return
        if fault.kind == "disk":
            self.refuse(fired, fault)
            return

        def come() -> None:
            if self.world.mesh is not None:  # else there is nobody to wait for
                time.sleep(AMID_S)
            if fault.kind == "truncate":
                file = max(checkpoints(self.out)[0].iterdir(), key=lambda f: f.stat().st_size)
                os.truncate(file, file.stat().st_size // 2)
            self.note(fault)
            fired.touch()
            if fault.kind == "reset":
                reset_connections()
                return
            if fault.kind == "agent":
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGSTOP if fault.kind == "stop" else signal.SIGKILL)

        thread = threading.Thread(target=come, daemon=True)
        thread.start()
        if self.world.mesh is None:
            thread.join()

    def refuse(self, fired: Path, fault: Fault) -> None:
        """Let the system refuse this process files over some size (RLIMIT_FSIZE) while the next checkpoint is written."""
        self.note(fault)
        fired.touch()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # The first process writes the logs, which must go on.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000 if self.world.leads else 1_000, hard))

        def release() -> None:
            failed = self.out.path / EVENTS
            until = time.time() + 60
            while time.time() < until and not (failed.exists() and "checkpoint failed" in failed.read_text(encoding="utf-8")):
                time.sleep(0.05)
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        threading.Thread(target=release, daemon=True).start()


def reset_connections() -> None:
    """Abort every TCP connection of this process: the other side is sent a reset (connect(2) to AF_UNSPEC; Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    nowhere = struct.pack("H14x", 0)
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as end:
                if end.family in (socket.AF_INET, socket.AF_INET6) and end.getpeername():
                    libc.connect(end.fileno(), nowhere, len(nowhere))
        except OSError:  # a file, not connected, or closed since
            continue


@dataclass(frozen=True)
class Drill:
    """What the processes of a rehearsal are told."""

    shape: ModelConfig
    layout: ParallelConfig
    faults: Sequence[Fault]
    steps: int
    skips: Sequence[tuple[int, int]]
    out: Path
    parent: int  # the process that drills

    @classmethod
    def read(cls, job: dict[str, Any]) -> "Drill":
        """From plain values."""
        return cls(
            ModelConfig(**job["shape"]),
            ParallelConfig(**job["layout"]),
            [Fault(**fault) for fault in job["faults"]],
            job["steps"],
            [(first, end) for first, end in job["skips"]],
            Path(job["out"]),
            job["parent"],
        )

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "out": str(self.out)}


def suited(layout: ParallelConfig) -> list[str]:
    """The faults that a layout can be given: where nobody waits for a process nobody sees it hang, and half of one is none."""
    few = ("reset", "stop") if layout.world == 1 else ()
    return [kind for kind in FAULTS if kind not in few and (kind != "agent" or layout.dp % 2 == 0)]


def plan(shape: ModelConfig, layout: ParallelConfig, kinds: Sequence[str], seed: int, out: Path) -> Drill:
    """The rehearsal of a layout, before it is run."""
    small = small_shape(replace(shape, rope_scaling=None, tied_embeddings=False), layout.stages + 2)
    small = replace(small, vocabulary=64)
    faults = schedule_of(kinds, layout.world, seed)
    return Drill(small, layout, faults, BEGIN + len(faults) * APART + AFTER, [], out, os.getpid())


def rehearse(drill: Drill) -> None:
    """Be one of the processes of a rehearsal."""
    world = join(drill.layout, torch.device("cpu"))
    rows, tokens = batch_shape([drill.layout])
    out = Output(drill.out, leads=world.leads)
    config = TrainingConfig(
        precision="float32",
        device="cpu",
        micro_batch_sequences=rows,
        checkpoint_steps=CHECKPOINT_STEPS,
        checkpoint_behind=world.mesh is not None,  # a process alone is through with its steps before one is written
        good_after_steps=GOOD_AFTER,
        spike_window=WINDOW,
        parallel=drill.layout,
    )
    model = Sharded(drill.shape, world, "float32")
    model.fill(weights_of(drill.shape))
    source = BatchSource(shards_of(drill.shape.vocabulary), 0, "drill", tokens, {"drill": 1.0})
    objective = Rehearsed(source, rows, drill, world, out)
    train(model, objective, objective.part, lambda step: RATE, drill.steps, config, out, what="drill", skips=drill.skips)
    digest = hashlib.sha256()
    for name in model.names():
        digest.update(model.whole(name).numpy().tobytes())
    if world.leads:
        losses = {r["step"]: r["loss_nats"] for r in out.metrics.read() if not r.get("skipped")}
        outcome = {"losses": losses, "weights_sha256": digest.hexdigest(), "processes": str(world.layout)}
        with out.write(OUTCOME) as path:
            path.write_text(json.dumps(outcome), encoding="utf-8")
    world.wait()


def told_events(out: Path) -> list[dict[str, Any]]:
    """What the loop said, in the order of time; the start of a process that went on is an event too."""
    return sorted(MetricsLog(out / EVENTS).read(), key=lambda event: event["at"])


SEEN = {  # what the loop says of a fault; the first of these after it is its detection
    "nan": ("not finite",), "spike": ("spike",), "disk": ("checkpoint failed",), "truncate": ("damaged checkpoint",),
    "kill": ("lost", "resumed"), "reset": ("lost", "resumed"), "stop": ("lost", "resumed"), "agent": ("lost", "resumed"),
}  # fmt: skip


def findings(drill: Drill) -> list[dict[str, Any]]:
    """Each fault with what was detected, after how many seconds, and the steps that were done again for it."""
    events = told_events(drill.out)
    injected = MetricsLog(drill.out / INJECTED).read()
    rows = []
    for fault in drill.faults:
        at = next((item["at"] for item in injected if (item["kind"], item["step"]) == (fault.kind, fault.step)), None)
        later = [event for event in events if at is not None and event["at"] >= at - 0.01]
        seen = next((event for event in later if event["event"] in SEEN[fault.kind]), None)
        back = next((event for event in later if event["event"] in ("rollback", "resumed")), None)
        lost = 0
        if fault.kind == "spike" and back is not None:
            lost = back["step"] - back["to_step"]
        elif not fault.is_in_data and fault.kind != "disk" and back is not None:
            lost = fault.step - back["step"]
        rows.append(
            {
                **asdict(fault),
                "injected": at is not None,
                "detected": seen["event"] if seen else None,
                "detected_s": round(seen["at"] - at, 2) if seen and at is not None else None,
                "steps_again": lost,
            }
        )
    return rows


def report_of(drill: Drill, undisturbed: Path) -> dict[str, Any]:
    """Everything that a rehearsal found, as plain values."""
    mine, its = (json.loads((path / OUTCOME).read_text(encoding="utf-8")) for path in (drill.out, undisturbed))
    both = mine["losses"].keys() & its["losses"].keys()
    difference = max(abs(mine["losses"][step] - its["losses"][step]) for step in both)
    same = mine["weights_sha256"] == its["weights_sha256"] and mine["losses"] == its["losses"]
    rows = findings(drill)
    changed = mine["processes"] != its["processes"]
    seen = all(row["detected"] for row in rows)
    return {
        "faults": rows,
        "skipped": read_skips(Output(drill.out)),
        "final_loss_nats": list(mine["losses"].values())[-1],
        "undisturbed_loss_nats": list(its["losses"].values())[-1],
        "largest_difference_nats": difference,
        "same_bits": same,
        "processes": mine["processes"],
        "goodput_s": goodput(drill.out),
        "passed": seen and mine["losses"].keys() == its["losses"].keys() and (same or (changed and difference <= ALLOWED)),
    }


def drill_table(report: dict[str, Any]) -> str:
    """What `openherd drill` prints."""
    lines = [f"{'fault':<10}{'step':>5}{'process':>9}  {'detected':<20}{'after':>8}{'steps again':>13}"]
    for row in report["faults"]:
        after = f"{row['detected_s']:.1f} s" if row["detected_s"] is not None else "never"
        process = "all" if row["rank"] < 0 or row["kind"] in ("nan", "spike") else row["rank"]
        told = row["detected"] or ("not seen" if row["injected"] else "never came")
        lines.append(f"{row['kind']:<10}{row['step']:>5}{process:>9}  {told:<20}{after:>8}{row['steps_again']:>13}")
    skipped = ", ".join(f"{first}" if end == first + 1 else f"{first} to {end - 1}" for first, end in report["skipped"])
    lines += [
        "",
        f"steps passed over  {skipped or 'none'}",
        f"final loss         {report['final_loss_nats']:.9f} nats",
        f"undisturbed        {report['undisturbed_loss_nats']:.9f} nats, less those steps",
    ]
    if report["same_bits"]:
        lines.append("weights            the same to the last bit, and every loss")
    else:
        lines.append(
            f"losses             differ by at most {report['largest_difference_nats']:.1e} nats "
            f"(ended as {report['processes']}; allowed after a change of layout: {ALLOWED:.0e})"
        )
    lines += [f"time               {goodput_text(report['goodput_s'])}", "passed" if report["passed"] else "NOT passed"]
    return "\n".join(lines)

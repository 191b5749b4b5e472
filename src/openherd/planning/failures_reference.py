"""The simulation of `failures`, one run and one event at a time: slow and plain, its oracle; it also tells a run as a story."""

import math
from collections.abc import Sequence
from typing import Any

from openherd.planning.causes import Cause
from openherd.planning.failures import DAY, HOUR, MINUTE, RunPlan, draws_of, rate

NOTHING = 1e-9  # seconds


class Stretch:
    """Work between two stops, walked checkpoint by checkpoint; seconds at full speed."""

    def __init__(self, plan: RunPlan) -> None:
        self.plan = plan
        self.work = self.saved = 0.0
        self.until_checkpoint, self.pausing = plan.checkpoint_minutes * MINUTE, 0.0
        self.pending: list[list[float]] = []  # checkpoints that are not whole yet: seconds left, and the work in them

    def walk(self, seconds: float) -> None:
        """Go on for so long."""
        while seconds > 0:
            step = min(self.pausing if self.pausing > 0 else self.until_checkpoint, seconds)
            seconds -= step
            for checkpoint in self.pending:
                checkpoint[0] -= step
            if self.pausing > 0:
                self.pausing -= step
            else:
                self.work += step
                self.until_checkpoint -= step
                if self.until_checkpoint <= NOTHING:
                    self.until_checkpoint, self.pausing = self.plan.checkpoint_minutes * MINUTE, self.plan.pause_s
                    self.pending.append([self.plan.pause_s + self.plan.write_s, self.work])
            while self.pending and self.pending[0][0] <= NOTHING:
                self.saved = self.pending.pop(0)[1]

    def until(self, work: float) -> float:
        """Seconds until so much work is done."""
        seconds, done, left, pause = 0.0, self.work, self.until_checkpoint, self.pausing
        while done + left < work - NOTHING:
            seconds, done, left, pause = (
                seconds + pause + left,
                done + left,
                self.plan.checkpoint_minutes * MINUTE,
                self.plan.pause_s,
            )
        return seconds + pause + work - done


def one_run(
    plan: RunPlan, causes: Sequence[Cause], run: int, runs: int, seed: int, story: list[dict[str, Any]] | None = None
) -> dict[str, float]:
    """The `run`-th of `runs` runs: its days, its days of work kept, its stops by kind. No error for a run that never ends.

    `story` takes its stretches in order: `kind` is work, lost or down; `start` and `end` in days; `cause` of what ended or is down.
    """
    total = rate(causes, plan.nodes)
    event = 0

    def next_draws() -> tuple[float, float, float]:
        nonlocal event
        gap, cause, repair = draws_of(seed, event, runs)[:, run]
        event += 1
        return float(gap), float(cause), float(repair)

    def gap_s(uniform: float) -> float:
        return -math.log1p(-uniform) / total if total > 0 else math.inf

    def tell(kind: str, start: float, end: float, cause: str = "") -> None:
        if story is not None and end > start:
            story.append({"kind": kind, "start": start / DAY, "end": end / DAY, "cause": cause})

    clock = kept = 0.0
    stops = {"unexpected": 0, "planned": 0, "straggler": 0}
    spares = [0.0] * plan.spares
    due = gap_s(next_draws()[0])
    while True:
        up = since = clock
        stretch, found = Stretch(plan), math.inf  # a straggler is found then
        while True:
            speed = 1 - plan.slowdown if math.isfinite(found) else 1.0
            now = min(due, found)
            if plan.work_days:
                finish = since + stretch.until(plan.work_days * DAY - kept) / speed
                if finish <= now:
                    tell("work", up, finish)
                    return {"days": finish / DAY, "productive_days": plan.work_days, **stops}
            elif now >= plan.days * DAY:
                stretch.walk(max(plan.days * DAY - since, 0) * speed)
                tell("work", up, plan.days * DAY)
                return {"days": plan.days, "productive_days": (kept + stretch.work) / DAY, **stops}
            stretch.walk(max(now - since, 0) * speed)
            since = max(now, up)
            gap, which, repair = next_draws()
            if found <= due:
                cause = Cause(
                    name="straggler", per_node_day=0, kind="straggler", takes_node=True, down_minutes=plan.restart_minutes
                )
                break
            due = now + gap_s(gap)
            cause = chosen(causes, which)
            if cause.kind != "straggler":
                break
            if now >= up and math.isinf(found):
                found = now + plan.straggler_minutes * MINUTE
        stops[cause.kind] += 1
        saves = cause.kind != "unexpected"
        lost = 0.0 if saves else stretch.work - stretch.saved
        tell("work", up, now - lost)
        tell("lost", max(now - lost, up), now, cause.name)
        kept += stretch.work - lost
        minutes = plan.planned_minutes if cause.kind == "planned" else plan.detect_minutes + plan.restart_minutes
        down = MINUTE * (minutes if cause.down_minutes is None else cause.down_minutes)
        down += (plan.pause_s + plan.write_s) * saves
        if cause.takes_node:
            down += plan.spare_minutes * MINUTE
            back = -math.log1p(-repair) * plan.repair_hours * HOUR
            if spares:
                first = min(range(len(spares)), key=spares.__getitem__)
                down += max(spares[first] - now, 0)
                spares[first] = now + back
            else:
                down += back
        clock = now + down
        tell("down", now, clock, cause.name)


def chosen(causes: Sequence[Cause], uniform: float) -> Cause:
    """The cause that a uniform number falls on, by their rates."""
    total, reached = sum(c.per_node_day for c in causes), 0.0
    for cause in causes:
        reached += cause.per_node_day
        if uniform < reached / total:
            return cause
    return causes[-1]

"""A run that fails, simulated: 10,000 of them at once, an event of each at a time (paper 3.3.4).

Stops of every cause are a Poisson process over all nodes, in wall time: they strike a run that is starting as well. An unexpected
stop throws away what was done since the last checkpoint that was whole; a planned one saves first. A checkpoint pauses the run
for `pause_s` and, where it is written behind the run, is whole only `write_s` later. A straggler slows the run until it is found,
then leaves as if planned. A node that fails goes to repair and a spare takes its place; where none is left, the run waits for the
first one back.

What is not modelled: failures that come in bunches, nodes that fail again and again, a file system that slows others down.
`failures_reference` is the same, one run and one event at a time, in plain Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openherd.core.errors import ConfigError
from openherd.planning.causes import Cause

Array = NDArray[np.float64]

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
MOST_STOPS = 200_000  # events of one run; more is a run that never gets anywhere
NEVER = 1e18  # seconds
CLASSES = ("productive", "pauses", "lost", "slow", "down", "waiting")  # where the time goes; sums to the run's days


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """How a run lives with failures. The paper gives nodes and days; all else here is assumed, and ours."""

    nodes: int = 2_048
    days: float = 54.0  # of wall time, where `work_days` is 0
    work_days: float = 0.0  # of undisturbed work that is to be done, however long it takes
    checkpoint_minutes: float = 10.0  # of work between two checkpoints
    pause_s: float = 3.0  # that a checkpoint stops the run
    write_s: float = 60.0  # that it then takes in the background; 0: synchronous, all of it in the pause
    detect_minutes: float = 2.0  # until somebody sees that the run stands
    restart_minutes: float = 5.0  # until it works again, on nodes that are there
    planned_minutes: float = 15.0  # of a planned stop
    spares: int = 16
    spare_minutes: float = 1.0  # more, where a spare is taken in; 0: hot
    repair_hours: float = 24.0  # of a node, on average (exponential)
    slowdown: float = 0.1  # of the whole run, by one straggler
    straggler_minutes: float = 60.0  # until it is found

    def __post_init__(self) -> None:
        limits = {
            "nodes": (1, 1e6), "days": (1e-3, 1e4), "work_days": (0, 1e4), "checkpoint_minutes": (1e-3, 1e5), "pause_s": (0, 1e5),
            "write_s": (0, 1e6), "detect_minutes": (0, 1e5), "restart_minutes": (0, 1e5), "planned_minutes": (0, 1e5),
            "spares": (0, 1e4), "spare_minutes": (0, 1e5), "repair_hours": (1e-3, 1e5), "slowdown": (0, 0.99),
            "straggler_minutes": (0, 1e6),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"--{name.replace('_', '-')}", f"{getattr(self, name):g}", allowed=f"{low:g} to {high:g}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of each simulated run; days, shares and counts by run."""

    days: Array
    productive_days: Array
    time: dict[str, Array]  # days by class
    stops: dict[str, Array]  # by kind

    @property
    def goodput(self) -> Array:
        """Share of the time that was work kept."""
        return self.productive_days / self.days


def rate(causes: Sequence[Cause], nodes: int, kind: str = "") -> float:
    """Stops a second of a whole run, of one kind or of all."""
    return nodes * sum(c.per_node_day for c in causes if not kind or c.kind == kind) / DAY


def draws_of(seed: int, event: int, runs: int) -> Array:
    """What is random about the n-th event of every run: (3, runs), for its gap, its cause, its repair; all uniform.

    The same for every plan of a seed, so that plans are compared on the same luck.
    """
    return np.random.default_rng([seed, event]).random((3, runs))


def simulate(plan: RunPlan, causes: Sequence[Cause], runs: int, seed: int = 0) -> Outcome:
    """Simulate so many runs. Raises ConfigError where they never end."""
    total = rate(causes, plan.nodes)
    cumulative = np.cumsum([c.per_node_day for c in causes]) / max(sum(c.per_node_day for c in causes), 1e-300)
    planned_k = np.array([c.kind == "planned" for c in causes], dtype=bool)
    straggler_k = np.array([c.kind == "straggler" for c in causes], dtype=bool)
    takes_k = np.array([c.takes_node for c in causes], dtype=bool)
    default = [plan.planned_minutes if c.kind == "planned" else plan.detect_minutes + plan.restart_minutes for c in causes]
    down_k = MINUTE * np.array([d if c.down_minutes is None else c.down_minutes for c, d in zip(causes, default, strict=True)])

    tau, pause, write = plan.checkpoint_minutes * MINUTE, plan.pause_s, plan.write_s
    speed, hidden, spare = 1 - plan.slowdown, plan.straggler_minutes * MINUTE, plan.spare_minutes * MINUTE
    wanted, end = plan.work_days * DAY, (NEVER if plan.work_days else plan.days * DAY)
    due = gaps(draws_of(seed, 0, runs)[0], total)  # the next stop
    up, kept = np.zeros(runs), np.zeros(runs)  # since when the run works, or will; work saved
    slow, found = np.full(runs, np.inf), np.full(runs, np.inf)  # since when, and until when, a straggler is there
    ready = np.zeros((runs, max(plan.spares, 1)))  # when each spare is there
    waits = np.zeros(runs)  # for a spare, at the end of being down
    finished = np.full(runs, np.nan)
    time = {name: np.zeros(runs) for name in CLASSES}
    stops = {kind: np.zeros(runs) for kind in ("unexpected", "planned", "straggler")}
    active = np.arange(runs)
    for event in range(1, MOST_STOPS):
        gap_u, cause_u, repair_u = draws_of(seed, event, runs)[:, active]
        was_found = found[active] <= due[active]
        now = np.minimum(np.minimum(due[active], found[active]), end)
        ran = effective(now, up[active], slow[active], speed)
        cycles = np.floor(ran / (tau + pause))
        work = cycles * tau + np.minimum(ran - cycles * (tau + pause), tau)
        if wanted:
            left = wanted - kept[active]
            need = left + pause * np.maximum(np.ceil(left / tau) - 1, 0)
            over = need <= ran
            now = np.where(over, moment(need, up[active], slow[active], speed), now)
            work = np.where(over, left, work)
            ran = np.where(over, need, ran)
        else:
            over = now >= end
        safe = tau * np.maximum(np.floor((ran - write) / (tau + pause)), 0)
        cause = np.searchsorted(cumulative, cause_u, side="right").clip(0, len(causes) - 1)
        begins = ~over & ~was_found & straggler_k[cause]
        stopped = ~over & ~begins
        saves = stopped & (was_found | planned_k[cause])

        ends = over | stopped  # the stretch of work, that is
        i = active[ends]
        gained = np.where(over | saves, work, np.minimum(safe, work))[ends]
        kept[i] += gained
        time["productive"][i] += gained
        time["lost"][i] += work[ends] - gained
        time["pauses"][i] += (ran - work)[ends]
        time["slow"][i] += (np.maximum(now - up[active], 0) - ran)[ends]
        # A run that ends, or stops again, before it was up has been down for less than was reckoned with.
        early = np.maximum(up[active] - now, 0)[ends]
        unwaited = np.minimum(early, waits[i])
        time["waiting"][i] -= unwaited
        time["down"][i] -= early - unwaited
        finished[active[over]] = now[over]

        i, at = active[stopped], now[stopped]
        known, of = was_found[stopped], cause[stopped]
        takes = known | takes_k[of]
        down = np.where(known, plan.restart_minutes * MINUTE, down_k[of])
        down += np.where(saves[stopped], pause + write, 0.0) + np.where(takes, spare, 0.0)
        waited = np.zeros(len(i))
        if takes.any():
            repair = -np.log1p(-repair_u[stopped][takes]) * plan.repair_hours * HOUR
            waited[takes] = wait_for_spare(ready, i[takes], at[takes], repair, plan)
        up[i], slow[i], found[i] = at + down + waited, np.inf, np.inf
        time["down"][i] += down
        time["waiting"][i] += waited
        waits[i] = waited
        stops["straggler"][i[known]] += 1
        stops["planned"][i[~known & planned_k[of]]] += 1
        stops["unexpected"][i[~known & ~planned_k[of]]] += 1

        new = begins & (now >= up[active]) & np.isinf(slow[active])
        slow[active[new]], found[active[new]] = now[new], now[new] + hidden
        again = ~was_found & ~over
        due[active[again]] = now[again] + gaps(gap_u[again], total)
        active = active[~over]
        if not len(active):
            break
    else:
        raise ConfigError("openherd plan failures", "runs that never end", do="fewer failures, or a shorter --work-days")
    days = finished / DAY
    return Outcome(days=days, productive_days=kept / DAY, time={n: t / DAY for n, t in time.items()}, stops=stops)


def gaps(uniform: Array, total: float) -> Array:
    """Seconds until the next stop; never where nothing fails."""
    return -np.log1p(-uniform) / total if total > 0 else np.full(uniform.shape, NEVER)


def effective(now: Array, up: Array, slow: Array, speed: float) -> Array:
    """Seconds at full speed that the run has worked since it was up."""
    full = np.maximum(np.minimum(now, slow) - up, 0)
    return full + speed * np.maximum(now - np.maximum(slow, up), 0)


def moment(ran: Array, up: Array, slow: Array, speed: float) -> Array:
    """When the run will have worked for `ran` seconds at full speed."""
    full = slow - up
    return np.where(
        ran <= full, up + ran, np.where(np.isinf(slow), 0.0, slow) + (ran - np.where(np.isinf(full), 0.0, full)) / speed
    )


def wait_for_spare(ready: Array, runs: NDArray[np.intp], at: Array, repair: Array, plan: RunPlan) -> Array:
    """Seconds until a node is there: the first spare, whose place in the row the broken node takes; or the node's own repair."""
    if not plan.spares:
        return repair
    rows = ready[runs]
    first = rows.argmin(1)
    waited = np.maximum(rows[np.arange(len(runs)), first] - at, 0)
    ready[runs, first] = at + repair
    return waited

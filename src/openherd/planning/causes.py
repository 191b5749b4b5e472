"""Why runs stop, and how often: the paper's Table 5, other published rates, and a user's own log (paper 3.3.4).

Rates are per node and day. The paper's are counts: its printed percentages do not agree with them (148 of 419 is 35.3%, not 30.1%).
"""

import csv
import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openherd.core.config import nearest
from openherd.core.errors import ConfigError, InputError

Kind = Literal["unexpected", "planned", "straggler"]
KINDS: tuple[Kind, ...] = ("unexpected", "planned", "straggler")

PAPER_NODES, PAPER_DAYS = 2_048, 54.0  # 16,384 GPUs, 8 a node
PAPER_PLANNED = 47  # firmware, or an operator's change of configuration or data
# Cause, how many of the 419, and whether a node is to be replaced (ours: hardware of a host, and hosts taken for maintenance).
PAPER_UNEXPECTED = (
    ("faulty GPU", 148, True),
    ("HBM3 memory", 72, True),
    ("software bug", 54, False),
    ("switch or cable", 35, False),
    ("host maintenance", 32, True),
    ("GPU SRAM", 19, True),
    ("GPU system processor", 17, True),
    ("NIC", 7, True),
    ("NCCL watchdog timeout", 7, False),
    ("silent data corruption", 6, True),
    ("GPU thermal interface or sensor", 6, True),
    ("SSD", 3, True),
    ("power supply", 3, True),
    ("server chassis", 2, True),
    ("IO expansion board", 2, True),
    ("dependency", 2, False),
    ("CPU", 2, True),
    ("system memory", 2, True),
)
# Kokolis et al. 2024 (arXiv 2410.21680): failures per node and day of Meta's research cluster RSC-1; causes not told apart here.
RSC_1 = 6.5e-3
HARDWARE = ("gpu", "hbm", "memory", "nic", "ssd", "disk", "power", "cpu", "host", "node", "chassis", "board", "ecc", "xid")


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One reason to stop, or to be slow."""

    name: str
    per_node_day: float
    kind: Kind = "unexpected"
    takes_node: bool = False  # the node goes to repair, a spare takes its place
    down_minutes: float | None = None  # from the stop to work again, as a log measured it; None: detection and restart of the plan


def paper_causes() -> list[Cause]:
    """Table 5, and the planned stops."""
    exposure = PAPER_NODES * PAPER_DAYS
    found = [Cause(name=name, per_node_day=n / exposure, takes_node=node) for name, n, node in PAPER_UNEXPECTED]
    return [*found, Cause(name="planned", per_node_day=PAPER_PLANNED / exposure, kind="planned")]


def published(name: str) -> list[Cause]:
    """Causes by the name of their source. Raises ConfigError."""
    known = {"llama3": paper_causes, "rsc1": lambda: [Cause(name="any", per_node_day=RSC_1, takes_node=True)]}
    if name not in known:
        raise ConfigError("--rates", f"{name!r}", do=nearest(name, known))
    return known[name]()


def read_log(path: Path, nodes: int, days: float) -> list[Cause]:
    """Causes from a log of stops: a row each, or a row a cause with its `count`.

    Columns are `cause`, and maybe `time`, `kind`, `takes_node`, `down_minutes`. `days` 0 takes the span of `time`. Raises
    InputError or ConfigError.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [{(k or "").strip().lower(): (v or "").strip() for k, v in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise InputError(path, "no such file", do="give the path of a CSV file") from None
    except (IsADirectoryError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"not a CSV file ({error})", do="give comma-separated text with a header") from None
    if not rows or "cause" not in rows[0]:
        found = "no rows" if not rows else f"columns {', '.join(rows[0])}"
        raise InputError(path, found, allowed="cause, and maybe time, kind, takes_node, down_minutes, count; one row or more")
    if nodes < 1:
        raise ConfigError("--log-nodes", str(nodes), allowed="1 or more: how many nodes the log is of")
    counts: dict[tuple[str, Kind], float] = {}
    down: dict[tuple[str, Kind], list[float]] = {}
    takes: dict[tuple[str, Kind], bool] = {}
    for line, row in enumerate(rows, 2):
        where = f"{path}, line {line}"
        kind = row.get("kind") or ("planned" if row["cause"].lower() == "planned" else "unexpected")
        if not row["cause"] or kind not in KINDS:
            raise InputError(where, f"cause {row['cause']!r}, kind {kind!r}", allowed=f"a cause, and a kind of {', '.join(KINDS)}")
        key = (row["cause"], kind)
        n = number(where, "count", row.get("count") or "1")
        counts[key] = counts.get(key, 0.0) + n
        if row.get("down_minutes"):
            down.setdefault(key, []).append(number(where, "down_minutes", row["down_minutes"]))
        said = row.get("takes_node", "").lower()
        if said not in ("", "0", "1", "yes", "no", "true", "false"):
            raise InputError(where, f"takes_node = {said!r}", allowed="yes, no, or nothing: hardware by its name")
        hardware = any(word in row["cause"].lower() for word in HARDWARE) and kind == "unexpected"
        takes[key] = takes.get(key, False) or (said in ("1", "yes", "true") if said else hardware)
    exposure = nodes * (days or span_days(path, rows))
    return [
        Cause(
            name=name,
            kind=kind,
            per_node_day=n / exposure,
            takes_node=takes[name, kind],
            down_minutes=sum(minutes) / len(minutes) if (minutes := down.get((name, kind), [])) else None,
        )
        for (name, kind), n in counts.items()
    ]


def number(where: str, name: str, text: str) -> float:
    """A number of at least 0. Raises InputError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(where, f"{name} = {text!r}", allowed="a number of 0 or more")
    return value


def span_days(path: Path, rows: list[dict[str, str]]) -> float:
    """Days between the first and the last `time` of a log, and one mean gap more: no log begins with a stop. Raises InputError."""
    try:
        times = sorted(datetime.datetime.fromisoformat(row["time"]) for row in rows)
        days = (times[-1] - times[0]).total_seconds() / 86_400
    except (KeyError, ValueError, TypeError):
        days = 0.0
    if days <= 0:
        allowed = "a column time, as 2026-01-31T12:00, of two moments or more; or --log-days"
        raise InputError(path, "how long the log is cannot be seen", allowed=allowed)
    return days * len(rows) / (len(rows) - 1)

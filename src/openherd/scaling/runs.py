"""Finished training runs from a CSV file: sizes, tokens, FLOPs, losses, by the names that published tables give their columns.

Parameters and tokens are plain counts, losses nats per token. Where tokens or FLOPs are missing they follow from C = 6 N D, the
paper's accounting. A row without one of the numbers is left out and counted; a number that cannot be is refused with its line.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openherd.core.config import nearest
from openherd.core.errors import InputError

Array = NDArray[np.float64]

NAMES = {
    "parameters": ("parameters", "params", "n", "n_params", "model size"),
    "tokens": ("tokens", "d", "t", "n_tokens"),
    "flops": ("flops", "c", "flop", "training flop", "training flops", "compute"),
    "loss": ("loss", "loss_nats", "heldout_loss_nats"),
    "deviation": ("n_star_std",),  # of an optimum's ln N
}
# What makes two rows incomparable, in the columns of published tables; `--by` names others.
LABELS = ("file", "dataset", "hparams", "warmup", "decay", "param_count", "val")
POOLED = "none"
# What a value can be: none of these was ever trained, so a wrong unit is likely.
POSSIBLE = {
    "parameters": (1e3, 1e14, "parameters as a plain count, 1e3 to 1e14 (70e9, not 70)"),
    "tokens": (1e3, 1e17, "tokens as a plain count, 1e3 to 1e17 (15e12, not 15)"),
    "flops": (1e6, 1e30, "FLOPs as a plain count, 1e6 to 1e30"),
    "loss": (0.01, 20.0, "nats per token, 0.01 to 20 (a guess among 128,256 tokens has 11.8)"),
}
EPOCH_COLUMNS = {"model size", "training flop", "loss"}
EPOCH_DROPPED = 5  # highest losses that Epoch AI left out of its own table, arXiv 2404.10102


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs that one law is fitted to; arrays of one length."""

    where: str  # file and group, for messages
    group: Mapping[str, str]
    parameters: Array
    tokens: Array
    flops: Array
    loss: Array
    deviation: Array  # of ln N where the rows are optima; NaN elsewhere
    left_out: Mapping[str, int]  # rows, by reason

    def __len__(self) -> int:
        return len(self.loss)

    def only(self, keep: NDArray[np.bool_], reason: str) -> "Runs":
        """Some of them; the others are counted under a reason."""
        dropped = int((~keep).sum())
        left_out = {**self.left_out, reason: self.left_out.get(reason, 0) + dropped} if dropped else self.left_out
        columns = {name: getattr(self, name)[keep] for name in ("parameters", "tokens", "flops", "loss", "deviation")}
        return Runs(where=self.where, group=self.group, left_out=left_out, **columns)


def read_runs(path: Path, by: Sequence[str] = (), loss_column: str = "", drop_highest: int | None = None) -> list[Runs]:
    """The runs of a CSV file, by group: `by` names columns, ("none",) pools all; by default the label columns that differ.

    `drop_highest` leaves out so many highest losses of a group; by default five of Epoch AI's table of Chinchilla's runs, as they
    did. Raises InputError for a missing column, or a number that cannot be.
    """
    header, rows = read_csv(path)
    columns = find_columns(path, header, loss_column)
    if drop_highest is None:
        drop_highest = EPOCH_DROPPED if {name.strip().lower() for name in header} >= EPOCH_COLUMNS else 0
    labels = _labels(path, header, rows, by)
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    blank: dict[tuple[str, ...], int] = {}
    for line, row in enumerate(rows, 2):
        key = tuple(row[name] for name in labels)
        values = _values(path, line, row, columns)
        if values is None:
            blank[key] = blank.get(key, 0) + 1
        else:
            groups.setdefault(key, []).append(values)
    found = []
    for key, members in groups.items():
        group = dict(zip(labels, key, strict=True))
        where = f"{path}, {', '.join(key)}" if key else str(path)
        arrays = {name: np.array([m[name] for m in members]) for name in (*POSSIBLE, "deviation")}
        left_out = {"a number is missing": blank[key]} if key in blank else {}
        runs = Runs(where=where, group=group, left_out=left_out, **arrays)
        if drop_highest:
            if drop_highest >= len(runs):
                raise InputError(where, f"{len(runs)} runs, of which {drop_highest} are to be dropped", do="give --drop-highest 0")
            keep = np.ones(len(runs), dtype=bool)
            keep[np.argsort(runs.loss, kind="stable")[-drop_highest:]] = False
            runs = runs.only(keep, "among the highest losses")
        found.append(runs)
    if not found:
        raise InputError(path, f"no run among {len(rows)} rows", allowed="rows with parameters, tokens or FLOPs, and a loss")
    return found


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Header and rows of a CSV file. Raises InputError for one that is missing, empty or of uneven rows."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except FileNotFoundError:
        raise InputError(path, "no such file", do="give the path of a CSV file") from None
    except IsADirectoryError:
        raise InputError(path, "is a directory", do="give the path of a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"not a CSV file ({error})", do="give comma-separated text with a header") from None
    if len(lines) < 2:
        raise InputError(path, "no rows", allowed="a header and one row or more")
    header = [name.strip() for name in lines[0]]
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise InputError(f"{path}, line {number}", f"{len(line)} values", allowed=f"{len(header)}, as the header has")
    return header, [dict(zip(header, (value.strip() for value in line), strict=True)) for line in lines[1:]]


def find_columns(path: Path, header: Sequence[str], loss_column: str) -> dict[str, str]:
    """Which column holds what. Raises InputError where size, loss, or both tokens and FLOPs are missing."""
    lower = {name.lower(): name for name in header}
    columns = {what: lower[name] for what, names in NAMES.items() for name in reversed(names) if name in lower}
    if loss_column:
        if loss_column not in header:
            raise InputError(path, f"no column {loss_column!r}", do=nearest(loss_column, header))
        columns["loss"] = loss_column
    elif "loss" not in columns:
        columns |= {name.lower()[:4]: name for name in header[::-1] if name.lower().startswith("loss_")}  # the first of them
    for what in ("parameters", "loss"):
        if what not in columns:
            raise InputError(path, f"no column of {what}", allowed=_allowed(what), do=f"the header has: {', '.join(header)}")
    if "tokens" not in columns and "flops" not in columns:
        allowed = f"{_allowed('tokens')}; or {_allowed('flops')}"
        raise InputError(path, "no column of tokens and none of FLOPs", allowed=allowed, do=f"the header has: {', '.join(header)}")
    return columns


def _allowed(what: str) -> str:
    more = ", or one that begins with loss_" if what == "loss" else ""
    return f"a column named {', '.join(NAMES[what])}{more}"


def _labels(path: Path, header: Sequence[str], rows: Sequence[Mapping[str, str]], by: Sequence[str]) -> list[str]:
    if tuple(by) == (POOLED,):
        return []
    for name in by:
        if name not in header:
            raise InputError(path, f"--by names no column: {name!r}", do=nearest(name, header))
    return list(by) or [name for name in LABELS if name in header and len({row[name] for row in rows}) > 1]


def _values(path: Path, line: int, row: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, float] | None:
    """The numbers of a row, or None where one is missing."""
    values: dict[str, float] = {"deviation": math.nan}
    for what, column in columns.items():
        text = row[column]
        if text.lower() in ("", "nan", "na", "none", "null"):
            if what == "deviation":
                continue
            return None
        try:
            values[what] = float(text)
        except ValueError:
            raise InputError(f"{path}, line {line}", f"{column} = {text!r}", allowed="a number") from None
    if "tokens" not in values:
        values["tokens"] = values["flops"] / (6 * values["parameters"]) if values["parameters"] > 0 else math.nan
    if "flops" not in values:
        values["flops"] = 6 * values["parameters"] * values["tokens"]
    for what, (least, most, allowed) in POSSIBLE.items():
        if not least <= values[what] <= most:
            name = columns.get(what, f"{what} (by C = 6 N D)")
            raise InputError(f"{path}, line {line}", f"{name} = {values[what]:g}", allowed=allowed)
    return values

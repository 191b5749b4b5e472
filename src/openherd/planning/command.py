"""What the words of `openherd plan` do: from arguments to text."""

import argparse
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from openherd.core.errors import ConfigError, InputError
from openherd.planning.calibrate import calibrate
from openherd.planning.check import HALVES, check, errors, half, summary
from openherd.planning.constants import FITTED, LEAST, MOST, ORDER, Table
from openherd.planning.cost import Prices
from openherd.planning.engines import engine
from openherd.planning.exports import export
from openherd.planning.hardware import HARDWARE, PRECISIONS, hardware
from openherd.planning.measured import Measured, read
from openherd.planning.search import Job, Plan, evaluate, parse_layout, search
from openherd.planning.told import plain, plan_text


def plan(given: argparse.Namespace) -> tuple[str, bool]:
    """Text or JSON of a plan, and whether a layout fits. Raises ConfigError for what cannot be."""
    if given.precision not in PRECISIONS:
        raise ConfigError("--precision", f"unknown {given.precision!r}", allowed=", ".join(PRECISIONS))
    if given.best < 1:
        raise ConfigError("--best", f"{given.best}", allowed="1 or more")
    device = hardware(given.hardware)
    job = Job(
        model=given.model,
        gpus=given.gpus,
        hardware=device,
        precision=given.precision,
        engine=engine(given.engine),
        sequence_length=given.seq,
        batch_tokens=given.batch_tokens,
        tokens=given.tokens,
        fitted=read_constants(given.constants),
    )
    prices = Prices(
        power_w=device.server_w if given.power_w is None else given.power_w,
        pue=given.pue,
        kg_per_kwh=given.kg_per_kwh,
        hour_usd=device.hour_usd if given.hour_usd is None else given.hour_usd,
        price_usd=device.price_usd if given.price_usd is None else given.price_usd,
        restart_s=given.restart_s,
        checkpoint_s=given.checkpoint_s,
    )
    found = Plan(job, (evaluate(job, parse_layout(given.layout, job)),), (), {}) if given.layout else search(job, given.best)
    fits = bool(found.best) and found.best[0].fits(job)
    if given.export:
        if not found.best:
            raise ConfigError("--export", "no layout fits", do="'openherd plan' without it says why")
        return export(job, found.best[0], given.export).rstrip("\n"), fits
    if given.page is not None and found.best:
        from openherd.report.planning import plan_page

        given.page.write_text(plan_page(plain(found, prices), device.memory_gib), encoding="utf-8")
    return (json.dumps(plain(found, prices), indent=1) if given.json else plan_text(found, prices)), fits


def read_constants(file: Path | None) -> Table:
    """The planner's constants, and over them those of a file. Raises InputError where it is damaged or says what cannot be."""
    if file is None:
        return FITTED
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(file, f"cannot be read ({error})", do="write it with 'openherd plan calibrate'") from None
    kinds = {h.kind for h in HARDWARE.values()}
    found: Table = {}
    for kind, by_dtype in tables.items():
        for dtype, values in by_dtype.items() if isinstance(by_dtype, dict) else ():
            if kind not in kinds or dtype not in PRECISIONS or not isinstance(values, dict):
                raise InputError(
                    file, f"[{kind}.{dtype}]", allowed=f"[kind.dtype] of {', '.join(sorted(kinds))}; {', '.join(PRECISIONS)}"
                )
            for name, value in values.items():
                if name not in ORDER or not isinstance(value, int | float) or not LEAST[name] <= value <= MOST[name]:
                    allowed = f"{LEAST[name]:g} to {MOST[name]:g}" if name in ORDER else ", ".join(ORDER)
                    raise InputError(file, f"{kind}.{dtype}.{name} = {value}", allowed=allowed)
            found[kind, dtype] = {**FITTED.get((kind, dtype), {}), **values}
    if not found:
        raise InputError(file, "has no constants", do="write it with 'openherd plan calibrate'")
    return {**FITTED, **found}


def check_files(given: argparse.Namespace) -> tuple[list[str], list[str]]:
    """A JSON object for each file, and lines about its worst rows."""
    table = read_constants(given.constants)
    lines = [json.dumps(check(file, table, given.half.replace("-", " "))) for file in given.files]
    worst = [line for file in given.files if given.rows for line in worst_rows(file, table, given.rows)]
    if given.page is not None:
        from openherd.report.planning import check_page

        given.page.write_text(check_page([points(file, table) for file in given.files]), encoding="utf-8")
    return lines, worst


def worst_rows(file: Path, table: Table, n: int) -> list[str]:
    """The rows of a file that are most off, in lines."""
    runs = read(file).rows
    time, held = errors(runs, table)
    most = np.fmax(np.abs(time), np.abs(held))
    lines = [f"{file.name}: the rows that are most off (predicted / measured - 1)"]
    for i in np.argsort(-most)[:n]:
        parts = [f"{what} {error:+.0%}" for what, error in (("time", time[i]), ("memory", held[i])) if not np.isnan(error)]
        lines.append(f"  row {runs[i].number + 1}, {HALVES[not runs[i].fitted]}: {', '.join(parts)}: {runs[i].label}")
    return lines


def points(file: Path, table: Table) -> dict[str, object]:
    """A file's rows as the picture takes them: measured and predicted, and which were held out."""
    found = read(file)
    time, held = errors(found.rows, table)
    rows = [
        {
            "label": run.label,
            "held_out": not run.fitted,
            "seconds": [run.seconds, run.seconds * (1 + float(t))] if run.seconds else None,
            "gib": [run.memory_gib, run.memory_gib * (1 + float(h))] if run.memory_gib else None,
        }
        for run, t, h in zip(found.rows, time, held, strict=True)
    ]
    return {"file": file.stem, "rows": rows}


def calibrate_files(given: argparse.Namespace) -> str:
    """Constants of measured runs, and their errors before and after. Raises InputError where there are too few."""
    runs = [run for file in given.files for run in half(read(file).rows, "fitted") if run.seconds is not None]
    others = [run for file in given.files for run in half(read(file).rows, "held out") if run.seconds is not None]
    if len(runs) < 2:
        found = f"{len(runs)} rows with a time in the half that is fitted"
        raise InputError(given.files[0], found, allowed="2 or more", do="see 'openherd plan check' for rows that were skipped")
    below: Table = {} if given.from_nothing else FITTED
    found_table = calibrate(runs, below)
    lines = ["# constants of measured runs, by 'openherd plan calibrate'; errors of time, median (nine of ten):"]
    for name, rows in (("fitted", runs), ("held out", others)):
        before, after = (error_text(rows, table) for table in (FITTED, {**below, **found_table}))
        lines.append(f"# {len(rows)} rows {name}: {after}; with the planner's own constants {before}")
    for (kind, dtype), values in found_table.items():
        lines += ["", f"[{kind}.{dtype}]", *(f"{name} = {value:g}" for name, value in values.items())]
    text = "\n".join(lines)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")
    return text


def error_text(runs: Sequence[Measured], table: Table) -> str:
    """Median and ninth decile of the errors of time."""
    found = summary(errors(runs, table)[0]) if runs else None
    return f"{found['median']:.1%} ({found['p90']:.1%})" if found else "none"

"""Commands that run recipes and stages: run, sweep, parity, drill, and one stage by its name."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openherd.cli.arguments import EXIT_DIFFERS, EXIT_ERROR, Parser, columns
from openherd.core.errors import ConfigError
from openherd.core.machine import leaves_when_asked

if TYPE_CHECKING:
    from openherd.core.rundir import Run


def command_run(arguments: list[str]) -> int:
    """`openherd run`"""
    parser = Parser(
        prog="openherd run", description="Run a recipe. What is done is not done again; a changed setting re-runs what follows it."
    )
    parser.add_argument("recipe", type=Path, help="a TOML file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the runs go; with --dry-run, where there may be data")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.SETTING=VALUE",
        help="change one setting, STAGE.inputs.NAME or seed; repeatable",
    )
    dry = parser.add_argument_group("without running anything: layouts, memory, steps; needs no data, no processes and no GPU")
    dry.add_argument("--dry-run", action="store_true", help="reckon the training stages; exit code 1 where one does not fit")
    dry.add_argument("--stage", action="append", default=[], metavar="NAME", help="this training stage alone; repeatable")
    dry.add_argument("--device-gb", type=float, default=80.0, metavar="GIB", help="memory of a device (default 80)")
    dry.add_argument("--host-ranks", type=int, default=8, metavar="N", help="processes on a host (default 8)")
    dry.add_argument("--size", default="", metavar="NAME", help="of an imported model that is not there yet: 'openherd model list'")
    dry.add_argument("--json", action="store_true", help="everything, in bytes, as JSON")
    given = parser.parse_args(arguments)
    if given.dry_run:
        return dry_run(given)
    only_dry = [name for name in ("stage", "size", "json") if getattr(given, name)]
    if only_dry or given.out is None:
        parser.error(f"--{only_dry[0]} is for --dry-run" if only_dry else "the following arguments are required: --out")
    from openherd.report.terminal import run_table
    from openherd.runner import Recipe, run_recipe

    recipe = Recipe.read(given.recipe, given.set)
    with leaves_when_asked(given.out):
        done = run_recipe(recipe, given.out)
    print(run_table(recipe.path, given.out, [(step.name, run, before) for step, run, before in done], columns()))
    return 0


def dry_run(given: argparse.Namespace) -> int:
    """`openherd run --dry-run`; the exit code says whether all fits."""
    if given.device_gb <= 0 or given.host_ranks < 1:
        raise ConfigError("--dry-run", f"--device-gb {given.device_gb:g} --host-ranks {given.host_ranks}", allowed="more than 0")
    from openherd import runner
    from openherd.training.dry_run import dry_run_text, fits_text, plain

    found = runner.dry_run(runner.Recipe.read(given.recipe, given.set), given.stage, given.size, given.out)
    missing = [text for stage in found if (text := fits_text(stage, given.device_gb))]
    if given.json:
        print(json.dumps([plain(stage) for stage in found], indent=1))
    else:
        print("\n\n".join(dry_run_text(stage, given.device_gb, given.host_ranks) for stage in found))
    for text in missing:
        print(f"openherd: {text}", file=sys.stderr)
    return EXIT_DIFFERS if missing else 0


def command_sweep(arguments: list[str]) -> None:
    """`openherd sweep`"""
    parser = Parser(prog="openherd sweep", description="Run variants of a recipe; they share every stage that does not differ.")
    parser.add_argument("recipe", type=Path, help="a TOML file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs go")
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.SETTING=A,B,C", help="values of one setting; several multiply"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds for each variant (from the recipe's upwards)")
    given = parser.parse_args(arguments)
    from openherd.report.terminal import sweep_table
    from openherd.runner import Recipe, sweep

    recipe = Recipe.read(given.recipe)
    grid = {}
    for change in given.set:
        key, equals, values = change.partition("=")
        if not equals or not values or key in grid:
            raise ConfigError("--set", f"{change!r}", allowed="stage.setting=value,value,..., each setting once")
        grid[key] = split_values(values)
    if given.seeds < 1:
        raise ConfigError("--seeds", str(given.seeds), allowed="1 or more")
    with leaves_when_asked(given.out):
        runs = sweep(recipe, given.out, grid, range(recipe.seed, recipe.seed + given.seeds))
    print(sweep_table({label: [(step.name, run) for step, run, _ in done] for label, done in runs.items()}))


def split_values(text: str) -> list[str]:
    """The values of a sweep: cut at commas, but not within brackets or quotes."""
    return [value.strip() for value in re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|\"[^\"]*\"|'[^']*'|[^,])+", text)]


def command_parity(arguments: list[str]) -> int:
    """`openherd parity`"""
    parser = Parser(
        prog="openherd parity",
        description="Whether the layouts of a recipe train as one process does: a small model of the same proportions, six steps.",
    )
    parser.add_argument("recipe", type=Path, help="a TOML file with [parallel]")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="parallel.tp=2, or any other setting")
    parser.add_argument(
        "--processes", type=int, default=0, metavar="N", help="processes to start here (default: as the recipe asks)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to compute (default cpu)")
    given = parser.parse_args(arguments)
    from openherd.runner import Recipe, run_parity

    table, agree = run_parity(Recipe.read(given.recipe, given.set), given.processes, given.device)
    print(table)
    return 0 if agree else EXIT_DIFFERS


def command_drill(arguments: list[str]) -> int:
    """`openherd drill`"""
    parser = Parser(
        prog="openherd drill",
        description="A rehearsal of failures: the real loop on real processes, a small model, a recipe's layout, injected faults.",
    )
    parser.add_argument("recipe", type=Path, help="a TOML file; the [parallel] of its first training stage is rehearsed")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="parallel.dp_shard=2, or any other setting")
    parser.add_argument("--faults", default="", metavar="A,B", help="nan, spike, kill, reset, truncate, stop, disk, agent")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the schedule (default 0)")
    parser.add_argument("--timeout", type=float, default=15.0, metavar="S", help="seconds after which a hang is one (default 15)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new directory for both runs")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    given = parser.parse_args(arguments)
    from openherd.runner import Recipe, run_drill
    from openherd.training.drill import drill_table

    kinds = [kind for kind in given.faults.split(",") if kind]
    report = run_drill(Recipe.read(given.recipe, given.set), kinds, given.seed, given.timeout, given.out)
    print(json.dumps(report) if given.json else drill_table(report))
    return 0 if report["passed"] else EXIT_DIFFERS


def run_stage(name: str, arguments: list[str], usage: str = "") -> "Run":
    """One stage as a command: its inputs and settings are options. Returns its run. `usage` is a shorter way to write it."""
    import dataclasses

    from openherd.core.config import parse_value, settings_of
    from openherd.report.terminal import told
    from openherd.runner import StageFunction, single_stage

    stage = StageFunction.load(name, "openherd")
    description = f"{stage.stage.summary} (paper {stage.stage.section}; {stage.stage.target})"
    description += f"\n\n{usage}" if usage else ""
    parser = Parser(
        prog=f"openherd {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    inputs = parser.add_argument_group("inputs (finished run directories, or locations outside where the stage reads them)")
    for option in stage.inputs:
        inputs.add_argument(
            f"--{option.replace('_', '-')}",
            dest=f"input_{option}",
            action="append",
            required=option not in stage.optional,
            metavar="PATH",
        )
    inputs.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run directory to write")
    settings = parser.add_argument_group("settings")
    known = {s.name: s for s in settings_of(stage.config_class)}
    for setting in known.values():
        default = "required" if setting.default is dataclasses.MISSING else f"default {setting.default!r}"
        text = f"{setting.description} ({setting.type_text}; {default})".replace("%", "%%")
        settings.add_argument(f"--{setting.name.replace('_', '-')}", dest=f"setting_{setting.name}", metavar="VALUE", help=text)
    given = vars(parser.parse_args(arguments))
    values = {n: parse_value(s, given[f"setting_{n}"]) for n, s in known.items() if given[f"setting_{n}"] is not None}
    found = {n: given[f"input_{n}"] for n in stage.inputs if given[f"input_{n}"] is not None}
    paths = {n: of if stage.is_list(n) or len(of) > 1 else of[0] for n, of in found.items()}  # several of one are refused
    run, before = single_stage(name, values, paths, given["out"])
    print(f"{'up to date' if before else 'done'}: {run.path} · {told(run)}")
    return run


def command_agent(arguments: list[str]) -> int:
    """`openherd agent`: the second agent of a drill."""
    from openherd.runner import be_agent

    be_agent(Path(arguments[0]))
    return 0


def command_worker(arguments: list[str]) -> int:
    """`openherd worker`: one process of a stage, as the runner starts it."""
    from openherd.parallel.launch import gave_up

    if gave_up():
        return EXIT_ERROR
    from openherd.runner import work

    work(Path(arguments[0]))
    return 0

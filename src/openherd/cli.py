"""The command line: parsing only.

`--help`, `stages` and `where` need nothing beyond the standard library and the static table of stages. Everything else is
imported when its command runs. Errors that a person can mend are one line and exit code 2; tracebacks are our own bugs.
"""

import argparse
import errno
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from openherd import __version__
from openherd.core.errors import ConfigError, LostError, OpenherdError
from openherd.core.machine import leaves_when_asked
from openherd.stages import BY_NAME, STAGES, where

if TYPE_CHECKING:
    from openherd.core.rundir import Run

EXIT_ERROR = 2
EXIT_DIFFERS = 1
EXIT_INTERRUPTED = 130
REFUSED_BY_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)

ABOUT = """openherd: the system of "The Llama 3 Herd of Models", from pages to a chat.

commands:
  run RECIPE --out DIR       run a recipe; what is done is not done again
  run RECIPE --dry-run       its layouts, memory and steps; nothing is run
  chat DIR                   talk to the model of a run
  generate DIR PROMPT        continue or answer one prompt
  serve DIR                  the same by HTTP, as OpenAI's clients ask; a page
  import SOURCE --out DIR    a Llama 3 of Hugging Face's or Meta's, checked
  export DIR --to FORMAT     hf, meta or gguf (llama.cpp, ollama), checked
  show DIR [--mask]          manifest, metrics, lineage; a dialog with its mask
  diff A B                   settings, data and metrics of two runs side by side
  parity RECIPE              whether its layouts train as one process does
  drill RECIPE --out DIR     a rehearsal of failures, on real processes
  sweep RECIPE --out DIR     variants of a recipe; they share what is the same
  metrics DIR --to FORMAT    what training logged: tensorboard, csv or wandb
  clean DIR                  remove what no run names
  data dry-run RUN           what each limit of the heuristics would drop
  tokenizer compare A B      two tokenizers on the same text, by language
  tokenizer convert SOURCE   Meta's rank file to tokenizer.json, and back
  plan MODEL --gpus N        layouts with memory, speed, days, cost, errors
  plan check FILE...         the planner against measured runs
  plan calibrate FILE        its constants from your own runs
  plan tutorial              the tutorial's energy and efficiency, checked
  plan failures              a run that fails, simulated: effective time, days
  scaling fit RUNS.csv       scaling laws from your runs, with intervals
  scaling ladder RECIPE      a recipe of runs by budget and size, to fit
  scaling advise             size and tokens for a budget; over-training
  scaling forecast SCORES    a benchmark's score at more FLOPs, in two stages
  model NAME                 shapes, parameters, FLOPs and cache of a model size
  doctor                     what this machine offers, in words
  stages                     the stages in the paper's order
  where WORD|SECTION         which module does what: "annealing", or "3.4.2"
  STAGE --help               a stage's settings, with units"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(EXIT_ERROR, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def stages_text() -> str:
    """The table of stages."""
    return "\n".join(f"  {s.name:<20}{s.section:<7}{s.summary}" for s in STAGES)


def root_help() -> str:
    """The first help page."""
    return f"usage: openherd COMMAND ...\n\n{ABOUT}\n\nstages (each a command; the paper's section beside it):\n{stages_text()}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = dispatch(arguments)
        if (mesh := sys.modules.get("openherd.parallel.mesh")) is not None and mesh.leave():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # torch's threads abort now and then while Python is taken down
        return code
    except OpenherdError as error:
        return fail(error)
    except KeyboardInterrupt:
        return interrupted()
    except SystemExit:
        raise
    except BrokenPipeError:
        sys.stderr.close()  # the reader, `head` for one, has seen enough
        return 0
    except BaseException as error:  # torch's checkpoint errors are no Exceptions
        if "KeyboardInterrupt" in str(error):  # inside compiled code
            return interrupted()
        refused = refusal(error)
        if refused is None:
            raise
        place = refused.filename or "the output directory"
        what = refused.strerror or "cannot be written"
        return fail(OpenherdError(place, what, do="make room or give another --out, then the same command goes on"))


def fail(error: OpenherdError) -> int:
    """Say what went wrong, or leave it to the process that started this one; returns the exit code."""
    from openherd.parallel.launch import leave_error

    if not leave_error(error):
        print(f"openherd: {error}", file=sys.stderr)
    if isinstance(error, LostError):
        sys.stderr.flush()
        os._exit(error.exit_code)  # the groups of processes that are broken would wait at the end
    return error.exit_code


def interrupted() -> int:
    """Say that the command was stopped, or leave it to the process that started this one; returns the exit code."""
    from openherd.parallel.launch import is_started

    if not is_started():
        print("\nopenherd: stopped; the same command resumes", file=sys.stderr)
    return EXIT_INTERRUPTED


def refusal(error: BaseException | None) -> OSError | None:
    """The error of a full or closed disk behind an error, which libraries wrap in errors of their own; None where there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in REFUSED_BY_DISK:
            return error
        if os.strerror(errno.ENOSPC) in str(error):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        error = error.__cause__ or error.__context__
    return None


def dispatch(arguments: list[str]) -> int:
    """Find the command and call it."""
    if len(arguments) > 1 and arguments[0] == "help":
        return dispatch([arguments[1], "--help"])
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(root_help(), end="")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in ("-V", "--version"):
        print(f"openherd {__version__}")
        return 0
    if (words := " ".join(arguments[:2])) in COMMANDS:
        return int(COMMANDS[words](rest[1:]) or 0)
    if name in COMMANDS:
        return int(COMMANDS[name](rest) or 0)
    if name == "worker":  # not for people
        return command_worker(rest)
    if name == "agent":  # nor this
        return command_agent(rest)
    if name in BY_NAME:
        with leaves_when_asked(f"openherd {name}"):
            run_stage(name, rest)
        return 0
    from openherd.core.config import nearest

    raise ConfigError("command line", f"unknown command {name!r}", do=nearest(name, [*COMMANDS, *BY_NAME]))


def command_stages(arguments: list[str]) -> None:
    """`openherd stages`"""
    Parser(prog="openherd stages", description="The stages in the paper's order.").parse_args(arguments)
    print(stages_text())


def command_where(arguments: list[str]) -> int:
    """`openherd where`"""
    parser = Parser(prog="openherd where", description="Which module does what.")
    parser.add_argument("query", metavar="WORD|SECTION", help="'annealing', or the paper's section: '3.4.2'")
    query = parser.parse_args(arguments).query
    found = where(query)
    for section, module, what in found:
        print(f"{section:<8}{module}\n{'':<8}{what}")
    if not found:
        raise ConfigError("where", f"nothing about {query!r}", do="see 'openherd stages'")
    return 0


def command_run(arguments: list[str]) -> int:
    """`openherd run`"""
    parser = Parser(
        prog="openherd run", description="Run a recipe. What is done is not done again; a changed setting re-runs what follows it."
    )
    parser.add_argument("recipe", type=Path, help="a TOML file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the runs go; with --dry-run, where there may be data")
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.SETTING=VALUE", help="change one setting, or seed=N; repeatable"
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


def columns() -> int:
    """The terminal's width; 0 where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


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


def command_show(arguments: list[str]) -> None:
    """`openherd show`"""
    parser = Parser(prog="openherd show", description="Manifest, metrics and lineage of a run; or a dialog with its loss mask.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run directory, or one that `openherd run` wrote")
    parser.add_argument("--mask", action="store_true", help="print a training dialog, its tokens with loss marked")
    parser.add_argument("--dialog", type=int, default=0, metavar="N", help="which dialog (with --mask)")
    parser.add_argument("--verify", action="store_true", help="read every output again and compare its SHA-256 with the manifest's")
    given = parser.parse_args(arguments)
    from openherd.report.terminal import run_table, show_run
    from openherd.runner import is_run_directory, open_runs, open_stage

    if given.mask:
        from openherd.posttraining.sft import show_mask

        show_mask(open_stage(given.directory, "sft"), given.dialog)
        return
    runs = open_runs(given.directory)
    if given.verify:
        n = sum(run.verified(name).stat().st_size for run in runs.values() for name in run.manifest["outputs"])
        print(f"{len(runs)} run directories, {n / 1e6:,.1f} MB: every output has the SHA-256 that its manifest names")
    elif is_run_directory(given.directory):
        print(*map(show_run, runs.values()))
    else:
        print(run_table(None, given.directory, [(name, run, True) for name, run in runs.items()], columns()))


def command_diff(arguments: list[str]) -> None:
    """`openherd diff`"""
    parser = Parser(prog="openherd diff", description="Settings, data and metrics of two runs side by side.")
    parser.add_argument(
        "first", type=Path, metavar="A", help="a run directory, a directory with run.json, or a run file of a sweep"
    )
    parser.add_argument("second", type=Path, metavar="B")
    given = parser.parse_args(arguments)
    from openherd.report.terminal import diff_text
    from openherd.runner import is_run_directory, open_runs

    first, second = open_runs(given.first), open_runs(given.second)
    if is_run_directory(given.first) and is_run_directory(given.second):
        both = ", ".join(dict.fromkeys([*first, *second]))
        first, second = ({both: run} for runs in (first, second) for run in runs.values())
    print(diff_text(first, second))


def command_metrics(arguments: list[str]) -> None:
    """`openherd metrics`"""
    description = "What the training stages of a run logged, for TensorBoard, a spreadsheet, or Weights & Biases."
    parser = Parser(prog="openherd metrics", description=description)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run, finished or not, or a stage's run directory")
    parser.add_argument("--to", required=True, choices=("tensorboard", "csv", "wandb"), help="what to write")
    where_to = (
        "the folder of event files, or the CSV file; wandb's project (default: DIR/tensorboard, DIR/metrics.csv; of a stage's "
        "directory, which only it writes in, DIR-tensorboard, DIR-metrics.csv beside it)"
    )
    parser.add_argument("--out", type=Path, metavar="PATH", help=where_to)
    parser.add_argument("--follow", action="store_true", help="go on while the run does")
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="between two looks (default 10)")
    given = parser.parse_args(arguments)
    from openherd.report.tracking import Csv, TensorBoard, WeightsAndBiases, export
    from openherd.runner import all_places, is_run_directory

    if given.every <= 0:
        raise ConfigError("--every", f"{given.every:g}", allowed="more than 0")
    places = all_places(given.directory)
    folder = given.directory.resolve()
    if given.out is None and given.to != "wandb" and not folder.is_dir():
        raise ConfigError("metrics", f"{given.directory} is not the folder of a run", do="say where to write: --out PATH")
    beside = f"{folder}-" if is_run_directory(folder) else f"{given.directory}/"
    if given.to == "tensorboard":
        sink: Any = TensorBoard(given.out or Path(f"{beside}tensorboard"))
    elif given.to == "csv":
        sink = Csv(given.out or Path(f"{beside}metrics.csv"))
    else:
        sink = WeightsAndBiases(str(given.out or "openherd"), folder.name)
    print(export(places, sink, given.every if given.follow else 0.0))


def command_clean(arguments: list[str]) -> None:
    """`openherd clean`"""
    parser = Parser(prog="openherd clean", description="Remove run directories that no run or sweep names.")
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--dry-run", action="store_true", help="say what would go")
    given = parser.parse_args(arguments)
    from openherd.runner import clean, unused

    if given.dry_run:
        print("\n".join(str(path) for path in unused(given.directory)) or "nothing to remove")
        return
    n, n_bytes = clean(given.directory)
    print(f"{n} run directories removed, {n_bytes / 1e6:.1f} MB")


def command_model(arguments: list[str]) -> None:
    """`openherd model`"""
    parser = Parser(prog="openherd model", description="Shapes, parameters, FLOPs and cache of a model size; nothing is built.")
    parser.add_argument("name", help="llama3-405b, for one; 'list' prints all")
    parser.add_argument(
        "--sequence-length", type=int, default=8_192, metavar="TOKENS", help="for the FLOPs per token (default 8192)"
    )
    given = parser.parse_args(arguments)
    from openherd.model.table import model_text

    print(model_text(given.name, given.sequence_length))


def command_plan(arguments: list[str]) -> int:
    """`openherd plan`; the exit code says whether anything fits."""
    parser = Parser(
        prog="openherd plan",
        description="The fastest layouts of a model on so many GPUs, before anything is paid: memory and time by part, days, "
        "energy and money, with the error on measured runs; and why others do not fit. Needs no GPU.",
        epilog="Others: 'openherd plan check FILE...', measured runs against predictions; 'openherd plan calibrate FILE', "
        "constants from your own runs; 'openherd plan tutorial', its figures of energy and efficiency with the arithmetic; "
        "'openherd plan failures', a run that fails, simulated. Guides: docs/planning.md, docs/failures.md",
    )
    parser.add_argument("model", metavar="MODEL", help="llama3-405b, for one; 'openherd model list' names all")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="all of them")
    parser.add_argument(
        "--hardware", default="h100", metavar="NAME", help="a100-40g, a100-80g, h100, h200, b200, ... (default h100)"
    )
    parser.add_argument("--precision", default="bf16", metavar="DTYPE", help="bf16, fp16, fp8, mxfp8, nvfp4 (default bf16)")
    engines = "whose memory and overlap: llama3 (the paper's, default), ours, torchtitan, megatron"
    parser.add_argument("--engine", default="llama3", metavar="NAME", help=engines)
    parser.add_argument("--seq", type=int, default=8_192, metavar="TOKENS", help="of a sequence (default 8192)")
    parser.add_argument("--batch-tokens", type=int, default=16_777_216, metavar="TOKENS", help="of a step (default 16777216)")
    parser.add_argument("--tokens", type=float, default=15.6e12, metavar="TOKENS", help="of the run (default 15.6e12)")
    parser.add_argument(
        "--layout",
        default="",
        metavar="TP=8,...",
        help="this one alone: tp, cp, pp, dp, v, micro, recompute, sharding, replicas, layers",
    )
    parser.add_argument("--best", type=int, default=5, metavar="N", help="layouts shown (default 5)")
    exports = "print the best layout, or --layout's, as recipe, torchtitan or megatron arguments"
    parser.add_argument("--export", default="", metavar="FORMAT", help=exports)
    parser.add_argument("--constants", type=Path, metavar="FILE", help="what 'openherd plan calibrate --out FILE' wrote")
    parser.add_argument("--json", action="store_true", help="everything, in bytes and seconds, as JSON")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write pictures of memory and time by part")
    money = parser.add_argument_group("energy, carbon, money and failures; prices are rough defaults of ours: give your own")
    money.add_argument(
        "--power-w", type=float, metavar="W", help="of a GPU with its share of the server (default: the server's rating)"
    )
    money.add_argument("--pue", type=float, default=1.1, help="power of the building over that of the servers (default 1.1)")
    money.add_argument(
        "--kg-per-kwh", type=float, default=0.414, metavar="KG", help="CO2 of a kWh (default 0.414: Llama 3.1's model card)"
    )
    money.add_argument("--hour-usd", type=float, metavar="USD", help="of a GPU hour (default by hardware)")
    money.add_argument("--price-usd", type=float, metavar="USD", help="of a GPU (default by hardware)")
    money.add_argument(
        "--restart-s", type=float, default=600.0, metavar="S", help="from a failure until training goes on (default 600)"
    )
    money.add_argument(
        "--checkpoint-s", type=float, default=10.0, metavar="S", help="that training waits for a checkpoint (default 10)"
    )
    given = parser.parse_args(arguments)
    from openherd.planning.command import plan

    text, fits = plan(given)
    print(text)
    return 0 if fits else EXIT_DIFFERS


def command_plan_check(arguments: list[str]) -> None:
    """`openherd plan check`"""
    parser = Parser(
        prog="openherd plan check",
        description="Measured runs against predictions: one JSON object a line and file, with absolute relative errors of step "
        "time and memory. Files are known by their header: vTrain, llm-foundry, Megatron-Bridge, torchtitan, published tables, or "
        "your own (docs/planning.md).",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="CSV")
    parser.add_argument("--half", choices=("all", "fitted", "held-out"), default="all", help="of the rows (default all)")
    parser.add_argument("--constants", type=Path, metavar="FILE", help="what 'openherd plan calibrate --out FILE' wrote")
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="also the N rows that are most off, on stderr")
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write a picture: predicted against measured")
    given = parser.parse_args(arguments)
    from openherd.planning.command import check_files

    lines, worst = check_files(given)
    for line in lines:
        print(line)
    for line in worst:
        print(line, file=sys.stderr)


def command_plan_calibrate(arguments: list[str]) -> None:
    """`openherd plan calibrate`"""
    parser = Parser(
        prog="openherd plan calibrate",
        description="Fit the planner's constants to measured runs, on every second row, and say how far off the others are.",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="CSV of any kind that 'openherd plan check' knows")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the constants (TOML) for --constants")
    parser.add_argument("--from-nothing", action="store_true", help="do not begin with the planner's own constants")
    given = parser.parse_args(arguments)
    from openherd.planning.command import calibrate_files

    print(calibrate_files(given))


def command_plan_tutorial(arguments: list[str]) -> None:
    """`openherd plan tutorial`"""
    description = "The tutorial's figures of energy, homes and money, and of efficiency by parameters, with the arithmetic."
    Parser(prog="openherd plan tutorial", description=description).parse_args(arguments)
    from openherd.planning.cost import tutorial_text

    print(tutorial_text())


def command_data_dry_run(arguments: list[str]) -> None:
    """`openherd data dry-run`"""
    parser = Parser(prog="openherd data dry-run", description="What each limit of heuristics would drop, with examples.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run of heuristics")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another limit, in TOML")
    given = parser.parse_args(arguments)
    import tomllib

    from openherd.core.rundir import Run
    from openherd.data.heuristics import dry_run_text

    try:
        changes = tomllib.loads("\n".join(given.set))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("--set", f"not TOML ({error})", allowed="NAME=VALUE") from None
    run = Run.open(given.run)
    print(dry_run_text(run, run.input("documents"), changes))


def command_tokenizer_compare(arguments: list[str]) -> None:
    """`openherd tokenizer compare`"""
    parser = Parser(prog="openherd tokenizer compare", description="Two tokenizers on the same text, by language.")
    what = "a rank file (tokenizer.model), a directory with tokenizer.json, or a run directory"
    parser.add_argument("first", type=Path, metavar="A", help=what)
    parser.add_argument("second", type=Path, metavar="B", help="another")
    on = "the text: .parquet or .jsonl with 'text' and perhaps 'language', .txt, a folder of .txt by language, or a run directory"
    parser.add_argument("--on", type=Path, required=True, metavar="DATA", help=on)
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write a page with a picture")
    given = parser.parse_args(arguments)
    from openherd.tokenizer.compare import compare

    print(compare(given.first, given.second, given.on, given.page))


def command_tokenizer_convert(arguments: list[str]) -> None:
    """`openherd tokenizer convert`"""
    description = "Meta's rank file (tokenizer.model) to a directory with tokenizer.json, or such a directory to a rank file."
    parser = Parser(prog="openherd tokenizer convert", description=description)
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="a rank file, a directory with tokenizer.json, or a run directory"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="the directory or the rank file to write")
    given = parser.parse_args(arguments)
    from openherd.tokenizer.files import convert

    print(convert(given.source, given.out))


def command_import(arguments: list[str]) -> int:
    """`openherd import`: the stage, its source named first, and the check printed."""
    words = ["--check", "false"] if "--no-check" in arguments else []
    rest = [a for a in arguments if a != "--no-check"]
    if rest and not rest[0].startswith("-"):
        rest.insert(0, "--source")
    run = run_stage("import", [*rest, *words], "openherd import SOURCE --out DIR [--no-check], or with more of these options:")
    from openherd.interchange.check import Check

    found = run.metrics["check"]
    print(f"check: {Check(**found).text() if isinstance(found, dict) else found}")
    return 0


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


def command_scaling(arguments: list[str]) -> None:
    """`openherd scaling`"""
    text = "Scaling laws (paper 3.2.1). Commands: fit, ladder, advise, forecast; each has a --help."
    parser = Parser(prog="openherd scaling", description=text)
    parser.add_argument("what", choices=("fit", "ladder", "advise", "forecast"))
    parser.parse_args(arguments)


def command_scaling_fit(arguments: list[str]) -> int:
    """`openherd scaling fit`"""
    from openherd.scaling.told import LAWS

    parser = Parser(
        prog="openherd scaling fit",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fit a scaling law to finished runs, with bootstrap intervals.\n\n"
        + "\n".join(f"  {law:<12}{text}" for law, text in LAWS.items()),
    )
    parser.add_argument("runs", type=Path, metavar="RUNS.csv", help="parameters, tokens or FLOPs, loss (nats per token), by row")
    parser.add_argument("--law", required=True, choices=tuple(LAWS))
    parser.add_argument(
        "--by",
        default="",
        metavar="COLUMN,...",
        help="a fit for each group of rows (default: by known labels; none pools)",
    )
    parser.add_argument("--loss", default="", metavar="COLUMN", help="which loss (default: loss, else the first loss_...)")
    parser.add_argument(
        "--drop-highest",
        type=int,
        metavar="N",
        help="leave out the N highest losses (default 0; 5 of Epoch's table, as they did)",
    )
    parser.add_argument("--all-runs", action="store_true", help="overtrain: fit to every run, not to the smallest alone")
    parser.add_argument(
        "--minimum",
        default="akima",
        choices=("akima", "parabola"),
        help="isoflop: how an optimum is found; the paper: parabola",
    )
    parser.add_argument(
        "--noise", type=float, default=0.002, metavar="NATS", help="isoflop: of a loss between seeds (default 0.002, Porian et al.)"
    )
    fitting_arguments(parser)
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="write the pictures of the fit as one page")
    parser.add_argument("--json", action="store_true", help="one object a line, one for each group")
    given = parser.parse_args(arguments)
    check_least({"--draws": (given.draws, 100), "--drop-highest": (given.drop_highest or 0, 0)})
    if not 0 < given.noise < 1:
        raise ConfigError("--noise", f"{given.noise:g}", allowed="more than 0, less than 1 nat")
    from openherd.scaling.fit import fit_parametric
    from openherd.scaling.isoflop import fit_isoflop
    from openherd.scaling.overtrain import fit_overtrain
    from openherd.scaling.runs import read_runs
    from openherd.scaling.told import fit_text, json_lines

    fits, failed = [], []
    for runs in read_runs(given.runs, [name for name in given.by.split(",") if name], given.loss, given.drop_highest):
        try:
            if given.law == "parametric":
                fit = fit_parametric(runs, given.draws, given.seed)
            elif given.law == "overtrain":
                fit = fit_overtrain(runs, given.all_runs, given.draws, given.seed)
            else:
                fit = fit_isoflop(runs, given.minimum, given.noise, given.draws, given.seed)
        except OpenherdError as error:  # the other groups may have what a law needs
            failed.append(error)
            continue
        fits.append((runs, fit))
    if not fits:
        raise failed[0]
    print(json_lines([fit.plain() for _, fit in fits]) if given.json else "\n\n".join(fit_text(fit) for _, fit in fits))
    if given.page:
        from openherd.scaling.page import write_page

        write_page(given.page, fits, given.minimum)
    for reason in failed:
        print(f"openherd: {reason}", file=sys.stderr)
    return EXIT_DIFFERS if failed else 0


def command_scaling_advise(arguments: list[str]) -> None:
    """`openherd scaling advise`"""
    parser = Parser(
        prog="openherd scaling advise",
        description="The size and tokens of the least loss for a budget, and what over-training costs and saves.",
    )
    parser.add_argument("--flops", type=count, metavar="C", help="the budget: training, and serving with --served-tokens")
    parser.add_argument("--served-tokens", type=count, default=0.0, metavar="T", help="tokens that the model will read and write")
    parser.add_argument("--parameters", type=count, metavar="N", help="instead of a budget: this size, 8B for one, ...")
    parser.add_argument("--tokens", type=count, metavar="D", help="... on so many tokens, beside the optimal model of its loss")
    parser.add_argument(
        "--law",
        default="epoch",
        help="a published law: epoch (default), hoffmann; llama3: the paper's, of optimal tokens alone",
    )
    parser.add_argument("--runs", type=Path, metavar="RUNS.csv", help="fit the law to these runs instead; gives intervals")
    fitting_arguments(parser)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    model = given.parameters is not None and given.tokens is not None
    if model == (given.flops is not None) or (given.parameters is None) != (given.tokens is None):
        raise ConfigError(
            "openherd scaling advise", "neither a budget nor a model, or both", allowed="--flops, or --parameters and --tokens"
        )
    check_least({"--draws": (given.draws, 100)})
    from openherd.scaling import advise, told
    from openherd.scaling.fit import fit_parametric
    from openherd.scaling.runs import POSSIBLE, read_runs

    for option in ("flops", "parameters", "tokens"):
        low, high, allowed = POSSIBLE[option]
        if (value := getattr(given, option)) is not None and not low <= value <= high:
            raise ConfigError(f"--{option}", f"{value:g}", allowed=allowed)
    if given.served_tokens < 0:
        raise ConfigError("--served-tokens", f"{given.served_tokens:g}", allowed="0 or more")
    if given.law == "llama3" and not given.runs:
        if model or given.served_tokens:
            raise ConfigError("--law", "'llama3' gives optimal tokens alone, no loss", allowed="epoch or hoffmann here, or --runs")
        found = advise.llama_3(given.flops)
        text = told.llama_3_text(found)
    else:
        if given.runs:
            groups = read_runs(given.runs)
            if len(groups) > 1:
                raise ConfigError(given.runs, f"{len(groups)} groups of runs", allowed="one", do="keep one group in the file")
            law = advise.Law.fitted(fit_parametric(groups[0], given.draws, given.seed), str(given.runs))
        else:
            law = advise.Law.published(given.law)
        found = (
            advise.compare(law, given.parameters, given.tokens) if model else advise.advise(law, given.flops, given.served_tokens)
        )
        text = told.comparison_text(found) if model else told.advice_text(found)
    print(told.json_lines([found]) if given.json else text)


def command_scaling_forecast(arguments: list[str]) -> None:
    """`openherd scaling forecast`"""
    parser = Parser(
        prog="openherd scaling forecast",
        description="Foretell a benchmark's accuracy: FLOPs to the normalised NLL of the right answer, that to accuracy.",
    )
    text = "columns flops, nll (nats per character of the right answer), accuracy; a row may lack flops, or accuracy"
    parser.add_argument("scores", type=Path, metavar="SCORES.csv", help=text)
    parser.add_argument("--flops", type=count, action="append", required=True, metavar="C", help="may be given again")
    parser.add_argument("--chance", type=float, default=0.25, metavar="P", help="accuracy of guessing (default 0.25: four choices)")
    fitting_arguments(parser)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    check_least({"--draws": (given.draws, 100)})
    from openherd.scaling.forecast import forecast, read_scores
    from openherd.scaling.runs import POSSIBLE
    from openherd.scaling.told import forecast_text, json_lines

    low, high, allowed = POSSIBLE["flops"]
    for value in given.flops:
        if not low <= value <= high:
            raise ConfigError("--flops", f"{value:g}", allowed=allowed)
    found = forecast(read_scores(given.scores), given.flops, given.chance, given.draws, given.seed)
    print(json_lines([found]) if given.json else forecast_text(found))


def command_scaling_ladder(arguments: list[str]) -> None:
    """`openherd scaling ladder`"""
    parser = Parser(
        prog="openherd scaling ladder",
        description="Write a recipe that trains a ladder of models, fits scaling laws to them, and foretells the larger ones.",
    )
    parser.add_argument("recipe", type=Path, help="a recipe whose data stages are used, to token-shards")
    parser.add_argument("--flops", type=counts, required=True, metavar="C,...", help="the budgets; the paper: 6e18 to 1e22")
    parser.add_argument("--held-out", type=counts, required=True, metavar="C,...", help="larger budgets, foretold and not fitted")
    parser.add_argument("--sizes", required=True, metavar="NAME,...", help="model sizes to choose from: 'openherd model list'")
    parser.add_argument(
        "--sizes-per-budget", type=int, default=4, metavar="N", help="the nearest to the expected optimum (default 4)"
    )
    parser.add_argument(
        "--tokens-per-parameter", type=float, default=20.0, metavar="R", help="expected at the optimum (default 20)"
    )
    parser.add_argument("--sequence-length", type=int, default=8_192, metavar="T", help="tokens (default 8192)")
    ends = "at the smallest and largest"
    parser.add_argument(
        "--batch-tokens", type=counts, default=(250e3, 4e6), metavar="A,B", help=f"{ends} budget (default the paper's 250K,4M)"
    )
    parser.add_argument(
        "--learning-rates", type=counts, default=(4e-4, 2e-4), metavar="A,B", help=f"{ends} of --rate-sizes (default 4e-4,2e-4)"
    )
    parser.add_argument(
        "--rate-sizes", type=counts, default=(40e6, 16e9), metavar="A,B", help="sizes of these rates (default the paper's 40M,16B)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="of every run; or STAGE.SETTING=VALUE, of a data stage"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RECIPE.toml", help="the recipe to write")
    given = parser.parse_args(arguments)
    for option in ("batch_tokens", "learning_rates", "rate_sizes"):
        if len(getattr(given, option)) != 2:
            raise ConfigError(f"--{option.replace('_', '-')}", f"{len(getattr(given, option))} numbers", allowed="two: A,B")
    check_least({"--sizes-per-budget": (given.sizes_per_budget, 4), "--sequence-length": (given.sequence_length, 8)})
    from openherd.scaling.rungs import ladder_recipe, recipe_text, rungs

    runs = rungs(
        given.flops,
        given.held_out,
        [name for name in given.sizes.split(",") if name],
        given.sequence_length,
        given.sizes_per_budget,
        given.tokens_per_parameter,
        given.batch_tokens,
        given.learning_rates,
        given.rate_sizes,
    )
    recipe = ladder_recipe(given.recipe, runs, given.held_out, given.sequence_length, given.set, given.out.stem)
    about = f"A ladder of {len(runs)} runs for scaling laws (paper 3.2.1), on the data of {given.recipe.name}."
    given.out.write_text(recipe_text(recipe, shlex.join(["openherd", "scaling", "ladder", *arguments]), about), encoding="utf-8")
    for run in runs:
        held = "  foretold" if run.flops in given.held_out else ""
        steps = f"{run.steps:>9,} steps of {run.batch_tokens:,} tokens"
        print(f"{run.name:<24}{run.flops:>10.3g} FLOPs{steps}, rate {run.learning_rate:g}{held}")
    print(f"{given.out}: run it with 'openherd run {given.out} --out DIR'")


def command_plan_failures(arguments: list[str]) -> None:
    """`openherd plan failures`"""
    parser = Parser(
        prog="openherd plan failures",
        description="Simulate a run that fails: effective time, days, the best checkpoint interval, what one change buys.",
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="of the run (default the paper's 2048, of 8 GPUs)")
    parser.add_argument("--days", type=float, metavar="D", help="of wall time (default the paper's 54)")
    parser.add_argument("--work-days", type=float, metavar="D", help="instead: days of undisturbed work to be done")
    rates = parser.add_argument_group("how often what fails")
    rates.add_argument(
        "--rates",
        default="llama3",
        help="published: llama3 (default: Table 5 and 47 planned stops), rsc1 (6.5 per 1,000 node-days)",
    )
    rates.add_argument(
        "--log", type=Path, metavar="LOG.csv", help="your own: cause, and maybe time, kind, takes_node, down_minutes, count"
    )
    rates.add_argument("--log-nodes", type=int, default=0, metavar="N", help="nodes that the log is of")
    rates.add_argument(
        "--log-days", type=float, default=0.0, metavar="D", help="days that it covers (default: the span of its times)"
    )
    rates.add_argument(
        "--stragglers", type=float, default=0.0, metavar="N", help="nodes that turn slow, per 1,000 node-days (default 0)"
    )
    assumed = parser.add_argument_group("how the run lives with it (the paper does not say; the defaults are assumed)")
    for option, what in (
        ("checkpoint-minutes", "of work between checkpoints"),
        ("pause-s", "that a checkpoint stops the run"),
        ("write-s", "that it then takes in the background; 0: synchronous, all in the pause"),
        ("detect-minutes", "until a stop is seen"),
        ("restart-minutes", "until the run works again"),
        ("planned-minutes", "of a planned stop"),
        ("spares", "nodes that stand by"),
        ("spare-minutes", "more where a spare is taken in; 0: hot"),
        ("repair-hours", "of a node, on average"),
        ("slowdown", "of the whole run by one straggler"),
        ("straggler-minutes", "until it is found"),
    ):
        assumed.add_argument(f"--{option}", type=int if option == "spares" else float, metavar="X", help=what)
    parser.add_argument("--runs", type=int, default=10_000, help="simulated (default 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compare", action="store_true", help="leave out the best interval and what one change buys")
    parser.add_argument("--page", type=Path, metavar="FILE.html", help="write the pictures as one page")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    check_least({"--runs": (given.runs, 100)})
    from openherd.planning.causes import Cause, published, read_log
    from openherd.planning.failures import RunPlan
    from openherd.planning.reliability import assess, reliability_text

    plan = RunPlan(**{n: v for n in RunPlan.__dataclass_fields__ if (v := getattr(given, n, None)) is not None})
    causes = read_log(given.log, given.log_nodes, given.log_days) if given.log else published(given.rates)
    if not 0 <= given.stragglers < 1e5:
        raise ConfigError("--stragglers", f"{given.stragglers:g}", allowed="0 or more per 1,000 node-days")
    if given.stragglers:
        causes.append(Cause(name="straggler", per_node_day=given.stragglers / 1e3, kind="straggler"))
    found = assess(plan, causes, given.runs, given.seed, not given.no_compare)
    print(json.dumps(found) if given.json else reliability_text(found, causes))
    if given.page:
        from openherd.planning.failures_page import write_failures_page

        write_failures_page(given.page, found, plan, causes, given.seed)


def fitting_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of everything with bootstrap intervals."""
    parser.add_argument("--draws", type=int, default=1_000, metavar="N", help="bootstrap samples behind an interval (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")


def check_least(limits: dict[str, tuple[int, int]]) -> None:
    """Raise ConfigError where an option is under the least that it may be."""
    for option, (value, least) in limits.items():
        if value < least:
            raise ConfigError(option, f"{value:g}", allowed=f"{least:g} or more")


def counts(text: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    return tuple(count(part) for part in text.split(","))


def count(text: str) -> float:
    """A number as a person writes it: 3.8e25, 8B, 15T."""
    scale = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:].upper(), 1.0)
    return float(text[:-1] if scale > 1 else text) * scale


def command_export(arguments: list[str]) -> None:
    """`openherd export`"""
    parser = Parser(prog="openherd export", description="A model to where others use it, with the check that nothing changed.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run, a stage's run directory, or a model directory")
    formats = "hf: a Hugging Face directory; meta: consolidated.00.pth and params.json; gguf: one file for llama.cpp and ollama"
    parser.add_argument("--to", required=True, choices=("hf", "meta", "gguf"), help=formats)
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="the directory, or the GGUF file, to write")
    parser.add_argument(
        "--type", default="", choices=("f16", "bf16", "q8_0"), help="of a GGUF file's weights (default: their own, f16 for fp32)"
    )
    parser.add_argument("--no-check", action="store_true", help="do not compare; the manifest says so")
    given = parser.parse_args(arguments)
    from openherd.interchange.exporting import export

    print(export(model_directory(given.directory), given.to, given.out, given.type, not given.no_check))


def command_doctor(arguments: list[str]) -> None:
    """`openherd doctor`"""
    Parser(prog="openherd doctor", description="What this machine offers, in words.").parse_args(arguments)
    from openherd.model.device import doctor_text

    print(doctor_text())


def command_chat(arguments: list[str]) -> None:
    """`openherd chat`"""
    about = "Talk to the model of a run; answers stream. Ctrl-C stops one. /help in the conversation lists its commands."
    parser = Parser(prog="openherd chat", description=about)
    generation_arguments(parser)
    given = parser.parse_args(arguments)
    from openherd.core.errors import InputError
    from openherd.inference.chat import chat
    from openherd.report.terminal import example_question
    from openherd.runner import open_stage

    directory = model_directory(given.directory)
    try:
        example = example_question(open_stage(given.directory, "dialogs"))
    except InputError:  # a model directory, or a run that made no dialogs
        example = ""
    chat(directory, sampling_of(given), given.system, example, given.weights, given.device)


def command_generate(arguments: list[str]) -> None:
    """`openherd generate`"""
    parser = Parser(prog="openherd generate", description="Answer one prompt, or continue one text with --text.")
    generation_arguments(parser)
    parser.add_argument("prompt", help="the prompt; '-' reads standard input")
    parser.add_argument("--text", action="store_true", help="continue the text itself, without a chat")
    given = parser.parse_args(arguments)
    from openherd.inference.chat import generate_one

    prompt = sys.stdin.read() if given.prompt == "-" else given.prompt
    generate_one(
        model_directory(given.directory), prompt, sampling_of(given), given.system, given.text, given.weights, given.device
    )


def command_serve(arguments: list[str]) -> None:
    """`openherd serve`"""
    parser = Parser(
        prog="openherd serve", description="Answer by HTTP: OpenAI's endpoints under /v1, a page to chat on at /, /metrics."
    )
    what = "a run, a stage's run directory, or a model directory"
    parser.add_argument("directory", type=Path, metavar="DIR", help=f"{what}; its name is the model's")
    parser.add_argument("--name", default="", help="another name for it")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=DIR", help="serve this one too; may be given again")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=8_000, help="0: any that is free (default 8000)")
    parser.add_argument("--api-key", action="append", default=[], metavar="KEY", help="ask for a key under /v1; may be given again")
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="a name the server is called by, behind a proxy for one"
    )
    parser.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="pages of this origin may call it too")
    parser.add_argument("--max-queue", type=int, default=256, metavar="N", help="answers that may wait their turn (default 256)")
    parser.add_argument("--max-tokens", type=int, default=0, metavar="N", help="of an answer (default 0: what the context holds)")
    parser.add_argument("--max-body-mb", type=float, default=4.0, metavar="MB", help="of a request (default 4)")
    parser.add_argument("--grace", type=float, default=30.0, metavar="S", help="seconds to finish in at the end (default 30)")
    parser.add_argument("--cache-gb", type=float, default=1.0, metavar="GIB", help="keys and values of each model (default 1)")
    parser.add_argument(
        "--tool-format", default="json", choices=("json", "function", "python"), help="how the model writes calls (default json)"
    )
    parser.add_argument("--deterministic", action="store_true", help="an answer does not depend on what else is asked; slower")
    loading_arguments(parser)
    given = parser.parse_args(arguments)
    limits = {"max-queue": 0, "max-tokens": 0, "grace": 0, "cache-gb": 0, "max-body-mb": 0.001}
    for name, least in limits.items():
        if not least <= (value := getattr(given, name.replace("-", "_"))) < 1e9:
            raise ConfigError(f"--{name}", f"{value:g}", allowed=f"{least:g} or more")
    texts = {"name": [given.name or "x"], "host": [given.host], "api-key": given.api_key, "allowed-host": given.allowed_host}
    for name, values in texts.items():
        for value in values:
            if not value.strip() or not value.isprintable():
                raise ConfigError(f"--{name}", f"{value!r}", allowed="a text in one line, not empty")
    for origin in given.cors:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            raise ConfigError("--cors", f"{origin!r}", allowed="SCHEME://HOST[:PORT] without a path, or * for all")
    directories = {given.name or given.directory.resolve().name: given.directory}
    for pair in given.model:
        name, equals, directory = pair.partition("=")
        if not equals or not name.strip() or not name.isprintable() or name in directories:
            raise ConfigError("--model", f"{pair!r}", allowed="NAME=DIR, each name once")
        directories[name] = Path(directory)
    from openherd.serving.server import Served, ServerConfig, serve

    config = ServerConfig(
        host=given.host,
        port=given.port,
        api_keys=tuple(given.api_key),
        origins=tuple(given.cors),
        allowed_hosts=tuple(given.allowed_host),
        max_queue=given.max_queue,
        max_tokens=given.max_tokens,
        max_body_bytes=int(given.max_body_mb * 1e6),
        grace_s=given.grace,
        tool_format=given.tool_format,
    )
    more = {"weights": given.weights, "device": given.device, "deterministic": given.deterministic}
    paths = {name: model_directory(directory) for name, directory in directories.items()}
    serve([Served.load(name, path, cache_bytes=int(given.cache_gb * 2**30), **more) for name, path in paths.items()], config)


def generation_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of chat and generate."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run, a stage's run directory, or a model directory")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, default=0, metavar="N", help="choose among the N likeliest tokens; 0: all (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="among the fewest that have this probability together")
    parser.add_argument("--min-p", type=float, default=0.0, help="among those with this share of the likeliest one's probability")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="over 1 makes tokens that were there unlikelier")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--system", default="", help="a system message")
    loading_arguments(parser)


def loading_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of everything that opens a model to answer with."""
    parser.add_argument("--weights", default="auto", metavar="TYPE", help="auto (the faster one here), float32, bfloat16, int8")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps")


def sampling_of(given: argparse.Namespace) -> Any:
    """The sampling that the arguments ask for. Raises ConfigError."""
    from openherd.inference.sampling import Sampling

    if given.max_new_tokens < 1:
        raise ConfigError("max-new-tokens", str(given.max_new_tokens), allowed="at least 1")
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    return Sampling(**{name: getattr(given, name) for name in names}, stop_strings=tuple(given.stop))


def model_directory(path: Path) -> Path:
    """The model directory behind a run, a stage's run, or a path to one."""
    if (path / "config.json").exists():
        return path
    from openherd.model.weights import model_of
    from openherd.runner import open_stage

    return model_of(open_stage(path, "sft"))[0]


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
        many = "append" if stage.is_list(option) else "store"
        inputs.add_argument(
            f"--{option.replace('_', '-')}",
            dest=f"input_{option}",
            action=many,
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
    paths = {n: given[f"input_{n}"] for n in stage.inputs if given[f"input_{n}"] is not None}
    run, before = single_stage(name, values, paths, given["out"])
    print(f"{'up to date' if before else 'done'}: {run.path} · {told(run)}")
    return run


COMMANDS = {
    "run": command_run,
    "chat": command_chat,
    "generate": command_generate,
    "serve": command_serve,
    "show": command_show,
    "diff": command_diff,
    "sweep": command_sweep,
    "parity": command_parity,
    "drill": command_drill,
    "metrics": command_metrics,
    "clean": command_clean,
    "import": command_import,
    "export": command_export,
    "plan": command_plan,
    "plan check": command_plan_check,
    "plan calibrate": command_plan_calibrate,
    "plan tutorial": command_plan_tutorial,
    "model": command_model,
    "data dry-run": command_data_dry_run,
    "tokenizer compare": command_tokenizer_compare,
    "tokenizer convert": command_tokenizer_convert,
    "plan failures": command_plan_failures,
    "scaling": command_scaling,
    "scaling fit": command_scaling_fit,
    "scaling advise": command_scaling_advise,
    "scaling forecast": command_scaling_forecast,
    "scaling ladder": command_scaling_ladder,
    "doctor": command_doctor,
    "stages": command_stages,
    "where": command_where,
}

if __name__ == "__main__":
    sys.exit(main())

"""Commands that look at finished runs: show, diff, metrics, clean."""

from pathlib import Path
from typing import Any

from openherd.cli.arguments import Parser, columns
from openherd.core.errors import ConfigError


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

"""Running a recipe: an ordered list of stages, their inputs by name, their settings.

A recipe is one TOML file; it may take another one's stages (`base`) and change their settings. `DIR/<stage>/<short digest>/`
holds each stage's run and `DIR/run.json` names those that make up this run. All settings and inputs are checked, and all
digests known, before anything runs.
"""

import contextlib
import importlib
import inspect
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from openherd.core import rundir
from openherd.core.config import load_config, nearest, parse_value, read_toml, settings_of, to_plain
from openherd.core.errors import ConfigError, InputError, OpenherdError, StaleError
from openherd.core.machine import leads, place
from openherd.core.metrics import format_metric, is_estimate
from openherd.core.progress import format_duration
from openherd.core.remote import RemoteRun, is_address
from openherd.core.rundir import Job, Outside, Run
from openherd.data.engine import EngineConfig
from openherd.model.config import SIZES, ModelConfig
from openherd.parallel.layout import ParallelConfig, check_layout
from openherd.report.terminal import flat_metrics, told
from openherd.stages import BY_NAME, Stage

if typing.TYPE_CHECKING:
    from openherd.training.dry_run import DryRun

RUN_FILE = "run.json"
SWEEPS = "sweeps"
WORKER_FILE = ".worker.json"
SHORT_DIGEST = 12
STAGE_NAME = re.compile(r"[a-z][a-z0-9-]*")
RESERVED = ("use", "name", "inputs", "require")
PARALLEL, ENGINE = "parallel", "engine"  # settings of how a stage is spread, which are in no digest
TABLES = {PARALLEL: ParallelConfig, ENGINE: EngineConfig}  # a recipe gives them once, to every stage that has them
KEYS = ("name", "about", "seed", *TABLES, "stage", "base", "change")
CACHE = ("cache_directory", "cache_gb")  # nor are these

Given = Outside | Run | RemoteRun  # an input that no stage of the recipe makes


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back: an import of compiled code that it breaks into panics instead of stopping."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class StageFunction:
    """A stage's function with what its signature says: the settings' class and the inputs by name."""

    stage: Stage
    function: Callable[..., Mapping[str, Any]]
    config_class: type
    inputs: Mapping[str, Any]  # name to annotation
    optional: frozenset[str]

    @classmethod
    def load(cls, name: str, where: object) -> "StageFunction":
        """Import a stage. Raises ConfigError for an unknown name."""
        if name not in BY_NAME:
            raise ConfigError(where, f"unknown stage {name!r}", do=nearest(name, BY_NAME))
        stage = BY_NAME[name]
        module, _, attribute = stage.target.partition(":")
        with uninterrupted():
            function = getattr(importlib.import_module(module), attribute)
        hints = typing.get_type_hints(function)
        parameters = inspect.signature(function).parameters
        inputs = {n: hints[n] for n in parameters if n not in ("config", "out")}
        optional = frozenset(n for n in inputs if parameters[n].default is not inspect.Parameter.empty)
        return cls(stage, function, hints["config"], inputs, optional)

    def is_list(self, name: str) -> bool:
        """Whether an input takes several runs."""
        return _is_list(self.inputs[name])


def _admits(hint: Any, kind: type) -> bool:
    """Whether an input's annotation takes a Run or an Outside."""
    if typing.get_origin(hint) is tuple:
        return _admits(typing.get_args(hint)[0], kind)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return kind in typing.get_args(hint)
    return hint is kind


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


@dataclass(frozen=True)
class Step:
    """One stage of a recipe, resolved: where it will run and on what."""

    name: str
    stage: StageFunction
    config: Any
    inputs: Mapping[str, "Given | Step | list[Given | Step]"]
    require: str
    path: Path

    @cached_property
    def job(self) -> Job:
        """The job, whose digest names the directory; inputs are looked at once."""
        digests: dict[str, str] = {}
        sources: dict[str, str] = {}
        for name, value in self.inputs.items():
            for i, item in enumerate(value if isinstance(value, list) else [value]):
                key = f"{name}.{i}" if isinstance(value, list) else name
                digests[key] = item.job.digest if isinstance(item, Step) else item.digest
                sources[key] = os.path.relpath(item.path, self.path) if isinstance(item, Step | Run) else item.location
        stage = self.stage.stage
        settings = {name: value for name, value in to_plain(self.config).items() if name not in CACHE}
        parallel, engine = settings.pop(PARALLEL, {}), settings.pop(ENGINE, {})
        if engine:
            settings["timeout_s"] = engine.pop("timeout_s")  # which documents are lost depends on it
        return Job(stage.name, stage.section, stage.version, settings, digests, sources, parallel | engine)

    def opened_inputs(self) -> dict[str, Any]:
        """The inputs as the stage's function takes them; all earlier stages must be done."""
        return {
            name: tuple(_opened(v) for v in value) if isinstance(value, list) else _opened(value)
            for name, value in self.inputs.items()
        }

    def run(self) -> tuple[Run, bool]:
        """Run the stage unless its directory is done; returns the run and whether it was done before.

        Where its layout has several processes, and no launcher has started them, they are started here.
        """
        layout = getattr(self.config, PARALLEL, None)
        if layout is not None and layout.world > 1 and place() is None and not (self.path / rundir.MANIFEST).exists():
            self._launch(layout)
            return Run.open(self.path), False
        return rundir.make(self.job, self.path, self.stage.function, self.config, self.opened_inputs(), layout is not None)

    def _launch(self, layout: ParallelConfig) -> None:
        from openherd.parallel.launch import launch
        from openherd.training.loop import steps_kept

        def location(value: "Given | Step") -> str:
            return str(value.path) if isinstance(value, Step | Run) else value.location

        inputs = {
            n: [location(v) for v in value] if isinstance(value, list) else location(value) for n, value in self.inputs.items()
        }
        rundir.make_directory(self.path)
        file = self.path / WORKER_FILE
        job = {"stage": self.stage.stage.name, "settings": to_plain(self.config), "inputs": inputs, "out": str(self.path)}
        file.write_text(json.dumps(job), encoding="utf-8")
        try:
            command = ["-m", "openherd", "worker", str(file)]
            file_of_error, reached = self.path / ".error.json", partial(steps_kept, self.path)
            launch(command, layout.world, layout.restarts, file_of_error, self.path, leave_s=layout.leave_s, reached=reached)
        finally:
            file.unlink(missing_ok=True)


def _opened(value: "Given | Step") -> Given:
    return Run.open(value.path) if isinstance(value, Step) else value


def _check_names(stage: StageFunction, given: Mapping[str, Any], where: object) -> None:
    for name in given:
        if name not in stage.inputs:
            raise ConfigError(where, f"stage {stage.stage.name!r} has no input {name!r}", do=nearest(name, stage.inputs))
    missing = [n for n in stage.inputs if n not in given and n not in stage.optional]
    if missing:
        raise ConfigError(where, f"missing input {missing[0]!r}", allowed=f"inputs: {', '.join(stage.inputs)}")


@dataclass(frozen=True)
class Recipe:
    """A recipe file with the changes of `--set`, not yet resolved."""

    path: Path
    name: str
    seed: int
    stages: tuple[Mapping[str, Any], ...]
    tables: Mapping[str, Mapping[str, Any]]  # of TABLES

    @classmethod
    def read(cls, path: Path, changes: Sequence[str] = (), above: tuple[Path, ...] = ()) -> "Recipe":
        """Read a recipe and apply changes `stage.setting=value` or `seed=value`. `above` are the recipes whose base it is.

        Raises ConfigError.
        """
        if path.resolve() in above:
            raise ConfigError(path, "is its own base", do="name another recipe as base")
        document = read_toml(path)
        for key in document:
            if key not in KEYS:
                raise ConfigError(path, f"unknown key {key!r}", do=nearest(key, KEYS))
        tables = {name: document.get(name, {}) for name in TABLES}
        for name, values in tables.items():
            if not isinstance(values, dict):
                raise ConfigError(path, f"{name} = {values!r}", allowed=f"a table [{name}] of settings")
        stages = document.get("stage")
        if "base" in document:
            if stages is not None:
                raise ConfigError(
                    path, "has a base and stages of its own", allowed="one of them; [change.STAGE] tables change the base's stages"
                )
            base = cls.read(path.parent / str(document["base"]), above=(*above, path.resolve()))
            stages = _changed_stages(path, base, document.get("change", {}))
            tables = {name: {**base.tables[name], **values} for name, values in tables.items()}
            document = {"seed": base.seed, **document}
        elif "change" in document:
            raise ConfigError(path, "has changes without a base", do="name the recipe that they change: base = 'FILE'")
        if not isinstance(stages, list) or not stages:
            raise ConfigError(path, "no stages", allowed="one [[stage]] table or more")
        for i, entry in enumerate(stages, 1):
            if not isinstance(entry, dict) or not isinstance(entry.get("use"), str):
                raise ConfigError(f"{path}, stage {i}", "does not say which stage", do='write use = "..."')
        if type(document.get("seed", 0)) is not int:
            raise ConfigError(path, f"seed = {document['seed']!r}", allowed="an integer")
        recipe = cls(path, str(document.get("name", path.stem)), document.get("seed", 0), tuple(stages), tables)
        for change in changes:
            recipe = recipe.changed(change)
        return recipe

    def changed(self, change: str) -> "Recipe":
        """This recipe with one setting changed: 'stage.setting=value', or 'seed=value'."""
        key, equals, text = change.partition("=")
        name, _, setting_name = key.strip().rpartition(".")
        if not equals:
            raise ConfigError("--set", f"{change!r}", allowed="stage.setting=value, or seed=value")
        if not name and setting_name == "seed":
            try:
                return replace(self, seed=int(text))
            except ValueError:
                raise ConfigError("--set", f"seed = {text!r}", allowed="an integer") from None
        if name in TABLES:
            known = {s.name: s for s in settings_of(TABLES[name])}
            if setting_name not in known:
                raise ConfigError("--set", f"no setting {setting_name!r} in [{name}]", do=nearest(setting_name, known))
            values = {**self.tables[name], setting_name: parse_value(known[setting_name], text)}
            return replace(self, tables={**self.tables, name: values})
        names = [entry.get("name", entry["use"]) for entry in self.stages]
        of_stage, _, table = name.rpartition(".")
        if of_stage in names and table == "inputs":
            return replace(self, stages=tuple(self._with_input(entry, of_stage, setting_name, text) for entry in self.stages))
        if of_stage in names:
            whole = f"'{of_stage}.{table}={{ {setting_name} = {text} }}'"
            raise ConfigError("--set", f"{key} is part of a table", do=f"give the table: --set {whole}")
        if name not in names:
            raise ConfigError("--set", f"no stage {name!r} in {self.path}", do=nearest(name, names))
        stages = []
        for entry in self.stages:
            if entry.get("name", entry["use"]) == name:
                stage = StageFunction.load(entry["use"], f"{self.path}, stage {name!r}")
                known = {s.name: s for s in settings_of(stage.config_class)}
                if setting_name not in known:
                    raise ConfigError("--set", f"stage {name!r} has no setting {setting_name!r}", do=nearest(setting_name, known))
                entry = {**entry, setting_name: parse_value(known[setting_name], text)}
            stages.append(entry)
        return replace(self, stages=tuple(stages))

    def _with_input(self, entry: Mapping[str, Any], stage: str, name: str, text: str) -> Mapping[str, Any]:
        """An entry with one input changed where it is that stage's: a word, a place, or a TOML list of them."""
        if entry.get("name", entry["use"]) != stage:
            return entry
        try:
            value = tomllib.loads(f"value = {text}")["value"] if text.startswith("[") else text
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(
                "--set", f"{stage}.inputs.{name}: not TOML ({error})", allowed='PLACE, or ["PLACE", "PLACE"]'
            ) from None
        return {**entry, "inputs": {**entry.get("inputs", {}), name: value}}

    def resolve(self, out: Path, absent: bool = False) -> list[Step]:
        """Check every stage and place its run under `out`. Raises ConfigError or InputError before anything has run.

        With `absent`, inputs from outside need not be there; then a run's place has no digest.
        """
        steps: dict[str, Step] = {}
        for entry in self.stages:
            name = entry.get("name", entry["use"])
            where = f"{self.path}, stage {name!r}"
            if not isinstance(name, str) or not STAGE_NAME.fullmatch(name):
                raise ConfigError(where, "not a name", allowed="lower-case letters, digits and '-'")
            if name in steps:
                raise ConfigError(where, "this name was used before", do="give it another name = '...'")
            stage = StageFunction.load(entry["use"], where)
            settings = {k: v for k, v in entry.items() if k not in RESERVED}
            if "seed" not in settings and any(s.name == "seed" for s in settings_of(stage.config_class)):
                settings["seed"] = self.seed
            for table, values in self.tables.items():
                if values and any(s.name == table for s in settings_of(stage.config_class)):
                    settings[table] = {**values, **settings.get(table, {})}
            config: Any = load_config(stage.config_class, settings, where)
            given = entry.get("inputs", {})
            if not isinstance(given, dict):
                raise ConfigError(where, f"inputs = {given!r}", allowed="a table of name = 'earlier stage or location'")
            _check_names(stage, given, where)
            inputs = {n: _resolve_input(stage.inputs[n], v, steps, f"{where}, input {n!r}", absent) for n, v in given.items()}
            step = Step(name, stage, config, inputs, str(entry.get("require", "")), out / name)
            steps[name] = step if absent else replace(step, path=step.path / step.job.digest[:SHORT_DIGEST])
            if step.require:
                _parse_gate(step.require, where)
        return list(steps.values())


def _changed_stages(path: Path, base: Recipe, changes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages of a recipe's base with the settings of its [change.STAGE] tables."""
    names = [entry.get("name", entry["use"]) for entry in base.stages]
    if not isinstance(changes, dict) or not all(isinstance(settings, dict) for settings in changes.values()):
        raise ConfigError(path, f"change = {changes!r}", allowed="tables [change.STAGE] of settings")
    for name in changes:
        if name not in names:
            raise ConfigError(path, f"changes stage {name!r}, which {base.path} does not have", do=nearest(name, names))
    return [{**entry, **changes.get(name, {})} for name, entry in zip(names, base.stages, strict=True)]


def _resolve_input(hint: Any, value: Any, steps: Mapping[str, Step], where: object, absent: bool) -> Any:
    if _is_list(hint) and _admits(hint, Outside) and isinstance(value, str):
        value = [value]
    if isinstance(value, list) != _is_list(hint):
        raise ConfigError(where, f"{value!r}", allowed="a list of stages" if _is_list(hint) else "one stage or location")
    if isinstance(value, list):
        return [_resolve_one(hint, item, steps, where, absent) for item in value]
    return _resolve_one(hint, value, steps, where, absent)


def _resolve_one(hint: Any, value: Any, steps: Mapping[str, Step], where: object, absent: bool) -> "Given | Step":
    if isinstance(value, str) and STAGE_NAME.fullmatch(value):
        if value not in steps:
            do = nearest(value, steps) if steps else ""
            raise ConfigError(
                where, f"no earlier stage {value!r}", allowed="an earlier stage; a file is written with a '/', as ./name", do=do
            )
        if not _admits(hint, Run):
            raise ConfigError(where, f"{value!r} is a stage", allowed="a location outside: file, folder, glob or URL")
        return steps[value]
    try:
        if isinstance(value, str) and (_admits(hint, Outside) or is_address(value) or is_run_directory(Path(value))):
            return Outside(value) if absent and _admits(hint, Outside) else _open_path(hint, value, where)
    except InputError as error:
        raise InputError(where, str(error)) from None
    raise ConfigError(where, f"{value!r}", allowed=f"an earlier stage: {', '.join(steps) or 'there is none'}; or a run directory")


def run_recipe(recipe: Recipe, out: Path, run_file: Path | None = None, quiet: bool = False) -> list[tuple[Step, Run, bool]]:
    """Run a recipe's stages that are not done yet, and write the run file; returns (step, run, done before) in order.

    Until the last stage is done the run file bears another name, and that of the last whole run stays. Raises OpenherdError where a
    stage refuses its input, keeps no document, or a gate is not met; what is finished stays.
    """
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet or not leads(), highlight=False, soft_wrap=True)
    steps = recipe.resolve(out)
    check_layouts(steps)
    for step in steps:
        if (step.path / rundir.MANIFEST).exists():
            Run.open(step.path)  # a damaged one is told before hours of other work
    check_data(steps)
    run_file = run_file or out / RUN_FILE
    if leads():
        _write_run_file(unfinished(run_file), recipe, steps)
    done: list[tuple[Step, Run, bool]] = []
    for i, step in enumerate(steps, 1):
        head = f"[bold]{i:2d}/{len(steps)} {step.name}[/bold]"
        if not (step.path / rundir.MANIFEST).exists():
            console.print(f"{head} · {step.stage.stage.summary}")
        start = time.monotonic()
        run, before = step.run()
        line = f"{head} · up to date" if before else f"      {format_duration(time.monotonic() - start)}"
        console.print(" · ".join(filter(None, (line, told(run)))))
        done.append((step, run, before))
        check_kept(step, run)
        check_gate(step, run)
        if not before:
            check_data([later for later in steps[i:] if later.inputs.get("shards") is step])
    if leads():
        os.replace(unfinished(run_file), run_file)
    return done


def unfinished(run_file: Path) -> Path:
    """Where a run file is written while its stages run."""
    return run_file.with_suffix(".unfinished.json")


def _write_run_file(path: Path, recipe: Recipe, steps: Sequence[Step]) -> None:
    rundir.make_directory(path.parent)
    document = {
        "recipe": recipe.name,
        "file": str(recipe.path),
        "seed": recipe.seed,
        "stages": {step.name: os.path.relpath(step.path, path.parent) for step in steps},
    }
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _parse_gate(text: str, where: object) -> tuple[str, str, float]:
    match = re.fullmatch(r"\s*([A-Za-z0-9_.-]+)\s*(>=|<=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", text)
    if not match:
        raise ConfigError(where, f"require = {text!r}", allowed="'metric >= number' (or <=, >, <)")
    return match[1], match[2], float(match[3])


def check_kept(step: Step, run: Run) -> None:
    """Raise InputError where a stage of curation kept nothing of what it was given."""
    if run.metrics.get("documents_in") and not run.metrics.get("documents_out"):
        dropped = run.metrics.get("dropped", {})
        reasons = ", ".join(f"{reason!r} {counts['documents']:,}" for reason, counts in dropped.items())
        found = f"stage {step.name!r} kept none of {run.metrics['documents_in']:,} documents ({reasons})"
        raise InputError(run.path, found, do="look at its dropped.parquet and change its settings")


def check_gate(step: Step, run: Run) -> None:
    """Raise OpenherdError where a stage's `require` is not met by its metrics."""
    if not step.require:
        return
    metric, comparison, bound = _parse_gate(step.require, step.name)
    metrics = flat_metrics(run.metrics)
    found = metrics.get(metric)
    value = found["value"] if isinstance(found, dict) and is_estimate(found) else found
    if not isinstance(value, (int, float)):
        raise ConfigError(f"stage {step.name!r}", f"require names no metric of it: {metric!r}", do=nearest(metric, metrics))
    met = {">=": value >= bound, "<=": value <= bound, ">": value > bound, "<": value < bound}[comparison]
    if not met:
        raise OpenherdError(
            f"stage {step.name!r}", f"its gate is not met: {metric} is {format_metric(value)}", allowed=step.require
        )


def sweep(
    recipe: Recipe, out: Path, grid: Mapping[str, Sequence[str]], seeds: Sequence[int]
) -> dict[tuple[str, int], list[tuple[Step, Run, bool]]]:
    """Run every combination of settings with every seed; variants share each stage that does not differ.

    Returns the runs by settings and seed.
    """
    variants: dict[tuple[str, int], Recipe] = {}
    for seed in seeds:
        for values in itertools.product(*grid.values()):
            changes = [f"{key}={value}" for key, value in zip(grid, values, strict=True)]
            variant = replace(recipe, seed=seed)
            for change in changes:
                variant = variant.changed(change)
            variants[",".join(changes) or "as-is", seed] = variant
    for variant in variants.values():
        check_layouts(variant.resolve(out))  # all are checked before the first runs
    runs = {}
    for (label, seed), variant in variants.items():
        name = re.sub(r"[^A-Za-z0-9=.,_-]", "_", f"{label},seed={seed}" if len(seeds) > 1 else label)
        sys.stderr.write(f"{name}\n")
        runs[label, seed] = run_recipe(variant, out, run_file=out / SWEEPS / f"{name}.json")
    return runs


def read_run_file(path: Path) -> dict[str, Path]:
    """Stage names to run directories, from a run file or a directory that holds one; of a run that never ended, what is finished.

    Raises InputError.
    """
    file = path / RUN_FILE if path.is_dir() else path
    if not file.exists() and unfinished(file).exists():
        return {name: place for name, place in read_run_file(unfinished(file)).items() if (place / rundir.MANIFEST).exists()}
    if not file.exists():
        raise InputError(path, "no run here", do="give a directory that `openherd run` wrote")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return {name: file.parent / where for name, where in document["stages"].items()}
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise InputError(file, f"a corrupt run file ({error})", do="run the same command again: what is done stays") from None


def all_places(path: Path) -> dict[str, Path]:
    """Stage names to run directories, finished or not: of the run that goes on where one does, or of one stage's directory.

    Raises InputError.
    """
    if is_run_directory(path):
        return {str(read_toml(path / rundir.CONFIG).get("stage", path.name)): path}
    file = unfinished(path / RUN_FILE if path.is_dir() else path)
    return read_run_file(file if file.exists() else path)


def is_run_directory(path: Path) -> bool:
    """Whether this is one stage's directory, finished or not."""
    return (path / rundir.MANIFEST).exists() or (path / rundir.CONFIG).exists()


def open_runs(path: Path) -> dict[str, Run]:
    """The runs behind a path by the names of their stages: of a run, a run file of a sweep, or one stage's directory alone."""
    if is_run_directory(path):
        run = Run.open(path)
        return {run.manifest["stage"]: run}
    return {name: Run.open(place) for name, place in read_run_file(path).items()}


def open_stage(path: Path, stage: str) -> Run:
    """The last run of `stage` in a run; or `path` itself where that is a run directory."""
    opened = open_runs(path)
    runs = [run for run in opened.values() if run.manifest["stage"] == stage or is_run_directory(path)]
    if not runs:
        raise InputError(path, f"no finished stage {stage!r}", allowed=f"stages here: {', '.join(opened)}")
    return runs[-1]


def unused(out: Path) -> list[Path]:
    """Run directories under `out` that no run file names and no process works in. Raises InputError where `out` is no run."""
    run_file = out / RUN_FILE
    files = [p for p in [run_file, unfinished(run_file), *sorted((out / SWEEPS).glob("*.json"))] if p.exists()]
    if not files:
        raise InputError(out, "no run here", do="give the --out directory of `openherd run`")
    named = {p.resolve() for file in files for p in read_run_file(file).values()}
    places = [file.parent for file in sorted(out.glob(f"*/*/{rundir.CONFIG}"))]
    return [place for place in places if place.resolve() not in named and not rundir.is_in_use(place)]


def clean(out: Path) -> tuple[int, int]:
    """Remove what no run names; returns (directories, bytes)."""
    n_bytes = 0
    places = unused(out)
    for path in places:
        n_bytes += sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        shutil.rmtree(path)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
    return len(places), n_bytes


def single_stage(name: str, settings: Mapping[str, Any], inputs: Mapping[str, Any], out: Path) -> tuple[Run, bool]:
    """Run one stage from paths: an input is a finished run directory or, where the stage takes one, a location outside."""
    stage = StageFunction.load(name, "openherd")
    where = f"openherd {name}"
    config: Any = load_config(stage.config_class, settings, where)
    _check_names(stage, inputs, where)
    opened = {n: _open_path(stage.inputs[n], v, f"{where} --{n}") for n, v in inputs.items()}
    step = Step(name, stage, config, opened, "", out)
    if (out / RUN_FILE).exists():
        raise StaleError(out, "holds a whole run", do="give a directory of its own as --out")
    return step.run()


def run_parity(recipe: Recipe, processes: int, device: str) -> tuple[str, bool]:
    """Check the layouts of a recipe's training stages against one process: a table, and whether all agree.

    Starts `processes` processes here, 0 being as many as the largest layout has, unless a launcher has. Raises ConfigError for a
    recipe without a layout of several.
    """
    from openherd.model.device import choose_device
    from openherd.training.parity import Difference, parity, parity_table

    configs = [step.config for step in recipe.resolve(Path("."), absent=True)]
    layouts = [c.parallel for c in configs if hasattr(c, PARALLEL) and c.parallel.world > 1]
    sizes = [SIZES[c.size] for c in configs if hasattr(c, "size")]
    if not layouts:
        raise ConfigError(
            recipe.path, "no stage has a layout of several processes", do="give [parallel], or --set parallel.dp_shard=2"
        )
    shape = replace(sizes[0] if sizes else SIZES["llama3-8b"], rope_scaling=None)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        if place() is not None:
            parity(shape, layouts, choose_device(device), found)
        else:
            from openherd.parallel.launch import launch

            job = {"shape": asdict(shape), PARALLEL: [asdict(layout) for layout in layouts], "device": device, "out": str(found)}
            file = Path(folder) / WORKER_FILE
            file.write_text(json.dumps(job), encoding="utf-8")
            n = processes or max(layout.world for layout in layouts)
            launch(["-m", "openherd", "worker", str(file)], n, 0, Path(folder) / "error.json", recipe.path)
        if not leads():
            return "", True
        results = [(ParallelConfig(**a), Difference(**b)) for a, b in json.loads(found.read_text(encoding="utf-8"))]
    return parity_table(results), all(difference.agrees for _, difference in results)


def run_drill(recipe: Recipe, kinds: Sequence[str], seed: int, timeout_s: float, out: Path) -> dict[str, Any]:
    """Rehearse faults in the layout of a recipe's first training stage, on processes here; returns what was found.

    `kinds` are names of `drill.FAULTS`; none: all that the layout can be given but `agent`. Raises ConfigError for others, and
    where a launcher has started this process.
    """
    from openherd.training import drill as drills
    from openherd.training.resilience import read_skips

    if place() is not None:
        raise ConfigError("openherd drill", "a launcher started it", do="start it alone: it starts its processes itself")
    configs = [step.config for step in recipe.resolve(out, absent=True) if hasattr(step.config, PARALLEL)]
    if not configs:
        raise ConfigError(recipe.path, "no stage trains", do="give a recipe that does")
    first = configs[0]
    can = drills.suited(first.parallel)
    for kind in kinds:
        if kind not in can:
            raise ConfigError("--faults", f"{kind!r} in {first.parallel}", allowed=", ".join(can))
    kinds = kinds or [kind for kind in can if kind != "agent"]
    layout = replace(first.parallel, restarts=len(kinds) + 2, timeout_s=timeout_s, leave_s=3.0, elastic="agent" in kinds)
    shape = SIZES[first.size] if hasattr(first, "size") else SIZES["llama3-8b"]
    planned = drills.plan(shape, layout, kinds, seed, out / "disturbed")
    twin = replace(planned, faults=[], out=out / "undisturbed")
    for path in (planned.out, twin.out):
        if path.exists():
            raise StaleError(path, "a drill was here before", do="give another --out, or remove it")
        rundir.make_directory(path)
    _drill(planned, two_agents="agent" in kinds)
    _drill(replace(twin, skips=read_skips(rundir.Output(planned.out))), two_agents=False)
    return drills.report_of(planned, twin.out)


def _drill(drill: Any, two_agents: bool) -> None:
    """The processes of one run of a drill, to its end."""
    from openherd.parallel.launch import Agents, free_endpoint, launch

    file = drill.out / WORKER_FILE
    file.write_text(json.dumps({"drill": drill.plain()}), encoding="utf-8")
    command, layout = ["-m", "openherd", "worker", str(file)], drill.layout
    agents, second = Agents(), None
    if two_agents:
        agents = Agents(1, 2, free_endpoint())
        job = {"arguments": command, "n": layout.world // 2, "restarts": layout.restarts, "agents": asdict(agents)}
        job["leave_s"] = layout.leave_s
        agent_file = drill.out / ".agent.json"
        agent_file.write_text(json.dumps({**job, "error_file": str(drill.out / ".error-of-the-second.json")}), encoding="utf-8")
        second = subprocess.Popen([sys.executable, "-m", "openherd", "agent", str(agent_file)])
    n = layout.world // 2 if two_agents else layout.world
    try:
        launch(command, n, layout.restarts, drill.out / ".error.json", drill.out, leave_s=layout.leave_s, agents=agents)
    finally:
        if second is not None:
            second.kill()
            second.wait()


def be_agent(file: Path) -> None:
    """Be the second agent of a drill: half of its processes."""
    from openherd.parallel.launch import Agents, launch, wait_for

    job = json.loads(file.read_text(encoding="utf-8"))
    agents = Agents(**job["agents"])
    wait_for(agents.endpoint)
    launch(job["arguments"], job["n"], job["restarts"], Path(job["error_file"]), file.parent, leave_s=job["leave_s"], agents=agents)


def dry_run(recipe: Recipe, stages: Sequence[str], imported: str, out: Path | None = None) -> "list[DryRun]":
    """Reckon a recipe's training stages, or those named, without data, processes or a device.

    `imported` is the size of a model that is imported from where it is not yet; shards that a run in `out` has, or the recipe
    names, tell the sources of the first batch. Raises ConfigError where a layout cannot run.
    """
    from openherd.data.token_shards import TokenShards
    from openherd.training.dry_run import dry_runs, first_sources

    trains = list(training_stages(recipe.resolve(Path("."), absent=True), lambda step: _imported_shape(step, imported)))
    names = [step.name for step, _ in trains]
    for name in stages:
        if name not in names:
            raise ConfigError("--stage", f"no training stage {name!r} in {recipe.path}", do=nearest(name, names))
    if not trains:
        raise ConfigError(recipe.path, "no training stage", do="give a recipe that trains")
    places = all_places(out) if out is not None else {}
    asked = [(step, base) for step, base in trains if not stages or step.name in stages]
    found = dry_runs([(step.name, step.config, base) for step, base in asked])
    for i, (step, _) in enumerate(asked):
        shards = step.inputs.get("shards")
        path = places.get(shards.name) if isinstance(shards, Step) else getattr(shards, "path", None)
        if path is not None and (path / rundir.MANIFEST).exists():
            found[i] = replace(found[i], sources=first_sources(step.config, TokenShards.open(Run.open(path))))
    return found


def training_stages(steps: Sequence[Step], imported: Callable[[Step], ModelConfig | None]) -> Iterator[tuple[Step, ModelConfig]]:
    """The stages that train, each with the shape of the model it begins with; those whose model is not known are left out."""
    from openherd.training.dry_run import shape_of

    shapes: dict[str, ModelConfig] = {}
    for step in steps:
        config, before = step.config, shapes.get(getattr(step.inputs.get("base"), "name", ""))
        if step.stage.stage.name == "import":
            if (found := imported(step)) is not None:
                shapes[step.name] = found
        elif hasattr(config, "shape"):  # it begins a model
            words = getattr(step.inputs["tokenizer"], "config", None)
            before = shapes[step.name] = config.shape(getattr(words, "vocabulary", SIZES[config.size].vocabulary))
        elif before is not None:
            shapes[step.name] = shape_of(config, before)
        if hasattr(config, PARALLEL) and before is not None:
            yield step, before


def check_layouts(steps: Sequence[Step]) -> None:
    """Raise ConfigError where the layout of a stage that is not done yet cannot run."""
    if not any(hasattr(step.config, PARALLEL) for step in steps):
        return
    from openherd.training.dry_run import shape_of

    for step, base in training_stages(steps, _imported_shape_here):
        if not (step.path / rundir.MANIFEST).exists():
            config = step.config
            rows, lora = [piece.rows for piece in config.pieces()], getattr(config, "lora", None)
            alone, shape = lora is not None and lora.in_layers_alone, shape_of(config, base)
            check_layout(step.name, config.parallel, shape, rows, config.micro_batch_sequences, in_layers_alone=alone)


def check_data(steps: Sequence[Step]) -> None:
    """Raise ConfigError where a stage that is not done yet would see a source of finished shards more often than it may.

    It would say so itself, after the hours of those before it.
    """
    waiting = [step for step in steps if "shards" in step.inputs and not (step.path / rundir.MANIFEST).exists()]
    if not waiting:
        return
    from openherd.data.token_shards import TokenShards
    from openherd.training.phase import all_weights, check_epochs

    for step in waiting:
        shards, config = step.inputs["shards"], step.config
        if hasattr(config, "most_epochs") and isinstance(shards, Step | Run) and (shards.path / rundir.MANIFEST).exists():
            opened = TokenShards.open(Run.open(shards.path))
            weights = all_weights(opened, config.asked_weights())
            check_epochs(opened, config.pieces(), weights, config.most_epochs, f"stage {step.name!r}")


def _imported_shape_here(step: Step) -> ModelConfig | None:
    from openherd.model.weights import CONFIG, read_config

    source = Path(getattr(step.inputs["source"], "location", ""))
    return read_config(source) if (source / CONFIG).exists() else None


def _imported_shape(step: Step, size: str) -> ModelConfig:
    if (here := _imported_shape_here(step)) is not None:
        return here
    if size not in SIZES:
        source = Path(getattr(step.inputs["source"], "location", ""))
        found = f"the size of {str(source)!r} is not known" if not size else f"unknown size {size!r}"
        raise ConfigError(f"stage {step.name!r}", found, do=f"give --size; {nearest(size or 'llama3-8b', SIZES)}")
    return SIZES[size]


def work(file: Path) -> None:
    """Be one of the processes of a stage that another process has launched."""
    job = json.loads(file.read_text(encoding="utf-8"))
    if "drill" in job:
        from openherd.training.drill import Drill, rehearse

        rehearse(Drill.read(job["drill"]))
        return
    if PARALLEL in job:
        from openherd.model.device import choose_device
        from openherd.training.parity import parity

        shape = ModelConfig(**{**job["shape"], "rope_scaling": None})
        parity(shape, [ParallelConfig(**layout) for layout in job[PARALLEL]], choose_device(job["device"]), Path(job["out"]))
        return
    single_stage(job["stage"], job["settings"], job["inputs"], Path(job["out"]))


def _open_path(hint: Any, value: Any, where: object) -> Any:
    if isinstance(value, list):
        if not _is_list(hint):
            raise ConfigError(where, f"{len(value)} paths", allowed="one")
        return [_open_path(typing.get_args(hint)[0], v, where) for v in value]
    if not value:
        raise ConfigError(where, "an empty name", allowed="a run directory, or a place where the stage takes one")
    path = Path(value)
    if is_address(value) and not _admits(hint, Outside):
        if not _admits(hint, RemoteRun):
            raise ConfigError(where, f"{value!r} is elsewhere", allowed="a run directory on this machine")
        return RemoteRun.open(value)
    if _admits(hint, Run) and (is_run_directory(path) or not _admits(hint, Outside)):
        return Run.open(path)
    outside = Outside(value)
    outside.files()
    return outside

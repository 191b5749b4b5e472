"""The curation stages of a run, as one looks at them: in order, each with what it reads and what it measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Run
from openherd.data import heuristics, language, quality, safety_filter
from openherd.data.dedup_documents import DUPLICATES
from openherd.data.documents import DOCUMENTS, DROPPED
from openherd.data.engine import settings_of_run
from openherd.data.holdout import HELDOUT, TRAIN
from openherd.report.curation import COUNTS

KEPT = (DOCUMENTS, TRAIN, HELDOUT)  # the held-out documents are set aside, not dropped
NO_MEASURES = (*KEPT, DROPPED, DUPLICATES)
Limits = Mapping[str, tuple[float, float]]  # the lowest and highest value of a measure that is allowed
LIMITS: Mapping[str, tuple[type, Callable[[Any, str | None], Limits]]] = {  # settings and limits of the stages that have such
    "heuristics": (heuristics.HeuristicsConfig, heuristics.limits),
    "language": (language.LanguageConfig, language.limits),
    "quality": (quality.QualityConfig, quality.limits),
    "safety-filter": (safety_filter.SafetyFilterConfig, safety_filter.limits),
}


@dataclass(frozen=True)
class Curated:
    """One curation stage of a run; `before` names the stages of the same run whose documents it reads."""

    name: str
    run: Run
    before: tuple[str, ...]

    def output(self, name: str) -> Path | None:
        """An output, or None where the stage wrote none of that name."""
        return self.run.file(name) if name in self.run.manifest["outputs"] else None

    @property
    def kept(self) -> list[Path]:
        """Where the documents that it kept lie."""
        return [path for name in KEPT if (path := self.output(name)) is not None]

    @property
    def files(self) -> list[Path]:
        """Where its documents lie: those that it kept, those that it dropped."""
        dropped = self.output(DROPPED)
        return [*self.kept, *([dropped] if dropped else [])]

    @property
    def measures(self) -> list[Path]:
        """The tables of what it measured, by id."""
        tables = [
            self.run.file(name) for name in self.run.manifest["outputs"] if name.endswith(".parquet") and name not in NO_MEASURES
        ]
        return [path for path in tables if "id" in pq.read_schema(path).names]

    @property
    def has_text(self) -> bool:
        """Whether its documents are texts, not pages."""
        return any("text" in pq.read_schema(path).names for path in self.kept)

    def limits(self, of_language: str | None) -> Limits:
        """The lowest and highest value that it allows of each measure, where it has such."""
        if (stage := self.run.manifest["stage"]) not in LIMITS:
            return {}
        config_class, limits = LIMITS[stage]
        try:
            return limits(settings_of_run(config_class, self.run), of_language)
        except ConfigError:  # another version's settings
            return {}


def curated(runs: Mapping[str, Run], where: object) -> list[Curated]:
    """The curation stages among these runs; of a single run also those that it was made from, as far as they are there.

    Raises InputError where there is none.
    """
    given = dict(runs)
    if len(given) == 1:
        given = {}
        for run in _with_ancestors(next(iter(runs.values()))):
            given[name if (name := run.manifest["stage"]) not in given else f"{name} {run.digest[:6]}"] = run
    counted = {
        name: run for name, run in given.items() if run.metrics.keys() >= COUNTS and run.manifest["outputs"].keys() & set(KEPT)
    }
    if not counted:
        raise InputError(where, "no curation stage", do="give a run that read documents, or one of its stages' directories")
    names = {run.digest: name for name, run in counted.items()}
    return [
        Curated(name, run, tuple(names[e["digest"]] for e in run.manifest["inputs"].values() if e["digest"] in names))
        for name, run in counted.items()
    ]


def last_stages(stages: list[Curated]) -> list[Curated]:
    """Those whose documents no other one reads."""
    read = {name for stage in stages for name in stage.before}
    return [stage for stage in stages if stage.name not in read]


def numbers_of(path: Path) -> list[str]:
    """The columns of a table that hold numbers."""
    types = pq.read_schema(path)
    return [field.name for field in types if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)]


def _with_ancestors(run: Run) -> list[Run]:
    found: dict[str, Run] = {}

    def visit(run: Run) -> None:
        for name in run.manifest["inputs"]:
            try:
                before = run.input(name)
            except InputError:  # from outside, or gone
                continue
            if before.digest not in found:
                visit(before)
        found[run.digest] = run

    visit(run)
    return list(found.values())


def told(row: Mapping[str, Any], but: frozenset[str]) -> dict[str, Any]:
    """What a row says beside `but` and what is empty."""
    return {name: value for name, value in row.items() if name not in but and value not in (None, "")}

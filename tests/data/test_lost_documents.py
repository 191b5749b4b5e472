"""Every stage that judges single documents: one at which it fails, dies or takes too long is lost alone and counted nowhere."""

import importlib
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

import toy_judges
from data.conftest import document
from openherd.core import rundir
from openherd.core.rundir import Job, Outside
from openherd.data import engine
from openherd.data.calibration import Calibration
from openherd.data.documents import DOCUMENTS, DROPPED, MEASURES, PAGE_SCHEMA
from openherd.data.engine import EngineConfig
from openherd.data.linear_model import LinearModel
from openherd.data.ngram_features import NgramConfig, features
from openherd.report.curation import COUNTS
from openherd.stages import STAGES

SECRET = "Write to ann@secret.example, 4111 1111 1111 1111."
VICTIM = f"{1:032x}"
TEXT = "The herd sleeps in the fold by the river, and the dog is awake with it. "
ROWS = [document(f"{TEXT}{i} ", id=f"{i:032x}") for i in range(3)]
ROWS[1]["text"] += SECRET
REASONS = {"raise": "failed: ValueError", "exit": "crashed", "spin": "timed out"}


@dataclass(frozen=True)
class Case:
    """A stage with what it needs to keep documents."""

    settings: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    pages: bool = False


MIX = {"mix": "given", "shares": {"all": 1.0}}
CASES = {
    "url-filter": Case(pages=True),
    "extraction": Case(pages=True),
    "language": Case(),
    "heuristics": Case({"min_words": 10, "max_top_ngram_shares": (1.0,) * 3}),
    "pii": Case(),
    "safety-filter": Case(inputs=("toxicity",)),
    "domain-filter": Case(inputs=("counted",)),
    "quality": Case({"threshold": 0.0}, inputs=("classifier",)),
    "code-reasoning": Case(inputs=("code",)),
    "domains": Case(inputs=("classifier",)),
    "mix-documents": Case(MIX),
}  # fmt: skip


@pytest.fixture(scope="module")
def given_input(tmp_path_factory, documents_run, run_stage):
    """An input of a stage by its name: a classifier, or a run that counted."""
    folder = tmp_path_factory.mktemp("inputs") / "model"
    ngrams = NgramConfig(word_ngrams=1, max_characters=0, bucket_bits=12)
    weights = np.zeros((1 << 12, 1), np.float32)
    weights[features(["herd"], ngrams)[0]] = 1.0
    LinearModel(("no", "yes"), ngrams, weights, np.array([-3.0]), Calibration()).save(folder)
    module = importlib.import_module("openherd.data.pii")
    counted = run_stage(module.pii, module.PiiConfig(), documents=documents_run(ROWS))
    return lambda name: (counted,) if name == "counted" else Outside(str(folder))


def made(name, how, folder, monkeypatch, documents_run, given_input, rows=None, **settings):
    """The run of a stage that does what `how` says when the victim comes; None: nothing."""
    stage = next(stage for stage in STAGES if stage.name == name)
    module = importlib.import_module(stage.target.partition(":")[0])
    function = getattr(module, stage.target.partition(":")[2])
    case, config_class = CASES[name], function.__annotations__["config"]
    judging = EngineConfig(processes=1 if how in (None, "raise") else 2, timeout_s=1.0 if how == "spin" else 60.0)
    config = config_class(**{**case.settings, "engine": judging, **settings})
    monkeypatch.setattr(module, "judge_documents", engine.judge_documents)
    if how:
        monkeypatch.setattr(
            module,
            "judge_documents",
            lambda stage, prepare, *more, **options: engine.judge_documents(
                stage, partial(toy_judges.prepare_deadly, prepare, VICTIM, how), *more, **options
            ),
        )
    rows = rows or ROWS
    if case.pages:
        pages = [{**row, "content": row["text"].encode(), "content_type": "text/plain"} for row in rows]
        documents = documents_run(pages, PAGE_SCHEMA)
    else:
        documents = documents_run(rows)
    inputs = {"documents": documents, **{key: given_input(key) for key in case.inputs}}
    return rundir.make(Job(name, "3.1", 1, {}, {}, {}), folder, function, config, inputs)[0]


def test_all_stages_that_judge_are_among_the_cases():
    judging = set()
    for stage in STAGES:
        module = importlib.import_module(stage.target.partition(":")[0]) if ".data." in stage.target else None
        if hasattr(module, "judge_documents"):
            judging.add(stage.name)
    assert judging == CASES.keys()


@pytest.mark.parametrize("how", ["raise", *(pytest.param(how, marks=pytest.mark.slow) for how in ("exit", "spin"))])
@pytest.mark.parametrize("name", CASES)
def test_a_document_is_lost_alone_and_counted_nowhere(name, how, tmp_path, monkeypatch, documents_run, given_input, rows_of):
    run = made(name, how, tmp_path / "lost", monkeypatch, documents_run, given_input)
    assert [row["id"] for row in rows_of(run)] == [ROWS[0]["id"], ROWS[2]["id"]]
    [gone] = rows_of(run, DROPPED)
    assert (gone["id"], gone["reason"]) == (VICTIM, REASONS[how])
    assert run.metrics["dropped"] == {REASONS[how]: {"documents": 1, "bytes": len(ROWS[1]["text"])}}
    if MEASURES in run.manifest["outputs"]:
        measured = {row.pop("id"): row for row in rows_of(run, MEASURES)}
        assert {value for key, value in measured[VICTIM].items() if key != "reason"} == {None}
    without = made(name, None, tmp_path / "without", monkeypatch, documents_run, given_input, [ROWS[0], ROWS[2]])
    others = run.metrics.keys() - COUNTS - {"total_bytes", "downsampled_to", "mean_epochs", "share_before"}
    assert {key: run.metrics[key] for key in others} == {key: without.metrics[key] for key in others}


@pytest.mark.parametrize("how", ["raise", pytest.param("exit", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "settings", "is_kept"),
    [
        ("pii", {}, False),
        ("pii", {"dropped_text": "none"}, False),
        ("pii", {"dropped_text": "keep"}, True),
        ("safety-filter", {"illegal_sha256": ("0" * 64,)}, False),
        ("safety-filter", {}, True),
        ("url-filter", {"illegal_url_sha256": ("0" * 64,)}, False),
        ("url-filter", {}, True),
    ],
)
def test_of_what_may_not_be_kept_a_lost_document_leaves_nothing(
    name, settings, is_kept, how, tmp_path, monkeypatch, documents_run, given_input, rows_of
):
    run = made(name, how, tmp_path / "lost", monkeypatch, documents_run, given_input, **settings)
    [gone] = rows_of(run, DROPPED)
    told = {key: value for key, value in gone.items() if value not in (None, "")}
    assert told.keys() == {"id", "stage", "reason"} | ({"detail"} if how == "exit" else set()) if not is_kept else "url" in told
    stored = [str(row) for file in (DOCUMENTS, DROPPED, MEASURES) if file in run.manifest["outputs"] for row in rows_of(run, file)]
    assert any("secret.example" in row for row in stored) == is_kept
    assert (gone["detail"] == "a bad document") == (is_kept and how == "raise")

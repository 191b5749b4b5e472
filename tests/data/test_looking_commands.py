"""What is asked of curated data on the command line, of runs that commands made."""

import json

import numpy as np
import pytest

from curated_runs import text_of
from openherd.cli import main
from openherd.core.records import read_parquet
from openherd.data.calibration import Calibration
from openherd.data.curated import curated
from openherd.data.linear_model import LinearModel
from openherd.data.ngram_features import NgramConfig, features
from openherd.runner import open_runs

CARD, EMAIL = "4111 1111 1111 1111", "ann.example@example.org"
RECIPE = """
name = "looking"
[engine]
processes = 1
[[stage]]
use = "sources"
inputs = {{ pages = "{folder}/rows.jsonl" }}
[[stage]]
use = "extraction"
inputs = {{ documents = "sources" }}
[[stage]]
use = "language"
inputs = {{ documents = "extraction" }}
min_score = 0.01
[[stage]]
use = "heuristics"
inputs = {{ documents = "language" }}
min_words = 20
min_stop_words = 0
max_top_ngram_shares = [1, 1, 1]
max_duplicate_ngram_shares = [1, 1, 1, 1, 1, 1]
[[stage]]
use = "pii"
inputs = {{ documents = "heuristics" }}
card = "drop"
[[stage]]
use = "safety-filter"
inputs = {{ documents = "pii", toxicity = "{folder}/model" }}
toxicity_threshold = 0.5
[[stage]]
use = "quality"
inputs = {{ documents = "safety-filter", classifier = "{folder}/model" }}
threshold = 0.02
[[stage]]
use = "holdout"
inputs = {{ documents = "quality" }}
share = 0.3
"""


def save_classifier(folder):
    """Scores a text with the word 'rude' high, one with 'blunt' between."""
    ngrams = NgramConfig(word_ngrams=1, max_characters=0, bucket_bits=14)
    weights = np.zeros((1 << 14, 1), np.float32)
    weights[features(["rude"], ngrams)[0]], weights[features(["blunt"], ngrams)[0]] = 60.0, 12.0
    LinearModel(("fine", "toxic"), ngrams, weights, np.array([-3.0]), Calibration()).save(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a run that `openherd run` made."""
    folder = tmp_path_factory.mktemp("looking")
    texts = {f"plain{i}": text_of(i) for i in range(8)}
    texts |= {"short": f"too short\x0bfor {EMAIL} \x1b[31m to stay"}
    texts["plain7"] += " blunt"
    texts |= {"card": f"{text_of(20)}\n{CARD}", "rude": f"{text_of(21)}\n" + "rude"}
    rows = [{"url": f"https://a.example/{name}?by={EMAIL}", "title": f"On {name}", "text": text} for name, text in texts.items()]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    save_classifier(folder / "model")
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder), encoding="utf-8")
    assert main(["run", str(folder / "recipe.toml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def printed(capsys, *arguments):
    """What a command prints that ends well."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """The one line of a command that a person can mend."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_a_dry_run_of_the_limits_of_a_run(run, capsys):
    stage = open_runs(run)["heuristics"].path
    text = printed(capsys, "data", "dry-run", stage)
    assert "11 documents, 1 would be dropped" in text
    assert "words" in text
    assert "too short" in text
    assert EMAIL not in text
    assert "\x1b" not in text
    assert "11 documents, 0 would be dropped" in printed(capsys, "data", "dry-run", stage, "--set", "min_words=2")
    assert printed(capsys, "data", "dry-run", run) == text


def test_a_dry_run_refuses_what_is_no_limit(run, capsys):
    stage = open_runs(run)["heuristics"].path
    for setting in ("min_dirty_words=1", "remove_citations=true", "engine.timeout_s=3.0"):
        line = refused(capsys, "data", "dry-run", stage, "--set", setting)
        assert line.startswith(f"openherd: --set: {setting.partition('=')[0].partition('.')[0]!r} is no limit"), line
    assert "did you mean 'min_words'" in refused(capsys, "data", "dry-run", stage, "--set", "min_wordz=1")
    for stage in ("pii", "sources"):
        line = refused(capsys, "data", "dry-run", open_runs(run)[stage].path)
        assert f"a run of {stage}; allowed: a finished run of heuristics" in line


def test_stories_tell_measures_and_the_limits_of_all_stages(run, capsys):
    def told(name):
        return printed(capsys, "data", "explain", f"https://a.example/{name}?by={EMAIL}", run)

    kept = told("plain1")
    for line in (
        "words 60 (allowed: at least 20, at most 100000)", "(allowed: at least 0.01)",
        "toxicity 0.04743 (allowed: at most 0.5)", "score 0.04743 (allowed: at least 0.02)",
    ):  # fmt: skip
        assert kept.count(line) == 1, (line, kept)
    assert kept.count("language_score") == 1
    card = told("card")
    assert "DROPPED: personal data (card 1)" in card
    assert "card 1\n" in card
    rude = told("rude")
    assert "DROPPED: toxicity" in rude
    assert "(allowed: at most 0.5)  <- broken" in rude


def test_limits_are_those_that_the_stages_were_run_with(run):
    limits = {stage.name: stage.limits("en") for stage in curated(open_runs(run), run)}
    assert limits["heuristics"]["words"] == (20, 100_000)
    assert limits["language"]["language_score"][0] == 0.01
    assert limits["quality"] == {"score": (0.02, np.inf)}
    assert limits["safety-filter"]["toxicity"] == (0.0, pytest.approx(0.5))
    assert limits["safety-filter"]["toxicity"][1] < 0.5
    assert limits["pii"] == {}


def test_the_page_draws_each_measure_once(run, capsys, tmp_path):
    printed(capsys, "data", "page", run, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name in ("language", "heuristics", "pii", "safety-filter", "quality"):
        assert page.count(f"<h3>{name}: measures.parquet</h3>") == 1, name
    for caption in ("; allowed: at least 0.02<", "; allowed: at most 0.5<", "; allowed: at least 0.01<"):
        assert caption in page
    assert EMAIL not in page


def test_a_comparison_tells_held_out_from_kept(run, capsys):
    runs = open_runs(run)
    text = printed(capsys, "data", "diff", runs["quality"].path, runs["holdout"].path)
    n = {name: runs["holdout"].manifest["outputs"][f"{name}.parquet"]["rows"] for name in ("train", "heldout")}
    assert min(n.values()) > 0
    assert f"kept: {n['train'] + n['heldout']} documents in A, {n['train']} in B, {n['train']} in both" in text
    assert f"held out: 0 in A, {n['heldout']} in B" in text
    assert f"kept by A, not by B: {n['heldout']}\n  {n['heldout']}  B held out" in text
    assert "kept by both with another text: 0" in text


def test_rows_keep_their_titles(run):
    titles = {row["title"] for row in read_parquet(open_runs(run)["extraction"].file("documents.parquet"))}
    assert titles >= {"On plain1", "On card"}

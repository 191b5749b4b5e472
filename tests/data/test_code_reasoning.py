"""Code and reasoning: lines and texts by hand, real sets, and the stage on batches."""

import gzip
import json

import numpy as np
import pytest

from data.conftest import document
from openherd.core.rundir import Outside
from openherd.data.calibration import Calibration
from openherd.data.code_reasoning import (
    CodeReasoningConfig,
    code_prior,
    code_reasoning,
    code_share,
    combined,
    is_code,
    reasoning_prior,
    scores,
)
from openherd.data.documents import DROPPED
from openherd.data.linear_model import FastTextModel, LinearModel
from openherd.data.ngram_features import NgramConfig, features

CODE = [
    "def area(radius):", "    return 3.14 * radius ** 2", "for (int i = 0; i < n; i++) {", "}", "#include <stdio.h>",
    "import os, sys", "x = [1, 2, 3]", "let mut total = 0;", ">>> area(2)", "$ pip install thing", "fn main() {",
    "public static void main(String[] args) {", "print(f'{x}')", "    // a comment", "SELECT name FROM herd WHERE id = 3",
    "} else {",
    "result.append(x)", "if x > 3:", "<div class=\"a\">", "@property", "  );",
]  # fmt: skip
PROSE = [
    "The herd sleeps.", "It was late; nobody said a word.", "If it rains, we stay at home.", "For the first time, he was afraid.",
    "He said: \"Let us go.\"", "While the sheep graze, the dog watches them.", "A list of things:", "Chapter 3", "Print edition",
    "Return to the fold before night.", "In 1984, 3,000 sheep were sold for $12 each.", "From here to there.",
]  # fmt: skip


@pytest.mark.parametrize("line", CODE)
def test_lines_of_code(line):
    assert is_code(line)


@pytest.mark.parametrize("line", PROSE)
def test_lines_of_prose(line):
    assert not is_code(line)


def test_shares_by_hand():
    assert code_share("x = 1\nThe herd.\n\n") == pytest.approx(3 / (3 + 8))
    assert code_share("") == code_share("\n \n") == 0.0
    page = "How to use it.\n\n    for i in range(3):\n        print(i)\n\nIt prints three numbers, as you can see."
    assert code_prior(page) > 0.9 > 0.1 > code_prior("\n".join(PROSE))
    steps = "She sold 48/2 = 24 clips in May, and 48+24 = 72 altogether. How many are left if 10 are lost? 72 - 10 = 62."
    assert reasoning_prior(steps) > 0.9 > 0.1 > reasoning_prior("The herd sleeps in the fold by the river, and the dog is awake.")


def test_a_long_line_takes_no_time():
    text = "a = (" * 40_000
    assert code_share(text) == 0.0
    assert code_share("x.y(" * 90 + "\n" + "word, " * 60) < 1


def test_a_classifier_and_the_rule_add_as_log_odds():
    model, prior = np.array([0.5, 0.9, 0.9]), np.array([0.8, 0.5, 0.1])
    found = combined(model, prior, 1.0)
    assert found == pytest.approx([0.8, 0.9, 0.5])
    assert combined(model, prior, 0.0) == pytest.approx(model)
    assert combined(None, prior, 3.0) is prior


def rows():
    code = "def f(x):\n    return x + 1\n\nfor i in range(3):\n    print(f(i))"
    steps = "Let x = 3. Then 2 x + 4 = 10, so x + 2 = 5 and 5 * 2 = 10."
    return [document(code), document(steps), document("The herd sleeps in the fold by the river, and the dog is awake.")]


def test_kinds_without_a_classifier(documents_run, run_stage, rows_of):
    run = run_stage(code_reasoning, CodeReasoningConfig(as_source=True), documents=documents_run(rows()))
    assert [row["kind"] for row in rows_of(run)] == ["code", "reasoning", "prose"]
    assert [row["source"] for row in rows_of(run)] == ["code", "reasoning", "web"]
    assert run.metrics["documents_by_kind"] == {"code": 1, "reasoning": 1, "prose": 1}


def test_kinds_that_do_not_stay(documents_run, run_stage, rows_of):
    run = run_stage(code_reasoning, CodeReasoningConfig(keep=("code", "reasoning")), documents=documents_run(rows()))
    assert [row["kind"] for row in rows_of(run)] == ["code", "reasoning"]
    assert [row["reason"] for row in rows_of(run, DROPPED)] == ["kind prose"]


def test_a_classifier_decides_beside_the_rule(documents_run, run_stage, rows_of, tmp_path):
    ngrams = NgramConfig(word_ngrams=1, max_characters=0, bucket_bits=14)
    weights = np.zeros((1 << 14, 1), np.float32)
    weights[features(["herd"], ngrams)[0]] = 80.0
    LinearModel(("other", "code"), ngrams, weights, np.array([-5.0]), Calibration()).save(tmp_path / "m")
    run = run_stage(code_reasoning, CodeReasoningConfig(), documents=documents_run(rows()), code=Outside(str(tmp_path / "m")))
    assert [row["kind"] for row in rows_of(run)] == ["prose", "reasoning", "code"]


def test_of_two_known_labels_the_wanted_one_counts_whatever_their_order():
    class Told:
        def predict(self, text, k, threshold):
            return ("__label__high", "__label__low"), (0.9, 0.1)

    model = FastTextModel(("high", "low"), Told())
    for found in scores(["a"], CodeReasoningConfig(prior_weight=0.0), model, model):
        assert found == pytest.approx([0.9])


def test_the_rule_on_real_sets(shared_data):
    """Programs, steps of mathematics, and sentences of news; the figures of larger sets are in benchmarks/results."""
    with gzip.open(shared_data("humaneval") / "HumanEval.jsonl.gz", "rt") as file:
        programs = [row["prompt"] + row["canonical_solution"] for row in map(json.loads, file)]
    with (shared_data("gsm8k") / "test.jsonl").open() as file:
        steps = [row["question"] + "\n" + row["answer"] for row in map(json.loads, file)][:300]
    lines = (shared_data("lingua_langid") / "en.txt").read_text().splitlines()
    news = ["\n".join(lines[i : i + 5]) for i in range(0, 1000, 5)]
    assert np.mean([code_prior(text) > 0.5 for text in programs]) > 0.95
    assert np.mean([code_prior(text) > 0.5 for text in news]) < 0.03
    assert np.mean([reasoning_prior(text) > 0.5 for text in steps]) > 0.9
    assert np.mean([reasoning_prior(text) > 0.5 for text in news]) < 0.05

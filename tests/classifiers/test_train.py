"""Training a classifier from documents and from files: what is refused and held out, what the report draws; real toxicity."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from data.conftest import document
from openherd.classifiers.examples import NEGATIVE, POSITIVE, TEST, TRAIN, SplitConfig, divided, read_examples, text_id
from openherd.classifiers.train import TrainClassifierConfig, train_classifier
from openherd.core.errors import InputError
from openherd.core.records import read_jsonl, write_jsonl
from openherd.core.rundir import Outside
from openherd.data.linear_model import load
from openherd.data.ngram_features import NgramConfig
from openherd.report.classifiers import classifiers

SMALL = NgramConfig(word_ngrams=1, max_characters=0, bucket_bits=14)
GOOD = [f"the shepherd keeps {i} sheep in the fold by the river, and the herd number {i * 7} sleeps" for i in range(150)]
BAD = [f"buy {i} cheap watches now, click offer number {i * 7}, best price today" for i in range(150)]


def rows(texts, **more):
    return [document(text, language="en" if i % 2 else "de", **more) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def run(documents_run, run_stage):
    config = TrainClassifierConfig(ngrams=SMALL)
    return run_stage(train_classifier, config, positives=documents_run(rows(GOOD)), negatives=documents_run(rows(BAD)))


def test_reference_against_random(run):
    assert run.metrics["labels"] == [NEGATIVE, POSITIVE]
    assert run.metrics["heldout_auc"]["value"] == 1.0
    assert set(run.metrics["heldout_auc_by_language"]) == {"de", "en"}
    model = load(run.path / "model")
    assert model.score(["the shepherd and the sheep", "cheap watches, click"])[0] > 0.7
    assert model.score(["cheap watches, best price"])[0] < 0.3


def test_held_out_scores_are_those_of_the_model_that_was_written(run):
    by_id = {text_id(text): text for text in GOOD + BAD}
    held = list(read_jsonl(run.file("heldout_scores.jsonl")))
    scores = load(run.path / "model").score([by_id[row["id"]] for row in held])
    assert scores == pytest.approx(np.array([row["score"] for row in held]), abs=1e-6)
    assert len(held) == run.metrics["heldout_texts"]


def test_the_report_draws_it(run):
    page = str(classifiers([run]))
    assert "ROC curve" in page
    assert "How often a score is right" in page
    assert "by language" in page.lower()
    found = json.loads(run.file("evaluation.json").read_text())
    assert sum(map(sum, found["histogram"].values())) == run.metrics["heldout_texts"]


def test_no_text_is_trained_on_and_held_out():
    texts = [f"text {i % 40}" for i in range(200)]  # each five times
    labelled = divided([(text_id(t), "ab"[i % 2], "") for i, t in enumerate(texts)], SplitConfig(), "b", 0, "here")
    of = {part: {texts[i] for i in labelled.of(part)} for part in (TRAIN, TEST)}
    assert of[TRAIN]
    assert of[TEST]
    assert not of[TRAIN] & of[TEST]


def test_which_label_is_positive():
    given = [(f"{i}", "ab"[i % 2], "") for i in range(100)]
    with pytest.raises(InputError, match=r"here: two labels, 'a' and 'b', and nothing says which .* positive = 'b'"):
        divided(given, SplitConfig(), "", 0, "here")
    assert divided(given, SplitConfig(), "", 0, "here", ("b", "c", "a")).names == ("b", "a")
    for pair in (("0", "1"), ("No", "Yes"), ("random", "reference"), ("hq", "cc")[::-1], ("negative", "positive")):
        assert divided([(f"{i}", pair[i % 2], "") for i in range(100)], SplitConfig(), "", 0, "here").names == pair
    assert divided(given, SplitConfig(), "a", 0, "here").names == ("b", "a")
    with pytest.raises(InputError, match="no text has the label 'c'; allowed: a, b"):
        divided(given, SplitConfig(), "c", 0, "here")
    with pytest.raises(InputError, match="1 different labels in 100 texts"):
        divided([(i, "a", "") for i, _, _ in given], SplitConfig(), "", 0, "here")
    with pytest.raises(InputError, match=r"no text .* has the label 'b'"):
        divided([(f"{i}", "a" if i else "b", "") for i in range(50)], SplitConfig(), "b", 0, "here")


@pytest.fixture(params=["csv", "jsonl", "tsv"])
def file(request, tmp_path):
    path = tmp_path / f"labels.{request.param}"
    found = [
        {"text": t.replace(",", "\n"), "label": label, "language": "en"} for label, of in (("1", GOOD), ("0", BAD)) for t in of
    ]
    if request.param == "jsonl":
        write_jsonl(path, [{**row, "label": int(row["label"])} for row in found])
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as out:
            table = csv.DictWriter(out, ["label", "text", "language"], delimiter="\t" if request.param == "tsv" else ",")
            table.writeheader()
            table.writerows(found)
    return path


def test_a_users_file(file, run_stage):
    run = run_stage(train_classifier, TrainClassifierConfig(ngrams=SMALL), labels=Outside(str(file)))
    assert run.metrics["labels"] == ["0", "1"]
    assert run.metrics["texts"] == 300
    assert run.metrics["heldout_auc"]["value"] == 1.0


def test_some_texts_of_each_label(file):
    found = list(read_examples(None, None, Outside(str(file)), 20, 3))
    assert Counter(e.label for e in found) == {"0": 20, "1": 20}
    assert [e.id for e in found] == [e.id for e in read_examples(None, None, Outside(str(file)), 20, 3)]
    assert {e.id for e in found} != {e.id for e in read_examples(None, None, Outside(str(file)), 20, 4)}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"text": "x"}\n', "line 2: columns text; allowed: a text in"),
        ("a.jsonl", '{"text": "x", "label": ["a"]}\n', "line 1: columns text, label; allowed"),
        ("a.jsonl", "[1]\n", 'line 1: no object; allowed: {"text"'),
        ("a.jsonl", "{\n", "line 1: not valid JSON"),
        ("a.csv", "words,label\nx,a\n", "line 2: columns words, label; allowed"),
        ("a.csv", b"text,label\n\xff,a\n", "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_line(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        list(read_examples(None, None, Outside(str(path)), 0, 0))
    assert said in str(error.value)
    assert name in str(error.value)


def test_inputs_that_do_not_go_together(documents_run):
    one = documents_run(rows(GOOD[:2]))
    for inputs in ((one, None, None), (None, None, None), (one, one, Outside("x"))):
        with pytest.raises(InputError, match="positives and negatives, or labels alone"):
            list(read_examples(*inputs, 0, 0))


def test_real_toxicity_by_cross_validation(shared_data, tmp_path):
    """Five folds; fastText reached 0.881 on the same folds at the best of three settings."""
    from openherd.classifiers.linear import LinearTraining, fit, hashed
    from openherd.classifiers.measures import auc
    from openherd.data.linear_model import sums

    with (shared_data("surge_toxicity") / "toxicity_en.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    y = np.array([int(row["is_toxic"] == "Toxic") for row in found])
    fold = np.random.default_rng(0).permutation(len(y)) % 5
    scores, config = np.zeros(len(y)), NgramConfig()
    with hashed([row["text"] for row in found], config, tmp_path / "features") as data:
        for k in range(5):
            train = np.random.default_rng(1).permutation(np.flatnonzero(fold != k))
            weights, bias = fit(data, y, 2, 1 << config.bucket_bits, train[80:], train[:80], LinearTraining(epochs=12), 0)
            scores[fold == k] = sums(weights, bias, data.batch(np.flatnonzero(fold == k)))[:, 0]
    assert auc(scores, y == 1) > 0.87

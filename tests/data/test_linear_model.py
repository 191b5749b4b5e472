"""Linear classifiers on disk, their scores worked out by hand, and folders that are none."""

import json

import numpy as np
import pytest

from openherd.core.errors import InputError
from openherd.core.rundir import Outside
from openherd.data import classifier
from openherd.data.calibration import Calibration, sigmoid, softmax
from openherd.data.classifier import checked_label, place_of, probability_of
from openherd.data.linear_model import CONFIG, FastTextModel, LinearModel, load
from openherd.data.ngram_features import NgramConfig, features

NGRAMS = NgramConfig(bucket_bits=10)
TEXTS = ["a herd of sheep", "", "wolves", "日本語"]


def model(labels=("bad", "good"), seed=0):
    columns = 1 if len(labels) == 2 else len(labels)
    rng = np.random.default_rng(seed)
    calibration = Calibration(kind="temperature", scale=0.5, shift=0.25 if columns == 1 else 0.0)
    return LinearModel(labels, NGRAMS, rng.normal(size=(1024, columns)).astype(np.float32), rng.normal(size=columns), calibration)


@pytest.mark.parametrize("labels", [("bad", "good"), ("a", "b", "c")])
def test_scores_by_hand_and_after_loading(tmp_path, labels):
    made = model(labels)
    made.save(tmp_path / "m")
    scores = load(tmp_path / "m").score(TEXTS)
    assert np.array_equal(scores, made.score(TEXTS))
    for text, score in zip(TEXTS, scores, strict=True):
        buckets = features([text], NGRAMS)[0].tolist()
        logits = sum((made.weights[b].astype(float) for b in buckets), np.zeros(len(made.bias))) / max(len(buckets), 1) ** 0.5
        logits = logits + made.bias
        by_hand = sigmoid(0.5 * logits + 0.25)[0] if len(labels) == 2 else softmax(0.5 * logits)
        assert score == pytest.approx(by_hand, abs=1e-6)
    assert load(tmp_path / "m").labels == labels
    assert made.score([]).shape[0] == 0


def test_batches_do_not_matter():
    made = model()
    texts = [f"text {i} of many" for i in range(600)]
    assert np.array_equal(made.score(texts), np.concatenate([made.score([text]) for text in texts]))


def test_the_probability_of_a_label():
    two, three = model(), model(("a", "b", "c"))
    assert probability_of(two, TEXTS, "bad") == pytest.approx(1 - probability_of(two, TEXTS, "good"))
    assert sum(probability_of(three, TEXTS, name) for name in "abc") == pytest.approx(np.ones(len(TEXTS)))
    assert checked_label(two, "", "here") == "good"
    with pytest.raises(InputError, match="no label chosen; allowed: a, b, c"):
        checked_label(three, "", "here")
    with pytest.raises(InputError, match="no label 'ugly'"):
        checked_label(two, "ugly", "here")


def damage(folder, what):
    config = json.loads((folder / CONFIG).read_text())
    if what == "kind":
        config["kind"] = "another"
    elif what == "labels":
        config["labels"].append("more")
    elif what == "ngrams":
        config["ngrams"]["bucket_bits"] = 11
    elif what == "weights":
        (folder / "model.safetensors").write_bytes(b"nothing")
    elif what == "gone":
        (folder / "model.safetensors").unlink()
    elif what == "nan":
        made = model()
        made.weights[3] = np.nan
        made.save(folder)
    if what not in ("weights", "gone", "nan"):
        (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize("what", ["kind", "labels", "ngrams", "weights", "gone", "nan"])
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, what):
    folder = tmp_path / "m"
    model().save(folder)
    damage(folder, what)
    with pytest.raises(InputError, match=str(folder)) as error:
        classifier.load(folder)
    assert "\n" not in str(error.value)


def test_a_folder_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no classifier"):
        classifier.load(tmp_path)
    assert place_of(Outside(str(tmp_path))) == tmp_path
    (tmp_path / "labels.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"labels\.jsonl: a file; allowed: the folder of a classifier"):
        classifier.load(tmp_path / "labels.jsonl")


class FakeFastText:
    """What fasttext-predict gives: labels with the largest probability first, which may be a little over 1."""

    def predict(self, text, k, threshold):
        assert "\n" not in text
        assert k == 2
        return (
            (("__label__good", "__label__bad"), np.array([0.75, 0.2500001])) if "good" in text else (("__label__bad",), [1.00001])
        )


def test_fasttext_scores_are_those_of_the_second_label_by_name():
    scorer = FastTextModel(("bad", "good"), FakeFastText())
    assert scorer.score(["a good\ntext", "else"]).tolist() == [0.75, 0.0]
    assert probability_of(scorer, ["else"], "bad").tolist() == [1.0]


def test_which_of_two_fasttext_labels_is_wanted():
    assert classifier.checked_label(FastTextModel(("cc", "hq"), None), "", "quality") == "hq"
    assert classifier.checked_label(FastTextModel(("keep", "remove"), None), "keep", "quality") == "keep"
    with pytest.raises(InputError, match="quality: no label chosen; allowed: keep, remove"):
        classifier.checked_label(FastTextModel(("keep", "remove"), None), "", "quality")


def test_a_real_fasttext_model(tmp_path):
    """Where fasttext-predict is installed, and something that trains: the same figures."""
    fasttext = pytest.importorskip("fasttext")
    if not hasattr(fasttext, "train_supervised"):
        pytest.skip("fasttext-predict alone does not train")
    lines = [f"__label__{'good' if i % 2 else 'bad'} a b c {'sheep' if i % 2 else 'spam'} {i}" for i in range(100)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    fasttext.train_supervised(str(tmp_path / "train.txt"), epoch=5, dim=4, thread=1, verbose=0).save_model(str(tmp_path / "m.bin"))
    scores = classifier.load(tmp_path / "m.bin").score(["a sheep", "a spam"])
    assert scores[0] > 0.5 > scores[1]


def test_fasttext_of_a_file_that_is_none(tmp_path):
    (tmp_path / "lid.ftz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no fastText model|one more package; pip install 'openherd\[fasttext\]'"):
        classifier.load(tmp_path / "lid.ftz")

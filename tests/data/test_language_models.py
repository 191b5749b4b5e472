"""Many texts at once, beside py3langid one text at a time; a fastText file of the user's."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from openherd.core.errors import InputError
from openherd.data.language_models import UNDETERMINED, FasttextModel, NgramModel, labels_in, load_model


@pytest.fixture(scope="module")
def oracle():
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def assert_same(texts, oracle):
    model = load_model()
    for text, (code, score), shares in zip(texts, model.identify(texts), model.probabilities(texts)):
        expected = dict(oracle.rank(text))
        if code == UNDETERMINED:
            assert not shares.any()
            assert len({round(value, 9) for value in expected.values()}) <= 2  # equal, but for languages in two scripts
            continue
        assert [shares[model.labels.index(label)] for label in expected] == pytest.approx(list(expected.values()), abs=1e-3)
        assert expected[code] == pytest.approx(max(expected.values()), abs=1e-3)
        assert score == pytest.approx(expected[code], abs=1e-3)


@given(st.lists(st.text(max_size=200) | st.text("Aa éß日本ไทखगو", max_size=400), max_size=4))
def test_answers_are_py3langids(oracle, texts):
    assert_same(texts, oracle)


def test_answers_on_real_sentences_are_py3langids(oracle, shared_data):
    lines = [line for file in sorted(shared_data("lingua_langid").glob("*.txt")) for line in file.read_text("utf-8").splitlines()]
    draw = random.Random(0)
    texts = [" ".join(draw.sample(lines, draw.randint(1, 9))) for _ in range(150)] + draw.sample(lines, 150)
    assert_same(texts, oracle)


def test_a_text_of_which_nothing_is_known_is_undetermined():
    assert load_model().identify(["", "\u2603", "a"]) == [(UNDETERMINED, 0.0)] * 3
    assert load_model().identify([]) == []


def test_what_the_automaton_remembers_is_short():
    assert NgramModel().memory_bytes <= 6
    assert len(load_model().labels) == 140


def fasttext_file(path, labels):
    """The head of a fastText file: its dictionary alone, which no reader of models takes."""
    entries = [("the", 0), *((label, 1) for label in labels)]
    data = struct.pack("<ii", 793712314, 12) + bytes(12 * 4 + 8) + struct.pack("<iiiqq", len(entries), 1, len(labels), 9, -1)
    path.write_bytes(data + b"".join(word.encode() + b"\0" + struct.pack("<qb", 1, kind) for word, kind in entries))


def test_labels_are_read_from_a_fasttext_file(tmp_path):
    fasttext_file(tmp_path / "model.bin", ["__label__en", "__label__zh"])
    assert labels_in(tmp_path / "model.bin") == ["__label__en", "__label__zh"]


def test_a_file_that_is_no_model_is_refused(tmp_path):
    pytest.importorskip("fasttext")
    with pytest.raises(InputError, match="no such file; allowed: a fastText model"):
        FasttextModel(tmp_path / "none.ftz")
    (tmp_path / "text.ftz").write_text("no model")
    with pytest.raises(InputError, match=r"text.ftz: no fastText model \(.*\); allowed: a .ftz or .bin file"):
        FasttextModel(tmp_path / "text.ftz")


def test_a_fasttext_model_that_was_trained_here_answers(tmp_path, monkeypatch):
    """No fastText file may lie in the project, and its small reader trains none: what it is asked and answers is checked."""
    fasttext = pytest.importorskip("fasttext")
    fasttext_file(tmp_path / "model.bin", ["__label__en", "__label__zh"])
    asked = []

    class Inner:
        def predict(self, text, k, threshold, on_error):
            asked.append(text)
            return [(1.00001, "__label__en")] if "a" in text else []

    class Model:
        f = Inner()

    monkeypatch.setattr(fasttext, "load_model", lambda path: Model())
    model = FasttextModel(tmp_path / "model.bin")
    assert model.labels == ("en", "zh")
    assert model.identify(["a\nb\tc", "!", ""]) == [("en", 1.0), (UNDETERMINED, 0.0), (UNDETERMINED, 0.0)]
    assert asked == ["a b c\n", "!\n"]

"""The built-in tagger of names: plain cases, its score on the real set, and files that are damaged."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.classifiers.name_tagger import scores
from openherd.core.errors import InputError
from openherd.data.name_tagger import NameTagger, bucket, features, tokens_of


def names(text, threshold=0.5):
    return [text[start:end] for start, end in NameTagger.load().find(text, threshold)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The report was written by Maria Schmidt in Berlin.", ["Maria Schmidt"]),
        ("Dear Dr. Kowalski, thank you.", ["Kowalski"]),
        ("Yours, J. Smith and Olga Petrova", ["J. Smith", "Olga Petrova"]),
        ("Interview with Pieter van der Berg, director", ["Pieter van der Berg"]),
        ("Anna's book is on the table.", ["Anna"]),
        ("The meeting in Paris is on Monday.", []),
        ("Terms of Service and Privacy Policy", []),
        ("nothing in small letters", []),
        ("", []),
    ],
)
def test_plain_cases(text, expected):
    assert names(text) == expected


@given(st.text(max_size=60))
def test_whatever_is_found_begins_in_a_capital_and_lies_apart(text):
    spans = list(NameTagger.load().find(text, 0.2))
    assert all(text[start:end].strip() == text[start:end] and text[start].isupper() for start, end in spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_a_probability_is_the_logistic_of_the_sum_of_its_features():
    tagger = NameTagger.load()
    tokens = tokens_of("by Maria Schmidt")
    total = sum(int(tagger.weights[bucket(f, tagger.bits)]) for f in features(tokens, 1, False)) * tagger.scale
    assert tagger.probabilities(tokens)[1] == pytest.approx(1 / (1 + np.exp(-total)))


@pytest.mark.parametrize("half", [0, 1])
def test_recall_and_precision_on_the_real_set(shared_data, half):
    rows = json.loads((shared_data("presidio_pii") / "synth_dataset_v2.json").read_text(encoding="utf-8"))
    examples = [
        (row["full_text"], [(s["start_position"], s["end_position"]) for s in row["spans"] if s["entity_type"] == "PERSON"])
        for row in rows
        if row["template_id"] % 2 == half
    ]
    found = scores(NameTagger.load(), examples)
    assert found["names"] > 200
    assert found["recall"] > 0.6
    assert found["precision"] > 0.7


def test_a_saved_tagger_is_the_same(tmp_path):
    tagger = NameTagger(np.arange(-8, 8, dtype=np.int8), 0.25, 4)
    tagger.save(tmp_path)
    again = NameTagger.load(tmp_path)
    assert (again.weights == tagger.weights).all()
    assert (again.scale, again.bits) == (0.25, 4)


def test_what_is_no_tagger_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        NameTagger.load(tmp_path)
    NameTagger(np.zeros(16, np.int8), 1.0, 4).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for wrong in ({**config, "bits": 5}, {**config, "kind": "other"}, {"kind": config["kind"]}):
        (tmp_path / "config.json").write_text(json.dumps(wrong), encoding="utf-8")
        with pytest.raises(InputError):
            NameTagger.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="a damaged tagger"):
        NameTagger.load(tmp_path)

"""Training a tagger of names on examples of one's own."""

import json

import pytest

from openherd.classifiers.name_tagger import NameTaggerConfig, name_tagger, read_examples, rows_of, scores, train
from openherd.core.errors import InputError
from openherd.core.rundir import Job, Outside, make
from openherd.data.name_tagger import NameTagger

FIRST, LAST = ["Ann", "Bob", "Cleo", "Dan"], ["Lee", "Moss", "Nash", "Orr"]


def examples():
    made = []
    for first in FIRST:
        for last in LAST:
            text = f"The parcel for {first} {last} lies in Room {len(made)}."
            made.append((text, [(15, 15 + len(first) + 1 + len(last))]))
            made.append((f"The Parcel lies in Room {len(made)} of Hall {last[0]}x.", []))
    return made


def test_what_is_taught_is_learned_and_also_found_of_names_never_seen():
    config = NameTaggerConfig(bits=12, epochs=6)
    tagger = train(examples(), config)
    assert scores(tagger, examples()) == {"recall": 1, "precision": 1, "strict_recall": 1, "strict_precision": 1, "names": 16}
    assert [tuple(span) for span in tagger.find("The parcel for Zoe Zimmer lies in Room 7.")] == [(15, 25)]
    assert (train(examples(), config).weights == tagger.weights).all()


def test_hidden_words_are_in_no_feature():
    import random

    example = ("The parcel for Ann Lee", [(15, 22)])
    shown = [len(buckets) for buckets, _ in rows_of(example, 12, None, 1.0)]
    hidden = [len(buckets) for buckets, _ in rows_of(example, 12, random.Random(0), 1.0)]
    assert [a - b for a, b in zip(shown, hidden, strict=True)] == [4, 4, 4]
    assert [label for _, label in rows_of(example, 12, None, 1.0)] == [0, 1, 1]


def test_scores_count_shared_characters_and_strict_ones():
    class Fixed:
        def find(self, text, threshold):
            return iter([(0, 4), (10, 12)])

    found = scores(Fixed(), [("x" * 20, [(2, 6), (15, 18)])])
    assert found == {"recall": 0.5, "precision": 0.5, "strict_recall": 0, "strict_precision": 0, "names": 2}


def write(folder, rows):
    file = folder / "examples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Outside(str(file))


def test_the_stage_writes_a_tagger_and_its_score(tmp_path):
    labelled = write(tmp_path, [{"text": text, "names": spans} for text, spans in examples()])
    job = Job("name-tagger", "3.1.1", 1, {}, {}, {})
    run, _ = make(job, tmp_path / "run", name_tagger, NameTaggerConfig(bits=12, epochs=6), {"labelled": labelled})
    tagger = NameTagger.load(run.path / "model")
    assert [tuple(span) for span in tagger.find("The parcel for Ann Lee lies in Room 1.")] == [(15, 22)]
    assert run.metrics["examples"] == 29
    assert 0 <= run.metrics["precision"] <= 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x"}, "row 1: no example"),
        ({"text": "x", "names": [[0, 2]]}, "outside the text"),
        ({"text": "x", "names": [[0]]}, "no example"),
    ],
)
def test_wrong_examples_are_refused(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        read_examples(write(tmp_path, [row]))
    with pytest.raises(InputError, match="0 examples"):
        name_tagger(NameTaggerConfig(), labelled=write(tmp_path, []), out=None)

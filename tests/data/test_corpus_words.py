"""Divergence and outliers worked by hand and beside a slow twin; counting stays bounded."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.corpus_words import (
    WordCounts,
    corpus_shares,
    count_words,
    equal_share,
    is_counted,
    read_counts,
    write_counts,
)
from openherd.data.text_batch import TextBatch

WORDS = st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=40)


def shares_of(texts, counted, languages=None, rare=2):
    batch = TextBatch.of(pa.array(texts, pa.string()))
    return corpus_shares(batch, languages or [""] * len(texts), counted, [True] * len(texts), 1, rare)


def test_divergence_worked_by_hand():
    corpus = {"": {"": 100, "the": 60, "cat": 30, "dog": 10}}
    # Without the document "the" has 59 left and "dog" 9; with one more each, of 98 + 3.
    expected = 0.5 * math.log(0.5 / (60 / 101)) + 0.5 * math.log(0.5 / (10 / 101))
    divergence, outliers = shares_of(["the Dog", ""], corpus, rare=10)
    assert divergence.tolist() == pytest.approx([expected, 0.0])
    assert outliers.tolist() == [0.5, 0.0]


def test_what_a_document_lost_since_it_was_counted_is_left_out_too():
    corpus = {"": {"": 100, "the": 60, "cat": 30, "dog": 10}}
    counted = TextBatch.of(pa.array(["dog dog\nthe", "cat"]))
    batch = counted.keeping(np.array([False, True, True]))
    divergence, _ = corpus_shares(batch, ["", ""], corpus, [True, True], 1, 2, counted)
    assert divergence.tolist() == pytest.approx([-math.log(60 / 100), -math.log(30 / 102)])


@given(st.lists(WORDS, min_size=1, max_size=5), st.data())
def test_divergence_equals_its_slow_twin_and_no_document_helps_itself(texts, data):
    languages = [data.draw(st.sampled_from(["x", "y"])) for _ in texts]
    counted = count_words([(languages, pa.array([" ".join(text) for text in texts]))], 100)
    found, outliers = shares_of([" ".join(text) for text in texts], counted, languages)
    for i, (text, language) in enumerate(zip(texts, languages)):
        corpus = Counter(word for other, code in zip(texts, languages) if code == language for word in other)
        own = Counter(text)
        rest = corpus.copy()
        rest.subtract(own)
        total = sum(rest[word] + 1 for word in corpus)
        expected = sum(n / len(text) * math.log(n / len(text) / ((rest[word] + 1) / total)) for word, n in own.items())
        assert found[i] == pytest.approx(expected)
        assert outliers[i] == pytest.approx(sum(n for word, n in own.items() if rest[word] < 2) / len(text))


def test_a_text_of_outliers_alone_has_a_share_of_one_to_the_last_bit():
    """A limit of 1 is off: what is more than 1 by rounding would go by it."""
    texts = [" ".join(f"w{i}" for i in range(n)) for n in range(1, 200)]
    assert set(shares_of(texts, {"": {"": 1_000, "the": 1_000}})[1].tolist()) == {1.0}


def test_counts_stay_bounded_and_keep_the_frequent(tmp_path):
    texts = [" ".join(f"w{i}x{k}" for k in range(50)) + " often" * 3 for i in range(20)]
    counted = count_words([(["en"], pa.array([text])) for text in texts], 100)
    assert len(counted["en"]) <= 101
    assert counted["en"]["often"] == 60
    assert counted["en"][""] == 20 * 53
    write_counts(tmp_path / "counts.parquet", counted)
    assert read_counts(str(tmp_path / "counts.parquet")) == counted
    write_counts(tmp_path / "none.parquet", {})
    assert read_counts(str(tmp_path / "none.parquet")) == {}


def test_languages_share_the_bound_and_small_ones_keep_all():
    assert [equal_share(sizes, 12) for sizes in ([], [3, 4], [2, 10, 10], [12, 12, 12], [20])] == [0, 4, 5, 4, 12]
    counts = WordCounts(12)
    for i in range(40):
        for language in ("x", "y"):
            counts.add(language, [f"w{i}", "often"], [1, 1])
        counts.add("z", ["a", "b"], [1, 2])
        assert counts._n <= 2 * 12 + 3
    found = counts.most_common()
    assert {language: len(counter) - 1 for language, counter in found.items()} == {"x": 5, "y": 5, "z": 2}
    assert [(counter[""], counter["often"]) for counter in found.values()] == [(80, 40), (80, 40), (120, 0)]


def test_a_sample_is_a_fixed_choice_of_about_its_share():
    ids = [f"{i:032x}" for i in range(2_000)]
    chosen = [is_counted(name, 0.25) for name in ids]
    assert chosen == [is_counted(name, 0.25) for name in ids]
    assert 400 < sum(chosen) < 600
    assert all(is_counted(name, 1.0) for name in ids)

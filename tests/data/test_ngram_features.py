"""Hashed n-grams: the arrays against the slow twin."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openherd.data import ngram_features
from openherd.data.ngram_features import NgramConfig, bucket_of, features, slow_features

CONFIGS = st.builds(
    NgramConfig,
    word_ngrams=st.integers(0, 3),
    min_characters=st.integers(1, 4),
    max_characters=st.integers(0, 5),
    bucket_bits=st.sampled_from((8, 16, 28)),
    text_characters=st.sampled_from((0, 0, 7)),
)
TEXTS = st.lists(st.text(st.sampled_from("ab A1_.\n\t é日ひนक्ा{}=\u2028😀İ") | st.characters(), max_size=30), max_size=5)


@given(texts=TEXTS, config=CONFIGS)
@example(["", "a", "  ", "", "b b"], NgramConfig())
@example(["\ud800x"], NgramConfig())
def test_features_are_those_of_the_slow_twin(texts, config):
    found = features(texts, config)
    assert [set(of.tolist()) for of in found] == [slow_features(text, config) for text in texts]
    assert all((np.diff(of.astype(np.int64)) > 0).all() for of in found)


@given(texts=TEXTS)
def test_what_stands_beside_a_text_in_a_batch_does_not_matter(texts):
    together = features(texts, NgramConfig())
    alone = [features([text], NgramConfig())[0] for text in texts]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


def test_long_texts_are_cut_into_batches(monkeypatch):
    texts = [f"some words about {i}" for i in range(40)]
    whole = features(texts, NgramConfig())
    monkeypatch.setattr(ngram_features, "CHARACTERS_AT_ONCE", 64)
    assert all(np.array_equal(a, b) for a, b in zip(features(texts, NgramConfig()), whole, strict=True))


def test_case_layout_and_the_end_do_not_matter_and_order_does():
    a, b, c = features(["The  Herd\n", "the herd", "herd the"], NgramConfig())
    assert np.array_equal(a, b)
    assert not np.array_equal(b, c)
    cut, whole = features(["the herd and more"], NgramConfig(text_characters=8))[0], features(["the herd"], NgramConfig())[0]
    assert np.array_equal(cut, whole)


def test_buckets_are_used_evenly():
    found = bucket_of(np.arange(40_000, dtype=np.uint64), 3, 8)
    counts = np.bincount(found, minlength=256)
    assert counts.min() > 0.5 * counts.mean()
    assert counts.max() < 1.5 * counts.mean()


@pytest.mark.parametrize("text", ["for (i = 0; i < n; i++) { x[i] += 1; }", "sum of x = 3"])
def test_signs_are_words(text):
    words = NgramConfig(max_characters=0, word_ngrams=1)
    bare = "".join(c if c.isalnum() else " " for c in text)
    assert len(features([text], words)[0]) > len(features([bare], words)[0])

"""The trigram baseline against a slow twin of dictionaries and fractions, and values by hand."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.evaluation.ngram import Trigram, discounts

V, BEGIN = 5, 4
TEXTS = st.lists(st.lists(st.integers(0, V - 1), max_size=30), min_size=1, max_size=4).filter(any)


class Twin:
    """Modified Kneser-Ney as its formula stands, one probability at a time."""

    def __init__(self, texts):
        padded = [[BEGIN, BEGIN, *text] for text in texts]
        trigrams = Counter(tuple(text[i : i + 3]) for text in padded for i in range(len(text) - 2))
        bigrams = Counter(gram[1:] for gram in trigrams)
        self.counts = {3: trigrams, 2: bigrams, 1: Counter(gram[1:] for gram in bigrams)}

    def discount(self, n, count):
        n1, n2, n3, n4 = (sum(c == k for c in self.counts[n].values()) for k in (1, 2, 3, 4))
        if n1 == 0 or n2 == 0:
            return Fraction(1, 2)
        y = Fraction(n1, n1 + 2 * n2)
        if n3 == 0 or n4 == 0 or 2 - 3 * y * n3 / n2 <= 0 or 3 - 4 * y * n4 / n3 <= 0:
            return y
        return {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2}.get(count, 3 - 4 * y * n4 / n3)

    def probability(self, *gram):
        n = len(gram)
        lower = self.probability(*gram[1:]) if n > 1 else Fraction(1, V)
        beside = {g: c for g, c in self.counts[n].items() if g[:-1] == gram[:-1]}
        if not beside:
            return lower
        kept = beside[gram] - self.discount(n, beside[gram]) if gram in beside else 0
        freed = sum(self.discount(n, c) for c in beside.values())
        return (kept + freed * lower) / sum(beside.values())


def all_trigrams():
    grid = np.indices((V, V, V)).reshape(3, -1)
    return grid, [tuple(int(i) for i in gram) for gram in grid.T]


@settings(deadline=None)
@given(texts=TEXTS)
def test_equals_the_twin_and_sums_to_one(texts):
    grid, grams = all_trigrams()
    found = Trigram(texts, V, BEGIN).probabilities(*grid)
    twin = Twin(texts)
    for i in range(0, len(grams), 7):
        assert found[i] == pytest.approx(float(twin.probability(*grams[i])), abs=1e-12)
    assert found.reshape(V * V, V).sum(1) == pytest.approx(np.ones(V * V))
    assert (found > 0).all()


def test_equals_the_twin_where_all_discounts_are_estimated():
    rng = np.random.default_rng(0)
    texts = [rng.choice(V, size=40, p=[0.6, 0.2, 0.1, 0.07, 0.03]).tolist() for _ in range(3)]
    twin = Twin(texts)
    estimated = [twin.discount(3, count) for count in (1, 2, 3)]
    assert len(set(estimated)) == 3, "three unlike discounts, or this test tries nothing"
    grid, grams = all_trigrams()
    expected = [float(twin.probability(*gram)) for gram in grams]
    assert Trigram(texts, V, BEGIN).probabilities(*grid) == pytest.approx(expected, abs=1e-12)


def test_discounts_by_hand():
    counts = np.array([1] * 6 + [2] * 3 + [3] * 2 + [4] + [9])
    # y = 6 / (6 + 2 * 3) = 1/2; 1 - 2 y 3/6, 2 - 3 y 2/3, 3 - 4 y 1/2
    assert discounts(counts) == pytest.approx([0, 0.5, 1.0, 2.0])
    assert discounts(np.array([1, 1, 2, 3])) == pytest.approx([0, 0.5, 0.5, 0.5])  # nothing stood four times: y = 2 / (2 + 2)
    assert discounts(np.array([1] + [2] * 2 + [3] * 9 + [4])) == pytest.approx([0, 0.2, 0.2, 0.2])  # 2 - 3 y 9/2 is below zero
    assert discounts(np.array([1, 1, 3])) == pytest.approx([0, 0.5, 0.5, 0.5])


def test_one_token_by_hand():
    model = Trigram([[0, 0]], 2, 1)
    # (1,1,0) and (1,0,0) stood once; all discounts are 1/2. Of tokens, 0 came behind two: (2 - 1/2 + 1/2 * 1/2) / 2 = 7/8.
    # Behind 0: (1 - 1/2 + 1/2 * 7/8) / 1 = 15/16. Behind (1, 0): 1/2 + 1/2 * 15/16 = 31/32.
    one, zero = np.array([1]), np.array([0])
    assert model.probabilities(one, zero, zero) == pytest.approx([31 / 32])
    assert model.probabilities(zero, zero, zero) == pytest.approx([15 / 16])  # a context that never stood: the bigram's
    assert model.log2_probabilities([0, 0, 1]).sum() == pytest.approx(math.log2(31 / 32) * 2 + math.log2(1 / 16))


def test_a_real_vocabulary_does_not_overflow():
    high = 128_255
    model = Trigram([[high, high, 0, high] * 5], 128_256, high)
    assert float(2.0 ** model.log2_probabilities([high, high, 0])[2]) > 0.3
    assert float(2.0 ** model.log2_probabilities([high, high, 77])[2]) < 0.01

"""Training: one step against its slow twin, the same weights twice, and what can be learned is learned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.classifiers.linear import LinearTraining, dense_gradient, fit, hashed, sparse_gradient
from openherd.data.linear_model import sums
from openherd.data.ngram_features import NgramConfig, features

NGRAMS = NgramConfig(word_ngrams=1, max_characters=0, bucket_bits=12)
BATCHES = st.lists(st.lists(st.integers(0, 31), unique=True).map(lambda b: np.array(sorted(b), np.uint32)), min_size=1, max_size=6)


@given(found=BATCHES, columns=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_steps_gradient_is_the_slow_twins(found, columns, seed):
    errors = np.random.default_rng(seed).normal(size=(len(found), columns))
    touched, gradient = sparse_gradient(found, errors, 32)
    dense = np.zeros((32, columns))
    dense[touched] = gradient
    assert dense == pytest.approx(dense_gradient(found, errors, 32))


@given(n_labels=st.integers(2, 4))
def test_the_gradient_is_that_of_the_loss(n_labels):
    from openherd.classifiers.linear import probabilities, targets

    rng = np.random.default_rng(n_labels)
    columns = 1 if n_labels == 2 else n_labels
    weights, bias = rng.normal(size=(8, columns)).astype(np.float32), np.zeros(columns)
    found, labels = [np.array([1, 3, 6], np.uint32)], np.array([1])

    def loss(weights):
        p = probabilities(sums(weights, bias, found))[0]
        return -np.log(p[0] if columns == 1 else p[1])

    errors = probabilities(sums(weights, bias, found)) - targets(labels, columns)
    gradient = dense_gradient(found, errors, 8)
    step = np.zeros_like(weights)
    step[3, 0] = 1e-2
    assert gradient[3, 0] == pytest.approx((loss(weights + step) - loss(weights - step)) / 2e-2, abs=1e-3)


def trained(texts, labels, tmp_path, n_labels=2, **settings):
    with hashed(texts, NGRAMS, tmp_path / "features") as data:
        assert [set(data.of(i).tolist()) for i in range(3)] == [set(of.tolist()) for of in features(texts[:3], NGRAMS)]
        places = np.arange(len(texts))
        watched, training = places[::5], places[places % 5 != 0]
        losses = []
        weights, bias = fit(
            data, labels, n_labels, 1 << 12, training, watched, LinearTraining(**settings), 0, lambda e, loss: losses.append(loss)
        )
        found = sums(weights, bias, data.batch(watched))
    assert not (tmp_path / "features").exists()
    guess = (found[:, 0] > 0).astype(int) if n_labels == 2 else found.argmax(axis=1)
    return weights, losses, float((guess == labels[watched]).mean()), found


@pytest.mark.parametrize("n_labels", [2, 3])
def test_what_can_be_learned_is_learned_and_twice_the_same(tmp_path, n_labels):
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    labels = rng.integers(0, n_labels, 200)
    texts = [" ".join([*rng.choice(words, 12), f"sign{label}"]) for label in labels]
    weights, losses, right, _ = trained(texts, labels, tmp_path, n_labels)
    assert right == 1.0
    assert losses[-1] < 0.5 * losses[0]
    again, *_ = trained(texts, labels, tmp_path, n_labels)
    assert np.array_equal(weights, again)


def test_rare_labels_weigh_as_much_as_common_ones(tmp_path):
    rng = np.random.default_rng(1)
    labels = (np.arange(300) % 20 == 1).astype(int)
    texts = [" ".join(rng.choice([f"w{i}" for i in range(30)], 8)) for _ in labels]  # nothing to be learned
    *_, balanced = trained(texts, labels, tmp_path, epochs=3)
    *_, plain = trained(texts, labels, tmp_path, epochs=3, balance=False)
    assert plain.mean() < balanced.mean() - 1


def test_it_ends_when_nothing_gets_better(tmp_path):
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice([f"w{i}" for i in range(30)], 8)) for _ in range(100)]
    _, losses, *_ = trained(texts, rng.integers(0, 2, 100), tmp_path, epochs=30, patience=2)
    assert len(losses) == 1 + int(np.argmin(losses)) + 2

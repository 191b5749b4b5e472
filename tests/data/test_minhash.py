"""Signatures beside their slow twin; candidates beside the curve of the bands."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data import minhash, shingles
from openherd.data.dedup_reference import candidate_pairs
from openherd.data.minhash import band_keys, bands_for, candidate_probability, estimated_jaccards, permutations, signature, signed
from openherd.data.shingles import Normalisation, jaccards, shingle_sets


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20, unique=True))
def test_a_signature_equals_its_slow_twin(values):
    given_set = np.array(sorted(values), np.uint64)
    permuted_by = permutations(24, seed=3)
    expected = [
        min(((int(a) * (x >> 32) + int(b)) % 2**32 for x in values), default=2**32 - 1) for a, b in zip(*permuted_by, strict=True)
    ]
    assert signature(given_set, permuted_by).tolist() == expected


def test_a_signature_does_not_depend_on_block_size(monkeypatch):
    values = np.unique(np.random.default_rng(0).integers(0, 2**64, 1_000, dtype=np.uint64))
    permuted_by = permutations(16, seed=0)
    whole = signature(values, permuted_by)
    monkeypatch.setattr(minhash, "SHINGLES_PER_BLOCK", 7)
    assert np.array_equal(signature(values, permuted_by), whole)


@given(st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=6), st.sampled_from([1, 2, 3, 6]))
def test_equal_keys_are_what_the_slow_twin_finds(signatures, bands):
    keys = band_keys(np.array(signatures, np.uint32), bands, np.zeros(len(signatures), np.uint64))
    n = len(signatures)
    assert {(i, j) for i in range(n) for j in range(i + 1, n) if (keys[:, i] == keys[:, j]).any()} == set(
        candidate_pairs(signatures, bands)
    )


def test_groups_share_no_key():
    signatures = np.zeros((2, 4), np.uint32)
    assert (
        band_keys(signatures, 2, np.array([1, 1], np.uint64)).T[0] == band_keys(signatures, 2, np.array([1, 2], np.uint64)).T[0]
    ).all()
    keys = band_keys(signatures, 2, np.array([1, 2], np.uint64))
    assert (keys[:, 0] != keys[:, 1]).all()


def test_bands_and_rows_follow_from_the_threshold():
    assert bands_for(0.75, 112, 0.75) == (14, 8)  # datatrove's and FineWeb's
    for threshold in (0.3, 0.5, 0.8, 0.95):
        for n in (32, 128, 500):
            bands, rows = bands_for(threshold, n, 0.9)
            assert bands * rows <= n
            assert candidate_probability(threshold, bands, rows) >= 0.9
            steeper = [candidate_probability(threshold, n // r, r) for r in range(rows + 1, n + 1)]
            assert all(p < 0.9 for p in steeper)
    assert bands_for(0.01, 4, 0.9) == (4, 1)  # what comes nearest


def planted(similarity, n_pairs, draw, words=120):
    """Pairs of texts that share as many words of one length as this Jaccard similarity of their 1-word sets asks for."""
    shared = round(similarity * words)
    pairs = []
    for numbers in draw.integers(0, 10**9, (n_pairs, words)).tolist():
        found = [f"w{number}" for number in numbers]
        cut = shared + (words - shared) // 2
        pairs += [" ".join(found[:cut]), " ".join(found[:shared] + found[cut:])]
    return pa.array(pairs)


@pytest.mark.parametrize(
    "similarity", [0.6, 0.72, 0.85, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.5, 0.55, 0.65, 0.8, 0.9, 0.95))]
)
def test_planted_pairs_follow_the_curve_of_the_bands(similarity):
    """From texts to keys: within 0.02 of the formula at the similarities that the pairs truly have."""
    shingles.load_kernel(1)
    bands, rows, n_pairs = 14, 8, 6_000
    texts = planted(similarity, n_pairs, np.random.default_rng(round(similarity * 100)))
    left, right = np.arange(0, 2 * n_pairs, 2), np.arange(1, 2 * n_pairs, 2)
    true = jaccards(*shingle_sets(texts, 1, Normalisation()), left, right)
    assert abs(true.mean() - similarity) < 0.01
    signatures = signed(texts, 1, Normalisation(), permutations(bands * rows, seed=11)).signatures
    keys = band_keys(signatures, bands, np.zeros(2 * n_pairs, np.uint64))
    found = (keys[:, left] == keys[:, right]).any(axis=0)
    assert abs(found.mean() - candidate_probability(true, bands, rows).mean()) < 0.02
    standard_error = (similarity * (1 - similarity) / (bands * rows * n_pairs)) ** 0.5
    assert abs(estimated_jaccards(signatures[left], signatures[right]).mean() - true.mean()) < 4 * standard_error

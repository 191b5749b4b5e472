"""Buckets and connected components beside slow twins."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.clusters import BYTES_PER_KEY, Clusters, best_of, blocks, buckets, join_alike, shares_of
from openherd.data.dedup_reference import components


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=40), st.integers(1, 4), st.integers(1, 7))
def test_buckets_are_those_with_the_same_key_in_any_memory(documents, shares, part):
    keys = np.array([key * 7919 for key, _ in documents], np.uint64)
    counts = np.array([chosen for _, chosen in documents], bool)

    def given_keys():
        for first in range(0, len(keys), part):
            yield first, keys[first : first + part], counts[first : first + part]

    found = []
    for share in range(shares):
        members, bucket = buckets(given_keys, share, shares)
        for number in np.unique(bucket):
            found.append(members[bucket == number].tolist())
    expected = defaultdict(list)
    for number, (key, chosen) in enumerate(documents):
        if chosen:
            expected[key].append(number)
    assert sorted(found) == sorted(numbers for numbers in expected.values() if len(numbers) > 1)


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15), st.integers(1, 15))
def test_clusters_are_the_connected_components(n, joins, at_once):
    joins = [(i % n, j % n) for i, j in joins]
    clusters = Clusters(n)
    for start in range(0, len(joins), at_once):
        left, right = zip(*joins[start : start + at_once], strict=True)
        clusters.join(np.array(left), np.array(right))
    expected = components(n, joins)
    assert clusters.find(np.arange(n)).tolist() == expected
    assert clusters.labels().tolist() == expected


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=12),
    st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11))),
    st.integers(1, 12),
)
def test_alike_documents_of_a_bucket_are_joined(bucket_of, alike, most):
    """With as many comparisons as a bucket needs it is what all pairs give; with fewer nothing else is joined, and that is told."""
    n = len(bucket_of)
    order = np.argsort(bucket_of, kind="stable")
    bucket = np.array(bucket_of)[order]

    def similarity(left, right):
        return np.array([float((i, j) in alike or (j, i) in alike) for i, j in zip(left.tolist(), right.tolist(), strict=True)])

    clusters = Clusters(n)
    apart = join_alike(clusters, order, bucket, most, similarity, 0.5)
    pairs = [
        (i, j) for i in range(n) for j in range(i) if bucket_of[i] == bucket_of[j] and similarity(np.array([i]), np.array([j]))[0]
    ]
    expected = components(n, pairs)
    found = clusters.labels().tolist()
    largest = max(bucket_of.count(b) for b in bucket_of)
    if most >= largest - 1:
        assert found == expected
        assert apart == 0
    else:
        assert all(expected[i] == expected[label] for i, label in enumerate(found))
        if found != expected:
            assert apart > 0


def test_all_of_a_bucket_are_joined_where_nothing_is_asked():
    clusters = Clusters(6)
    assert join_alike(clusters, np.array([0, 2, 5, 1, 4]), np.array([0, 0, 0, 1, 1]), 1, None, 0.9) == 0
    assert clusters.labels().tolist() == [0, 1, 0, 3, 1, 0]


@given(st.lists(st.integers(0, 20), max_size=12), st.integers(1, 30))
def test_blocks_cover_all_and_keep_to_their_size(sizes, most):
    found = list(blocks(np.array(sizes, np.int64), most))
    assert [i for block in found for i in range(len(sizes))[block]] == list(range(len(sizes)))
    assert all(sum(sizes[block]) <= most or block.stop - block.start == 1 for block in found)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), max_size=12))
def test_each_cluster_keeps_the_first_by_preference(rows):
    cluster, a, b = (np.array([row[k] for row in rows], np.int64) for k in range(3))
    best = best_of(cluster, [a, b, np.arange(len(rows))])
    for i, (own, *_) in enumerate(rows):
        assert best[i] == min((k for k in range(len(rows)) if rows[k][0] == own), key=lambda k: (*rows[k][1:], k))


def test_keys_are_cut_to_the_memory():
    assert [shares_of(1_000, memory * BYTES_PER_KEY) for memory in (1e9, 1_000, 999, 500, 10)] == [1, 1, 2, 2, 100]


def test_too_many_documents_for_a_signed_number_of_32_bits(monkeypatch):
    monkeypatch.setattr(np, "arange", lambda n, dtype: dtype)
    assert [Clusters(n).parent for n in (2**31 - 1, 2**31)] == [np.int32, np.int64]


@pytest.mark.parametrize("n", [1, 5])
def test_documents_without_duplicates_are_their_own(n):
    assert Clusters(n).labels().tolist() == list(range(n))

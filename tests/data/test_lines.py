"""Lines as numbers: the kernel beside Python; counts beside slow twins."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data import lines as module
from openherd.data.line_counts import frequent_keys, places_in, ranks, repeated_keys
from openherd.data.lines import Lines, lines_of, runs_of
from openherd.data.shingles import library

TEXTS = st.one_of(st.text(), st.text(st.sampled_from("ab1_ \n\t\r.é文\u2028\x1c\x00\xa0²")))
KEYS = st.lists(st.integers(0, 6), max_size=30)


@settings(max_examples=100)
@given(st.lists(st.tuples(TEXTS, st.integers(0, 2**64 - 1)), max_size=5))
def test_the_kernel_equals_python_to_the_last_bit(documents):
    if not library.load():
        pytest.skip(f"the kernel cannot be compiled here: {library.error}")
    texts, seeds = [text for text, _ in documents], np.array([seed for _, seed in documents], np.uint64)
    fast = lines_of(pa.array(texts, pa.string()), seeds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.library, "functions", None)
        slow = lines_of(pa.array(texts, pa.string()), seeds)
    for a, b in zip(fast, slow, strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    assert np.diff(fast.starts).tolist() == [sum(bool(line.strip()) for line in text.split("\n")) for text in texts]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=6), max_size=4),
    st.integers(1, 3),
    st.integers(0, 4),
)
def test_runs_are_those_of_one_document(documents, n, min_size):
    keys = [key for document in documents for key, _ in document]
    sizes = [size for document in documents for _, size in document]
    starts = np.cumsum([0, *map(len, documents)])
    found, places = runs_of(Lines(np.array(keys, np.uint64), np.array(sizes, np.int32), starts), n, min_size)
    expected = [
        start + i
        for start, document in zip(starts.tolist(), documents)
        for i in range(len(document) - n + 1)
        if sum(size for _, size in document[i : i + n]) >= min_size
    ]
    assert places.tolist() == expected
    runs = [tuple(keys[i : i + n]) for i in expected]
    assert [found[i] == found[j] for i in range(len(runs)) for j in range(i)] == [
        runs[i] == runs[j] for i in range(len(runs)) for j in range(i)
    ]


@given(st.lists(KEYS, max_size=4), st.integers(1, 3), st.integers(0, 4))
def test_frequent_keys_are_counted(parts, shares, most):
    arrays = [np.array(part, np.uint64) for part in parts]
    keys, counts = frequent_keys(lambda: iter(arrays), shares, most)
    expected = sorted((key, n) for key, n in Counter(key for part in parts for key in part).items() if n > most)
    assert list(zip(keys.tolist(), counts.tolist())) == expected


@given(st.lists(KEYS, max_size=4), st.integers(1, 3))
def test_repeated_keys_know_their_first_place(parts, shares):
    starts = np.cumsum([0, *map(len, parts)])
    arrays = [(np.array(part, np.uint64), start + np.arange(len(part))) for part, start in zip(parts, starts)]
    keys, firsts = repeated_keys(lambda: iter(arrays), shares)
    everything = [key for part in parts for key in part]
    assert keys.tolist() == sorted(key for key, n in Counter(everything).items() if n > 1)
    assert firsts.tolist() == [everything.index(key) for key in keys.tolist()]


@given(st.sets(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_places_of_known_keys(known, keys):
    stands, places = places_in(np.array(sorted(known), np.uint64), np.array(keys, np.uint64))
    assert stands.tolist() == [key in known for key in keys]
    assert [sorted(known)[place] for place in places[stands].tolist()] == [key for key in keys if key in known]


@given(st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=3))
def test_ranks_go_on_from_what_was_counted(parts):
    before, seen = np.zeros(5, np.int64), Counter()
    for part in parts:
        expected = []
        for place in part:
            expected.append(seen[place])
            seen[place] += 1
        assert ranks(np.array(part, np.int64), before).tolist() == expected
    assert before.tolist() == [seen[i] for i in range(5)]

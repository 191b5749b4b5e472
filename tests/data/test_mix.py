"""The order of sources: shares over any prefix, against exact fractions and counting by hand."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.mix import Mix

WEIGHTS = st.lists(st.floats(0, 1e6) | st.sampled_from([1e-9, 1.0, 1.0, 2.0]), min_size=1, max_size=12).filter(sum)


def named(weights: list[float]) -> dict[str, float]:
    return {f"s{i}": w for i, w in enumerate(weights)}


@given(weights=WEIGHTS, n=st.integers(0, 100) | st.integers(0, 10**18))
def test_every_prefix_is_within_two_samples_of_the_exact_shares(weights, n):
    counts = Mix(named(weights)).counts(n)
    total = sum(map(Fraction, weights))
    assert sum(counts.values()) == n
    assert set(counts) == {name for name, w in named(weights).items() if w > 0}
    assert all(abs(counts[name] - n * Fraction(w) / total) < 2 for name, w in named(weights).items() if w > 0)


@given(weights=WEIGHTS, first=st.integers(0, 10**18))
def test_a_sample_is_where_its_sources_count_grows(weights, first):
    mix = Mix(named(weights))
    before = mix.counts(first)
    for index in range(first, first + 20):
        name, nth = mix.sample(index)
        after = mix.counts(index + 1)
        assert nth == before[name]
        assert after == {**before, name: nth + 1}
        before = after


def test_a_mix_worked_out_by_hand():
    # b (2) and c (1) make a fork, b on its left; that fork (3) and a (3) make the root, a on its right. Halves are rounded up:
    # the root goes left, right, left, right ...; the fork b, c, b and again.
    mix = Mix({"a": 3, "b": 2, "c": 1})
    assert "".join(mix.sample(i)[0] for i in range(12)) == "bacaba" * 2
    assert mix.counts(6) == {"a": 3, "b": 2, "c": 1}


def test_a_light_source_comes_as_rarely_as_its_weight_says():
    mix = Mix({"web": 1.0, "rare": 1e-6})
    assert mix.counts(10**9)["rare"] == 1000
    assert all(mix.sample(i)[0] == "web" for i in range(10_000))


def test_the_order_of_names_and_the_scale_of_weights_do_not_matter():
    one, other = Mix({"a": 0.5, "b": 0.25, "c": 0.25}), Mix({"c": 1, "b": 1, "a": 2})
    assert [one.sample(i) for i in range(64)] == [other.sample(i) for i in range(64)]


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": 1.0, "b": -0.5}])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be positive"):
        Mix(weights)

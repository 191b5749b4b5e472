"""Terms, shingles and signatures: the kernel beside the functions in Python, and these beside slow twins."""

import ctypes
import itertools
import sys

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core.compiled import Compiled
from openherd.data import shingles as module
from openherd.data.dedup_reference import exact_jaccard, exact_shingles
from openherd.data.minhash import permutations, signed
from openherd.data.shingles import Column, Normalisation, jaccards, shingle_sets, shingles, terms_of
from openherd.data.words import terms

WAYS = [Normalisation(case=a, punctuation=b, blanks=c) for a, b, c in itertools.product((True, False), repeat=3)]
# Letters that fold to others, to several, or to longer ones; marks that join; scripts without spaces and their punctuation; blanks.
ODD = "aB9_ \n\t.,'-éßİŒΣςǰΐﬁⅣ𝔸𐐀한ひカｶ文字ก็ໄ၊က។ក\u2028\x1c\x00\u0301\u200d€😀"
TEXTS = st.one_of(st.text(), st.text(st.sampled_from(ODD)), st.text(st.sampled_from("aBc .,\n"), max_size=200))


@pytest.fixture(scope="module")
def kernel():
    if not module.library.load():
        pytest.skip(f"the kernel cannot be compiled here: {module.library.error}")


def slow_mix(value):
    value = (value ^ (value >> 30)) * module.MIX[0] % 2**64
    value = (value ^ (value >> 27)) * module.MIX[1] % 2**64
    return value ^ (value >> 31)


def slow_shingles(found, n):
    width = min(n, len(found))
    runs = {tuple(found[i : i + width]) for i in range(len(found) - width + 1)} if found else set()
    numbers = []
    for run in runs:
        total = 0
        for term in run:
            total = (total * module.MULTIPLIER + xxhash.xxh64_intdigest(term.encode())) % 2**64
        numbers.append(slow_mix(total))
    return sorted(numbers)


@given(st.lists(st.sampled_from(["a", "b", "été", "文"]), max_size=20), st.integers(1, 6))
def test_shingles_equal_their_slow_twin(found, n):
    assert shingles(found, n).tolist() == slow_shingles(found, n)


@settings(max_examples=60)
@given(st.lists(TEXTS, max_size=4), st.sampled_from(WAYS), st.integers(1, 6))
def test_the_kernel_equals_python_to_the_last_bit(kernel, texts, normalised, n):
    permuted_by = permutations(37, seed=1)
    columns = [pa.array(["before", *texts], pa.large_string())[1:], pa.array(texts, pa.string())]
    fast = [signed(column, n, normalised, permuted_by) for column in columns] + [shingle_sets(columns[0], n, normalised)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.library, "functions", None)
        slow = [signed(column, n, normalised, permuted_by) for column in columns] + [shingle_sets(columns[0], n, normalised)]
    for a, b in zip(fast, slow, strict=True):
        for x, y in zip(a, b, strict=True):
            assert x.dtype == y.dtype
            assert np.array_equal(x, y)
    assert fast[0].terms.tolist() == [len(terms_of(text, normalised)) for text in texts]


@pytest.mark.parametrize("n_permutations", [1, 15, 16, 17, 64, 112, 128, 129, 300])
def test_any_number_of_permutations(kernel, n_permutations):
    texts = pa.array([" ".join(f"w{i % 700}" for i in range(k, 3 * k)) for k in (1, 50, 2_000)])
    permuted_by = permutations(n_permutations, seed=2)
    fast = signed(texts, 3, Normalisation(), permuted_by)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.library, "functions", None)
        slow = signed(texts, 3, Normalisation(), permuted_by)
    assert np.array_equal(fast.signatures, slow.signatures)


@pytest.mark.slow
def test_every_character_is_the_same_to_both(kernel):
    points = [c for c in range(sys.maxunicode + 1) if c not in module.SURROGATES]
    texts = pa.array(["".join(f"a{chr(c)}B" for c in points[i : i + 50]) for i in range(0, len(points), 50)])
    for normalised in (WAYS[0], WAYS[-1]):
        fast = shingle_sets(texts, 1, normalised)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.library, "functions", None)
            slow = shingle_sets(texts, 1, normalised)
        for a, b in zip(fast, slow, strict=True):
            assert np.array_equal(a, b)


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_what_is_no_utf8_is_read_within_bounds(kernel, contents):
    offsets = np.cumsum([0, *map(len, contents)]).astype(np.int64)
    data = np.frombuffer(b"".join(contents), np.uint8)
    values, ends = np.empty(4 * len(data) + 1, np.uint64), np.zeros(len(contents), np.int64)
    found = module.library.functions.shingles(
        ctypes.byref(module.tables(Normalisation(), False)), module.address(data), module.address(offsets),
        ctypes.c_int64(len(contents)), 2, ctypes.c_int64(len(values)), module.address(values), module.address(ends),
    )  # fmt: skip
    assert 0 <= found <= len(values)


def test_terms_by_choice():
    text = "Don't  stop.\nSTRASSE straße ひと"
    assert terms_of(text, Normalisation()) == terms(text) == ["don", "t", "stop", "strasse", "strasse", "ひ", "と"]
    assert terms_of(text, Normalisation(case=False)) == ["Don", "t", "stop", "STRASSE", "straße", "ひ", "と"]
    assert terms_of("a.b", Normalisation(punctuation=False)) == ["a", ".", "b"]
    assert terms_of("a \n.b", Normalisation(blanks=False)) == ["a", " ", "\n", "b"]


@pytest.mark.parametrize("text", ["深度學習模型", "ニューラルネット", "การเรียนรู้เชิงลึก"])
def test_scripts_without_spaces_have_shingles_of_characters(text):
    sets = [set(shingles(terms_of(t, Normalisation()), 3).tolist()) for t in (text, text[1:])]
    assert len(sets[0]) == len({text[i : i + 3] for i in range(len(text) - 2)})
    assert sets[1] < sets[0]


@given(st.lists(st.text(st.sampled_from("abc "), max_size=30), min_size=2, max_size=5), st.integers(1, 3))
def test_jaccard_is_that_of_the_sets_themselves(kernel, texts, n):
    exact = [exact_shingles(terms(text), n) for text in texts]
    pairs = list(itertools.product(range(len(texts)), repeat=2))
    left, right = (np.array(side) for side in zip(*pairs, strict=True))
    given_sets = shingle_sets(pa.array(texts), n, Normalisation())
    found = [jaccards(*given_sets, left, right)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.library, "functions", None)
        found.append(jaccards(*given_sets, left, right))
    for values in found:
        assert values.tolist() == [exact_jaccard(exact[i], exact[j]) for i, j in pairs]


def test_null_is_an_empty_text(kernel):
    assert list(Column.of(pa.array(["a", None, "b"])).texts()) == ["a", "", "b"]
    assert signed(pa.array(["a", None]), 2, Normalisation(), permutations(3, 0)).terms.tolist() == [1, 0]


def test_without_a_compiler_python_does_the_work(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = Compiled(module.library.source)
    monkeypatch.setattr(broken, "_compiled", lambda: tmp_path / "missing.so")
    monkeypatch.setattr(module, "library", broken)
    module.load_kernel(1)  # not worth it
    assert (broken.functions, broken.error) == (None, "")
    module.load_kernel(module.WORTH_COMPILING)
    assert broken.functions is None
    assert "missing.so" in broken.error
    assert len(shingle_sets(pa.array(["one two three"]), 2, Normalisation())[0]) == 2

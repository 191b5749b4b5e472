"""MinHash beside its slow twin; clusters beside brute force over exact sets."""

import random
from itertools import combinations, permutations

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data import minhash
from openherd.data.dedup_documents import DedupDocumentsConfig, dedup_documents
from openherd.data.documents import DROPPED
from openherd.data.words import terms

TEXTS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=14).map(" ".join), max_size=8)
# One row: a pair above 0.5 is no candidate with a chance of 1 in 2^96, so that the exact check alone decides.
THOROUGH = {"shingle_words": 2, "bands": 96, "rows": 1, "min_jaccard": 0.5}


def slow_mix(value):
    value = (value ^ (value >> 30)) * minhash.MIX[0] % 2**64
    value = (value ^ (value >> 27)) * minhash.MIX[1] % 2**64
    return value ^ (value >> 31)


def slow_shingles(found, n):
    width = min(n, len(found))
    runs = {tuple(found[i : i + width]) for i in range(len(found) - width + 1)} if found else set()
    numbers = []
    for run in runs:
        total = 0
        for term in run:
            total = (total * minhash.MULTIPLIER + xxhash.xxh64_intdigest(term.encode())) % 2**64
        numbers.append(slow_mix(total))
    return sorted(numbers)


def exact_shingles(text, n):
    """The set itself, without hashing: the oracle of Jaccard and of containment."""
    found = terms(text)
    width = min(n, len(found))
    return {tuple(found[i : i + width]) for i in range(len(found) - width + 1)} if found else set()


def exact_jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 1.0


@given(st.lists(st.sampled_from(["a", "b", "été", "文"]), max_size=20), st.integers(1, 6))
def test_shingles_and_signatures_equal_their_slow_twins(found, n):
    shingled = minhash.shingles(found, n)
    assert shingled.tolist() == slow_shingles(found, n)
    if found:
        permuted_by = minhash.permutations(24, seed=3)
        expected = [
            min((int(a_) * x + int(b_)) % 2**64 for x in shingled.tolist()) >> 32
            for a_, b_ in zip(*(column.ravel() for column in permuted_by), strict=True)
        ]
        assert minhash.signature(shingled, permuted_by).tolist() == expected


def test_a_signature_does_not_depend_on_block_size(monkeypatch):
    values = np.unique(np.random.default_rng(0).integers(0, 2**64, 1_000, dtype=np.uint64))
    permuted_by = minhash.permutations(16, seed=0)
    whole = minhash.signature(values, permuted_by)
    monkeypatch.setattr(minhash, "SHINGLES_PER_BLOCK", 7)
    assert np.array_equal(minhash.signature(values, permuted_by), whole)


def pair_with(jaccard, draw, size=120):
    """Two sets of random numbers with this Jaccard similarity."""
    shared = round(jaccard * size)
    values = draw.integers(0, 2**64, size, dtype=np.uint64)
    cut = shared + (size - shared) // 2
    return np.unique(values[:cut]), np.unique(np.concatenate([values[:shared], values[cut:]]))


@pytest.mark.parametrize("jaccard", [0.45, 0.6, 0.7, 0.8, 0.9])
def test_planted_pairs_follow_the_curve_of_the_bands(jaccard):
    bands, rows, n_pairs = 14, 8, 500
    draw = np.random.default_rng(round(jaccard * 100))
    permuted_by = minhash.permutations(bands * rows, seed=11)
    found, agreement = 0, []
    for _ in range(n_pairs):
        a, b = (minhash.signature(values, permuted_by) for values in pair_with(jaccard, draw))
        found += list(minhash.candidate_pairs([(0, a), (1, b)], bands)) == [(0, 1)]
        agreement.append(minhash.estimated_jaccard(a, b))
    expected = 1 - (1 - jaccard**rows) ** bands
    deviation = (expected * (1 - expected) / n_pairs) ** 0.5
    assert abs(found / n_pairs - expected) < 4 * deviation + 1e-9
    standard_error = (jaccard * (1 - jaccard) / (bands * rows * n_pairs)) ** 0.5
    assert abs(np.mean(agreement) - jaccard) < 4 * standard_error


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=15))
def test_clusters_are_the_connected_components(n, joins):
    joins = [(i % n, j % n) for i, j in joins]
    clusters = minhash.Clusters(n)
    for i, j in joins:
        clusters.join(i, j)
    labels = list(range(n))
    for _ in range(n):  # the slow twin: smallest label within reach, until nothing changes
        for i, j in joins:
            labels[i] = labels[j] = min(labels[i], labels[j])
    assert [clusters.find(i) for i in range(n)] == labels


@settings(max_examples=35)
@given(TEXTS)
def test_what_is_kept_is_what_brute_force_keeps(documents_run, run_stage, rows_of, texts):
    run = run_stage(dedup_documents, DedupDocumentsConfig(**THOROUGH), documents=documents_run(texts))
    sets = [exact_shingles(text, 2) for text in texts]
    labels = list(range(len(texts)))
    for _ in texts:
        for i, j in combinations(range(len(texts)), 2):
            same = terms(texts[i]) == terms(texts[j])
            if same or (sets[i] and sets[j] and exact_jaccard(sets[i], sets[j]) >= 0.5):
                labels[i] = labels[j] = min(labels[i], labels[j])
    kept = {min((k for k in range(len(texts)) if labels[k] == label), key=lambda k: (-len(texts[k]), k)) for label in labels}
    assert [row["id"] for row in rows_of(run)] == [f"{i:032x}" for i in sorted(kept)]
    for row in rows_of(run, DROPPED):
        keeper = next(k for k in kept if labels[k] == labels[int(row["id"], 16)])
        assert f"{keeper:032x}" in row["detail"]
        if row["reason"] == "near duplicate":
            value = exact_jaccard(sets[int(row["id"], 16)], sets[keeper])
            assert f"Jaccard {value:.3f} " in row["detail"]
            assert row["detail"].endswith("through others like both") == (value < 0.5)


@settings(max_examples=35)
@given(TEXTS, st.sampled_from([0.25, 0.5, 0.8]))
def test_no_kept_document_stands_in_another(documents_run, run_stage, rows_of, texts, limit):
    config = DedupDocumentsConfig(**{**THOROUGH, "min_jaccard": 1.0}, max_containment=limit)
    run = run_stage(dedup_documents, config, documents=documents_run(texts))
    kept = {row["id"]: exact_shingles(row["text"], 2) for row in rows_of(run)}
    for a, b in combinations(kept.values(), 2):
        for small, large in ((a, b), (b, a)):
            assert not small or len(small & large) / len(small) <= limit
    for row in rows_of(run, DROPPED):
        if row["reason"] == "contained":
            own = exact_shingles(row["text"], 2)
            shares = {id_: len(own & other) / len(own) for id_, other in kept.items()}
            assert max(shares.values()) > limit
            assert any(id_ in row["detail"] and f"{share:.3f} " in row["detail"] for id_, share in shares.items() if share > limit)


@settings(max_examples=20)
@given(TEXTS, st.randoms(use_true_random=False))
def test_the_order_of_documents_does_not_matter(documents_run, run_stage, rows_of, texts, random):
    rows = rows_of(documents_run(texts))
    shuffled = random.sample(rows, len(rows))
    config = DedupDocumentsConfig(**THOROUGH, max_containment=0.6)
    outcomes = []
    for given_rows in (rows, shuffled):
        run = run_stage(dedup_documents, config, documents=documents_run(given_rows))
        outcomes.append({row["id"]: (row["reason"], row["detail"]) for row in rows_of(run, DROPPED)})
    assert outcomes[0] == outcomes[1]


def test_exact_twins_hold_and_are_held_in_any_order(documents_run, run_stage, rows_of):
    small, large, other = "a b c d e", "a b c d e f g h", "p q r s t"
    rows = rows_of(documents_run([small, small + "!", large, large + "!", other]))
    config = DedupDocumentsConfig(shingle_words=2, max_containment=0.9)
    for order in permutations(rows):
        kept = {row["text"] for row in rows_of(run_stage(dedup_documents, config, documents=documents_run(order)))}
        assert kept == {large + "!", other}


def test_the_newest_is_kept_else_the_longest_else_the_smallest_id(documents_run, run_stage, rows_of):
    text = "one two three four five six seven"
    rows = rows_of(documents_run([text, text, text + " !!", text, text]))
    dates = ["2025-01-01", "2026-01-01", "2026-01-01", "2026-01-01", ""]
    rows = [{**row, "date": date} for row, date in zip(rows, dates, strict=True)]
    for wanted in ("2", "1", "3", "0", "4"):  # take away the kept one each time
        run = run_stage(dedup_documents, DedupDocumentsConfig(), documents=documents_run(rows))
        kept = rows_of(run)
        assert [row["id"][-1] for row in kept] == [wanted]
        assert all(row["reason"] == "exact duplicate" and kept[0]["id"] in row["detail"] for row in rows_of(run, DROPPED))
        rows = [row for row in rows if row["id"] != kept[0]["id"]]


def test_case_layout_and_punctuation_make_no_difference_but_symbols_alone_do(documents_run, run_stage, rows_of):
    texts = ["Hello, World: again", "hello\n  world (again)", "$$$", "%%%", "你好世界", "你好, 世界"]
    run = run_stage(dedup_documents, DedupDocumentsConfig(), documents=documents_run(texts))
    assert [row["text"] for row in rows_of(run)] == ["hello\n  world (again)", "$$$", "%%%", "你好, 世界"]


@pytest.mark.parametrize("check", ["jaccard", "signature", "none"])
def test_a_page_with_a_changed_word_is_a_near_duplicate_under_every_check(documents_run, run_stage, rows_of, check):
    draw = random.Random(1)
    page = [f"w{draw.randrange(500)}" for _ in range(400)]
    other = " ".join(f"w{draw.randrange(500)}" for _ in range(400))
    config = DedupDocumentsConfig(check=check)
    run = run_stage(
        dedup_documents, config, documents=documents_run([" ".join(page), " ".join([*page[:200], "new", *page[201:]]), other])
    )
    assert len(rows_of(run)) == 2
    assert [row["reason"] for row in rows_of(run, DROPPED)] == ["near duplicate"]
    assert run.metrics["n_permutations"] == 112

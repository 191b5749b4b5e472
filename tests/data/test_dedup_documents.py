"""What the stage keeps beside brute force over exact sets; the order of documents, resuming, memory."""

import random
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data.dedup_documents import DedupDocumentsConfig, dedup_documents
from openherd.data.dedup_reference import exact_clusters, exact_jaccard, exact_shingles
from openherd.data.documents import DROPPED
from openherd.data.words import terms

TEXTS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=14).map(" ".join), max_size=8)
# One row: a pair above 0.5 is no candidate with a chance of 1 in 2^32, so that the exact check alone decides.
THOROUGH = {"shingle_words": 2, "bands": 32, "rows": 1, "threshold": 0.5}


@settings(max_examples=25)
@given(TEXTS)
def test_what_is_kept_is_what_brute_force_keeps(documents_run, run_stage, rows_of, texts):
    run = run_stage(dedup_documents, DedupDocumentsConfig(**THOROUGH), documents=documents_run(texts))
    sets = [exact_shingles(terms(text), 2) for text in texts]
    labels = exact_clusters(texts, 2, 0.5)
    kept = {min((k for k in range(len(texts)) if labels[k] == label), key=lambda k: (-len(texts[k]), k)) for label in labels}
    assert [row["id"] for row in rows_of(run)] == [f"{i:032x}" for i in sorted(kept)]
    for row in rows_of(run, DROPPED):
        keeper = next(k for k in kept if labels[k] == labels[int(row["id"], 16)])
        assert f"{keeper:032x}" in row["detail"]
        if row["reason"] == "near duplicate":
            value = exact_jaccard(sets[int(row["id"], 16)], sets[keeper])
            assert f"Jaccard {value:.3f} " in row["detail"]
            assert row["detail"].endswith("through others like both") == (value < 0.5)


@settings(max_examples=25)
@given(TEXTS, st.sampled_from([0.25, 0.5, 0.8]))
def test_no_kept_document_stands_in_another(documents_run, run_stage, rows_of, texts, limit):
    config = DedupDocumentsConfig(**{**THOROUGH, "threshold": 1.0}, max_containment=limit)
    run = run_stage(dedup_documents, config, documents=documents_run(texts))
    kept = {row["id"]: exact_shingles(terms(row["text"]), 2) for row in rows_of(run)}
    for a, b in combinations(kept.values(), 2):
        for small, large in ((a, b), (b, a)):
            assert not small or len(small & large) / len(small) <= limit
    for row in rows_of(run, DROPPED):
        if row["reason"] == "contained":
            own = exact_shingles(terms(row["text"]), 2)
            shares = {id_: len(own & other) / len(own) for id_, other in kept.items()}
            assert max(shares.values()) > limit
            assert any(id_ in row["detail"] and f"{share:.3f} " in row["detail"] for id_, share in shares.items() if share > limit)


@settings(max_examples=12)
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
    for order in list(permutations(rows))[::11]:
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

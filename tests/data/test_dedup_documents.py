"""What the stage keeps beside brute force over exact sets; the order of documents, resuming, memory."""

import random
from itertools import combinations, permutations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core.errors import ConfigError, InputError
from openherd.data.dedup_documents import DUPLICATES, DedupDocumentsConfig, dedup_documents
from openherd.data.dedup_reference import exact_clusters, exact_jaccard, exact_shingles
from openherd.data.documents import DOCUMENTS, DROPPED, LANGUAGE_SCHEMA
from openherd.data.engine import EngineConfig
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


def test_within_a_language_a_document_does_not_stand_in_one_of_another(documents_run, run_stage, rows_of):
    small, large = "a b c d e f", "a b c d e f g h i"
    rows = rows_of(documents_run([small, large, small + " z"]))
    rows = [{**row, "language": language} for row, language in zip(rows, ["de", "en", "en"], strict=True)]
    config = {"shingle_words": 2, "max_containment": 0.8, "threshold": 1.0}
    for within, gone in (("corpus", [small, small + " z"]), ("language", [small + " z"])):
        run = run_stage(dedup_documents, DedupDocumentsConfig(**config, within=within), documents=documents_run(rows))
        assert [(row["text"], row["reason"]) for row in rows_of(run, DROPPED)] == [(text, "contained") for text in gone]
        assert all(rows[1]["id"] in row["detail"] for row in rows_of(run, DROPPED))


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


def pages(n, words=80, copies=2, draw=None):
    """Groups of texts that differ in a word or two, and as many that have no like."""
    draw = draw or random.Random(5)
    texts = []
    for _ in range(n):
        page = [f"w{draw.randrange(10**6)}" for _ in range(words)]
        texts.append(" ".join(page))
        for _ in range(copies):
            page[draw.randrange(words)] = f"x{draw.randrange(10**6)}"
            texts.append(" ".join(page))
    return texts


def test_the_best_by_a_score_or_the_first_can_be_kept(documents_run, run_stage, rows_of):
    schema = LANGUAGE_SCHEMA.append(pa.field("quality", pa.float32()))
    text = "one two three four five six seven"
    scores, dates = [0.5, 0.9, 0.9, None, 0.1], ["2026", "2025", "2026", "2027", "2024"]
    rows = [
        {**row, "quality": score, "date": date}
        for row, score, date in zip(rows_of(documents_run([text] * 4 + [text + " !!"])), scores, dates, strict=True)
    ]
    for settings_, wanted in (
        ({"keep": "best", "score_column": "quality"}, "2"),
        ({"keep": "first"}, "0"),
        ({"keep": "newest"}, "3"),
        ({"keep": "longest"}, "4"),
    ):
        run = run_stage(dedup_documents, DedupDocumentsConfig(**settings_), documents=documents_run(rows, schema))
        assert [row["id"][-1] for row in rows_of(run)] == [wanted]
    with pytest.raises(InputError, match="no column 'score'"):
        run_stage(dedup_documents, DedupDocumentsConfig(keep="best", score_column="score"), documents=documents_run(rows, schema))


def test_a_score_that_is_no_number_is_refused(documents_run, run_stage):
    with pytest.raises(InputError, match="column 'text' holds no numbers; allowed: offset, language_score"):
        run_stage(dedup_documents, DedupDocumentsConfig(keep="best", score_column="text"), documents=documents_run(["a"]))


@pytest.mark.parametrize("settings_", [{"keep": "best"}, {"score_column": "quality"}, {"bands": 3}, {"rows": 2}])
def test_settings_that_do_not_go_together_are_refused(settings_):
    with pytest.raises(ConfigError):
        DedupDocumentsConfig(**settings_)


def test_within_a_language_copies_in_others_stay(documents_run, run_stage, rows_of):
    [page, *near] = pages(1)
    rows = rows_of(documents_run([page, page, page, near[0], near[1]]))
    rows = [{**row, "language": language} for row, language in zip(rows, ["en", "en", "de", "de", "fr"], strict=True)]
    kept = {}
    for within in ("corpus", "language"):
        run = run_stage(dedup_documents, DedupDocumentsConfig(within=within), documents=documents_run(rows))
        kept[within] = sorted(row["language"] for row in rows_of(run))
    assert kept == {"corpus": ["en"], "language": ["de", "en", "fr"]} or kept == {"corpus": ["de"], "language": ["de", "en", "fr"]}


def test_clusters_are_listed_with_what_was_measured(documents_run, run_stage, rows_of):
    texts = pages(6, copies=2)
    texts = [*texts, texts[0] + "!", "one of its own kind"]
    for check in ("jaccard", "signature", "none"):
        run = run_stage(dedup_documents, DedupDocumentsConfig(check=check), documents=documents_run(texts))
        listed = rows_of(run, DUPLICATES)
        labels = exact_clusters(texts, 5, 0.75)
        assert len({row["cluster"] for row in listed}) == 6 == run.metrics["clusters"]
        assert {row["id"] for row in listed if not row["kept"]} == {row["id"] for row in rows_of(run, DROPPED)}
        assert [row["cluster"] for row in listed] == sorted(row["cluster"] for row in listed)
        by_cluster = {row["cluster"]: row for row in listed if row["kept"]}
        for row in listed:
            number, keeper = int(row["id"], 16), int(by_cluster[row["cluster"]]["id"], 16)
            assert labels[number] == labels[keeper]
            true = exact_jaccard(*(exact_shingles(terms(texts[k]), 5) for k in (number, keeper)))
            assert row["exact"] == (terms(texts[number]) == terms(texts[keeper]))
            if check == "jaccard" or row["exact"]:
                assert row["jaccard"] == pytest.approx(true, abs=1e-6)
            else:
                assert row["jaccard"] is None
            assert abs(row["estimated_jaccard"] - true) < 0.2


def test_the_same_whatever_memory_threads_and_parts_there_are(documents_run, run_stage, rows_of, monkeypatch):
    texts = pages(20)
    runs = [run_stage(dedup_documents, DedupDocumentsConfig(), documents=documents_run(texts))]
    monkeypatch.setattr("openherd.data.dedup_documents.shares_of", lambda n, memory: 3)
    monkeypatch.setattr("openherd.data.signed_parts.PART_ROWS", 14)
    monkeypatch.setattr("openherd.data.signed_parts.BATCH_ROWS", 5)
    monkeypatch.setattr("openherd.data.dedup_documents.SHINGLES_PER_BLOCK", 100)
    monkeypatch.setattr("openherd.data.dedup_documents.PAIRS_PER_BLOCK", 3)
    config = DedupDocumentsConfig(engine=EngineConfig(processes=1))
    runs.append(run_stage(dedup_documents, config, documents=documents_run(texts, rows_per_group=7)))
    for name in (DOCUMENTS, DROPPED, DUPLICATES):
        assert rows_of(runs[0], name) == rows_of(runs[1], name)
    assert 15 < len(rows_of(runs[0])) < 30


def test_no_documents_at_all(documents_run, run_stage, rows_of):
    for config in (DedupDocumentsConfig(), DedupDocumentsConfig(max_containment=0.5, check="none")):
        run = run_stage(dedup_documents, config, documents=documents_run([]))
        assert rows_of(run) == rows_of(run, DROPPED) == rows_of(run, DUPLICATES) == []


def test_too_little_memory_is_told(documents_run, run_stage):
    run = documents_run(pages(3))
    with pytest.raises(ConfigError, match=r"engine\.memory_gb"):
        run_stage(dedup_documents, DedupDocumentsConfig(engine=EngineConfig(memory_gb=1e-7)), documents=run)
    with pytest.raises(ConfigError, match="max_containment"):
        run_stage(dedup_documents, DedupDocumentsConfig(max_containment=0.5, engine=EngineConfig(memory_gb=1e-6)), documents=run)

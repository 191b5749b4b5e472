"""Held-out documents: a partition, chosen by id alone, and proved apart by exact sets of word runs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.core.seeds import uniform
from openherd.data.documents import DROPPED
from openherd.data.holdout import HELDOUT, TRAIN, HoldoutConfig, holdout
from openherd.data.words import terms

TEXTS = st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join), min_size=6, max_size=14)


def runs_of(text, n):
    """All runs of n terms, unhashed."""
    found = terms(text)
    return {tuple(found[i : i + n]) for i in range(max(len(found) - n + 1, 1))}


def overlap(text, others, n):
    known = set().union(*(runs_of(other, n) for other in others))
    return len(runs_of(text, n) & known) / len(runs_of(text, n))


@settings(max_examples=35)
@given(TEXTS, st.sampled_from([0.0, 0.3, 0.7]), st.sampled_from(["train", "drop"]))
def test_what_is_held_out_is_apart_from_all_training_text(documents_run, run_stage, rows_of, texts, limit, overlapping):
    config = HoldoutConfig(share=0.5, shingle_words=2, max_overlap=limit, overlapping=overlapping)
    given_run = documents_run(texts)
    chosen = [text for i, text in enumerate(texts) if uniform(0, "holdout", f"{i:032x}") < 0.5]
    try:
        run = run_stage(holdout, config, documents=given_run)
    except InputError:
        run = None
    if run is None:  # every chosen one, whatever else went back, has too much in common with the rest
        assert all(overlap(text, texts[:i] + texts[i + 1 :], 2) > limit for i, text in enumerate(texts) if text in chosen)
        return
    train, heldout, dropped = (rows_of(run, name) for name in (TRAIN, HELDOUT, DROPPED))
    plain = [{name: row[name] for name in rows_of(given_run)[0]} for row in dropped]
    assert sorted(train + heldout + plain, key=lambda row: row["id"]) == rows_of(given_run)
    found = [overlap(row["text"], [row["text"] for row in train], 2) for row in heldout]
    assert max(found) <= limit
    assert run.metrics["overlap_max"] == pytest.approx(max(found))
    assert run.metrics["overlap_mean"] == pytest.approx(sum(found) / len(found))
    if overlapping == "train":
        assert not dropped
    for row in dropped:
        share = overlap(row["text"], [row["text"] for row in train], 2)
        assert share > limit
        assert row["detail"].startswith(f"{share:.3f} ")
    assert run.metrics["returned_documents"] == len(chosen) - len(heldout) - len(dropped)
    assert (
        run.metrics["train_documents"] + run.metrics["heldout_documents"]
        == run.metrics["documents_out"]
        == len(texts) - len(dropped)
    )


def ids_with(chosen, share, n):
    """n ids that are chosen, or not, at this share."""
    return [id_ for id_ in (f"{i:032x}" for i in range(10_000)) if (uniform(0, "holdout", id_) < share) == chosen][:n]


def test_what_goes_back_to_training_counts_as_training_text_for_the_rest(documents_run, run_stage, rows_of):
    in_train, (first, second, third) = ids_with(False, 0.5, 1)[0], ids_with(True, 0.5, 3)
    rows = rows_of(documents_run(["a b c d", "c d e f", "e f g h", "x y z w"]))
    rows = [{**row, "id": id_} for row, id_ in zip(rows, [in_train, first, second, third], strict=True)]
    # Each shares one of three 2-word runs with the one before: 0.333.
    config = {"share": 0.5, "shingle_words": 2, "max_overlap": 0.2}
    run = run_stage(holdout, HoldoutConfig(**config), documents=documents_run(rows))
    assert [row["text"] for row in rows_of(run, HELDOUT)] == ["x y z w"]
    assert run.metrics["returned_documents"] == 2
    run = run_stage(holdout, HoldoutConfig(**config, overlapping="drop"), documents=documents_run(rows))
    assert [row["text"] for row in rows_of(run, HELDOUT)] == ["e f g h", "x y z w"]
    assert [row["detail"] for row in rows_of(run, DROPPED)] == ["0.333 of its 2-word shingles stand in it, limit 0.2"]


@settings(max_examples=15)
@given(st.randoms(use_true_random=False))
def test_order_and_other_documents_do_not_change_who_is_chosen(documents_run, run_stage, rows_of, random):
    rows = rows_of(documents_run([f"word{i} text{i} more{i}" for i in range(30)]))
    config = HoldoutConfig(share=0.4)
    whole = {row["id"] for row in rows_of(run_stage(holdout, config, documents=documents_run(rows)), HELDOUT)}
    part = random.sample(rows, 20)
    held = {row["id"] for row in rows_of(run_stage(holdout, config, documents=documents_run(part)), HELDOUT)}
    assert held == whole & {row["id"] for row in part}


def test_the_number_can_be_limited_and_the_seed_changes_the_choice(documents_run, run_stage, rows_of):
    given_run = documents_run([f"word{i} text{i} more{i}" for i in range(200)])
    ids = []
    for changes in ({"share": 0.3}, {"share": 0.3, "max_documents": 7}, {"share": 0.3, "seed": 1}):
        run = run_stage(holdout, HoldoutConfig(**changes), documents=given_run)
        ids.append({row["id"] for row in rows_of(run, HELDOUT)})
    assert 40 <= len(ids[0]) <= 80  # binomial: 60 with a standard deviation of 6.5
    assert len(ids[1]) == 7
    assert ids[1] < ids[0]
    assert ids[2] != ids[0]


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ([], {}, "no documents"),
        (["same words here"] * 20, {"share": 0.5}, r"none of \d+ candidates is within max_overlap = 0\.2"),
        (["a"], {"share": 1e-9}, "none of 1 is chosen"),
    ],
)
def test_where_nothing_can_be_held_out_it_says_why(documents_run, run_stage, texts, settings, message):
    with pytest.raises(InputError, match=message):
        run_stage(holdout, HoldoutConfig(**settings), documents=documents_run(texts))

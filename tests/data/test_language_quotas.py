"""Quotas hold, the best stay, nothing depends on the order, and what fits is kept."""

import math
import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.config import load_config
from openherd.core.errors import ConfigError, InputError
from openherd.data.documents import DROPPED, LANGUAGE_SCHEMA, TEXT_SCHEMA
from openherd.data.language_quotas import LanguageQuotasConfig, language_quotas, largest_total

LANGUAGES = ["en"] * 6 + ["de"] * 3 + ["fr"]


@pytest.fixture(scope="module")
def documents(documents_run, rows_of):
    """Ten documents of 10 bytes; the score column is `language_score`, which falls with the row."""
    rows = rows_of(documents_run([f"text {i:05}" for i in range(10)]))
    return [{**row, "language": code, "language_score": 1 - i / 16} for i, (row, code) in enumerate(zip(rows, LANGUAGES))]


def kept_by(documents_run, run_stage, rows_of, given, /, **settings):
    run = run_stage(language_quotas, load_config(LanguageQuotasConfig, settings, "test"), documents=documents_run(given))
    kept = defaultdict(list)
    for row in rows_of(run):
        kept[row["language"]].append(int(row["text"][5:]))
    assert len(rows_of(run)) + len(rows_of(run, DROPPED)) == len(given)
    assert {row["reason"] for row in rows_of(run, DROPPED)} <= {"language quota"}
    assert {code: found["documents"] for code, found in run.metrics["kept_by_language"].items()} == {
        c: len(k) for c, k in kept.items()
    }
    return dict(kept)


def test_the_best_of_a_language_stay_in_whatever_order_they_come(documents_run, run_stage, rows_of, documents):
    shuffled = random.Random(1).sample(documents, len(documents))
    for rows in (documents, shuffled):
        kept = kept_by(documents_run, run_stage, rows_of, rows, max_documents={"en": 2, "*": 1}, score="language_score")
        assert {code: sorted(found) for code, found in kept.items()} == {"en": [0, 1], "de": [6], "fr": [9]}
    by_id = [kept_by(documents_run, run_stage, rows_of, rows, max_documents={"en": 2}) for rows in (documents, shuffled)]
    assert sorted(by_id[0]["en"]) == sorted(by_id[1]["en"])
    assert len(by_id[0]["de"]) == 3


def test_quotas_of_bytes_and_shares(documents_run, run_stage, rows_of, documents):
    kept = kept_by(documents_run, run_stage, rows_of, documents, max_bytes={"en": 39}, score="language_score")
    assert {code: len(found) for code, found in kept.items()} == {"en": 3, "de": 3, "fr": 1}
    kept = kept_by(documents_run, run_stage, rows_of, documents, max_shares={"en": 0.5}, score="language_score")
    assert kept == {"en": [0, 1, 2, 3], "de": [6, 7, 8], "fr": [9]}
    assert kept_by(documents_run, run_stage, rows_of, documents) == {"en": [*range(6)], "de": [6, 7, 8], "fr": [9]}


def test_a_share_is_of_what_the_quotas_of_documents_leave(documents_run, run_stage, rows_of):
    rows = rows_of(documents_run(["x" * 100] * 120))
    rows = [{**row, "language": "en" if i < 100 else "de"} for i, row in enumerate(rows)]
    settings = LanguageQuotasConfig(max_documents={"en": 10}, max_shares={"de": 0.5})
    kept = [row["language"] for row in rows_of(run_stage(language_quotas, settings, documents=documents_run(rows)))]
    assert (kept.count("en"), kept.count("de")) == (10, 10)


def test_a_score_that_is_no_number_comes_last(documents_run, run_stage, rows_of, documents):
    rows = [{**row, "language": "en", "language_score": [0.1, math.nan, 0.9, None][i % 4]} for i, row in enumerate(documents[:4])]
    settings = LanguageQuotasConfig(max_documents={"en": 2}, score="language_score")
    kept = rows_of(run_stage(language_quotas, settings, documents=documents_run(rows)))
    assert [row["language_score"] for row in kept] == pytest.approx([0.1, 0.9])


def test_shares_that_nothing_keeps_to_and_columns_that_are_not_there(documents_run, run_stage, documents):
    with pytest.raises(ConfigError, match="max_shares: no text keeps to them"):
        run_stage(language_quotas, LanguageQuotasConfig(max_shares={"*": 0.2}), documents=documents_run(documents))
    for settings in ({"max_documents": {"en": -1}}, {"max_bytes": {"*": -1}}, {"max_shares": {"en": 1.5}}):
        with pytest.raises(ConfigError, match=r"language-quotas: max_\w+: (en|\*) = "):
            LanguageQuotasConfig(**settings)
    with pytest.raises(InputError, match="no column 'quality'; allowed: columns here: id, "):
        run_stage(language_quotas, LanguageQuotasConfig(score="quality"), documents=documents_run(documents, LANGUAGE_SCHEMA))
    with pytest.raises(InputError, match="column 'text' holds no numbers; allowed: offset, language_score"):
        run_stage(language_quotas, LanguageQuotasConfig(score="text"), documents=documents_run(["a"]))
    with pytest.raises(InputError, match="no column 'language'"):
        run_stage(language_quotas, LanguageQuotasConfig(), documents=documents_run(["a"], TEXT_SCHEMA))


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 10_000), min_size=1),
    st.dictionaries(st.sampled_from("abc"), st.floats(0.05, 1)),
)
def test_the_largest_total_keeps_to_all_shares(sizes, shares):
    total = largest_total(sizes, shares)
    kept = {code: min(size, shares.get(code, 1.0) * total) for code, size in sizes.items()}
    assert sum(kept.values()) == pytest.approx(total, abs=1)
    assert total <= sum(sizes.values())
    if all(shares.get(code, 1.0) == 1.0 for code in sizes):
        assert total == sum(sizes.values())

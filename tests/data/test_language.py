"""Language identification: what is kept, what is looked at, pages in several languages, and accuracy on real sentences."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniature import ROOT
from openherd.core.config import load_config
from openherd.core.errors import ConfigError
from openherd.data.documents import DROPPED, MEASURES, TEXT_SCHEMA
from openherd.data.language import LanguageConfig, identify, language, line_blocks, sample
from openherd.data.language_models import load_model

ENGLISH = "The committee met on Tuesday and agreed that the bridge should be built before the winter."
GERMAN = "Der Ausschuss tagte am Dienstag und beschloss, dass die Brücke vor dem Winter gebaut werden soll."
CODE = "for (i = 0; i < n; ++i) { x[i] += 1; }"


def run_on(documents_run, run_stage, texts, **settings):
    return run_stage(language, LanguageConfig(**settings), documents=documents_run(texts, TEXT_SCHEMA))


def test_every_document_gets_its_language(documents_run, run_stage, rows_of):
    run = run_on(documents_run, run_stage, [ENGLISH, GERMAN, ENGLISH])
    rows = rows_of(run)
    assert [(row["text"], row["language"]) for row in rows] == [(ENGLISH, "en"), (GERMAN, "de"), (ENGLISH, "en")]
    assert all(0.9 < row["language_score"] <= 1 for row in rows)
    assert run.metrics["documents_by_language"] == {"de": 1, "en": 2}
    assert run.metrics["languages_covered"] == len(load_model().labels)


def test_other_languages_are_dropped_with_what_was_found(documents_run, run_stage, rows_of):
    run = run_on(documents_run, run_stage, [ENGLISH, GERMAN], languages=("en",))
    assert [row["text"] for row in rows_of(run)] == [ENGLISH]
    dropped = rows_of(run, DROPPED)
    assert [(row["text"], row["reason"]) for row in dropped] == [(GERMAN, "language")]
    assert dropped[0]["detail"].startswith("de (")
    assert run.metrics["documents_by_language"] == {"en": 1}


def test_doubtful_documents_are_dropped(documents_run, run_stage, rows_of):
    run = run_on(documents_run, run_stage, [ENGLISH, "a"], min_score=0.9)
    assert [row["text"] for row in rows_of(run)] == [ENGLISH]
    assert [row["reason"] for row in rows_of(run, DROPPED)] == ["language score"]


def test_a_language_that_the_model_does_not_know_is_refused(documents_run, run_stage):
    with pytest.raises(ConfigError, match=r"languages: the model has no 'english'; known: ace, "):
        run_on(documents_run, run_stage, [ENGLISH], languages=("english",))


def test_code_and_tables_are_not_looked_at_where_there_is_prose():
    assert sample(f"{CODE}\n\n{GERMAN}\n| 1 | 2 |", 2_000) == GERMAN
    assert identify(["\n".join([CODE] * 40 + [GERMAN])])[0][0] == "de"
    assert sample(CODE, 2_000) == CODE
    assert len(sample(ENGLISH * 100, 500)) == 500
    hindi = "समिति की बैठक मंगलवार को हुई और सहमति बनी कि पुल सर्दियों से पहले बनाया जाना चाहिए।"
    assert sample(f"{CODE}\n{hindi}", 2_000) == hindi  # vowel signs are marks, which letters have


@given(st.lists(st.text("ab \n", max_size=60), max_size=20).map("\n".join), st.integers(20, 60))
def test_blocks_are_the_text(text, characters):
    blocks = line_blocks(text, characters)
    assert "".join(blocks) == text
    assert all(sum(len(line.strip()) for line in block.splitlines()) >= characters for block in blocks[:-1])


PAGE = f"{GERMAN}\n" * 4 + f"{ENGLISH}\n" * 8


def test_pages_in_two_languages_are_measured(documents_run, run_stage, rows_of):
    run = run_on(documents_run, run_stage, [PAGE, ENGLISH], mixed="score", sample_characters=300)
    assert [(row["text"], row["language"]) for row in rows_of(run)] == [(PAGE, "en"), (ENGLISH, "en")]
    assert all(row["language_score"] > 0.9 for row in rows_of(run))
    share = 8 * (len(ENGLISH) + 1) / len(PAGE)
    measured = [(row["language_share"], row["second_language"], row["second_language_share"]) for row in rows_of(run, MEASURES)]
    assert measured[0] == (pytest.approx(share, abs=0.1), "de", pytest.approx(1 - share, abs=0.1))
    assert measured[1] == (1.0, "", 0.0)
    run = run_on(documents_run, run_stage, [PAGE, ENGLISH], mixed="score", min_language_share=0.9)
    assert [row["reason"] for row in rows_of(run, DROPPED)] == ["language share"]


def test_a_share_of_a_page_is_not_asked_where_none_is_measured():
    with pytest.raises(ConfigError, match=r"min_language_share = 0\.5 with mixed"):
        load_config(LanguageConfig, {"min_language_share": 0.5}, "test")


def test_of_pages_in_two_languages_the_main_one_can_be_kept_alone(documents_run, run_stage, rows_of):
    run = run_on(documents_run, run_stage, [PAGE], mixed="main", block_characters=20)
    assert [(row["text"], row["language"]) for row in rows_of(run)] == [(f"{ENGLISH}\n" * 8, "en")]


def test_accuracy_on_real_sentences_of_over_100_characters(shared_data):
    sentences = [
        (file.stem, line)
        for file in sorted(shared_data("lingua_langid").glob("*.txt"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if len(line) > 100
    ]
    answers = identify([text for _, text in sentences])
    right = [expected == code for (expected, _), (code, _) in zip(sentences, answers)]
    assert len(sentences) == 4065
    assert len({expected for expected, _ in sentences}) == 20
    assert sum(right) / len(right) >= 0.99


def test_the_languages_covered_are_those_that_the_page_lists():
    page = (ROOT / "docs" / "data-language.md").read_text(encoding="utf-8")
    listed = re.search(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert listed[1].split() == sorted(load_model().labels)

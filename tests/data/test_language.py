"""Language identification: what is kept, what is looked at, and accuracy on real sentences."""

from pathlib import Path

import pytest

from openherd.data.documents import DROPPED, TEXT_SCHEMA
from openherd.data.language import SAMPLE_CHARACTERS, LanguageConfig, identifier, identify, language, sample

SENTENCES = Path(__file__).parents[3] / "shared" / "data" / "lingua_langid"
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


def test_scores_are_probabilities():
    for text in (ENGLISH, GERMAN, CODE, "", "!!!", "a", "日本語の文章です。", "\U0010ffff\ud7ff"):
        code, score = identify(text)
        assert code in identifier().labels
        assert 0 <= score <= 1


def test_code_and_tables_are_not_looked_at_where_there_is_prose():
    assert sample(f"{CODE}\n\n{GERMAN}\n| 1 | 2 |") == GERMAN
    assert identify("\n".join([CODE] * 40 + [GERMAN]))[0] == "de"
    assert sample(CODE) == CODE
    assert len(sample(ENGLISH * 100)) == SAMPLE_CHARACTERS


@pytest.mark.skipif(not SENTENCES.is_dir(), reason="needs the real sentences of shared/data/lingua_langid")
def test_accuracy_on_real_sentences():
    right = {}
    for file in sorted(SENTENCES.glob("*.txt")):
        sentences = file.read_text(encoding="utf-8").splitlines()[:100]
        right[file.stem] = sum(identify(sentence)[0] == file.stem for sentence in sentences) / len(sentences)
    assert len(right) == 20
    assert min(right.values()) > 0.75, right
    assert sum(right.values()) / len(right) > 0.93, right

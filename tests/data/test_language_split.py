"""A page in two languages becomes two documents, and no line is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.documents import DROPPED, TEXT_SCHEMA
from openherd.data.language_models import load_model
from openherd.data.language_split import LanguageSplitConfig, language_split, parts_of

ENGLISH = "The committee met on Tuesday and agreed that the bridge should be built before the winter, as planned.\n"
GERMAN = "Der Ausschuss tagte am Dienstag und beschloss, dass die Brücke vor dem Winter gebaut werden soll.\n"


def test_a_page_in_two_languages_becomes_two_documents(documents_run, run_stage, rows_of):
    page = ENGLISH * 8 + "\n" + GERMAN * 6
    run = run_stage(language_split, LanguageSplitConfig(), documents=documents_run([page, ENGLISH], TEXT_SCHEMA))
    rows = rows_of(run)
    assert [(row["language"], row["text"].strip()) for row in rows] == [
        ("en", (ENGLISH * 8).strip()), ("de", (GERMAN * 6).strip()), ("en", ENGLISH.strip()),
    ]  # fmt: skip
    assert len({row["id"] for row in rows}) == 3
    assert rows[0]["url"] == rows[1]["url"]
    assert all(row["language_score"] > 0.9 for row in rows)
    [dropped] = rows_of(run, DROPPED)
    assert (dropped["text"], dropped["reason"], dropped["detail"]) == (page, "split by language", "en, de")
    metrics = run.metrics
    assert (metrics["documents_in"], metrics["documents_out"], metrics["documents_split"], metrics["parts"]) == (2, 3, 1, 2)


@pytest.mark.parametrize("settings", [{"min_part_characters": 1_000}, {"min_part_share": 0.45}])
def test_a_language_with_little_text_stays_with_the_main_one(settings):
    text = ENGLISH * 8 + GERMAN * 6
    assert list(parts_of(LanguageSplitConfig(), text, load_model())) == ["en", "de"]
    [(code, (whole, _))] = parts_of(LanguageSplitConfig(**settings), text, load_model()).items()
    assert (code, whole) == ("en", text)


@given(st.lists(st.sampled_from([ENGLISH, GERMAN, "\n", "x = 1; y = 2\n", "日本語の文章です。" * 12 + "\n"]), max_size=12))
def test_every_line_is_in_one_part(lines):
    config = LanguageSplitConfig(min_part_characters=1)
    parts = parts_of(config, "".join(lines), load_model())
    assert sorted("".join(text for text, _ in parts.values()).splitlines()) == sorted("".join(lines).splitlines())

"""One document's story: each stage, what changed, why it went; personal data replaced."""

import pytest

from curated_runs import HOSTILE, curation, row_of, text_of
from openherd.core.errors import InputError
from openherd.data.curated import curated, last_stages
from openherd.data.story import stories, story_text


@pytest.fixture(scope="module")
def stages(small_curation):
    return curated(small_curation, "a run")


def told(stages, key):
    return story_text(*stories(stages, key))


def test_stages_are_in_order_and_know_what_they_read(stages, small_curation):
    assert [(stage.name, stage.before) for stage in stages] == [
        ("read", ()), ("given", ("read",)), ("dedup-documents", ("given",)), ("heuristics", ("dedup-documents",))
    ]  # fmt: skip
    assert [stage.name for stage in last_stages(stages)] == ["heuristics"]
    alone = curated({"heuristics": small_curation["heuristics"]}, "a directory")
    assert [stage.name for stage in alone] == [stage.name for stage in stages]


def test_a_document_that_stays(stages):
    text = told(stages, row_of(0, "")["id"])
    assert "read from a.warc, at 1 (source web" in text
    first = row_of(0, "")["url"]
    assert text.splitlines()[0].endswith(first)
    assert text == told(stages, first)
    assert " bytes\n" in text
    assert "- " in text  # the line that `given` took out
    assert "words 50 (allowed: at least 50, at most 100000)" in text
    assert text.endswith("kept to the end of heuristics")


def test_a_document_that_is_dropped(stages):
    short = told(stages, "0020")
    assert "DROPPED: words (4, allowed: at least 50); unchanged" in short
    assert "words 4 (allowed: at least 50, at most 100000)  <- broken" in short
    assert short.endswith("dropped by heuristics")
    near = told(stages, "0003")  # the longer one stays
    assert "DROPPED: near duplicate" in near
    assert f"kept {row_of(0x21, '')['id']}" in near
    assert "heuristics" not in near


def test_what_must_not_be_kept_is_told_by_id_and_reason(stages):
    text = told(stages, row_of(0x24, "")["id"])
    assert "DROPPED: illegal (a list); content not kept" in text
    assert "secret" not in text


def test_personal_data_and_control_characters_are_not_printed(stages):
    assert "bob@example.org" not in told(stages, "0022")
    assert "<EMAIL>" in told(stages, "0022")
    assert "\x1b" not in told(stages, f"https://evil.example/{HOSTILE}")


def test_a_licence_is_looked_through_like_all_else(tmp_path):
    rows = [{**row_of(i, text_of(i)), "license": "ask bob@example.org \x1b[31m"} for i in range(2)]
    text = told(curated(curation(tmp_path, rows=rows), "a run"), rows[0]["id"])
    assert "license ask <EMAIL>" in text
    assert "\x1b" not in text


def test_unknown_and_ambiguous_keys(stages):
    with pytest.raises(InputError, match="no document of read, given"):
        stories(stages, "https://nowhere.example/")
    with pytest.raises(InputError, match="no document"):
        stories(stages, "000")  # too short for the beginning of an id


def test_a_beginning_of_two_ids_and_an_address_of_two_documents(tmp_path):
    rows = [row_of(i, text_of(i), id=f"abcd{i:028x}", url="https://a.org/") for i in range(2)]
    stages = curated(curation(tmp_path, rows=rows), "a run")
    with pytest.raises(InputError, match="several documents"):
        stories(stages, "abcd")
    assert [story.id for story in stories(stages, "https://a.org/")] == [row["id"] for row in rows]
    assert len(stories(stages, rows[1]["id"])) == 1


def test_no_curation_stage():
    with pytest.raises(InputError, match="no curation stage"):
        curated({}, "a run")

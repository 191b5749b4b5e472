"""Two curations side by side, beside a plain dictionary of what became of each document."""

from collections import Counter

import pytest

from curated_runs import corpus, curation, row_of, text_of
from openherd.core.records import read_parquet
from openherd.data.comparison import changed_settings, compare, comparison_text
from openherd.data.curated import curated


def plain_fates(runs):
    """Stage and reason of each document's drop, or the text that is kept: the slow way."""
    fates = {row["id"]: ("", "") for row in read_parquet(runs["heuristics"].file("documents.parquet"))}
    for name, run in runs.items():
        for row in read_parquet(run.file("dropped.parquet")):
            fates.setdefault(row["id"], (name, row["reason"]))
    return fates


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    rows = [row for row in corpus() if row["offset"] != 5]  # one less, one more, one with another text
    rows[1] = {**rows[1], "text": rows[1]["text"] + "\nwrite to ann.example@example.org"}
    rows.append(row_of(0x30, text_of(40, 70)))
    return curation(tmp_path_factory.mktemp("other"), min_words=55, rows=rows)


def test_each_document_is_counted_as_it_fared(small_curation, other):
    a, b = curated(small_curation, "a"), curated(other, "b")
    found = compare(a, b, 2, 1.0)
    one, two = plain_fates(small_curation), plain_fates(other)
    nothing = ("", None)
    wanted = Counter((one.get(i, nothing), two.get(i, nothing)) for i in one.keys() | two.keys())
    assert {(m.in_a, m.in_b): m.documents for m in found.moved} == {k: n for k, n in wanted.items() if k[0] != k[1]}
    assert found.kept == (list(one.values()).count(("", "")), list(two.values()).count(("", "")))
    assert any(m.in_b == nothing for m in found.moved)
    assert any(m.in_a == nothing for m in found.moved)
    assert any(m.in_b == ("heuristics", "words") for m in found.moved)
    assert found.edited.examples == [row_of(1, "")["id"]]
    assert all(len(m.examples) == min(2, m.documents) for m in found.moved)


def test_as_it_is_printed(small_curation, other):
    a, b = curated(small_curation, "a"), curated(other, "b")
    settings = changed_settings(small_curation, other)
    assert settings == ["heuristics.min_words: 50 in A, 55 in B"]
    text = comparison_text(compare(a, b, 3, 1.0), settings, a, b)
    assert "B dropped by heuristics: words" in text
    assert "+ write to <EMAIL>" in text
    assert "ann.example" not in text
    assert text.count("not read") == 2


def test_a_curation_beside_itself(small_curation):
    stages = curated(small_curation, "a")
    found = compare(stages, stages, 3, 1.0)
    assert found.moved == []
    assert found.edited == (0, found.kept[0], [])
    assert "none differs" in comparison_text(found, changed_settings(small_curation, small_curation), stages, stages)


def test_stages_and_settings_of_one_alone(small_curation):
    less = {name: run for name, run in small_curation.items() if name != "heuristics"}
    assert changed_settings(small_curation, less) == ["heuristics: only in A"]

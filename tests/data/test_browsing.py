"""The page of a curation: what it shows, what it must not show."""

import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from curated_runs import HOSTILE, corpus, row_of
from openherd.core.records import read_parquet
from openherd.data.browsing import BrowsingConfig, data_page
from openherd.data.curated import curated
from openherd.data.distributions import distributions
from openherd.data.shares import count_shares, database, keys, largest, shares_of
from openherd.data.urls import host_of, registrable_domain


class Seen(HTMLParser):
    """What a browser would show: text, tags, attributes, ids of sections."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.attributes, self.sections, self.within = "", Counter(), set(), [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.within = tag
        if tag == "section":
            self.sections.append(dict(attrs)["id"])

    def handle_endtag(self, tag):
        self.within = ""

    def handle_data(self, data):
        if self.within not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def page(small_curation):
    return data_page(BrowsingConfig(), small_curation, "a run")


@pytest.fixture(scope="module")
def seen(page):
    return Seen(page)


def test_all_parts_are_there(seen):
    assert seen.sections == ["funnel", "languages", "domains", "measures", "duplicates", "dropped", "kept"]
    assert "heuristics: words (1 document, 1 shown)" in seen.text
    assert "site0.co.uk" in seen.text
    assert "- " in seen.text
    assert "allowed: at least 50, at most 100000" in seen.text


def test_languages_have_documents_bytes_and_tokens_of_every_stage(seen, small_curation):
    stages = [run.file("documents.parquet") for run in small_curation.values()]
    french = [[len(row["text"].encode()) for row in read_parquet(file) if row["language"] == "fr"] for file in stages]
    for what, cells in (
        ("Documents", [*(f"{len(sizes)}" for sizes in french), "0"]),  # what is dropped without its content has no language
        ("Bytes", [f"{sum(sizes):,}" for sizes in french]),
        ("Estimated tokens", [f"{round(sum(sizes) / 4):,}" for sizes in french]),
    ):
        title = f"{what} kept by each stage, by language"
        assert f"fr{''.join(cells)}" in seen.text.split(title)[1].split("by domain")[0], what


def test_what_must_not_be_kept_is_shown_by_id_and_reason(seen):
    assert "given: illegal (1 document, 1 shown)" in seen.text
    assert row_of(0x24, "")["id"] in seen.text
    assert "content not kept" in seen.text
    assert "secret" not in seen.text


def test_personal_data_is_replaced(page, seen):
    assert "example@example.org" not in page
    assert "bob@" not in page
    assert "Write to <EMAIL> or call." in seen.text


def test_data_never_becomes_markup(page, seen):
    assert "<img src=x" not in page
    assert "alert(1)" in seen.text
    assert not any(name.startswith("on") for name in seen.attributes)
    assert "\x1b" not in page
    assert "default-src &#x27;none&#x27;" in page


def test_the_same_run_gives_the_same_page(page, small_curation):
    assert data_page(BrowsingConfig(), small_curation, "a run") == page
    few = Seen(data_page(BrowsingConfig(samples=3), small_curation, "a run"))
    assert re.search(r"heuristics: kept in documents.parquet \(\d+ documents, 3 shown\)", few.text)


def test_shares_are_those_of_a_plain_count(small_curation):
    stages = curated(small_curation, "a run")
    with database(0.5) as connection:
        count_shares(connection, stages)
        for key, most in (("language", 1), ("domain", 2)):
            chosen = largest(connection, key, [3], most)
            found = {(s.key, s.stage, s.kept): (s.documents, s.bytes) for s in shares_of(connection, key, chosen)}
            wanted: dict = {}
            names = set()
            for number, stage in enumerate(stages):
                for file in stage.files:
                    for row in read_parquet(file):
                        value = (row["language"] or "") if key == "language" else registrable_domain(host_of(row["url"] or ""))
                        names |= {value} - {""}
                        place = (
                            value if value in chosen else "others" if value else "none",
                            number,
                            file.name == "documents.parquet",
                        )
                        n, size = wanted.get(place, (0, 0))
                        wanted[place] = (n + 1, size + len((row["text"] or "").encode()))
            assert found == wanted
            assert keys(connection, key) == len(names)


def test_distributions_count_every_document_once(small_curation):
    path = small_curation["heuristics"].file("measures.parquet")
    rows = list(read_parquet(path))
    (words,) = [one for one in distributions(path, {"words": (50, 1e5)}, 0) if one.name == "words"]
    assert sum(words.kept) + sum(words.dropped) == len(rows)
    assert sum(words.dropped) == sum(bool(row["reason"]) for row in rows)
    assert (words.least, words.greatest) == (min(r["words"] for r in rows), max(r["words"] for r in rows))
    assert (words.low, words.high) == (50, 1e5)
    assert words.edges[0] <= 50 <= words.edges[-1] < 1e5


def test_the_corpus_is_hostile():
    assert any(HOSTILE in row["text"] for row in corpus())

"""URL deduplication beside a dictionary."""

import hashlib
import os

from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data.dedup_urls import DedupUrlsConfig, dedup_urls, key_of
from openherd.data.documents import DROPPED, LANGUAGE_SCHEMA, PAGE_SCHEMA


def page(url, date="2026-01-01T00:00:00Z", content=b"a page"):
    lineage = {"id": hashlib.sha256(f"{url}{date}{content!r}".encode()).hexdigest()[:32], "url": url, "date": date, "source": "web"}
    return {**lineage, "file": "a.warc", "offset": 0, "content_type": "text/html", "content": content}


def test_of_one_address_the_newest_stays_and_of_equal_ones_the_first(documents_run, run_stage, rows_of):
    pages = [
        page("http://a.test/#one", "2026-01-01T00:00:00Z"),
        page("https://a.test?utm_source=x", "2026-03-01T00:00:00Z", b"newest"),
        page("http://a.test/", "2026-02-01T00:00:00Z"),
        page("http://a.test/", "2026-03-01T00:00:00Z", b"as new, later"),
        page("http://b.test/", "", b"first without a date"),
        page("http://b.test/", "", b"second without a date"),
        page("", content=b"no address"),
        page("", content=b"none either"),
        page("7", content=b"row 7 of one file"),
        page("7", content=b"row 7 of another"),
    ]
    twin = dict(pages[1])  # the very same row again
    made = run_stage(dedup_urls, DedupUrlsConfig(), documents=documents_run([*pages, twin], PAGE_SCHEMA))
    kept, dropped = rows_of(made), rows_of(made, DROPPED)
    rows = [b"row 7 of one file", b"row 7 of another"]
    assert [row["content"] for row in kept] == [b"newest", b"first without a date", b"no address", b"none either", *rows]
    assert {row["reason"] for row in dropped} == {"older version"}
    assert [row["detail"] for row in dropped] == [f"kept: {pages[i]['id']}" for i in (1, 1, 1, 4, 1)]
    assert sorted(os.listdir(made.path)) == ["config.toml", "documents.parquet", "dropped.parquet", "manifest.json"]


@settings(max_examples=8)
@given(st.lists(st.tuples(st.sampled_from("abc7"), st.sampled_from(["", "2026-01-01", "2026-02-01"])), max_size=12))
def test_as_a_dictionary_would(documents_run, run_stage, rows_of, cases):
    pages = [page(f"http://{name}.test/" if name != "7" else "7", date, str(i).encode()) for i, (name, date) in enumerate(cases)]
    made = run_stage(dedup_urls, DedupUrlsConfig(), documents=documents_run(pages, PAGE_SCHEMA))
    newest = {}
    for i, (name, date) in enumerate(cases):
        if name not in newest or date > cases[newest[name]][1]:
            newest[name] = i
    expected = [i for i, (name, _) in enumerate(cases) if name == "7" or newest[name] == i]
    assert [int(row["content"]) for row in rows_of(made)] == expected


def test_the_parts_of_a_page_in_two_languages_are_two_documents(documents_run, run_stage, rows_of):
    pages = [
        page("https://a.test/", content=text) | {"text": text, "language": code}
        for text, code in (("a", "en"), ("b", "de"), ("c", "en"))
    ]
    made = run_stage(dedup_urls, DedupUrlsConfig(), documents=documents_run(pages, LANGUAGE_SCHEMA))
    assert [row["text"] for row in rows_of(made)] == ["a", "b"]


def test_settings_say_what_one_page_is():
    assert key_of(DedupUrlsConfig(), "http://www.a.test/?gclid=1") == key_of(DedupUrlsConfig(), "https://www.a.test")
    strict = DedupUrlsConfig(tracking_parameters=(), ignore_scheme=False)
    assert key_of(strict, "http://a.test/?gclid=1") == "http://a.test/?gclid=1"
    assert key_of(DedupUrlsConfig(ignore_www=True), "http://www.a.test") == "https://a.test/"
    assert key_of(DedupUrlsConfig(), "page 7") == ""

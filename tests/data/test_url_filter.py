"""Dropping by address: hand-worked cases, and a slow twin of the search for phrases."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.core.rundir import Outside
from openherd.data.documents import DROPPED, PAGE_SCHEMA
from openherd.data.url_filter import Denied, UrlFilterConfig, normalise, url_filter


def page(url, date="2026-01-01T00:00:00Z", content=b"a page"):
    lineage = {"id": hashlib.sha256(f"{url}{date}{content!r}".encode()).hexdigest()[:32], "url": url, "date": date, "source": "web"}
    return {**lineage, "file": "a.warc", "offset": 0, "content_type": "text/html", "content": content}


@pytest.fixture
def filtered(documents_run, run_stage, rows_of):
    def run(pages, config=None, **lists):
        made = run_stage(url_filter, config or UrlFilterConfig(), documents=documents_run(pages, PAGE_SCHEMA), **lists)
        return rows_of(made), rows_of(made, DROPPED)

    return run


def reasons(dropped):
    return [(row["url"], row["reason"], row["detail"]) for row in dropped]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.COM:80", "http://example.com/"),
        ("https://example.com:443/A?Q=1#part", "https://example.com/A?Q=1"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("http://example.com:0/", "http://example.com:0/"),
        ("https://user:secret@example.com./a", "https://example.com/a"),
        ("http://example.com?q", "http://example.com/?q"),
        ("https://[2001:DB8::1]:443/a", "https://[2001:db8::1]/a"),
        (" https://example.com/a ", "https://example.com/a"),
        ("file:///folder/Page.html#top", "file:///folder/Page.html"),
        ("http://example.com:port/", "http://example.com:port/"),
        ("http://[broken/", "http://[broken/"),
        ("", ""),
    ],
)
def test_normalised_addresses(url, expected):
    assert normalise(url) == expected


@given(
    st.one_of(
        st.text(),
        st.from_regex(r"\A(https?|HTTP|file|x):(//)?([A-Za-z@.:\[\]0-9-]{0,12})?(/[a-zA-Z%/.]{0,6})?(\?[a-z=]*)?(#[a-z]*)?\Z"),
    )
)
@example("x:////a")
@example("http:///\t/a")
def test_normalising_twice_changes_nothing(url):
    assert normalise(normalise(url)) == normalise(url)


def test_domains_with_their_subdomains(filtered, tmp_path):
    listed = tmp_path / "domains.txt"
    listed.write_text("# bad ones\nBad.Example   # with a comment\n\n.\n", encoding="utf-8")
    urls = ["http://bad.example/", "https://a.b.BAD.example:8080/x", "http://notbad.example/", "http://bad.example.org/", ""]
    urls += ["http://also.test/", "file:///bad.example/page.html"]
    kept, dropped = filtered([page(u) for u in urls], UrlFilterConfig(deny_domains=("also.test.",)), domains=Outside(str(listed)))
    assert [row["url"] for row in kept] == [
        "http://notbad.example/",
        "http://bad.example.org/",
        "",
        "file:///bad.example/page.html",
    ]
    assert reasons(dropped) == [
        ("http://bad.example/", "denied domain", "bad.example"),
        ("https://a.b.BAD.example:8080/x", "denied domain", "bad.example"),
        ("http://also.test/", "denied domain", "also.test"),
    ]


def test_words_are_whole_words_or_words_in_a_row(filtered, tmp_path):
    listed = tmp_path / "words.txt"
    listed.write_text("cheap-pills\nказино\n", encoding="utf-8")
    bad = [
        "http://a.test/XXX/1",
        "http://b.test/x?q=cheap+pills",
        "http://c.test/%D0%BA%D0%B0%D0%B7%D0%B8%D0%BD%D0%BE",
        "http://casino.test/",
    ]
    good = ["http://a.test/cheap/good/pills", "http://a.test/xxxl-shirts", "http://a.test/casinos", "http://essex.test/"]
    kept, dropped = filtered([page(u) for u in bad + good], words=Outside(str(listed)))
    assert [row["url"] for row in kept] == good
    assert [detail for _, _, detail in reasons(dropped)] == ["xxx", "cheap pills", "казино", "casino"]


PARTS = st.lists(st.sampled_from(["a", "bb", "c"]), max_size=6)


@given(PARTS, st.lists(PARTS, max_size=3))
def test_phrases_are_found_as_by_searching_for_each(parts, phrases):
    padded = f" {' '.join(parts)} "
    expected = any(phrase and f" {' '.join(phrase)} " in padded for phrase in phrases)
    assert bool(Denied("-".join(phrase) for phrase in phrases).find("/".join(parts))) == expected


def test_nothing_of_an_illegal_page_is_kept_but_its_id(filtered, tmp_path):
    digest = hashlib.sha256(b"http://illegal.test/a").hexdigest()
    other = hashlib.sha256(b"http://illegal.test/b").hexdigest()
    listed = tmp_path / "illegal.txt"
    listed.write_text(f"{other}\n", encoding="utf-8")
    pages = [page("HTTP://illegal.test:80/a#x", content=b"secret"), page("http://illegal.test/b"), page("http://illegal.test/c")]
    config = UrlFilterConfig(illegal_url_sha256=(digest.upper(),), deny_domains=("illegal.test",))
    kept, dropped = filtered(pages, config, illegal=Outside(str(listed)))
    assert kept == []
    assert [row["reason"] for row in dropped] == ["illegal address", "illegal address", "denied domain"]
    for row, given_page in zip(dropped[:2], pages, strict=False):
        told = {name: value for name, value in row.items() if value not in (None, "")}
        assert told == {"id": given_page["id"], "stage": "url-filter", "reason": "illegal address"}


def test_of_one_address_the_newest_stays_and_of_equal_ones_the_first(filtered):
    pages = [
        page("http://a.test/#one", "2026-01-01T00:00:00Z"),
        page("http://a.test", "2026-03-01T00:00:00Z", b"newest"),
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
    kept, dropped = filtered([*pages, twin])
    rows = [b"row 7 of one file", b"row 7 of another"]
    assert [row["content"] for row in kept] == [b"newest", b"first without a date", b"no address", b"none either", *rows]
    assert {row["reason"] for row in dropped} == {"older version"}
    assert [row["detail"] for row in dropped] == [f"kept: {pages[i]['id']}" for i in (1, 1, 1, 4, 1)]


@pytest.mark.parametrize("entry", ["http://illegal.test/", "ab12", "g" * 64])
def test_a_digest_that_is_none_is_refused(filtered, entry):
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        filtered([page("http://a.test/")], UrlFilterConfig(illegal_url_sha256=(entry,)))


def test_a_list_that_is_missing_or_no_text_is_refused(filtered, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        filtered([page("http://a.test/")], domains=Outside(str(tmp_path / "none.txt")))
    (tmp_path / "list.gz").write_bytes(b"\x1f\x8b\xff")
    with pytest.raises(InputError, match="cannot be read as a list"):
        filtered([page("http://a.test/")], words=Outside(str(tmp_path / "list.gz")))

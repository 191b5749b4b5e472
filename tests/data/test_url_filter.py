"""Dropping by address: hand-worked cases, and a slow twin of the search for phrases."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.core.rundir import Outside
from openherd.data.documents import DROPPED, PAGE_SCHEMA
from openherd.data.url_filter import Denied, UrlFilterConfig, UrlRules, read_rules, url_filter


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
        ("http://bad.example/", "denied domain", "bad.example, domains"),
        ("https://a.b.BAD.example:8080/x", "denied domain", "bad.example, domains"),
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
    assert bool(Denied("-".join(phrase) for phrase in phrases).find(parts)) == expected


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


def judged(url, config=None, **lists):
    config = config or UrlFilterConfig()
    drop = UrlRules(config, read_rules(config, None, None).build(), **lists).judge(url)
    return drop and drop.reason


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://best-free-porn.test/", "denied word"),
        ("http://bestfreeporn.test/", "denied part of a host"),
        ("http://best-online-casino.test/", "denied word"),
        ("http://myonline-casinos.test/", "denied part of a host"),
        ("http://x.test/hot/nude-teens", "denied words together"),
        # Traps: names, places, medicine, law, education, what the words are part of.
        ("http://www.siriporn-restaurant.test/", None),
        ("http://sussex.test/essex/middlesex", None),
        ("http://x.test/adult-education/free", None),
        ("http://x.test/sex-education/teens", None),
        ("http://x.test/cheap-flights", None),
        ("http://x.test/magna-cum-laude", None),
        ("http://x.test/scunthorpe/cockburn/dickinson", None),
        ("http://x.test/anal-fissure/treatment", None),
        ("http://specialist.test/", None),
        ("http://x.test/essexcasinos", None),
        ("http://therapist-finder.test/pen-island", None),
    ],
)
def test_words_and_their_traps(url, reason):
    assert judged(url) == reason


def test_words_parts_and_lists_can_be_turned_off_and_allowed():
    off = UrlFilterConfig(deny_words=(), soft_words=(), deny_host_parts=())
    for url in ("http://porn.test/", "http://bestfreeporn.test/", "http://x.test/hot/nude-teens"):
        assert judged(url)
        assert judged(url, off) is None
        assert judged(url, UrlFilterConfig(allow_domains=("test",))) is None
    assert judged("http://x.test/hot/nude-teens", UrlFilterConfig(min_soft_words=0)) is None


@pytest.mark.parametrize("url", ["http://10.1.2.3/", "http://167838211/", "http://[2001:db8::1]/x"])
def test_pages_on_bare_ip_addresses(url):
    assert judged(url) is None
    assert judged(url, UrlFilterConfig(drop_ip_hosts=True)) == "IP address as host"
    assert judged("http://a.10.1.2.test/", UrlFilterConfig(drop_ip_hosts=True)) is None


def test_lists_name_their_category_and_an_illegal_address_is_never_allowed(filtered, tmp_path):
    folder = tmp_path / "lists"
    (folder / "adult").mkdir(parents=True)
    (folder / "adult" / "domains").write_text("bad.example\n", encoding="utf-8")
    (folder / "adult" / "urls").write_text("mixed.example/x\n", encoding="utf-8")
    allowed = tmp_path / "allowed.txt"
    allowed.write_text("good.bad.example\n", encoding="utf-8")
    illegal = hashlib.sha256(b"http://good.bad.example/illegal").hexdigest()
    urls = ["http://bad.example/", "http://good.bad.example/casino", "http://mixed.example/x/1", "http://mixed.example/"]
    kept, dropped = filtered(
        [page(u) for u in [*urls, "http://good.bad.example/illegal"]],
        UrlFilterConfig(illegal_url_sha256=(illegal,)),
        domains=Outside(str(folder)),
        allowed=Outside(str(allowed)),
    )
    assert [row["url"] for row in kept] == [urls[1], urls[3]]
    assert reasons(dropped) == [
        (urls[0], "denied domain", "bad.example, adult"),
        (urls[2], "denied address", "mixed.example/x, adult"),
        (None, "illegal address", ""),
    ]


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

"""Addresses: hand-worked cases, the public-suffix list's own test cases, and properties."""

from importlib.resources import files

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openherd.data.urls import (
    TRACKING_PARAMETERS,
    domains_of,
    host_of,
    ip_of,
    is_public_suffix,
    normalise,
    registrable_domain,
    same_page,
)

TRACKING = frozenset(TRACKING_PARAMETERS)


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
        ("https://[2001:db8:0:0::1]/a", "https://[2001:db8::1]/a"),
        (" https://example.com/a ", "https://example.com/a"),
        ("file:///folder/Page.html#top", "file:///folder/Page.html"),
        ("http://example.com:port/", "http://example.com:port/"),
        ("http://[broken/", "http://[broken/"),
        ("", ""),
        ("http://bücher.example/ü", "http://xn--bcher-kva.example/ü"),
        ("http://BÜCHER.example/", "http://xn--bcher-kva.example/"),
        ("http://XN--BCHER-KVA.example/", "http://xn--bcher-kva.example/"),
        ("http://faß.de/", "http://xn--fa-hia.de/"),
        ("http://пример。рф/", "http://xn--e1afmkfd.xn--p1ai/"),
        ("http://example.com/%7eann/%2f%c3%a9", "http://example.com/~ann/%2F%C3%A9"),
        ("http://example.com/a/./b/../c/", "http://example.com/a/c/"),
        ("http://example.com/a/%2e%2e/b", "http://example.com/b"),
        ("http://example.com/../../a/..", "http://example.com/"),
        ("http://3232235777/", "http://192.168.1.1/"),
        ("http://0xC0.0250.1.1/", "http://192.168.1.1/"),
        ("http://1.2.3.4.5/", "http://1.2.3.4.5/"),
    ],
)
def test_normalised_addresses(url, expected):
    assert normalise(url) == expected


ADDRESSES = st.one_of(
    st.text(),
    st.from_regex(
        r"\A(https?|HTTP|file|x):(//)?([A-Za-zéß.:\[\]0-9x-]{0,12})?(/(%[0-9a-fA-F]{2}|[a-zA-Z%/.]){0,6})?(\?[a-z=&%]*)?(#[a-z]*)?\Z"
    ),
)


@given(ADDRESSES)
@example("x:////a")
@example("http:///\t/a")
@example("http://a/%2541/%2e%2e/..")
def test_normalising_twice_changes_nothing(url):
    assert normalise(normalise(url)) == normalise(url)


@given(ADDRESSES)
def test_the_same_page_of_the_same_page_is_itself(url):
    once = same_page(normalise(url), TRACKING)
    assert same_page(once, TRACKING) == once


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("http://a.test/x?b=2&a=1", "https://a.test/x?a=1&b=2"),
        ("https://a.test/x?utm_source=n&UTM_Medium=m&id=7", "https://a.test/x?id=7"),
        ("https://a.test/?fbclid=z", "https://a.test"),
        ("https://a.test/x?", "https://a.test/x"),
    ],
)
def test_one_page_by_two_addresses(first, second):
    assert same_page(normalise(first), TRACKING) == same_page(normalise(second), TRACKING)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("https://a.test/x?id=1", "https://a.test/x?id=2"),
        ("https://a.test/x?a=1&a=2", "https://a.test/x?a=2&a=1"),
        ("https://a.test/x", "https://a.test/x/"),
        ("https://a.test/X", "https://a.test/x"),
        ("https://a.test/x", "https://a.test:8443/x"),
        ("https://a.test/x?utm=1", "https://a.test/x"),
        ("https://www.a.test/", "https://a.test/"),
    ],
)
def test_two_pages(first, second):
    assert same_page(normalise(first), TRACKING) != same_page(normalise(second), TRACKING)


def test_www_and_the_scheme_can_be_ignored_or_not():
    assert same_page("https://www.a.test/x", ignore_www=True) == "https://a.test/x"
    assert same_page("https://www.test/x", ignore_www=True) == "https://www.test/x"
    assert same_page("http://a.test/", ignore_scheme=False) == "http://a.test/"


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("a.b.example.co.uk", "example.co.uk"),
        ("ann.github.io", "ann.github.io"),
        ("x.ann.github.io", "ann.github.io"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8::1", "2001:db8::1"),
        ("a.xn--e1afmkfd.xn--p1ai", "xn--e1afmkfd.xn--p1ai"),
        ("a.b.no-such-suffix", "b.no-such-suffix"),
        ("", ""),
    ],
)
def test_registrable_domains(host, domain):
    assert registrable_domain(host) == domain


def test_registrable_domains_as_the_list_itself_tests_them():
    lines = files("publicsuffixlist").joinpath("test_psl.txt").read_text(encoding="utf-8").splitlines()
    cases = [line[len("checkPublicSuffix(") :].rstrip(");").split(", ") for line in lines if line.startswith("checkPublicSuffix('")]
    checked = 0
    for host, expected in cases:
        host = normalise(f"http://{host.strip(chr(39))}/").split("/")[2]
        if expected != "null" and not host.startswith("."):
            assert registrable_domain(host) == normalise(f"http://{expected.strip(chr(39))}/").split("/")[2]
            checked += 1
    assert checked > 50


def test_domains_of_a_host():
    assert domains_of("a.b.test") == ["a.b.test", "b.test", "test"]
    assert domains_of("10.1.2.3") == ["10.1.2.3"]
    assert domains_of("2001:db8::1") == ["2001:db8::1"]
    assert domains_of("") == []
    assert host_of("https://[2001:db8::1]:8/a") == "2001:db8::1"
    assert host_of("http://[broken/") == ""
    assert is_public_suffix("co.uk")
    assert not is_public_suffix("example.co.uk")


@given(st.ip_addresses())
def test_ip_addresses_are_found(address):
    assert ip_of(str(address)) == address


@given(st.from_regex(r"\A[a-z0-9x.]{0,12}\Z"))
def test_what_has_a_letter_other_than_of_a_number_is_no_ip_address(host):
    if any(label.strip("0123456789abcdefx") or not label for label in host.split(".")):
        assert ip_of(host) is None

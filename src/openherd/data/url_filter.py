"""Dropping pages by address (paper 3.1.1): domains and words of unsafe or adult sites, known-illegal addresses, older versions.

Meta's lists are not public. The built-in word list is small and only a start: real runs give their own files as inputs, one entry a
line, '#' begins a comment. Of the same address the newest page stays; a row's number or name is no address. Addresses are
compared after `normalise`.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.rundir import Output, Outside, Run
from openherd.data.documents import PAGE_SCHEMA, Drop, curate, read_documents
from openherd.data.lists import read_list

ADULT_AND_SPAM_WORDS = (
    "porn",
    "porno",
    "pornhub",
    "xxx",
    "xvideos",
    "hentai",
    "camgirl",
    "camgirls",
    "escorts",
    "casino",
    "viagra",
)
DEFAULT_PORTS = {"http": 80, "https": 443}
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class UrlFilterConfig:
    """Settings of `url-filter`, which add to its lists; the paper publishes none, the words are ours."""

    deny_words: Annotated[
        tuple[str, ...], Field(description="whole words, or words in a row, of an address; the built-in list is small")
    ] = ADULT_AND_SPAM_WORDS
    deny_domains: Annotated[tuple[str, ...], Field(description="domains, with their subdomains")] = ()
    illegal_url_sha256: Annotated[
        tuple[str, ...], Field(description="SHA-256 of normalised addresses whose content must not be kept")
    ] = ()


def normalise(url: str) -> str:
    """An address without what does not change the page: fragment, user, default port, case of scheme and host."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return url.strip()
    host = (parts.hostname or "").rstrip(".")
    if not host:
        return url.partition("#")[0].strip()
    host = f"[{host}]" if ":" in host else host
    if port is not None and port != DEFAULT_PORTS.get(parts.scheme):
        host += f":{port}"
    return urlunsplit((parts.scheme, host, parts.path or "/", parts.query, ""))


def domains_of(address: str) -> list[str]:
    """The host of a normalised address and the domains above it, longest first."""
    try:
        labels = (urlsplit(address).hostname or "").split(".")
    except ValueError:
        return []
    return [".".join(labels[i:]) for i in range(len(labels))]


def words_of(text: str) -> list[str]:
    """The words of an address, without what separates them."""
    return re.findall(r"[^\W_]+", unquote(text).lower())


class Denied:
    """Phrases of words, looked up in addresses."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = {" ".join(words_of(phrase)) for phrase in phrases} - {""}
        self._lengths = sorted({phrase.count(" ") + 1 for phrase in self._phrases})

    def find(self, address: str) -> str:
        """The first of the phrases in an address, or nothing."""
        words = words_of(address)
        runs = (" ".join(words[i : i + n]) for n in self._lengths for i in range(len(words) - n + 1))
        return next((run for run in runs if run in self._phrases), "")


def checked_digests(digests: Iterable[str]) -> set[str]:
    """The digests in lower case. Raises InputError for what is none: it would never match."""
    found = {digest.lower() for digest in digests}
    if wrong := sorted(digest for digest in found if not SHA256.fullmatch(digest)):
        raise InputError("illegal addresses", f"{wrong[0]!r}", allowed="SHA-256 in 64 hexadecimal digits, of normalised addresses")
    return found


def url_filter(
    config: UrlFilterConfig,
    *,
    documents: Run,
    domains: Outside | None = None,
    words: Outside | None = None,
    illegal: Outside | None = None,
    out: Output,
) -> dict[str, Any]:
    """Drop pages by their address; a page without one stays. The lists `domains`, `words` and `illegal` add to the settings'."""
    denied_domains = {domain.lower().strip(".") for domain in (*config.deny_domains, *read_list(domains))} - {""}
    denied_words = Denied((*config.deny_words, *read_list(words)))
    illegal_digests = checked_digests((*config.illegal_url_sha256, *read_list(illegal)))
    newest: dict[str, tuple[str, int, str]] = {}  # date, place and id by address
    for place, row in enumerate(read_documents(documents, ["id", "url", "date"])):
        address = normalise(row["url"])
        if address not in newest or row["date"] > newest[address][0]:
            newest[address] = row["date"], place, row["id"]

    def judge(place: int, row: dict[str, Any]) -> Drop | None:
        address = normalise(row["url"])
        if not address:
            return None
        if hashlib.sha256(address.encode()).hexdigest() in illegal_digests:
            return Drop("illegal address", keep_content=False)
        if domain := next((domain for domain in domains_of(address) if domain in denied_domains), ""):
            return Drop("denied domain", domain)
        if word := denied_words.find(address):
            return Drop("denied word", word)
        _, kept, kept_id = newest[address]
        return None if place == kept or "://" not in address else Drop("older version", f"kept: {kept_id}")

    def decide(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
        return ((row, judge(place, row)) for place, row in enumerate(rows))

    return curate("url-filter", documents, out, PAGE_SCHEMA, decide)

"""Dropping pages by address (paper 3.1.1): domains and words of unsafe or adult sites, known-illegal addresses.

Meta's lists are not public. The built-in words are small and only a start: real runs give their own files as inputs. Addresses
are compared after `normalise` (data/urls.py); the forms of lists are in data/address_lists.py. What decides, in this order: a
digest of an illegal address; the longest entry of the lists that fits, where of equal ones the allowed wins and an allowed address
is asked nothing more; an IP address as host; words. A page without an address stays.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.rundir import Output, Outside, Run
from openherd.data.address_lists import AddressRules, Builder, Entry
from openherd.data.documents import Drop, Judge, Judged
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents
from openherd.data.lists import read_list
from openherd.data.urls import host_of, ip_of, normalise, plain_host, words_of

# Words that name adult or spam pages and little else, in the three kinds that such filters have (RefinedWeb's, datatrove's): one
# word is enough; several different ones are; a part of a host is. The words are ours, chosen thus: no word of medicine, law, sexual
# education or of plain names ("porn" stands in Thai first names, "sex" in Essex, "cum" in Latin), no brand but those of
# pornography, no language but English. A test holds the traps.
ADULT_AND_SPAM_WORDS = (
    "porn", "porno", "pornhub", "pornstar", "pornstars", "xxx", "xvideos", "xhamster", "redtube", "youporn", "hentai",
    "camgirl", "camgirls", "escorts", "blowjob", "cumshot", "gangbang", "milf", "milfs", "casino", "viagra", "cialis",
)  # fmt: skip
SOFT_WORDS = (
    "adult", "amateur", "anal", "bet", "betting", "bonus", "cams", "cheap", "dating", "erotic", "fetish", "free", "gambling",
    "girls", "hookup", "hot", "jackpot", "loan", "loans", "naked", "nude", "nudes", "payday", "pharmacy", "pills", "poker",
    "replica", "roulette", "sex", "sexy", "slots", "teen", "teens", "tits", "torrent", "warez", "webcam",
)  # fmt: skip
HOST_PARTS = (
    "freeporn", "pornhub", "pornstar", "pornvideo", "sexporn", "xvideos", "xhamster", "livesex", "sexcam", "sexchat", "camgirl",
    "camsex", "hentai", "blowjob", "onlinecasino", "casinoonline", "casinobonus", "buyviagra", "viagraonline", "buycialis",
    "paydayloan",
)  # fmt: skip
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class UrlFilterConfig:
    """Settings of `url-filter`, which add to its lists; the paper publishes none, the words are ours."""

    deny_words: Annotated[
        tuple[str, ...],
        Field(description="whole words, or words in a row, of an address; one is enough; the built-in list is small"),
    ] = ADULT_AND_SPAM_WORDS
    soft_words: Annotated[
        tuple[str, ...], Field(description="whole words of an address that say little alone; `min_soft_words` of them are enough")
    ] = SOFT_WORDS
    # datatrove's filter asks for two of its words. Of ours three: "free adult education" and "cheap hot meals" are fine pages.
    min_soft_words: Annotated[int, Field(description="different soft words that drop a page; 0 asks for none", ge=0)] = 3
    deny_host_parts: Annotated[
        tuple[str, ...], Field(description="letters in a row of a host, hyphens left out; one is enough")
    ] = HOST_PARTS
    deny_domains: Annotated[tuple[str, ...], Field(description="domains, with their subdomains")] = ()
    allow_domains: Annotated[
        tuple[str, ...], Field(description="domains, with their subdomains, that no other list or word drops")
    ] = ()
    categories: Annotated[
        tuple[str, ...], Field(description="categories of the input `domains` that are used; empty: all of them")
    ] = ()
    # The paper is silent. Phishing and copied pages stand on bare IP addresses, and honest old ones too.
    drop_ip_hosts: Annotated[bool, Field(description="drop pages whose host is an IP address")] = False
    illegal_url_sha256: Annotated[
        tuple[str, ...], Field(description="SHA-256 of normalised addresses whose content must not be kept")
    ] = ()
    engine: EngineSetting = field(default_factory=EngineConfig)


class Denied:
    """Phrases of words, looked up in addresses."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = {" ".join(words_of(phrase)) for phrase in phrases} - {""}
        self._lengths = sorted({phrase.count(" ") + 1 for phrase in self._phrases})

    def find(self, words: list[str]) -> str:
        """The first of the phrases among words, or nothing."""
        runs = (" ".join(words[i : i + n]) for n in self._lengths for i in range(len(words) - n + 1))
        return next((run for run in runs if run in self._phrases), "")


def checked_digests(digests: Iterable[str], what: str = "illegal addresses", of: str = "normalised addresses") -> set[str]:
    """The digests in lower case. Raises InputError for what is none: it would never match."""
    found = {digest.lower() for digest in digests}
    if wrong := sorted(digest for digest in found if not SHA256.fullmatch(digest)):
        raise InputError(what, f"{wrong[0]!r}", allowed=f"SHA-256 in 64 hexadecimal digits, of {of}")
    return found


class UrlRules:
    """Everything that is asked of an address; built from plain values, so that a worker process can build it."""

    def __init__(
        self, config: UrlFilterConfig, lists: AddressRules, words: Iterable[str] = (), illegal: Iterable[str] = ()
    ) -> None:
        self._lists = lists
        self._denied = Denied((*config.deny_words, *words))
        self._soft = set(config.soft_words)
        self._min_soft = config.min_soft_words or 10**9
        parts = [re.escape(part.lower()) for part in config.deny_host_parts if part]
        self._host_part = re.compile("|".join(parts)) if parts else None
        self._illegal = checked_digests((*config.illegal_url_sha256, *illegal))
        self._drop_ip_hosts = config.drop_ip_hosts

    def judge(self, url: str) -> Drop | None:
        """Why a page with this address goes, or None."""
        address = normalise(url)
        if not address:
            return None
        if self._illegal and hashlib.sha256(address.encode()).hexdigest() in self._illegal:
            return Drop("illegal address", keep_content=False)
        host = host_of(address)
        found, is_allowed = self._lists.find(address, host)
        if found and not is_allowed:
            return Drop("denied domain" if "/" not in found.name else "denied address", ", ".join(filter(None, found)))
        return None if is_allowed else self._by_words(address, host)

    def _by_words(self, address: str, host: str) -> Drop | None:
        if self._drop_ip_hosts and host and ip_of(host):
            return Drop("IP address as host", host)
        words = words_of(address)
        if word := self._denied.find(words):
            return Drop("denied word", word)
        if len(soft := sorted(self._soft.intersection(words))) >= self._min_soft:
            return Drop("denied words together", ", ".join(soft))
        if self._host_part and (part := self._host_part.search(host.replace("-", ""))):
            return Drop("denied part of a host", part[0])
        return None


def prepare_url_filter(
    config: UrlFilterConfig, *, lists: AddressRules, words: tuple[str, ...] = (), illegal: tuple[str, ...] = ()
) -> Judge:
    """The judgement over batches of pages or documents."""
    rules = UrlRules(config, lists, words, illegal)
    return lambda batch: Judged(batch, [rules.judge(url or "") for url in batch.column("url").to_pylist()])


def read_rules(config: UrlFilterConfig, domains: Outside | None, allowed: Outside | None) -> Builder:
    """The lists of the settings and of the inputs."""
    builder = Builder()
    for names, is_allowed in ((config.deny_domains, False), (config.allow_domains, True)):
        for name in names:
            if domain := plain_host(name.strip(".")):
                builder.add(Entry(domain, is_allowed), "")
    builder.read(domains, config.categories)
    builder.read(allowed, is_allowed=True)
    return builder


def url_filter(
    config: UrlFilterConfig,
    *,
    documents: Run,
    domains: Outside | None = None,
    allowed: Outside | None = None,
    words: Outside | None = None,
    illegal: Outside | None = None,
    out: Output,
) -> dict[str, Any]:
    """Drop pages by their address; a page without one stays. The lists given as inputs add to the settings'."""
    builder = read_rules(config, domains, allowed)
    lists = builder.build()
    digests = tuple(read_list(illegal))
    prepare = partial(prepare_url_filter, config, lists=lists, words=tuple(read_list(words)), illegal=digests)
    keep_lost = not (digests or config.illegal_url_sha256)  # what is lost may be of such an address
    metrics = judge_documents("url-filter", prepare, documents, out, config.engine, keep_lost=keep_lost, needs="")
    return metrics | {"list_entries": len(lists), "list_lines_passed_over": builder.n_passed_over}

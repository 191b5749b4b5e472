"""Dropping pages by address (paper 3.1.1): domains and words of unsafe or adult sites, known-illegal addresses, older versions.

The built-in word list is small and only a start: real runs give their own files. Of the same address the newest page stays.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.rundir import Output, Run
from openherd.data.documents import PAGE_SCHEMA, Drop, curate, read_documents

ADULT_WORDS = ("porn", "xxx", "hentai", "camgirl", "escorts", "casino", "viagra")
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class UrlFilterConfig:
    """Settings of `url-filter`."""

    deny_words: Annotated[tuple[str, ...], Field(description="whole words of an address; the built-in list is small")] = ADULT_WORDS
    deny_domains: Annotated[tuple[str, ...], Field(description="domains, with their subdomains")] = ()
    deny_domain_files: Annotated[tuple[str, ...], Field(description="files with a domain a line; '#' begins a comment")] = ()
    illegal_url_sha256: Annotated[
        tuple[str, ...], Field(description="SHA-256 of normalised addresses whose content must not be kept")
    ] = ()


def normalise(url: str) -> str:
    """An address without what does not change the page: fragment, default port, case of scheme and host."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return url.strip()
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    if port and port != DEFAULT_PORTS.get(parts.scheme.lower()):
        host += f":{port}"
    return urlunsplit((parts.scheme.lower(), host, parts.path or ("/" if host else ""), parts.query, ""))


def host_suffixes(url: str) -> Iterator[str]:
    """The host of a normalised address and the domains above it."""
    try:
        labels = (urlsplit(url).hostname or "").split(".")
    except ValueError:
        return
    for i in range(len(labels)):
        yield ".".join(labels[i:])


def denied_domains(config: UrlFilterConfig) -> set[str]:
    """All denied domains. Raises InputError for a file that is missing."""
    found = {domain.lower().strip(".") for domain in config.deny_domains}
    for name in config.deny_domain_files:
        if not Path(name).is_file():
            raise InputError(name, "no such file", allowed="a text file with a domain a line")
        lines = (line.split("#")[0].strip().lower().strip(".") for line in Path(name).read_text(encoding="utf-8").splitlines())
        found |= {line for line in lines if line}
    return found


def url_filter(config: UrlFilterConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Drop pages by their address; a page without one stays."""
    domains, illegal = denied_domains(config), {digest.lower() for digest in config.illegal_url_sha256}
    words = {word.lower() for word in config.deny_words}
    newest: dict[str, tuple[str, str]] = {}
    for row in read_documents(documents, ["id", "url", "date"]):
        if row["url"]:
            address = normalise(row["url"])
            newest[address] = max(newest.get(address, ("", "")), (row["date"], row["id"]))
    taken: set[str] = set()

    def judge(row: dict[str, Any]) -> Drop | None:
        if not row["url"]:
            return None
        address = normalise(row["url"])
        if hashlib.sha256(address.encode()).hexdigest() in illegal:
            return Drop("illegal address", keep_content=False)
        if denied := next((d for d in host_suffixes(address) if d in domains), None):
            return Drop("denied domain", denied)
        if found := words & set(re.split(r"[^a-z0-9]+", address.lower())):
            return Drop("denied word", min(found))
        if newest[address] != (row["date"], row["id"]) or address in taken:
            return Drop("older version", f"kept: {newest[address][1]}")
        taken.add(address)
        return None

    def decide(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
        return ((row, judge(row)) for row in rows)

    return curate("url-filter", documents, out, PAGE_SCHEMA, decide)

"""Addresses of pages: one spelling for what is one page, the hosts and registrable domains of it (paper 3.1.1).

`normalise` changes only what cannot change the page (RFC 3986, UTS 46); `same_page` goes further, as deduplication needs: it may
join two pages that a site serves differently. Public suffixes (`co.uk`, `github.io`) are those of publicsuffixlist's snapshot
inside the installed package: nothing is fetched. Of two sites under one public suffix neither answers for the other.
"""

import re
from functools import cache, lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote, urlsplit, urlunsplit

import idna
from publicsuffixlist import PublicSuffixList

DEFAULT_PORTS = {"http": 80, "https": 443}
HIERARCHICAL = frozenset({"http", "https", "ftp"})  # of these the path's "." and ".." are steps
PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")
UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
NUMBER = re.compile(r"0[xX][0-9A-Fa-f]*|[0-9]+")
# Parameters that say where a reader came from, or name a session, not a page. From the documentation of the tools that set them:
# Google Analytics and Ads, Facebook, Microsoft, Mailchimp, HubSpot, Matomo, Yandex, Instagram, TikTok, Twitter; PHP and Java
# sessions.
TRACKING_PARAMETERS = (
    "utm_*", "gclid", "gclsrc", "dclid", "gbraid", "wbraid", "_ga", "_gl", "fbclid", "fb_*", "msclkid", "mc_cid", "mc_eid",
    "_hsenc", "_hsmi", "mtm_*", "pk_campaign", "pk_kwd", "yclid", "igshid", "ttclid", "twclid", "phpsessid", "jsessionid",
)  # fmt: skip


def normalise(url: str) -> str:
    """An address without what does not change the page.

    Fragment, user and default port go; scheme and host are in lower case, the host in punycode without a final dot, or an IP
    address in its usual form; escapes of characters that need none are undone; "." and ".." are gone from the path. What is no
    address is returned without blanks around it.
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        port = parts.port
        host = plain_host(parts.hostname or "")
    except ValueError:
        return url
    if not host:
        return url.partition("#")[0].strip()
    host = f"[{host}]" if ":" in host else host
    if port is not None and port != DEFAULT_PORTS.get(parts.scheme):
        host += f":{port}"
    path = escaped(parts.path)
    if parts.scheme in HIERARCHICAL and "." in path:
        path = without_steps(path)
    return urlunsplit((parts.scheme, host, path or "/", escaped(parts.query), ""))


def escaped(text: str) -> str:
    """A part of an address with escapes only where they are needed, in capitals."""
    if "%" not in text:
        return text

    def plain(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if character in UNRESERVED else match[0].upper()

    return PERCENT.sub(plain, text)


def without_steps(path: str) -> str:
    """A path without "." and ".." (RFC 3986, 5.2.4)."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


@lru_cache(maxsize=65_536)
def plain_host(host: str) -> str:
    """A host as it is compared: lower case, punycode, no final dot; IP addresses in their usual form."""
    host = host.strip().lower().rstrip(".")
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True, transitional=False).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return host
    address = ip_of(host)
    return str(address) if address else host


def ip_of(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host is: also written in fewer parts, octal or hexadecimal, as browsers read it."""
    if ":" in host:
        try:
            return ip_address(host.strip("[]"))
        except ValueError:
            return None
    if not host[-1:].isdigit() and host[-1:].lower() not in "abcdefx":
        return None
    labels = host.split(".")
    if len(labels) > 4 or not all(NUMBER.fullmatch(label) for label in labels):
        return None
    try:
        numbers = [
            int(label, 16 if label[:2] in ("0x", "0X") else 8 if len(label) > 1 and label[0] == "0" else 10) for label in labels
        ]
        last = numbers.pop()
        if any(number > 255 for number in numbers) or last >= 256 ** (4 - len(numbers)):
            return None
        return IPv4Address(sum(number << 8 * (3 - i) for i, number in enumerate(numbers)) + last)
    except ValueError:
        return None


def host_of(address: str) -> str:
    """The host of a normalised address; empty where it has none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def domains_of(host: str) -> list[str]:
    """A host and the domains above it, longest first; an IP address has none above it."""
    if not host or ip_of(host):
        return [host] if host else []
    labels = host.split(".")
    return [".".join(labels[i:]) for i in range(len(labels))]


@cache
def suffixes() -> PublicSuffixList:
    """The public-suffix list that lies in the installed package, read once."""
    return PublicSuffixList()


@lru_cache(maxsize=65_536)
def registrable_domain(host: str) -> str:
    """The part of a host that one owner registered: `example.co.uk`, `ann.github.io`; an IP address or a bare name is its own."""
    if not host or ip_of(host):
        return host
    return str(suffixes().privatesuffix(host) or host)


def is_public_suffix(domain: str) -> bool:
    """Whether many owners stand under a domain: `com`, `co.uk`, `github.io`."""
    return bool(suffixes().publicsuffix(domain) == domain)


@cache
def is_known_suffix(label: str) -> bool:
    """Whether a last label is a top-level domain of the list: `com`, `рф`; not what only looks like one, as `png` does."""
    return strict_suffixes().publicsuffix(plain_host(label)) is not None


@cache
def strict_suffixes() -> PublicSuffixList:
    """The list without its rule that any unknown last label is a suffix."""
    return PublicSuffixList(accept_unknown=False)


def same_page(address: str, tracking: frozenset[str] = frozenset(), ignore_scheme: bool = True, ignore_www: bool = False) -> str:
    """A normalised address without what seldom changes the page: tracking parameters, the order of the others, http or https.

    `tracking` holds names in lower case; one that ends in "*" stands for all that begin so.
    """
    if "://" not in address:
        return address
    scheme, _, rest = address.partition("://")
    rest, _, query = rest.partition("?")
    if ignore_scheme and scheme == "http":
        scheme = "https"
    if ignore_www and rest.startswith("www.") and rest.count(".", 4, rest.find("/")):
        rest = rest[4:]
    if query:
        pairs = [pair for pair in query.split("&") if pair and not is_tracking(pair.partition("=")[0].lower(), tracking)]
        query = "&".join(sorted(pairs, key=lambda pair: pair.partition("=")[0]))
    return f"{scheme}://{rest}?{query}" if query else f"{scheme}://{rest}"


def is_tracking(name: str, tracking: frozenset[str]) -> bool:
    """Whether a parameter is one of `tracking`."""
    return name in tracking or any(name[:n] + "*" in tracking for n in range(1, len(name) + 1))


def words_of(text: str) -> list[str]:
    """The words of an address, without what separates them."""
    return re.findall(r"[^\W_]+", unquote(text).lower())

"""Lists of addresses to drop or to keep, in the forms in which people publish them (paper 3.1.1: adult, spam, harmful domains).

Read are, mixed as they come: one domain a line; hosts files (`0.0.0.0 bad.example`); adblock-style lists (`||bad.example^`,
exceptions `@@||good.example^`); addresses (`bad.example/folder`, `https://...`), which stand for all that begin so; and folders as
the University of Toulouse's block lists have them (`adult/domains`, `adult/urls`). A domain stands for its subdomains. The category
of an entry is its file's name, or its folder's in such a folder. What cannot be judged from a page's address (rules for parts of
pages, wildcards, regular expressions) is passed over and counted.

Held in memory are eight bytes for each entry's hash and two for its category: five million entries take 50 MB, in each process.
Two different entries share a hash once in 10^13 comparisons with a list of a million.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

import fsspec
import numpy as np
import xxhash

from openherd.core.errors import InputError
from openherd.core.rundir import Outside
from openherd.data.urls import domains_of, host_of, normalise, plain_host

HOSTS_LINE = re.compile(r"(?:0\.0\.0\.0|127\.0\.0\.1|::1?|0)[ \t]+(.*)")
OWN_NAMES = frozenset({"localhost", "localhost.localdomain", "local", "broadcasthost", "0.0.0.0", "ip6-localhost", "ip6-loopback"})
HOST = re.compile(r"(?:[^\W_]|[_-])+(?:\.(?:[^\W_]|[_-])+)+|\[?[0-9a-f:]*:[0-9a-f:.]*\]?", re.IGNORECASE)
COSMETIC = re.compile(r"#[@?$%]*#")
PAGE_OPTIONS = frozenset({"all", "document", "doc", "important", "popup"})  # of adblock rules: those that meet a page itself
FOLDER_FILES = frozenset({"domains", "urls"})


class Entry(NamedTuple):
    """One line of a list that can be judged: a domain, or the beginning of an address from its host on."""

    name: str
    is_allowed: bool = False


def parse_line(line: str) -> list[Entry] | None:
    """The entries of a line: none for a comment, None for what cannot be judged from an address."""
    line = line.strip()
    if not line or (line[0] in "!#" and not COSMETIC.match(line)) or re.match(r"\[[^:]*\]\Z", line):
        return []
    if COSMETIC.search(line):
        return None
    if found := HOSTS_LINE.fullmatch(line.partition("#")[0].strip()):
        return [Entry(plain_host(name)) for name in found[1].split() if name not in OWN_NAMES]
    is_allowed = line.startswith("@@")
    line = line.removeprefix("@@")
    is_rule = is_allowed or line.startswith("|") or "^" in line
    if is_rule:
        line, _, options = line.partition("$")
        if options and not {option.strip() for option in options.split(",")} <= PAGE_OPTIONS:
            return None
        line = line.lstrip("|").rstrip("|").removesuffix("*").removesuffix("^")
    else:
        line = re.split(r"\s+#|#\s", line)[0].strip()
    name = line.partition("://")[2] if "://" in line else line
    name = name.removeprefix("*.").strip(".")
    host, slash, path = name.partition("/")
    if any(character in name for character in "*^ \t") or not host.strip("."):
        return None
    if not HOST.fullmatch(host.partition(":")[0] if host.count(":") == 1 else host):
        return None
    if slash and path:
        return [Entry(beginning(normalise("https://" + name)), is_allowed)]
    return [Entry(plain_host(host.partition(":")[0] if host.count(":") == 1 else host.strip("[]")), is_allowed)]


def beginning(address: str) -> str:
    """A normalised address from its host on, without "www." and without a final slash."""
    return address.partition("://")[2].removeprefix("www.").rstrip("/")


def hash_of(name: str) -> int:
    """A name's 64-bit hash."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Names:
    """Names by their hashes, sorted, each with the number of its category."""

    hashes: "array[int]"  # of 8 bytes: the standard library's bisection is five times as quick on these as numpy's for one value
    categories: "array[int]"

    @classmethod
    def of(cls, hashes: "array[int]", categories: "array[int]") -> "Names":
        """Sorted, each name once, with the first category that it was given."""
        unique, first = np.unique(np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64), return_index=True)
        kept = np.frombuffer(categories, np.uint16)[first] if categories else np.empty(0, np.uint16)
        return cls(array("Q", unique.tobytes()), array("H", kept.tobytes()))

    def find(self, name: str) -> int:
        """The number of a name's category, or -1."""
        value = hash_of(name)
        place = bisect_left(self.hashes, value)
        return self.categories[place] if place < len(self.hashes) and self.hashes[place] == value else -1


@dataclass
class Builder:
    """Gathers the entries of lists."""

    categories: list[str] = field(default_factory=list)
    denied: "tuple[array[int], array[int]]" = field(default_factory=lambda: (array("Q"), array("H")))
    allowed: "tuple[array[int], array[int]]" = field(default_factory=lambda: (array("Q"), array("H")))
    paths: bool = False
    n_passed_over: int = 0

    def add(self, entry: Entry, category: str) -> None:
        """One entry."""
        if category not in self.categories:
            self.categories.append(category)
        hashes, categories = self.allowed if entry.is_allowed else self.denied
        hashes.append(hash_of(entry.name))
        categories.append(self.categories.index(category))
        self.paths = self.paths or "/" in entry.name

    def read(self, given: Outside | None, only: Iterable[str] = (), is_allowed: bool = False) -> None:
        """The entries of list files, of these categories alone where any are named. Raises InputError for what is no list, and for
        a category that has none."""
        wanted, lists = set(only), list(list_files(given))
        there = sorted({category for _, category in lists})
        if absent := sorted(wanted.difference(there)):
            where, do = (given.location, "") if given else ("categories", "give the input domains, or leave categories out")
            raise InputError(where, f"no list of category {absent[0]!r}", allowed=", ".join(there), do=do)
        for name, category in lists:
            if wanted and category not in wanted:
                continue
            n_read = n_understood = 0
            try:
                with fsspec.open(name, "rt", encoding="utf-8", compression="infer") as file:
                    for line in file:
                        n_read += 1
                        entries = parse_line(line)
                        n_understood += entries is not None
                        for entry in entries or []:
                            self.add(Entry(entry.name, is_allowed or entry.is_allowed), category)
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(
                    name, f"cannot be read as a list ({error})", allowed="text in UTF-8, one domain, address or rule a line"
                ) from None
            if n_read and not n_understood:
                raise InputError(
                    name,
                    "no line of it is a domain, an address or a rule for domains",
                    do="give a list of addresses, or leave it out",
                )
            self.n_passed_over += n_read - n_understood

    def build(self) -> "AddressRules":
        """What the entries say, to be asked."""
        return AddressRules(Names.of(*self.denied), Names.of(*self.allowed), tuple(self.categories), self.paths)


def list_files(given: Outside | None) -> Iterator[tuple[str, str]]:
    """(file, category) of what was given: in a folder with files called `domains` or `urls` those alone are lists."""
    files = [(name, PurePosixPath(name.rstrip("/"))) for name in (given.files() if given else [])]
    is_folder = any(path.name in FOLDER_FILES for _, path in files)
    for name, path in files:
        if not is_folder:
            yield name, path.name.partition(".")[0]
        elif path.name in FOLDER_FILES:
            yield name, path.parent.name


class Found(NamedTuple):
    """The entry of the lists that an address meets, with its category."""

    name: str
    category: str


class AddressRules:
    """Lists of denied and allowed domains and addresses; the longest entry that fits decides, of equal ones the allowed."""

    def __init__(self, denied: Names, allowed: Names, categories: tuple[str, ...], has_paths: bool) -> None:
        self.denied, self.allowed, self.categories, self.has_paths = denied, allowed, categories, has_paths

    def __len__(self) -> int:
        return len(self.denied.hashes) + len(self.allowed.hashes)

    def find(self, address: str, host: str | None = None) -> tuple[Found | None, bool]:
        """The entry that decides over a normalised address, and whether it allows it; no entry: (None, False)."""
        asked = [(names, is_allowed) for names, is_allowed in ((self.allowed, True), (self.denied, False)) if names.hashes]
        for name in self.candidates(address, host_of(address) if host is None else host) if asked else ():
            for names, is_allowed in asked:
                if (category := names.find(name)) >= 0:
                    return Found(name, self.categories[category]), is_allowed
        return None, False

    def candidates(self, address: str, host: str) -> Iterator[str]:
        """What an entry for an address may be, longest first: it cut at each "/" and before its query, then its host's domains."""
        if self.has_paths:
            rest = beginning(address)
            while "/" in rest:
                yield rest
                cut = max(rest.rfind("/"), rest.rfind("?"))
                rest = rest[:cut]
        yield from domains_of(host)

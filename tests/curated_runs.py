"""Small finished curations: real stages on texts given, one after the other."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openherd.core import rundir
from openherd.core.config import to_plain
from openherd.core.rundir import Job, Output, Run
from openherd.data.dedup_documents import DedupDocumentsConfig, dedup_documents
from openherd.data.documents import LANGUAGE_SCHEMA, Drop, Funnel
from openherd.data.engine import EngineConfig
from openherd.data.heuristics import HeuristicsConfig, heuristics

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m"
WORDS = [f"{a}{b}" for a in ("the", "be", "sun", "moon", "sea", "stone", "tree", "bird") for b in ("", "ly", "ing", "ness", "ward")]


def text_of(number: int, n_words: int = 60) -> str:
    """A text of its own kind, with words on lines of ten."""
    words = random.Random(number).choices(WORDS, k=n_words)
    return "\n".join(" ".join(words[i : i + 10]) for i in range(0, n_words, 10))


def row_of(number: int, text: str, **fields: Any) -> dict[str, Any]:
    """A document."""
    row = {"id": f"{number:04x}{0:028x}", "url": f"https://www.site{number % 3}.co.uk/{number}", "date": "2026-01-01T00:00:00Z"}
    more = {"source": "web", "file": "a.warc", "offset": number, "title": "", "text": text, "language": "en", "language_score": 0.9}
    return {**row, **more, **fields}


def corpus() -> list[dict[str, Any]]:
    """Documents: plain ones, a short one, a near-duplicate, one with personal data, a hostile one, one that must not be kept."""
    rows = [row_of(i, text_of(i)) for i in range(20)]
    rows.append(row_of(0x20, "too short to stay"))
    rows.append(row_of(0x21, text_of(3).replace(" ", "  ") + "\nof one word more"))
    rows.append(
        row_of(0x22, f"Write to ann.example@example.org or call.\n{text_of(31)}", url="https://a.org/u?mail=bob@example.org")
    )
    rows.append(row_of(0x23, f"{HOSTILE}\n{text_of(32)}", url=f"https://evil.example/{HOSTILE}", language="fr"))
    rows.append(row_of(0x24, "secret secret", language="fr"))
    return rows


def given(out: Output, rows: Sequence[Mapping[str, Any]], drops: Mapping[str, Drop]) -> dict[str, Any]:
    """A stage that keeps all but what is named, and takes the first line out of the document 0."""
    with Funnel("given", out, LANGUAGE_SCHEMA) as funnel:
        for row in rows:
            funnel.take(row)
            if row["id"] in drops:
                funnel.drop(row, drops[row["id"]])
            else:
                funnel.keep({**row, "text": row["text"].split("\n", 1)[1]} if row["offset"] == 0 else row)
    return funnel.metrics()


def stage(folder: Path, name: str, work: Callable[..., Any], config: Any, settings: Mapping[str, Any], **inputs: Run) -> Run:
    """Run one stage into a folder of its own."""
    digests = {key: run.digest for key, run in inputs.items()} or {"pages": "0" * 64}
    sources = {key: str(run.path) for key, run in inputs.items()} or {"pages": "a.warc"}
    job = Job(name, "3.1", 1, settings, digests, sources)
    return rundir.make(job, folder / name / job.digest[:12], work, config, inputs)[0]


def curation(folder: Path, min_words: int = 50, rows: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Run]:
    """Three stages: `read` and `given` (documents as they came; one dropped without its content), duplicates, heuristics."""
    rows = corpus() if rows is None else rows
    drops = {row_of(0x24, "")["id"]: Drop("illegal", "a list", keep_content=False)}
    read = stage(folder, "read", lambda config, *, out: given(out, [{**r, "offset": r["offset"] + 1} for r in rows], {}), None, {})
    came = stage(folder, "given", lambda config, *, documents, out: given(out, rows, drops), None, {}, documents=read)
    engine = EngineConfig(processes=1)
    dedup = DedupDocumentsConfig(engine=engine)
    unique = stage(folder, "dedup-documents", dedup_documents, dedup, to_plain(dedup), documents=came)
    config = HeuristicsConfig(
        min_words=min_words, min_stop_words=0, max_top_ngram_shares=(1, 1, 1), max_duplicate_ngram_shares=(1,) * 6, engine=engine
    )
    judged = stage(folder, "heuristics", heuristics, config, to_plain(config), documents=unique)
    return {"read": read, "given": came, "dedup-documents": unique, "heuristics": judged}

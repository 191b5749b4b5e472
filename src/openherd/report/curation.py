"""The report's part on curation (paper 3.1.1): the funnel, the reasons, and samples of what was dropped.

The numbers are the metrics of each curation run; the samples are from its `dropped.parquet`. A document can also shrink and stay
(markup or repeated lines taken out): its lost bytes are a part of the funnel of their own.

Tokens before the tokenizer are estimated: the bytes of text, divided by the bytes per token that the run's own tokenizer
reached, or by 4 where it has none (the paper's reaches 3.94 characters per token of English). Pages are mostly markup: no tokens
are told of them.
"""

import html
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from openherd.core.records import read_parquet
from openherd.core.rundir import Run
from openherd.report.figures import funnel_bars
from openherd.report.markup import Html, details, element, figure, join, paragraph, prose, side_by_side, table
from openherd.report.runs import Runs, file_of, names, of_stage

COUNTS = {"documents_in", "documents_out", "bytes_in", "bytes_out", "dropped"}
UNITS = ("documents", "bytes")
BYTES_PER_TOKEN = 4.0  # where no tokenizer says it
BESIDE = 1_000  # characters read beyond what is shown of a document, so that nothing is cut before it is known what it is
ADDRESS_CHARACTERS = 400

Shown = Callable[[str, int], str]  # at most so many characters of a text, fit to be looked at


def curation_runs(runs: Runs) -> list[Run]:
    """The runs that counted documents."""
    return [run for run in runs if run.metrics.keys() >= COUNTS]


def parts(metrics: Mapping[str, Any], unit: str) -> dict[str, int]:
    """What came in, split into what stayed, what went with dropped documents, and what was taken out of those that stayed."""
    came, stayed = metrics[f"{unit}_in"], metrics[f"{unit}_out"]
    dropped = sum(counts[unit] for counts in metrics["dropped"].values())
    return {"kept": stayed, "dropped": dropped, "trimmed from kept": max(came - stayed - dropped, 0)}


def bytes_per_token(runs: Runs) -> tuple[float, str]:
    """How many bytes a token stands for, and who says so: what encoded the text, else the tokenizer on its sample, else nobody."""
    for stage in ("token-shards", "tokenizer"):
        for run in of_stage(runs, stage)[-1:]:
            if (measured := run.metrics.get("bytes_per_token")) is not None:
                return float(measured), f"as {stage} measured"
    return BYTES_PER_TOKEN, "a usual value, since no tokenizer of this run says it"


def exact_tokens(runs: Runs) -> dict[str, int]:
    """The tokens that were encoded, by the name of the run that did it."""
    found = of_stage(runs, "token-shards")
    return {names(runs)[run.digest]: run.metrics["train_tokens"] for run in found if "train_tokens" in run.metrics}


def holds_text(run: Run) -> bool:
    """Whether the documents that a run kept are text, not pages."""
    import pyarrow.parquet as pq

    file = file_of(run, "documents.parquet") or file_of(run, "dropped.parquet")
    return file is not None and "text" in pq.read_schema(file).names


def reasons(metrics: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(reason, documents, bytes), the most documents first."""
    found = [(reason, counts["documents"], counts["bytes"]) for reason, counts in metrics["dropped"].items()]
    return sorted(found, key=lambda row: (-row[1], row[0]))


def excerpt(row: Mapping[str, Any], characters: int) -> str | None:
    """The beginning of a dropped document, markup taken out; None where its content was not kept."""
    content = row.get("text")
    if content is None and row.get("content") is not None:
        page = row["content"][: 50 * characters].decode("utf-8", "replace")
        content = html.unescape(re.sub(r"<[^>]*>?", " ", page))
    return None if content is None else " ".join(content[: 20 * characters].split())[:characters]


def dropped_samples(run: Run, samples: int, characters: int, shown: Shown) -> dict[str, list[tuple[str, str | None, str]]]:
    """The first few dropped documents of each reason: (address or id, beginning, detail)."""
    found: dict[str, list[tuple[str, str | None, str]]] = defaultdict(list)
    wanted = {reason: min(samples, n) for reason, n, _ in reasons(run.metrics)}
    file = file_of(run, "dropped.parquet")
    for row in read_parquet(file, rows_per_batch=100) if file and samples else ():
        if len(rows := found[row["reason"]]) < samples:
            begins = excerpt(row, characters + BESIDE)
            name, detail = row.get("url") or row["id"], row["detail"]
            begins = None if begins is None else shown(begins, characters)
            rows.append((shown(name, ADDRESS_CHARACTERS), begins, shown(detail, ADDRESS_CHARACTERS)))
        if all(len(found[reason]) >= n for reason, n in wanted.items()):
            break
    return {reason: found[reason] for reason in wanted if found[reason]}


def curation(runs: Runs, samples: int, characters: int, shown: Shown) -> Html | None:
    """The part on curation, or None where no run counted documents."""
    counted = curation_runs(runs)
    if not counted:
        return None
    labels = [names(runs)[run.digest] for run in counted]
    return join([
        funnel(runs), *(_samples(label, run, samples, characters, shown) for label, run in zip(labels, counted, strict=True))
    ])  # fmt: skip


def funnel(runs: Runs) -> Html:
    """Documents, bytes and tokens by stage as pictures and tables, and why documents were dropped."""
    counted = curation_runs(runs)
    labels = [names(runs)[run.digest] for run in counted]
    metrics = [run.metrics for run in counted]
    first, last = metrics[0], metrics[-1]
    rate, says_who = bytes_per_token(runs)
    exact = exact_tokens(runs)
    tokens = [round(m["bytes_out"] / rate) if holds_text(run) else None for run, m in zip(counted, metrics, strict=True)]
    rows = [
        (label, *(f"{m[f'{unit}_{way}']:,}" for unit in UNITS for way in ("in", "out")), "" if n is None else f"{n:,}", "")
        for label, m, n in zip(labels, metrics, tokens, strict=True)
    ] + [(label, "", "", "", "", "", f"{n:,}") for label, n in exact.items()]
    why = [
        (label, prose(reason), f"{documents:,}", f"{size:,}")
        for label, m in zip(labels, metrics, strict=True)
        for reason, documents, size in reasons(m)
    ]
    head = ("stage", "documents in", "out", "bytes in", "out", "tokens out, estimated", "exact")
    return join([
        paragraph(
            f"{first['documents_in']:,} documents ({first['bytes_in']:,} bytes) came in, "
            f"{last['documents_out']:,} ({last['bytes_out']:,} bytes) were kept."
        ),
        side_by_side(*(_bars(labels, metrics, unit) for unit in UNITS), _token_bars(labels, tokens, exact)),
        table("Curation stages", head, rows, right=(1, 2, 3, 4, 5, 6)),
        paragraph(
            f"Tokens are estimated as bytes of text / {rate:.3g} ({says_who}); exact ones were encoded. Of pages none are told."
        ),
        element("h3", "Why documents were dropped"),
        table("Reasons", ("stage", "reason", "documents", "bytes"), why, right=(2, 3)) if why else paragraph("None was."),
    ])  # fmt: skip


def _token_bars(labels: Sequence[str], estimated: Sequence[int | None], exact: Mapping[str, int]) -> Html | None:
    told = [(label, n) for label, n in zip(labels, estimated, strict=True) if n is not None]
    if not told and not exact:
        return None
    columns = {"estimated": [*(n for _, n in told), *(0 for _ in exact)], "exact": [*(0 for _ in told), *exact.values()]}
    stages = [*(label for label, _ in told), *exact]
    return figure(funnel_bars(stages, columns, ["" for _ in stages], "tokens"), "Tokens that each stage kept")


def _bars(labels: Sequence[str], metrics: Sequence[Mapping[str, Any]], unit: str) -> Html:
    split = [parts(m, unit) for m in metrics]
    columns = {part: [s[part] for s in split] for part in split[0] if any(s[part] for s in split)}
    drawing = funnel_bars(labels, columns, [_note(m) for m in metrics], unit)
    return figure(drawing, f"{unit.capitalize()} that came into each stage, and what became of them")


def _note(metrics: Mapping[str, Any], most: int = 8) -> str:
    found = reasons(metrics)
    lines = [f"{reason}: {documents:,} dropped" for reason, documents, _ in found[:most]]
    return "\n".join([*lines, *([f"and {len(found) - most} reasons more"] if len(found) > most else [])]) or "nothing dropped"


def _samples(label: str, run: Run, samples: int, characters: int, shown: Shown) -> Html | None:
    found = dropped_samples(run, samples, characters, shown)
    rows = [
        (prose(reason), element("pre", address), "content not kept" if text is None else element("pre", text), prose(detail))
        for reason, documents in found.items()
        for address, text, detail in documents
    ]
    if not rows:
        return None
    head = ("reason", "document", "begins", "detail")
    return details(f"Dropped by {label}: the first of each reason", table(f"Dropped by {label}", head, rows))

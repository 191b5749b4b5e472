"""What each threshold of the heuristics would drop, alone and together, with examples (paper 3.1.1).

All numbers of all documents lie in `measures.parquet`, so the question is answered by one reading of that file, whatever the
limits: those that a run was made with, or others. Rules overlap: a document is counted for every rule that it breaks (`alone`:
what the rule would drop if it stood alone), once more where it breaks no other (`only`: what is spared if the rule is given
up), and once for the first in order (`first`: what the funnel shows).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from openherd.core.rundir import Output, Run
from openherd.data.documents import DOCUMENTS, MEASURES
from openherd.data.excerpts import address, excerpt

DRY_RUN = "dry_run.json"
EXAMPLES = 3  # of each rule
EXAMPLE_CHARACTERS = 300

LimitsOf = Callable[[str | None], Mapping[str, tuple[float, float]]]  # the limits by measure for a language


@dataclass
class Rule:
    """What one rule would drop."""

    name: str
    lowest: float | None  # None: no such limit
    highest: float | None
    alone: int = 0
    only: int = 0
    first: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class DryRun:
    """What all rules would drop."""

    documents: int
    dropped: int
    rules: list[Rule]


def bound_or_none(bound: float) -> float | None:
    """A limit, or None where it is infinite."""
    return float(bound) if np.isfinite(bound) else None


def broken(measured: Mapping[str, Any], languages: list[str | None], limits_of: LimitsOf, names: list[str]) -> Any:
    """Whether each document (row) breaks each rule (column)."""
    found = np.zeros((len(languages), len(names)), np.bool_)
    codes = np.array(languages, object)
    for language in dict.fromkeys(languages):
        rows = codes == language
        for name, (low, high) in limits_of(language).items():
            values = measured[name][rows]
            found[rows, names.index(name)] = ~((values >= low) & (values <= high)) & ~np.isnan(values)
    return found


def rules_of(file: Path, limits_of: LimitsOf, n_examples: int = EXAMPLES) -> DryRun:
    """Count what each rule would drop of the documents whose measures are in a file; examples carry their place there.

    Examples are the first documents that break no other rule, then the first that break it at all.
    """
    limits = limits_of(None)
    names = list(limits)
    rules = [Rule(name, bound_or_none(low), bound_or_none(high)) for name, (low, high) in limits.items()]
    others: list[list[dict[str, Any]]] = [[] for _ in names]
    n_documents = n_dropped = 0
    with pq.ParquetFile(file) as measures:
        for batch in measures.iter_batches():
            columns = dict(zip(batch.schema.names, batch.columns))
            languages = columns["language"].to_pylist()
            measured = {name: columns[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in names}
            breaks = broken(measured, languages, limits_of, names)
            alone = breaks & (breaks.sum(axis=1) == 1)[:, None]
            hit = np.flatnonzero(breaks.any(axis=1))
            for column, n in zip(*np.unique(breaks.argmax(axis=1)[hit], return_counts=True)):
                rules[column].first += int(n)
            for column, rule in enumerate(rules):
                rule.alone += int(breaks[:, column].sum())
                rule.only += int(alone[:, column].sum())
                for where, kept in ((alone[:, column], rule.examples), (breaks[:, column], others[column])):
                    for row in np.flatnonzero(where)[: n_examples - len(kept)].tolist():
                        value = float(measured[rule.name][row])
                        kept.append({"id": columns["id"][row].as_py(), "row": n_documents + row, "value": value})
            n_documents += len(batch)
            n_dropped += len(hit)
    for rule, more in zip(rules, others):
        there = {example["id"] for example in rule.examples}
        rule.examples = (rule.examples + [example for example in more if example["id"] not in there])[:n_examples]
    return DryRun(n_documents, n_dropped, rules)


def add_texts(found: DryRun, documents: Path) -> None:
    """Give the examples the beginning of their text, and their address, from the documents that were measured; personal data
    replaced."""
    wanted: dict[int, list[dict[str, Any]]] = {}
    for rule in found.rules:
        for example in rule.examples:
            wanted.setdefault(example["row"], []).append(example)
    start = 0
    with pq.ParquetFile(documents) as file:
        for batch in file.iter_batches(columns=["url", "text"]):
            for row in [row for row in wanted if start <= row < start + len(batch)]:
                told = {name: batch.column(name)[row - start].as_py() for name in ("url", "text")}
                for example in wanted.pop(row):
                    example |= {"url": address(told["url"] or ""), "text": excerpt(told["text"], EXAMPLE_CHARACTERS)}
            start += len(batch)


def rules_with_texts(measures: Path, documents: Path, limits_of: LimitsOf) -> DryRun:
    """What rules would drop, the examples with their texts."""
    found = rules_of(measures, limits_of)
    add_texts(found, documents)
    return found


def write_dry_run(limits_of: LimitsOf, documents: Run, out: Output) -> None:
    """Write `dry_run.json` from the measures that lie in `out`."""
    found = rules_with_texts(out.path / MEASURES, documents.file(DOCUMENTS), limits_of)
    with out.write(DRY_RUN) as path:
        path.write_text(json.dumps(asdict(found), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def table_rows(found: DryRun) -> list[list[str]]:
    """The rules that would drop something, a row each with the head first: rule, limit, alone, only, first."""

    def count(n: int) -> str:
        return f"{n:,} ({n / max(found.documents, 1):.1%})"

    rows = [["rule", "allowed", "alone", "only this rule", "first to drop"]]
    for rule in found.rules:
        if rule.alone:
            bounds = [f"{sign}{bound:g}" for sign, bound in (("≥", rule.lowest), ("≤", rule.highest)) if bound is not None]
            shown = " ".join(bounds[1:] if rule.lowest == 0 and len(bounds) > 1 else bounds)
            rows.append([rule.name, shown, count(rule.alone), count(rule.only), count(rule.first)])
    return [*rows, ["all rules", "", count(found.dropped), "", ""]]


def table_text(found: DryRun) -> str:
    """The table as text."""
    rows = table_rows(found)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([f"{found.documents:,} documents, {found.dropped:,} would be dropped", "", *lines])


def example_lines(found: DryRun, characters: int = 100) -> list[str]:
    """The examples of each rule that would drop something, a line each."""
    lines = []
    for rule in found.rules:
        lines += ["", rule.name] if rule.examples else []
        for example in rule.examples:
            lines.append(f"  {example['value']:.4g}  {example['url']}  {' '.join(example['text'].split())[:characters]}")
    return lines

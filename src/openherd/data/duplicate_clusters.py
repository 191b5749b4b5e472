"""Clusters of near-duplicates as a person reads them: how many and how large, and some with what differs in them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openherd.core.seeds import derive_seed
from openherd.data.curated import Curated
from openherd.data.dedup_documents import DUPLICATES
from openherd.data.excerpts import address, excerpt
from openherd.data.found_rows import batches, rows_with
from openherd.data.story import similarity
from openherd.report.markup import Html, code, details, element, join, paragraph, table
from openherd.report.text_changes import line_changes

MOST_MEMBERS = 3  # duplicates of a cluster whose difference is shown
MOST_LINES = 8
LINE_CHARACTERS = 200


def survey(path: Path, most: int, seed: int) -> tuple[Counter[int], list[int]]:
    """Clusters by their number of documents, and some of those that are not all exact copies, drawn at random.

    The rows of a cluster stand one behind the other; of them only the current one is held.
    """
    random = np.random.default_rng(derive_seed(seed, "clusters"))
    sizes: Counter[int] = Counter()
    drawn: list[tuple[float, int]] = []
    current, size, differs = None, 0, False

    def close() -> None:
        nonlocal drawn
        if current is not None:
            sizes[size] += 1
            if differs:
                drawn = sorted([*drawn, (float(random.random()), current)])[:most]

    for batch in batches(path, ["cluster", "kept", "exact"]):
        for cluster, kept, exact in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if cluster != current:
                close()
                current, size, differs = cluster, 0, False
            size += 1
            differs = differs or not (kept or exact)
    close()
    return sizes, [cluster for _, cluster in drawn]


def clusters_section(stages: Sequence[Curated], most: int, characters: int, seed: int) -> Html | None:
    """The part on near-duplicates, or None where no stage looked for them."""
    parts: list[Html] = []
    for stage in stages:
        path = stage.output(DUPLICATES)
        if path is None:
            continue
        sizes, chosen = survey(path, most, seed)
        members = list(rows_with(path, "cluster", chosen)) if chosen else []
        shown = [
            row
            for cluster in chosen
            for row in [m for m in members if m["cluster"] == cluster and m["kept"]]
            + [m for m in members if m["cluster"] == cluster and not m["kept"] and not m["exact"]][:MOST_MEMBERS]
        ]
        texts: dict[str, str] = {}
        for file in stage.files:
            texts |= {r["id"]: r["text"] for r in rows_with(file, "id", [m["id"] for m in shown], ["id", "text"]) if r["text"]}
        rows = [(f"{size:,}", f"{n:,}", f"{size * n:,}") for size, n in sorted(sizes.items())][:20]
        parts += [
            element("h3", stage.name),
            paragraph(
                f"{sizes.total():,} clusters; of each one document stays. The largest has {max(sizes, default=0):,} documents."
            ),
            table("Clusters by size", ("documents in a cluster", "clusters", "documents"), rows, right=(0, 1, 2)),
            paragraph("Some whose documents differ, with the lines that do: - stands in the one that is kept, + in its duplicate.")
            if chosen
            else paragraph("No cluster holds documents that differ."),
            *(cluster_details([m for m in shown if m["cluster"] == cluster], members, texts, characters) for cluster in chosen),
        ]
    return join(parts) if parts else None


def cluster_details(
    shown: Sequence[Mapping[str, Any]], members: Sequence[Mapping[str, Any]], texts: Mapping[str, str], characters: int
) -> Html:
    """One cluster that opens on demand."""
    keeper, others = shown[0], shown[1:]
    size = sum(m["cluster"] == keeper["cluster"] for m in members)
    parts = [
        element("h4", "kept ", code(keeper["id"]), " ", address(keeper["url"] or "")),
        element("pre", excerpt(texts.get(keeper["id"], ""), characters)),
    ]
    for row in others:
        parts.append(element("h4", "duplicate ", code(row["id"]), " ", address(row["url"] or ""), similarity(row)))
        parts.append(differences(texts.get(keeper["id"]), texts.get(row["id"])))
    if (more := size - 1 - len(others)) > 0:
        parts.append(paragraph(f"and {more:,} duplicates more"))
    return details(f"{address(keeper['url'] or keeper['id'])} ({size:,} documents)", element("div", *parts, class_="cluster"))


def differences(kept: str | None, other: str | None) -> Html:
    """The first lines that differ, the letters that do among what is shown."""
    if kept is None or other is None:
        return paragraph("content not kept")
    changes = list(line_changes(kept, other))
    lines = [
        element("div", f"{c.sign} {excerpt(c.line, LINE_CHARACTERS, max(c.begin - LINE_CHARACTERS // 4, 0))}",
                class_="tint-1" if c.sign == "-" else "tint-2")
        for c in changes[:MOST_LINES]
    ]  # fmt: skip
    if (more := len(changes) - MOST_LINES) > 0:
        lines.append(element("div", f"and {more:,} changed lines more"))
    return element("pre", *lines) if lines else element("pre", "the same lines")

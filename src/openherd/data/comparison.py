"""Two curations side by side: which documents one keeps and the other drops, by stage and reason, and what else differs.

What became of each document goes through DuckDB, within a limit beyond which it spills into a folder that goes afterwards.
Examples are those with the smallest hashes of their ids: the same at every call, and no first ones of a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import pyarrow.parquet as pq

from openherd.core.rundir import Run
from openherd.data.curated import Curated, last_stages
from openherd.data.documents import DROPPED
from openherd.data.excerpts import address, excerpt
from openherd.data.found_rows import rows_with
from openherd.data.holdout import HELDOUT
from openherd.data.shares import database
from openherd.report.text_changes import line_changes

if TYPE_CHECKING:
    import duckdb

LINE_CHARACTERS = 140
LINES_SHOWN = 4
KEPT, HELD_OUT = ("", ""), ("", "held out")


class Moved(NamedTuple):
    """Documents that fare alike: kept (stage and reason empty), held out (`HELD_OUT`), dropped by a stage for a reason, or never
    read (reason None)."""

    in_a: tuple[str, str | None]
    in_b: tuple[str, str | None]
    documents: int
    examples: list[tuple[str, str, str]]  # id, address, detail of the drop


class Edited(NamedTuple):
    """Documents that both keep, with another text."""

    documents: int
    kept_by_both: int
    examples: list[str]  # ids


@dataclass(frozen=True)
class Comparison:
    """All that differs."""

    kept: tuple[int, int]  # by A, by B
    held_out: tuple[int, int]
    moved: list[Moved]
    edited: Edited


def compare(a: Sequence[Curated], b: Sequence[Curated], examples: int, memory_gb: float) -> Comparison:
    """What became of the documents of two curations."""
    with database(memory_gb) as connection:
        for name, stages in (("a", a), ("b", b)):
            fill_fates(connection, name, stages)
        moved = moves(connection, examples)
        edited = edits(connection, examples)
        kept, held_out = ((count_fates(connection, "a", of), count_fates(connection, "b", of)) for of in (KEPT, HELD_OUT))
    return Comparison(kept, held_out, moved, edited)


def count_fates(connection: "duckdb.DuckDBPyConnection", name: str, of: tuple[str, str]) -> int:
    """How many documents fared so."""
    found = connection.execute(f"SELECT count(*) FROM fates_{name} WHERE stage = ? AND reason = ?", list(of)).fetchone()
    return int(found[0]) if found else 0


def fill_fates(connection: "duckdb.DuckDBPyConnection", name: str, stages: Sequence[Curated]) -> None:
    """The table `fates_NAME`: each document by id, with the stage and reason of its drop, or its text's hash where it is kept.

    A document that is kept on one way and dropped or held out on another is kept.
    """
    table = f"fates_{name}"
    connection.execute(
        f"CREATE TABLE {table}_all (id VARCHAR, url VARCHAR, stage VARCHAR, reason VARCHAR, detail VARCHAR, text UBIGINT)"
    )
    last = {stage.name for stage in last_stages(list(stages))}
    for stage in stages:
        if path := stage.output(DROPPED):
            connection.execute(
                f"INSERT INTO {table}_all SELECT id, url, ?, reason, detail, NULL FROM read_parquet(?)", [stage.name, str(path)]
            )
        for path in stage.kept if stage.name in last else ():
            content = "text" if "text" in pq.read_schema(path).names else "content"
            connection.execute(
                f"INSERT INTO {table}_all SELECT id, url, '', ?, '', hash({content}) FROM read_parquet(?)",
                [HELD_OUT[1] if path.name == HELDOUT else "", str(path)],
            )
    connection.execute(
        f"""CREATE TABLE {table} AS SELECT id, any_value(url) AS url, min(stage) AS stage,
        arg_min(reason, (stage, reason)) AS reason, arg_min(detail, (stage, reason)) AS detail,
        arg_min(text, (stage, reason)) AS text FROM {table}_all GROUP BY id"""
    )
    connection.execute(f"DROP TABLE {table}_all")


def moves(connection: "duckdb.DuckDBPyConnection", examples: int) -> list[Moved]:
    """Documents that fare differently, most first."""
    found = connection.execute(
        """SELECT coalesce(a.stage, ''), CASE WHEN a.id IS NULL THEN NULL ELSE a.reason END,
            coalesce(b.stage, ''), CASE WHEN b.id IS NULL THEN NULL ELSE b.reason END, count(*),
            arg_min([coalesce(a.id, b.id), coalesce(a.url, b.url, ''), coalesce(nullif(b.detail, ''), a.detail, '')],
                    hash(coalesce(a.id, b.id)), ?)
        FROM fates_a a FULL OUTER JOIN fates_b b ON a.id = b.id
        WHERE a.id IS NULL OR b.id IS NULL OR a.stage <> b.stage OR a.reason <> b.reason
        GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2, 3, 4""",
        [max(examples, 1)],
    ).fetchall()
    return [
        Moved((stage_a, reason_a), (stage_b, reason_b), n, [tuple(one) for one in shown[:examples]])
        for stage_a, reason_a, stage_b, reason_b, n, shown in found
    ]


def edits(connection: "duckdb.DuckDBPyConnection", examples: int) -> Edited:
    """Documents that both keep, or both hold out, and whose texts differ."""
    found = connection.execute(
        """SELECT count(*) FILTER (a.text <> b.text), count(*) FILTER (a.reason = ''),
            arg_min(a.id, hash(a.id), ?) FILTER (a.text <> b.text)
        FROM fates_a a JOIN fates_b b ON a.id = b.id WHERE a.stage = '' AND b.stage = '' AND a.reason = b.reason""",
        [max(examples, 1)],
    ).fetchone()
    n, both, ids = found or (0, 0, [])
    return Edited(n, both, (ids or [])[:examples])


def changed_settings(first: Mapping[str, Run], second: Mapping[str, Run]) -> list[str]:
    """The settings and versions that differ, stage by stage; stages that only one has; inputs from outside that differ."""
    found = []
    for name in dict.fromkeys([*first, *second]):
        if name not in first or name not in second:
            found.append(f"{name}: only in {'A' if name in first else 'B'}")
            continue
        a, b = first[name].manifest, second[name].manifest
        here, there = a["settings"], b["settings"]
        pairs = [("version", a["version"], b["version"]), *((key, here[key], there[key]) for key in here if key in there)]
        found += [f"{name}.{key}: {told(one)} in A, {told(other)} in B" for key, one, other in pairs if one != other]
        for side, alone in (("A", [key for key in here if key not in there]), ("B", [key for key in there if key not in here])):
            found += [f"{name}: settings that only {side} has: {', '.join(alone)}"] if alone else []
        digests = {run.digest for run in [*first.values(), *second.values()]}
        for key in a["inputs"].keys() | b["inputs"].keys():
            one, other = (m["inputs"].get(key, {}).get("digest") for m in (a, b))
            if one != other and not {one, other} & digests:
                found.append(f"{name}: another input {key!r}")
    return found


def told(value: object) -> str:
    """A setting as one line."""
    return excerpt(str(value), LINE_CHARACTERS)


def fate(told_of: tuple[str, str | None]) -> str:
    """What became of a document, in words."""
    stage, reason = told_of
    if reason is None:
        return "not read"
    return f"dropped by {stage}: {excerpt(reason, LINE_CHARACTERS)}" if stage else reason or "kept"


def comparison_text(found: Comparison, settings: Sequence[str], a: Sequence[Curated], b: Sequence[Curated]) -> str:
    """The comparison as it is printed; personal data replaced."""
    lines = ["settings:", *(f"  {line}" for line in settings or ["none differs"])]
    lines.append(f"kept: {found.kept[0]:,} documents in A, {found.kept[1]:,} in B, {found.edited.kept_by_both:,} in both")
    lines += [f"held out: {found.held_out[0]:,} in A, {found.held_out[1]:,} in B"] if any(found.held_out) else []
    for title, wanted in (
        ("kept by A, not by B", lambda m: m.in_a == KEPT),
        ("kept by B, not by A", lambda m: m.in_b == KEPT),
        ("kept by neither, and not alike", lambda m: KEPT not in (m.in_a, m.in_b)),
    ):
        moved = [m for m in found.moved if wanted(m)]
        lines.append(f"{title}: {sum(m.documents for m in moved):,}")
        for m in moved:
            sides = [side for side in (f"A {fate(m.in_a)}", f"B {fate(m.in_b)}") if not side.endswith(" kept")]
            lines.append(f"  {m.documents:,}  {'; '.join(sides)}")
            lines += [
                f"      {id_}  {address(url)}" + (f"  ({excerpt(detail, LINE_CHARACTERS)})" if detail else "")
                for id_, url, detail in m.examples
            ]
    lines.append(f"kept by both with another text: {found.edited.documents:,}")
    for id_ in found.edited.examples:
        lines += [f"      {id_}", *(f"        {line}" for line in edited_lines(id_, a, b))]
    return "\n".join(lines)


def edited_lines(id_: str, a: Sequence[Curated], b: Sequence[Curated]) -> list[str]:
    """The first lines that differ between the texts that two curations keep of a document: "-" stands in A, "+" in B."""
    texts = []
    for stages in (a, b):
        files = [path for stage in last_stages(list(stages)) if stage.has_text for path in stage.kept]
        texts.append(next((row["text"] or "" for path in files for row in rows_with(path, "id", [id_], ["id", "text"])), ""))
    changes = list(line_changes(*texts))
    lines = [f"{c.sign} {excerpt(c.line, LINE_CHARACTERS, max(c.begin - LINE_CHARACTERS // 4, 0))}" for c in changes[:LINES_SHOWN]]
    return lines + ([f"and {len(changes) - LINES_SHOWN:,} changed lines more"] if len(changes) > LINES_SHOWN else [])

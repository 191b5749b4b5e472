"""One document's whole story: where it was read, what each stage did to it, and why it was dropped if it was (paper 3.1.1)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from openherd.core.errors import InputError
from openherd.data.curated import Curated, numbers_of, told
from openherd.data.dedup_documents import DUPLICATES
from openherd.data.documents import LINEAGE
from openherd.data.excerpts import address, excerpt
from openherd.data.found_rows import batches, rows_with
from openherd.data.urls import normalise
from openherd.report.text_changes import Change, line_changes

ID_DIGITS = 32
MOST_NAMED = 5  # documents named where a prefix is that of several
MOST_STORIES = 10  # documents of one address
MOST_LINES, LINE_CHARACTERS = 6, 160
MOST_DUPLICATES = 10
LINEAGE_NAMES = frozenset(name for name, _ in LINEAGE)
CONTENT = frozenset({"title", "text", "content", "content_type", "stage", "reason", "detail"})


@dataclass(frozen=True)
class Step:
    """What one stage did to the document."""

    stage: Curated
    row: Mapping[str, Any]
    before: Mapping[str, Any] | None = None  # None: it is the first
    measures: Mapping[str, float] = field(default_factory=dict)
    duplicates: Sequence[Mapping[str, Any]] = ()  # its cluster, itself among them

    @property
    def drop(self) -> str | None:
        """Why it was dropped."""
        return self.row.get("reason")


@dataclass(frozen=True)
class Story:
    """A document and its steps; the last may be its drop."""

    id: str
    steps: Sequence[Step]


def find_ids(stages: Sequence[Curated], key: str) -> dict[str, str]:
    """Ids, each with its address, of the documents that an address, an id or the beginning of one names.

    The stages are asked in order, and only until one knows the document. An id's beginning has at least four digits.
    """
    wanted = pa.array(list({key, normalise(key)}))
    is_prefix = re.fullmatch(rf"[0-9a-f]{{4,{ID_DIGITS}}}", key) is not None
    for stage in stages:
        found: dict[str, str] = {}
        for file in stage.files:
            for batch in batches(file, ["id", "url"]):
                here = pc.fill_null(pc.is_in(batch.column("url"), value_set=wanted), False)
                if is_prefix:
                    here = pc.or_(here, pc.fill_null(pc.starts_with(batch.column("id"), key), False))
                if pc.any(here).as_py():
                    found |= {row["id"]: row["url"] or "" for row in batch.filter(here).to_pylist()}
                if len(found) > MOST_STORIES:
                    return found
        if found:
            return found
    return {}


def stories(stages: Sequence[Curated], key: str) -> list[Story]:
    """The stories of the document, or of all of one address. Raises InputError where none or too many are named."""
    found = find_ids(stages, key)
    if not found:
        asked = "an address as it was read, an id, or the beginning of one (four hexadecimal digits and more)"
        raise InputError(key, f"no document of {', '.join(stage.name for stage in stages)}", allowed=asked)
    of_address = [id_ for id_, url in found.items() if url in (key, normalise(key))]
    if len(found) > max(len(of_address), 1) or len(found) > MOST_STORIES:
        some = ", ".join(sorted(found)[:MOST_NAMED])
        raise InputError(key, f"the beginning or the address of several documents, {some} among them", do="give more of the id")
    return [Story(id_, list(steps(stages, id_))) for id_ in sorted(found)]


def steps(stages: Sequence[Curated], id_: str) -> Iterator[Step]:
    """What each stage that saw the document did to it, in order."""
    alive: dict[str, Mapping[str, Any]] = {}
    gone: set[str] = set()
    for stage in stages:
        before = next((alive[name] for name in stage.before if name in alive), None)
        if before is None and gone.intersection(stage.before):
            gone.add(stage.name)
            continue
        row = next((row for file in stage.files for row in rows_with(file, "id", [id_])), None)
        if row is None:
            continue  # what this stage does not have, a later one may make
        if row.get("reason") is None:
            alive[stage.name] = row
        else:
            gone.add(stage.name)
        yield Step(stage, row, before, measures_of(stage, id_), duplicates_of(stage, id_))


def measures_of(stage: Curated, id_: str) -> dict[str, float]:
    """The numbers that a stage measured of a document."""
    found: dict[str, float] = {}
    for path in stage.measures:
        for row in rows_with(path, "id", [id_]):
            found |= {name: row[name] for name in numbers_of(path) if row[name] is not None}
    return found


def duplicates_of(stage: Curated, id_: str) -> list[dict[str, Any]]:
    """The cluster of near-duplicates that a document is of, the one that is kept first."""
    path = stage.output(DUPLICATES)
    clusters = [row["cluster"] for row in rows_with(path, "id", [id_], ["id", "cluster"])] if path else []
    return list(rows_with(path, "cluster", clusters)) if path and clusters else []


def content_of(row: Mapping[str, Any]) -> tuple[str, int] | None:
    """Kind and bytes of a row's content; None where it was not kept."""
    if (text := row.get("text")) is not None:
        return "text", len(text.encode())
    return None if row.get("content") is None else ("page", len(row["content"]))


def changes_of(step: Step) -> list[Change]:
    """The lines that a stage took out, put in or changed."""
    before, after = (step.before or {}).get("text"), step.row.get("text")
    return [] if before is None or after is None else list(line_changes(before, after))


def story_text(story: Story) -> str:
    """The story as it is printed; personal data replaced."""
    origin = next((step.row for step in story.steps if step.row.get("url") or step.row.get("file")), {})
    lines = [f"document {story.id}  {address(origin.get('url') or '(address not kept)')}"]
    if origin.get("file"):
        facts = ", ".join(f"{n} {shown(origin[n])}" for n in ("source", "date", "license") if origin.get(n))
        lines.append(f"read from {address(origin['file'])}, at {origin.get('offset')}" + (f" ({facts})" if facts else ""))
    width = max((len(step.stage.name) for step in story.steps), default=0)
    for step in story.steps:
        lines.append(f"{step.stage.name:{width}}  {verdict(step)}")
        lines += [f"{'':{width}}    {line}" for line in particulars(step)]
    last = story.steps[-1]
    lines.append(f"dropped by {last.stage.name}" if last.drop else f"kept to the end of {last.stage.name}")
    return "\n".join(lines)


def verdict(step: Step) -> str:
    """One line: kept or dropped, and what became of its size."""
    after, before = content_of(step.row), content_of(step.before) if step.before else None
    if after is None:
        size = "content not kept"
    elif before is None:
        size = f"{after[0]} of {after[1]:,} bytes"
    elif before[0] != after[0]:
        size = f"{before[0]} of {before[1]:,} bytes to {after[0]} of {after[1]:,}"
    elif (step.before or {}).get(before[0]) == step.row.get(before[0]):
        size = "unchanged"
    else:
        size = f"{before[1]:,} to {after[1]:,} bytes"
    if step.drop is None:
        return f"kept, {size}"
    return (
        f"DROPPED: {step.drop}"
        + (f" ({excerpt(step.row['detail'], LINE_CHARACTERS)})" if step.row.get("detail") else "")
        + f"; {size}"
    )


def particulars(step: Step) -> Iterator[str]:
    """What changed, what was found out, what was measured, and its duplicates."""
    now, then = (told(row, LINEAGE_NAMES | CONTENT | step.measures.keys()) for row in (step.row, step.before or {}))
    if new := [f"{name} {shown(value)}" for name, value in now.items() if then.get(name) != value]:
        yield ", ".join(new)
    changes = changes_of(step)
    for change in changes[:MOST_LINES]:
        begin = max(change.begin - LINE_CHARACTERS // 4, 0) if len(change.line) > LINE_CHARACTERS else 0
        yield f"{change.sign} {excerpt(change.line, LINE_CHARACTERS, begin)}"
    if (more := len(changes) - MOST_LINES) > 0:
        yield f"and {more:,} changed lines more"
    allowed = step.stage.limits(step.row.get("language")) if step.measures else {}
    nothing = []
    for name, value in step.measures.items():
        low, high = allowed.get(name, (float("-inf"), float("inf")))
        if value == 0 and low <= value <= high:
            nothing.append(name)
            continue
        bounds = [f"at least {low:g}"] if low not in (0, float("-inf")) else []
        bounds += [f"at most {high:g}"] if high != float("inf") else []
        broken = "" if low <= value <= high else "  <- broken"
        yield f"{name} {shown(value)}" + (f" (allowed: {', '.join(bounds)})" if bounds else "") + broken
    if nothing:
        yield f"0: {', '.join(nothing)}"
    for row in step.duplicates[:MOST_DUPLICATES]:
        yield f"{'kept' if row['kept'] else 'duplicate'} {row['id']} {address(row['url'] or '')}{similarity(row)}"
    if (more := len(step.duplicates) - MOST_DUPLICATES) > 0:
        yield f"and {more:,} duplicates more"


def similarity(row: Mapping[str, Any]) -> str:
    """How alike a duplicate is to the one that is kept."""
    if row["kept"]:
        return ""
    if row["exact"]:
        return ", the same words"
    measured = [(name, row[column]) for name, column in (("Jaccard", "jaccard"), ("estimated", "estimated_jaccard"))]
    return "".join(f", {name} {value:.3f}" for name, value in measured if value is not None)


def shown(value: Any) -> str:
    """A value in few characters."""
    return f"{value:.4g}" if isinstance(value, float) else excerpt(str(value), LINE_CHARACTERS)

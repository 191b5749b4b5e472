"""Lines, and runs of lines, that occur too often (paper 3.1.1, in the manner of ccNet).

A line that occurs more than 6 times within a bucket of 30 million documents goes from all of them, as in the paper; buckets are
consecutive documents of one language. Lines are compared without the blanks around and between their words; those with few letters
and digits (a lone bracket, a rule of dashes) are never removed for being frequent, since code needs them.

Beyond the paper, and off by default: `keep_occurrences` leaves the first ones, and `block_lines` first removes lines that stand in
a run of so many lines that stood before, so that the first one stays. That suits reference manuals, which print inherited members
again and again; every line that it takes is still to be read in an earlier place.
"""

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import Field

from openherd.core.progress import track
from openherd.core.records import ParquetWriter, count_rows
from openherd.core.rundir import Output, Run
from openherd.data.documents import DOCUMENTS, Drop, curate, read_documents
from openherd.data.words import paragraphs

DROPPED_LINES = "dropped_lines.parquet"
DROPPED_LINES_SCHEMA = pa.schema(
    [
        ("line", pa.string()),  # as it first stood
        ("language", pa.string()),
        ("rule", pa.string()),  # frequent, or block
        ("occurrences", pa.int64()),  # in its bucket, before anything went
        ("removed", pa.int64()),  # by this rule
    ]
)
NO_LETTER_OR_DIGIT = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True)
class DedupLinesConfig:
    """Settings of `dedup-lines`; the first two are the paper's values, on the others it is silent."""

    max_occurrences: Annotated[int, Field(description="a line that occurs more often in a bucket goes; 0 = no line does", ge=0)] = 6
    bucket_documents: Annotated[int, Field(description="documents of one language that are counted together", ge=1)] = 30_000_000
    keep_occurrences: Annotated[
        int, Field(description="first occurrences of such a line that stay; the paper keeps none", ge=0)
    ] = 0
    min_line_characters: Annotated[int, Field(description="letters and digits that a line needs to be counted", ge=1)] = 5
    block_lines: Annotated[
        int, Field(description="lines, blank ones apart, that make a run; what repeats an earlier run goes; 0 = off", ge=0)
    ] = 0
    min_block_characters: Annotated[int, Field(description="letters and digits that a run needs to be counted", ge=1)] = 20


@dataclass
class Lines:
    """The lines of a document that are not blank: what equal ones share, and how many letters and digits each has."""

    keys: list[int]
    sizes: list[int]

    @classmethod
    def of(cls, bucket: str, found: Iterable[str]) -> "Lines":
        """Read the lines of a document of this bucket."""
        lines = [" ".join(line.split()) for line in found]
        keys = [xxhash.xxh3_64_intdigest(f"{bucket}\n{line}".encode()) for line in lines]
        return cls(keys, [len(NO_LETTER_OR_DIGIT.sub("", line)) for line in lines])


class Repeats:
    """Which lines go. Two passes over the same documents in the same order: `count` each, `restart`, then `removed` of each."""

    def __init__(self, config: DedupLinesConfig) -> None:
        self.config = config
        self.stood: Counter[int] = Counter()  # occurrences by key
        self._left: Counter[int] = Counter()  # those outside repeated runs
        self._passed: Counter[int] = Counter()  # in the second pass so far
        self._runs: set[int] = set()

    def _repeats_a_run(self, lines: Lines) -> list[bool]:
        n = self.config.block_lines
        found = [False] * len(lines.keys)
        keys = array("Q", lines.keys)
        for start in range(len(keys) - n + 1 if n else 0):
            if sum(lines.sizes[start : start + n]) < self.config.min_block_characters:
                continue
            run = xxhash.xxh3_64_intdigest(keys[start : start + n])
            if run in self._runs:
                found[start : start + n] = [True] * n
            self._runs.add(run)
        return found

    def count(self, lines: Lines) -> None:
        """Count a document."""
        self.stood.update(lines.keys)
        self._left.update(key for key, repeats in zip(lines.keys, self._repeats_a_run(lines), strict=True) if not repeats)

    def restart(self) -> None:
        """Begin the second pass."""
        self._runs.clear()

    def removed(self, lines: Lines) -> list[str]:
        """The rule by which each line goes; empty for one that stays."""
        rules = []
        for key, size, repeats in zip(lines.keys, lines.sizes, self._repeats_a_run(lines), strict=True):
            if repeats:
                rules.append("block")
                continue
            self._passed[key] += 1
            frequent = 0 < self.config.max_occurrences < self._left[key] and size >= self.config.min_line_characters
            rules.append("frequent" if frequent and self._passed[key] > self.config.keep_occurrences else "")
        return rules


def with_bucket(rows: Iterable[dict[str, Any]], size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with the name of its bucket: `size` consecutive documents of one language."""
    n_before: Counter[str] = Counter()
    for row in rows:
        language = row.get("language") or ""
        yield f"{language} {n_before[language] // size}", row
        n_before[language] += 1


def without(blocks: Sequence[Sequence[str]], rules: Sequence[str], sizes: Sequence[int]) -> list[list[str]]:
    """The paragraphs without the lines that have a rule; one of which only brackets would stay goes as a whole."""
    left = []
    start = 0
    for block in blocks:
        places = range(start, start + len(block))
        staying = [place for place in places if not rules[place]]
        if len(staying) == len(block) or any(sizes[place] for place in staying):
            left.append([block[place - start] for place in staying])
        start = places.stop
    return left


def dedup_lines(config: DedupLinesConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Remove repeated lines; a document of which nothing is left is dropped."""
    repeats = Repeats(config)
    file = documents.file(DOCUMENTS)
    schema = pq.read_schema(file)
    columns = [name for name in ("language", "text") if name in schema.names]
    rows = track(read_documents(documents, columns), "counting lines", "documents", count_rows(file) or 0)
    for bucket, row in with_bucket(rows, config.bucket_documents):
        repeats.count(Lines.of(bucket, (line for block in paragraphs(row["text"]) for line in block)))
    repeats.restart()
    n_lines = Counter(before=0, after=0)
    gone: Counter[tuple[int, str]] = Counter()  # by key and rule
    texts: dict[int, tuple[str, str]] = {}  # line and language of what went

    def decide(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
        for bucket, row in with_bucket(rows, config.bucket_documents):
            blocks = paragraphs(row["text"])
            found = [line for block in blocks for line in block]
            lines = Lines.of(bucket, found)
            rules = repeats.removed(lines)
            for key, rule, line in zip(lines.keys, rules, found, strict=True):
                if rule:
                    gone[key, rule] += 1
                    texts.setdefault(key, (line, row.get("language") or ""))
            left = without(blocks, rules, lines.sizes)
            n_lines.update(before=len(found), after=sum(map(len, left)))
            if not left and row["text"].strip():
                yield row, Drop("no line left", f"all {len(found)} lines stand elsewhere too, more often than the limits allow")
            elif any(rules):
                yield {**row, "text": "\n\n".join("\n".join(block) for block in left)}, None
            else:
                yield row, None

    metrics = curate("dedup-lines", documents, out, schema, decide)
    rows_out = [(repeats.stood[key], *texts[key], rule, n) for (key, rule), n in gone.items()]
    with out.write(DROPPED_LINES) as path, ParquetWriter(path, DROPPED_LINES_SCHEMA) as writer:
        for occurrences, line, language, rule, n in sorted(rows_out, key=lambda row: (-row[0], *row[1:])):
            writer.write({"line": line, "language": language, "rule": rule, "occurrences": occurrences, "removed": n})
    n_gone = Counter({rule: sum(n for (_, by), n in gone.items() if by == rule) for rule in ("frequent", "block")})
    return metrics | {
        "lines_in": n_lines["before"],
        "lines_out": n_lines["after"],
        "frequent_lines_removed": n_gone["frequent"],
        "block_lines_removed": n_gone["block"],
    }

"""Lines and paragraphs that occur too often (paper 3.1.1, in the manner of ccNet).

A line that occurs more than 6 times within a bucket of 30 million documents goes from all of them, as in the paper; buckets are
consecutive documents of one language. Lines are compared without the blanks around and between their words; those with few
letters and digits (a lone bracket, a rule of dashes) are neither counted nor removed, since code needs them. Beyond the paper,
and off by default: `keep_occurrences` leaves the first ones, and `max_paragraph_occurrences` first removes repeated paragraphs
(runs of lines between blank ones) but for the first ones, which suits reference manuals that print inherited members again and
again.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
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
        ("unit", pa.string()),  # line or paragraph
        ("line", pa.string()),  # as it first stood
        ("language", pa.string()),
        ("occurrences", pa.int64()),  # in its bucket
        ("removed", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class DedupLinesConfig:
    """Settings of `dedup-lines`; the first two are the paper's values, on the others it is silent."""

    max_occurrences: Annotated[int, Field(description="a line that occurs more often in a bucket goes; 0 = lines stay", ge=0)] = 6
    bucket_documents: Annotated[int, Field(description="documents of one language that are counted together", ge=1)] = 30_000_000
    keep_occurrences: Annotated[
        int, Field(description="first occurrences of such a line that stay; the paper keeps none", ge=0)
    ] = 0
    min_line_characters: Annotated[int, Field(description="letters and digits that a line needs to be counted at all", ge=1)] = 5
    max_paragraph_occurrences: Annotated[
        int, Field(description="occurrences of a paragraph in a bucket that stay, the first ones; 0 = all stay", ge=0)
    ] = 0
    min_paragraph_characters: Annotated[int, Field(description="letters and digits that a paragraph needs to be counted", ge=1)] = (
        40
    )


class Repeats:
    """Lines, or paragraphs, that occur more than `limit` times: all but the first `keep` are removed.

    Two passes over the same units in the same order: `count` each, then `restart` and ask of each whether it is `removed`.
    """

    def __init__(self, unit: str, limit: int, keep: int, min_characters: int) -> None:
        self.unit, self.limit, self.keep = unit, limit, keep
        self.n_removed = 0
        self._enough = re.compile(rf"(?:[\W_]*[^\W_]){{{min_characters}}}")
        self._occurrences: Counter[int] = Counter()
        self._seen: Counter[int] = Counter()
        self._removed: dict[int, tuple[str, str, int]] = {}  # language, text as it first stood, how often it was removed

    def key(self, bucket: str, lines: Iterable[str]) -> int | None:
        """What equal units of a bucket share; None for one that does not count. Blanks around and between words do not matter."""
        text = "\n".join(" ".join(line.split()) for line in lines)
        return xxhash.xxh3_64_intdigest(f"{bucket}\n{text}".encode()) if self.limit and self._enough.match(text) else None

    def count(self, key: int | None) -> None:
        """One more occurrence."""
        if key is not None:
            self._occurrences[key] += 1

    def restart(self) -> None:
        """Begin the second pass."""
        self._seen.clear()

    def removed(self, key: int | None) -> bool:
        """Whether this occurrence goes."""
        if key is None:
            return False
        self._seen[key] += 1
        return self._occurrences[key] > self.limit and self._seen[key] > self.keep

    def note(self, key: int | None, language: str, lines: Iterable[str]) -> None:
        """Remember what went."""
        assert key is not None
        language, text, n = self._removed.get(key, (language, "\n".join(lines), 0))
        self._removed[key] = language, text, n + 1
        self.n_removed += 1

    def rows(self) -> Iterator[dict[str, Any]]:
        """What was removed, the most frequent first."""
        rows = [(self._occurrences[key], *found) for key, found in self._removed.items()]
        for occurrences, language, text, n in sorted(rows, key=lambda row: (-row[0], *row[1:])):
            yield {"unit": self.unit, "line": text, "language": language, "occurrences": occurrences, "removed": n}


def with_bucket(rows: Iterable[dict[str, Any]], size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with the name of its bucket: `size` consecutive documents of one language."""
    n_before: Counter[str] = Counter()
    for row in rows:
        language = row.get("language") or ""
        yield f"{language} {n_before[language] // size}", row
        n_before[language] += 1


def dedup_lines(config: DedupLinesConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Remove repeated lines and paragraphs; a document of which nothing is left is dropped."""
    most = config.max_paragraph_occurrences
    blocks = Repeats("paragraph", most, most, config.min_paragraph_characters)
    lines = Repeats("line", config.max_occurrences, config.keep_occurrences, config.min_line_characters)
    file = documents.file(DOCUMENTS)
    schema = pq.read_schema(file)
    columns = [name for name in ("language", "text") if name in schema.names]
    rows = track(read_documents(documents, columns), "counting lines", "documents", count_rows(file) or 0)
    for bucket, row in with_bucket(rows, config.bucket_documents):
        for block in paragraphs(row["text"]):
            key = blocks.key(bucket, block)
            blocks.count(key)
            if not blocks.removed(key):  # so far as many were counted as seen: what goes now goes in the second pass
                for line in block:
                    lines.count(lines.key(bucket, [line]))
    blocks.restart()
    n_lines = Counter(before=0, after=0)

    def cleaned(bucket: str, language: str, text: str) -> str:
        found = paragraphs(text)
        left = []
        for block in found:
            if blocks.removed(key := blocks.key(bucket, block)):
                blocks.note(key, language, block)
                continue
            staying, counted = [], False
            for line in block:
                key = lines.key(bucket, [line])
                if lines.removed(key):
                    lines.note(key, language, [line])
                else:
                    staying.append(line)
                    counted |= key is not None
            if counted or len(staying) == len(block):  # else a few brackets would be all that stays
                left.append(staying)
        n_lines.update(before=sum(map(len, found)), after=sum(map(len, left)))
        return text if left == found else "\n\n".join("\n".join(block) for block in left)

    def decide(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
        for bucket, row in with_bucket(rows, config.bucket_documents):
            text = cleaned(bucket, row.get("language") or "", row["text"])
            if text.strip():
                yield {**row, "text": text}, None
            else:
                n = sum(map(len, paragraphs(row["text"])))
                yield row, Drop("no line left", f"all {n} lines stand elsewhere too, more often than the limits allow")

    metrics = curate("dedup-lines", documents, out, schema, decide)
    with out.write(DROPPED_LINES) as path, ParquetWriter(path, DROPPED_LINES_SCHEMA) as writer:
        for row in (*blocks.rows(), *lines.rows()):
            writer.write(row)
    return metrics | {
        "lines_in": n_lines["before"],
        "lines_out": n_lines["after"],
        "paragraphs_removed": blocks.n_removed,
        "single_lines_removed": lines.n_removed,
    }

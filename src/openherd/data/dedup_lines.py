"""Lines, and runs of lines, that occur too often (paper 3.1.1, in the manner of ccNet).

A line that occurs more than 6 times within a bucket of 30 million documents goes from all of them, as in the paper; buckets are
documents of one language, put together at random, in order, or by domain. Lines are compared without the blanks around and between
their words; those with few letters and digits (a lone bracket, a rule of dashes) are never removed for being frequent, since code
needs them.

Beyond the paper, and off by default: `keep_occurrences` leaves the first ones, and `block_lines` first removes lines that stand in
a run of so many lines that stood before, so that the first one stays. That suits reference manuals, which print inherited members
again and again; every line that it takes is still to be read in an earlier place.

Lines are numbers on disk, twelve bytes each; memory holds 24 bytes a document, what is too frequent, and what `memory_gb` allows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import Field

from openherd.core.machine import cores
from openherd.core.progress import Progress
from openherd.core.records import ParquetWriter
from openherd.core.rundir import Output, Run
from openherd.core.seeds import derive_seed
from openherd.data.documents import DOCUMENTS, Drop, Funnel, Judged, account_of, check_content
from openherd.data.engine import EngineConfig, EngineSetting
from openherd.data.line_counts import frequent_keys, places_in, ranks, repeated_keys, shares_of
from openherd.data.lines import Lines, lines_of, runs_of
from openherd.data.shingles import MULTIPLIER, Numbers, load_kernel, mixed
from openherd.data.signed_parts import Part, make_parts, parts_of, text_bytes
from openherd.data.tables import connect
from openherd.data.urls import host_of, normalise, registrable_domain
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
FREQUENT, BLOCK = 1, 2  # rules by which a line goes
RULES = {FREQUENT: "frequent", BLOCK: "block"}


@dataclass(frozen=True, kw_only=True)
class DedupLinesConfig:
    """Settings of `dedup-lines`; the first two are the paper's values, on the others it is silent."""

    max_occurrences: Annotated[int, Field(description="a line that occurs more often in a bucket goes; 0 = no line does", ge=0)] = 6
    bucket_documents: Annotated[int, Field(description="documents of one language that are counted together", ge=1)] = 30_000_000
    buckets: Annotated[
        Literal["random", "order", "domain"],
        Field(description="how documents come into buckets: at random, as they stand, or each domain's apart"),
    ] = "random"
    keep_occurrences: Annotated[
        int, Field(description="first occurrences of such a line that stay; the paper keeps none", ge=0)
    ] = 0
    min_line_characters: Annotated[int, Field(description="letters and digits that a line needs to be counted", ge=1)] = 5
    block_lines: Annotated[
        int, Field(description="lines, blank ones apart, that make a run; what repeats an earlier run goes; 0 = off", ge=0)
    ] = 0
    min_block_characters: Annotated[int, Field(description="letters and digits that a run needs to be counted", ge=1)] = 20
    seed: Annotated[int, Field(description="seed of the buckets")] = 0
    engine: EngineSetting = field(default_factory=EngineConfig)


@dataclass
class Corpus:
    """The documents of a run and their lines on disk."""

    config: DedupLinesConfig
    parts: Sequence[Part]
    lines: Path
    n_documents: int

    def folder_of(self, part: Part) -> Path:
        """Where a part's lines lie."""
        return self.lines / part.folder.name

    def columns(self, part: Part, *names: str) -> Iterator[pa.RecordBatch]:
        """Columns of a part's documents; an empty language where there is none."""
        there = pq.read_schema(part.file).names
        for batch in part.batches([name for name in names if name in there]):
            for name in set(names) - set(there):
                batch = batch.append_column(name, pa.array([""] * len(batch), pa.string()))
            yield batch

    def of(self, part: Part) -> Lines:
        """A part's lines."""
        return Lines(*(np.load(self.folder_of(part) / f"{name}.npy") for name in Lines._fields))

    def make(self, seeds: npt.NDArray[np.uint64], threads: int) -> None:
        """Read the lines of all documents."""

        def read(part: Part, folder: Path) -> None:
            found = []
            at = part.first
            for batch in part.batches(["text"]):
                found.append(lines_of(batch.column("text"), seeds[at : at + len(batch)]))
                at += len(batch)
            np.save(folder / "keys.npy", np.concatenate([lines.keys for lines in found]))
            np.save(folder / "sizes.npy", np.concatenate([lines.sizes for lines in found]))
            sizes = np.concatenate([np.diff(lines.starts) for lines in found])
            np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(sizes)]))

        make_parts(self.parts, self.folder_of, read, threads, "reading lines")


def bucket_seeds(corpus: Corpus) -> npt.NDArray[np.uint64]:
    """A number for the bucket of each document: some of one language, or of one domain and language."""
    config = corpus.config
    group, drawn = np.empty(corpus.n_documents, np.uint64), np.zeros(corpus.n_documents, np.uint64)
    draw = derive_seed(config.seed, "buckets")
    at = 0
    for part in corpus.parts:
        for batch in corpus.columns(part, "id", "url", "language"):
            rows = slice(at, at + len(batch))
            names = batch.column("language").fill_null("").to_pylist()
            if config.buckets == "domain":
                names = [(name, domain_of(url or "")) for name, url in zip(names, batch.column("url").to_pylist(), strict=True)]
            known = {name: xxhash.xxh64_intdigest(repr(name).encode()) for name in set(names)}
            group[rows] = [known[name] for name in names]
            if config.buckets != "order":
                drawn[rows] = [xxhash.xxh64_intdigest(id_.encode(), seed=draw) for id_ in batch.column("id").to_pylist()]
            at += len(batch)
    found, of, n = np.unique(group, return_inverse=True, return_counts=True)
    if config.buckets == "order":
        bucket = (ranks(of, np.zeros(len(found), np.int64)) // config.bucket_documents).astype(np.uint64)
    else:
        bucket = drawn % (-(-n // config.bucket_documents)).astype(np.uint64)[of]
    return mixed(group * np.uint64(MULTIPLIER) + bucket)


def domain_of(url: str) -> str:
    """The domain whose pages share what stands around their text."""
    return registrable_domain(host_of(normalise(url)))


def repeats_of_runs(corpus: Corpus, memory: float) -> Iterator[npt.NDArray[np.bool_]]:
    """For each part, which lines stand in a run of lines that stood before."""
    config = corpus.config
    places = np.cumsum([0, *(len(np.load(corpus.folder_of(part) / "keys.npy", mmap_mode="r")) for part in corpus.parts)])
    if not config.block_lines:
        for n in np.diff(places):
            yield np.zeros(n, bool)
        return

    def runs(number: int) -> tuple[npt.NDArray[np.uint64], Numbers]:
        keys, at = runs_of(corpus.of(corpus.parts[number]), config.block_lines, config.min_block_characters)
        return keys, at + places[number]

    known, firsts = repeated_keys(lambda: map(runs, range(len(corpus.parts))), shares_of(int(places[-1]), memory))
    for number, n in enumerate(np.diff(places)):
        keys, at = runs(number)
        stands, where = places_in(known, keys)
        if len(firsts):
            stands &= at > firsts[where]
        found = np.zeros(n, bool)
        for i in range(config.block_lines):
            found[at[stands] - places[number] + i] = True
        yield found


def decide(corpus: Corpus, memory: float) -> npt.NDArray[np.uint64]:
    """Write the rule by which each line of a part goes, 0 for one that stays; returns the keys of those that go, sorted."""
    config = corpus.config
    for part, repeats in zip(corpus.parts, repeats_of_runs(corpus, memory), strict=True):
        np.save(corpus.folder_of(part) / "rules.npy", np.where(repeats, BLOCK, 0).astype(np.uint8))

    def countable(part: Part) -> tuple[npt.NDArray[np.uint64], Numbers]:
        lines, rules = corpus.of(part), np.load(corpus.folder_of(part) / "rules.npy")
        places = np.flatnonzero((rules == 0) & (lines.sizes >= config.min_line_characters))
        return lines.keys[places], places

    frequent = np.empty(0, np.uint64)
    if config.max_occurrences:
        n_lines = sum(len(np.load(corpus.folder_of(part) / "keys.npy", mmap_mode="r")) for part in corpus.parts)
        keys_of = partial(map, lambda part: countable(part)[0], corpus.parts)
        frequent, _ = frequent_keys(keys_of, shares_of(n_lines, memory), config.max_occurrences)
    passed = np.zeros(len(frequent), np.int64)
    gone = [np.empty(0, np.uint64)]
    for part in corpus.parts:
        file = corpus.folder_of(part) / "rules.npy"
        rules = np.load(file)
        keys, places = countable(part)
        stands, where = places_in(frequent, keys)
        rules[places[stands][ranks(where[stands], passed) >= config.keep_occurrences]] = FREQUENT
        np.save(file, rules)
        gone.append(np.unique(corpus.of(part).keys[rules > 0]))
        gone = [np.union1d(*gone)]
    return gone[0]


class DroppedLines:
    """The lines that go, each once for a rule: counted, and written as they first stood."""

    def __init__(self, corpus: Corpus, keys: npt.NDArray[np.uint64]) -> None:
        self.keys = keys
        self.stood = np.zeros(len(keys), np.int64)
        self.removed = {rule: np.zeros(len(keys), np.int64) for rule in RULES}
        self.is_told = np.zeros(len(keys), bool)
        for part in corpus.parts:
            own, rules = corpus.of(part).keys, np.load(corpus.folder_of(part) / "rules.npy")
            stands, where = places_in(keys, own)
            np.add.at(self.stood, where[stands], 1)
            for rule, removed in self.removed.items():
                np.add.at(removed, where[stands & (rules == rule)], 1)

    def rows(self, keys: npt.NDArray[np.uint64], lines: Sequence[str], language: str) -> Iterator[dict[str, Any]]:
        """Those of these lines of a document that were not met before."""
        for place, line in zip(np.searchsorted(self.keys, keys).tolist(), lines, strict=True):
            if not self.is_told[place]:
                self.is_told[place] = True
                for rule, name in RULES.items():
                    if n := int(self.removed[rule][place]):
                        stood = int(self.stood[place])
                        yield {"line": line, "language": language, "rule": name, "occurrences": stood, "removed": n}


def without(blocks: Sequence[Sequence[str]], rules: Sequence[int], sizes: Sequence[int]) -> list[list[str]]:
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


def sort_dropped_lines(file: Path, out: Output, memory_gb: float) -> None:
    """Write `dropped_lines.parquet`: the most frequent lines first."""
    with (
        out.write(DROPPED_LINES) as path,
        ParquetWriter(path, DROPPED_LINES_SCHEMA) as writer,
        connect(file.parent / "sorting", memory_gb, cores()) as tables,
    ):
        columns = ", ".join(DROPPED_LINES_SCHEMA.names)
        query = f"SELECT {columns} FROM read_parquet(?) ORDER BY occurrences DESC, line, language, rule, removed"
        for batch in tables.sql(query, params=[str(file)]).to_arrow_reader(10_000):
            writer.write_batch(batch.cast(DROPPED_LINES_SCHEMA))


def dedup_lines(config: DedupLinesConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Remove repeated lines; a document of which nothing is left is dropped."""
    check_content(documents)
    file = documents.file(DOCUMENTS)
    schema = pq.read_schema(file)
    parts = parts_of(file, out.work / "parts")
    corpus = Corpus(config, parts, out.work / "lines", sum(part.rows for part in parts))
    load_kernel(text_bytes(file))
    corpus.make(bucket_seeds(corpus), config.engine.processes or cores())
    memory_gb = config.engine.memory() / 2
    dropped = DroppedLines(corpus, decide(corpus, memory_gb * 1e9))
    n_lines = {"before": 0, "after": 0}

    def judged(batch: pa.RecordBatch, lines: Lines, rules: npt.NDArray[np.uint8], writer: ParquetWriter) -> Judged:
        n_lines["before"] += len(lines.keys)
        n_lines["after"] += len(lines.keys)
        goes_of = np.add.reduceat(np.append(rules, 0) > 0, lines.starts[:-1]) if len(batch) else np.empty(0)
        changed = np.flatnonzero(goes_of * (np.diff(lines.starts) > 0))
        drops: list[Drop | None] = [None] * len(batch)
        if not len(changed):
            return Judged(batch, drops)
        texts = batch.column("text").to_pylist()
        languages = batch.column("language").to_pylist() if "language" in schema.names else [""] * len(batch)
        for i in changed.tolist():
            own = slice(lines.starts[i], lines.starts[i + 1])
            blocks = paragraphs(texts[i])
            found = [line for block in blocks for line in block]
            goes = rules[own]
            for row in dropped.rows(lines.keys[own][goes > 0], [found[k] for k in np.flatnonzero(goes)], languages[i] or ""):
                writer.write(row)
            left = without(blocks, goes.tolist(), lines.sizes[own].tolist())
            n_lines["after"] += sum(map(len, left)) - len(found)
            if left:
                texts[i] = "\n\n".join("\n".join(block) for block in left)
            else:
                drops[i] = Drop("no line left", f"all {len(found)} lines stand elsewhere too, more often than the limits allow")
        place = schema.names.index("text")
        return Judged(batch.set_column(place, schema.field(place), pa.array(texts, schema.field(place).type)), drops)

    unsorted = out.work / "dropped_lines.parquet"
    with (
        Funnel("dedup-lines", out, schema) as funnel,
        Progress("writing", corpus.n_documents, "documents") as progress,
        ParquetWriter(unsorted, DROPPED_LINES_SCHEMA) as writer,
    ):
        for part in parts:
            lines, rules = corpus.of(part), np.load(corpus.folder_of(part) / "rules.npy")
            at = 0
            for batch in part.batches(schema.names):
                starts = lines.starts[at : at + len(batch) + 1]
                own = slice(starts[0], starts[-1])
                cut = Lines(lines.keys[own], lines.sizes[own], starts - starts[0])
                funnel.add(account_of(judged(batch, cut, rules[own], writer), batch))
                at += len(batch)
                progress.advance(len(batch))
    sort_dropped_lines(unsorted, out, memory_gb)
    return funnel.metrics() | {
        "lines_in": n_lines["before"],
        "lines_out": n_lines["after"],
        "frequent_lines_removed": int(dropped.removed[FREQUENT].sum()),
        "block_lines_removed": int(dropped.removed[BLOCK].sum()),
    }

"""Exact and near-duplicate documents, and documents that stand whole inside another (paper 3.1.1).

Exact duplicates have the same terms in the same order. Near-duplicates are found by MinHash and confirmed by their true Jaccard
similarity; similar pairs are joined into clusters, and each cluster keeps one document, by choice the newest, the longest, the best
by a score, or the first. Containment is asked of what is left. The paper says "global MinHash" and no more, and that documents of
other languages than English are compared within their language.

Memory holds some 40 bytes a document, 250 for one that has duplicates, and what the engine's `memory_gb` allows beside: signatures,
and shingles of candidates, are on disk. Threads share the work: the kernel, numpy's sorting and Arrow leave Python to the others
meanwhile.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.machine import cores
from openherd.core.progress import Progress, track
from openherd.core.records import ParquetWriter
from openherd.core.rundir import Output, Run
from openherd.core.seeds import derive_seed
from openherd.data.clusters import Clusters, Pairs, best_of, blocks, buckets, join_alike, shares_of
from openherd.data.containment import BYTES_PER_SHINGLE, contained
from openherd.data.documents import DOCUMENTS, Drop, Funnel, Judged, account_of, check_content, check_numbers
from openherd.data.engine import EngineConfig, EngineSetting
from openherd.data.minhash import bands_for, estimated_jaccards, permutations
from openherd.data.shingles import Normalisation, Numbers, jaccards, load_kernel
from openherd.data.signed_parts import Part, ShingleStore, Signing, language_groups, parts_of, rows_at, sign_parts, text_bytes

DUPLICATES = "duplicates.parquet"
DUPLICATES_SCHEMA = pa.schema(
    [
        ("cluster", pa.int64()),
        ("id", pa.string()),
        ("url", pa.string()),
        ("kept", pa.bool_()),
        ("exact", pa.bool_()),  # the same terms as the one that is kept
        ("jaccard", pa.float32()),  # with the one that is kept; null where it was not measured
        ("estimated_jaccard", pa.float32()),  # by signatures
    ]
)
BYTES_PER_DOCUMENT = 40  # what is held of each all the time
PAIRS_PER_BLOCK, SHINGLES_PER_BLOCK = 32_768, 4_000_000


@dataclass(frozen=True, kw_only=True)
class DedupDocumentsConfig:
    """Settings of `dedup-documents`; the paper gives none. By default bands and rows are 14 x 8, datatrove's and FineWeb's."""

    shingle_words: Annotated[
        int, Field(description="words per shingle; characters where a script has no spaces (datatrove: 5)", ge=1)
    ] = 5
    ignore_case: Annotated[bool, Field(description="capitals make no difference")] = True
    ignore_punctuation: Annotated[bool, Field(description="punctuation makes no difference; else each mark is a word")] = True
    ignore_whitespace: Annotated[bool, Field(description="blanks and line breaks make no difference; else each is a word")] = True
    # FineWeb's aim.
    threshold: Annotated[float, Field(description="Jaccard similarity from which on a pair is a near-duplicate", gt=0, le=1)] = 0.75
    permutations: Annotated[int, Field(description="permutations of a signature at most (datatrove: 112)", ge=1)] = 112
    # 14 x 8 finds 77% at 0.75.
    recall: Annotated[
        float, Field(description="share of the pairs at the threshold that are to be found; chooses bands and rows", gt=0, lt=1)
    ] = 0.75
    bands: Annotated[int, Field(description="bands of the signature; 0 = chosen by threshold, permutations and recall", ge=0)] = 0
    rows: Annotated[int, Field(description="permutations per band; 0 = chosen like bands", ge=0)] = 0
    check: Annotated[
        Literal["jaccard", "signature", "none"],
        Field(description="how a candidate pair is confirmed: by true Jaccard, by the signatures' estimate, or not at all"),
    ] = "jaccard"
    max_comparisons: Annotated[
        int, Field(description="documents of a bucket that each is compared with at most, before what joins them", ge=1)
    ] = 100
    within: Annotated[Literal["corpus", "language"], Field(description="where duplicates are looked for")] = "corpus"
    keep: Annotated[
        Literal["newest", "longest", "best", "first"],
        Field(description="the document that a cluster keeps; ties: the newest, the longest, the smallest id"),
    ] = "newest"
    score_column: Annotated[str, Field(description="column of numbers by which keep = 'best' chooses the highest")] = ""
    max_containment: Annotated[
        float,
        Field(description="largest share of a document's shingles that may stand in one other; 1 = off; needs memory", gt=0, le=1),
    ] = 1.0
    seed: Annotated[int, Field(description="seed of the permutations")] = 0
    engine: EngineSetting = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if (self.bands == 0) != (self.rows == 0):
            raise ConfigError("dedup-documents", f"bands = {self.bands}, rows = {self.rows}", do="give both, or neither")
        if (self.keep == "best") != bool(self.score_column):
            raise ConfigError(
                "dedup-documents",
                f"keep = {self.keep!r}, score_column = {self.score_column!r}",
                do="give a column with keep = 'best'",
            )

    def lsh(self) -> tuple[int, int]:
        """Bands and rows."""
        return (self.bands, self.rows) if self.bands else bands_for(self.threshold, self.permutations, self.recall)

    def signing(self) -> Signing:
        """How documents are signed."""
        bands, rows = self.lsh()
        return Signing(
            self.shingle_words,
            Normalisation(case=self.ignore_case, punctuation=self.ignore_punctuation, blanks=self.ignore_whitespace),
            permutations(bands * rows, derive_seed(self.seed, "minhash")),
            bands,
            self.within == "language",
            self.score_column,
        )


@dataclass
class Corpus:
    """The documents of a run, by their number, with what the settings allow to work with."""

    config: DedupDocumentsConfig
    file: Path
    work: Path
    parts: Sequence[Part]
    n: int

    @classmethod
    def of(cls, config: DedupDocumentsConfig, documents: Run, work: Path) -> "Corpus":
        """Raises InputError for a column that is missing or holds no numbers, ConfigError for too little memory."""
        check_content(documents)
        file = documents.file(DOCUMENTS)
        schema = pq.read_schema(file)
        if config.score_column:
            check_numbers(schema, config.score_column, file)
        if config.within == "language" and "language" not in schema.names:
            raise InputError(file, "no column 'language'", allowed=", ".join(schema.names), do="change within")
        parts = parts_of(file, work / "signatures")
        n = sum(part.rows for part in parts)
        if n * BYTES_PER_DOCUMENT > config.engine.memory() * 1e9 / 2:
            needed, given = n * BYTES_PER_DOCUMENT * 2 / 1e9, config.engine.memory()
            raise ConfigError(
                "dedup-documents", f"memory of {given:.2g} GB for {n:,} documents", do=f"give engine.memory_gb = {needed:.2g}"
            )
        return cls(config, file, work, parts, n)

    @property
    def threads(self) -> int:
        """How many work at once."""
        return self.config.engine.processes or cores()

    @property
    def shares(self) -> int:
        """In how many shares keys are sorted: each thread has one in half of the memory that is left."""
        return shares_of(self.n, (self.config.engine.memory() * 1e9 - self.n * BYTES_PER_DOCUMENT) / 2 / self.threads)

    def keys(self, array: str, column: Any) -> Iterator[tuple[int, npt.NDArray[np.uint64], npt.NDArray[np.bool_]]]:
        """A column of numbers of all documents, part by part; all count."""
        for part in self.parts:
            yield part.first, np.array(part.load(array)[column]), np.ones(part.rows, bool)

    def estimated(self, left: Numbers, right: Numbers) -> npt.NDArray[np.float64]:
        """Jaccard similarities by signatures."""
        found = np.empty(len(left))
        for block in (slice(i, i + PAIRS_PER_BLOCK) for i in range(0, len(left), PAIRS_PER_BLOCK)):
            signatures = rows_at(self.parts, "signatures", np.concatenate([left[block], right[block]]))
            found[block] = estimated_jaccards(*np.split(signatures, 2))
        return found


def exact_duplicates(corpus: Corpus) -> Numbers:
    """For each document the first one with the same content, which may be itself."""
    first: Numbers = np.arange(corpus.n, dtype=np.int32 if corpus.n < 2**31 else np.int64)
    for share in range(corpus.shares):
        members, bucket = buckets(lambda: corpus.keys("digests", (slice(None), 0)), share, corpus.shares)
        if not len(members):
            continue
        other_half = rows_at(corpus.parts, "digests", members)[:, 1]
        order = np.lexsort((members, other_half, bucket))
        members, bucket, other_half = members[order], bucket[order], other_half[order]
        begins = np.concatenate([[True], (bucket[1:] != bucket[:-1]) | (other_half[1:] != other_half[:-1])])
        first[members] = members[begins][np.cumsum(begins) - 1]
    return first


def band_buckets(corpus: Corpus, first: Numbers, bands: int) -> list[Path]:
    """Files of the buckets of each band, of documents with the same content one; made where they are not there yet."""
    folder = corpus.work / "buckets"
    folder.mkdir(exist_ok=True)
    counts = first == np.arange(corpus.n)
    for part in corpus.parts:
        counts[part.first : part.first + part.rows] &= part.load("has_terms")

    def keys(band: int) -> Iterator[tuple[int, npt.NDArray[np.uint64], npt.NDArray[np.bool_]]]:
        for number, part, _ in corpus.keys("keys", band):
            yield number, part, counts[number : number + len(part)]

    def make(place: tuple[int, int]) -> Path:
        band, share = place
        done = folder / f"{band:03d}-{share:03d}-of-{corpus.shares:03d}.npy"
        if not done.exists():
            temporary = done.with_name(f".{done.name}.tmp.npy")
            np.save(temporary, np.stack(buckets(partial(keys, band), share, corpus.shares)))
            temporary.rename(done)
        progress.advance()
        return done

    places = list(itertools.product(range(bands), range(corpus.shares)))
    with Progress("buckets", len(places), "tables") as progress, ThreadPoolExecutor(corpus.threads) as pool:
        return list(pool.map(make, places))


class Checked:
    """The true Jaccard similarity of candidates, by their shingles on disk."""

    def __init__(self, corpus: Corpus, files: Sequence[Path]) -> None:
        wanted = np.zeros(corpus.n, bool)
        for file in files:
            wanted[np.load(file)[0]] = True
        self.store = ShingleStore(corpus.parts, corpus.work / "shingles")
        self.store.make(wanted, corpus.config.signing(), corpus.threads)

    def __call__(self, left: Numbers, right: Numbers) -> npt.NDArray[np.float64]:
        """Of each pair."""
        found = np.empty(len(left))
        sizes = sum(self.store.sizes[np.searchsorted(self.store.numbers, side)] for side in (left, right))
        for block in blocks(np.asarray(sizes), SHINGLES_PER_BLOCK):
            numbers, places = np.unique(np.concatenate([left[block], right[block]]), return_inverse=True)
            found[block] = jaccards(*self.store.sets(numbers), *np.split(places, 2))
        return found


@dataclass
class Found:
    """The documents that have duplicates, in order: what is known of each."""

    numbers: Numbers
    cluster: Numbers  # its smallest number
    keeper: Numbers  # the number of the document that its cluster keeps
    exact: npt.NDArray[np.bool_]  # whether that one has the same content
    jaccard: npt.NDArray[np.float64]  # with that one; no number where it was not measured
    estimated: npt.NDArray[np.float64]


def preferences(config: DedupDocumentsConfig, about: npt.NDArray[Any], numbers: Numbers) -> list[npt.NDArray[Any]]:
    """What decides which of its cluster's documents stays, the smallest first."""
    newest, ids = -np.unique(about["date"], return_inverse=True)[1], np.unique(about["id"], return_inverse=True)[1]
    longest, best = -about["bytes"], np.nan_to_num(-about["score"], nan=np.inf)
    first = {"newest": [newest, longest], "longest": [longest, newest], "best": [best, newest, longest], "first": [numbers]}
    return [*first[config.keep], ids, numbers]


def find_duplicates(corpus: Corpus) -> tuple[Found, int]:
    """All documents that have duplicates, and how many were not compared with all of their bucket."""
    config = corpus.config
    if not corpus.n:
        none, numbers = np.empty(0), np.empty(0, np.int64)
        return Found(numbers, numbers, numbers, none.astype(bool), none, none), 0
    bands, _ = config.lsh()
    sign_parts(config.signing(), corpus.parts, corpus.threads)
    first = exact_duplicates(corpus)
    files = band_buckets(corpus, first, bands)
    ways: dict[str, Callable[[], Pairs | None]] = {
        "jaccard": lambda: Checked(corpus, files),
        "signature": lambda: corpus.estimated,
        "none": lambda: None,
    }
    similarity = ways[config.check]()
    clusters = Clusters(corpus.n)
    repeats = np.flatnonzero(first != np.arange(corpus.n))
    clusters.join(repeats, first[repeats])
    incomplete = 0
    for file in track(files, "comparing", "tables", len(files)):
        members, bucket = np.load(file)
        incomplete += join_alike(clusters, members, bucket, config.max_comparisons, similarity, config.threshold)

    labels = clusters.labels()
    numbers = np.flatnonzero(np.bincount(labels, minlength=corpus.n)[labels] > 1)
    cluster = labels[numbers].astype(np.int64)
    about = rows_at(corpus.parts, "about", numbers)
    keeper = numbers[best_of(cluster, preferences(config, about, numbers))]
    exact = first[numbers] == first[keeper]
    jaccard = np.where(exact, 1.0, np.nan)
    estimated = np.ones(len(numbers))
    left, right = first[numbers[~exact]].astype(np.int64), first[keeper[~exact]].astype(np.int64)
    estimated[~exact] = corpus.estimated(left, right)
    if config.check == "jaccard":
        assert similarity is not None
        jaccard[~exact] = similarity(left, right)
    return Found(numbers, cluster, keeper, exact, jaccard, estimated), incomplete


def names_of(corpus: Corpus, numbers: Numbers) -> pa.Table:
    """Id and address of these documents, which are in order."""
    found = [pa.schema([("id", pa.string()), ("url", pa.string())]).empty_table()]
    for part in corpus.parts:
        at = part.first
        for batch in part.batches(["id", "url"]):
            begin, end = np.searchsorted(numbers, [at, at + len(batch)])
            found.append(pa.Table.from_batches([batch.take(pa.array(numbers[begin:end] - at))]).select(["id", "url"]))
            at += len(batch)
    table = pa.concat_tables(found)
    return table.cast(pa.schema([(name, pa.large_string()) for name in table.schema.names])).combine_chunks()


def drops_of(config: DedupDocumentsConfig, found: Found, names: pa.Table, numbers: slice) -> dict[int, Drop]:
    """Why each of a range of the documents found goes."""
    drops = {}
    keepers = np.searchsorted(found.numbers, found.keeper[numbers])
    ids, urls = (column.to_pylist() for column in names.take(pa.array(keepers)).columns)
    by = found.jaccard if config.check == "jaccard" else found.estimated
    measure = "Jaccard" if config.check == "jaccard" else "estimated Jaccard"
    for number, keeper, exact, value, id_, url in zip(
        found.numbers[numbers].tolist(), found.keeper[numbers].tolist(), found.exact[numbers], by[numbers], ids, urls, strict=True
    ):
        if keeper == number:
            continue
        if exact:
            drops[number] = Drop("exact duplicate", f"same words as {id_} ({url})")
        else:
            chain = ", through others like both" if value < config.threshold else ""
            detail = f"{measure} {value:.3f} with {id_} ({url}), limit {config.threshold}{chain}"
            drops[number] = Drop("near duplicate", detail)
    return drops


def compared_with_each_other(corpus: Corpus, numbers: Numbers) -> list[Numbers]:
    """These documents, or those of each language where no others are compared."""
    if corpus.config.within == "corpus" or not len(numbers):
        return [numbers] if len(numbers) else []
    groups = np.concatenate([language_groups(batch) for part in corpus.parts for batch in part.batches(["language"])])[numbers]
    return [numbers[groups == group] for group in np.unique(groups)]


def contained_drops(corpus: Corpus, gone: npt.NDArray[np.bool_]) -> dict[int, Drop]:
    """Why each of the documents that are left goes that stands in another one. Raises ConfigError where memory does not suffice."""
    limit = corpus.config.max_containment
    store = ShingleStore(corpus.parts, corpus.work / "all-shingles")
    store.make(~gone, corpus.config.signing(), corpus.threads)
    needed = int(store.sizes.sum()) * BYTES_PER_SHINGLE
    if needed > (given := corpus.config.engine.memory()) * 1e9:
        raise ConfigError(
            "dedup-documents", f"max_containment = {limit} needs {needed / 1e9:.1f} GB for all shingles, the limit is {given:.1f}",
            do="raise engine.memory_gb, or leave max_containment at 1",
        )  # fmt: skip
    found: dict[int, tuple[int, float]] = {}
    for numbers in compared_with_each_other(corpus, store.numbers):
        about = rows_at(corpus.parts, "about", numbers)
        order = np.lexsort(preferences(corpus.config, about, numbers)[::-1]).tolist()
        within = contained(limit, *store.sets(numbers), order)
        found |= {int(numbers[i]): (int(numbers[place]), share) for i, (place, share) in within.items()}
    holders = np.unique(np.array([number for number, _ in found.values()], np.int64))
    table = names_of(corpus, holders).to_pylist()
    names = {number: f"{row['id']} ({row['url']})" for number, row in zip(holders.tolist(), table, strict=True)}
    return {
        number: Drop("contained", f"{share:.3f} of its shingles stand in {names[holder]}, limit {limit}")
        for number, (holder, share) in found.items()
    }


def write_clusters(out: Output, found: Found, names: pa.Table) -> None:
    """Write `duplicates.parquet`: the clusters one behind the other, first of each the document that is kept."""
    kept = found.keeper == found.numbers
    order = np.lexsort((found.numbers, ~kept, found.cluster))
    ordinal = np.unique(found.cluster, return_inverse=True)[1]
    with out.write(DUPLICATES) as path, ParquetWriter(path, DUPLICATES_SCHEMA) as writer:
        for begin in range(0, len(order), 10_000):
            rows = order[begin : begin + 10_000]
            ids, urls = names.take(pa.array(rows)).columns
            columns = [ordinal[rows], ids, urls, kept[rows], found.exact[rows]]
            columns += [pa.array(values[rows], pa.float32(), from_pandas=True) for values in (found.jaccard, found.estimated)]
            table = pa.Table.from_arrays(columns, names=DUPLICATES_SCHEMA.names).cast(DUPLICATES_SCHEMA)
            for batch in table.combine_chunks().to_batches():
                writer.write_batch(batch)


def dedup_documents(config: DedupDocumentsConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Keep one document of each cluster of duplicates."""
    corpus = Corpus.of(config, documents, out.work)
    load_kernel(text_bytes(corpus.file))
    found, incomplete = find_duplicates(corpus)
    names = names_of(corpus, found.numbers)
    write_clusters(out, found, names)
    gone = np.zeros(corpus.n, bool)
    gone[found.numbers[found.keeper != found.numbers]] = True
    within = contained_drops(corpus, gone) if config.max_containment < 1 and corpus.n else {}

    schema = pq.read_schema(corpus.file)
    with Funnel("dedup-documents", out, schema) as funnel, Progress("writing", corpus.n, "documents") as progress:
        at = 0
        for part in corpus.parts:
            for batch in part.batches(schema.names):
                begin, end = np.searchsorted(found.numbers, [at, at + len(batch)])
                drops = drops_of(config, found, names, slice(begin, end)) | within
                judged = Judged(batch, [drops.get(number) for number in range(at, at + len(batch))])
                funnel.add(account_of(judged, batch))
                at += len(batch)
                progress.advance(len(batch))
    bands, rows = config.lsh()
    return funnel.metrics() | {
        "bands": bands,
        "rows": rows,
        "n_permutations": bands * rows,
        "clusters": len(np.unique(found.cluster)),
        "documents_in_clusters": len(found.numbers),
        "documents_not_compared_with_all": incomplete,
    }

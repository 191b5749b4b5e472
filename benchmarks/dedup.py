"""Deduplication: signatures beside Daft's, near-duplicates of millions of documents in bounded memory, and the curve of the bands.

    scripts/bench dedup                                        everything but `five_millions`
    .venv/bin/python benchmarks/dedup.py PART [FOLDER]         one part: daft, curve, million, five_millions, twenty_millions

`daft`: 128 permutations, 5-word shingles, documents of 7 kB, by turns in the same run; processor time. Ours folds case and leaves
punctuation out, and makes a digest of the content, which Daft's expression does not. Daft 0.7.26 runs where `.venv-daft` has it.

`million`: the two stages on documents of 200 to 400 words made here, one in ten a copy, two in ten planted near-duplicates of a
similarity between 0.5 and 0.95; two threads, a process of its own, its peak memory. `twenty_millions`: signatures alone, made at
random with planted ones, deduplicated in 4 GB. FOLDER is where they put their files: 6 GB, 30 GB for five millions, 14 GB.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAFT = Path(__file__).resolve().parent.parent / ".venv-daft" / "bin" / "python"
HASHES = ("murmurhash3", "xxhash3_64")  # `xxhash` ended Daft 0.7.26 with a segmentation fault
REPEATS = 5
MILLION = 1_000_000
DOCUMENTS_OF_7_KB = 4_000
VOCABULARY = 60_000
SIMILARITIES = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
PAIRS = 10_000  # of each similarity: a standard error of 0.005 at most
MEMORY_GB = {"million": 2.0, "five_millions": 2.0, "twenty_millions": 4.0}


class Writer:
    """Texts of words that are as frequent as in a language."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
        lengths = 2 + self.draw.poisson(4, VOCABULARY)
        self.words = ["".join(letters[np.minimum(self.draw.geometric(0.12, n) - 1, 25)]) for n in lengths]
        cumulative = np.cumsum(1 / (np.arange(VOCABULARY) + 10.0))
        self.table = np.searchsorted(cumulative / cumulative[-1], (np.arange(1 << 20) + 0.5) / (1 << 20))
        self.drawn = np.empty(0, np.int64)

    def numbers(self, n: int) -> np.ndarray:
        """Numbers of words, drawn many at a time."""
        if len(self.drawn) < n:
            self.drawn = self.table[self.draw.integers(0, len(self.table), 1_000_000)]
        found, self.drawn = self.drawn[:n], self.drawn[n:]
        return found

    def changed(self, words: np.ndarray, similarity: float) -> np.ndarray:
        """A document whose Jaccard similarity by 5-word shingles is about this: a run of words is another."""
        shingles = len(words) - 4
        n = max(1, round(shingles * (1 - similarity) / (1 + similarity)) - 4)
        begin = int(self.draw.integers(4, len(words) - n - 4))
        return np.concatenate([words[:begin], self.numbers(n), words[begin + n :]])

    def text(self, words: np.ndarray) -> str:
        """Lines of twelve words."""
        found = list(map(self.words.__getitem__, words.tolist()))
        return "\n".join(" ".join(found[i : i + 12]) for i in range(0, len(found), 12))


def alone(*arguments: str) -> dict[str, Any]:
    """What a part prints in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peak_gb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def signatures(file: Path) -> float:
    """Documents per second of processor time, ours."""
    from openherd.data.minhash import permutations, signed
    from openherd.data.shingles import Normalisation, library

    assert library.load(), library.error
    texts = pq.read_table(file).column("text").combine_chunks()
    permuted_by = permutations(128, seed=0)
    start = time.process_time()
    for begin in range(0, len(texts), 512):
        signed(texts.slice(begin, 512), 5, Normalisation(), permuted_by)
    return len(texts) / (time.process_time() - start)


DAFT_PROGRAM = """
import os, sys, time
os.environ["DO_NOT_TRACK"] = "1"
import daft, pyarrow.parquet as pq
frame = daft.from_arrow(pq.read_table(sys.argv[1])).collect()
n = len(frame)
start = time.process_time()
frame.select(frame["text"].minhash(num_hashes=128, ngram_size=5, hash_function=sys.argv[2])).to_arrow()
print(n / (time.process_time() - start))
"""


def daft(folder: Path) -> dict[str, Any]:
    """Signatures beside Daft's."""
    writer = Writer(0)
    texts = [writer.text(writer.numbers(1_120)) for _ in range(DOCUMENTS_OF_7_KB)]
    file = folder / "texts.parquet"
    pq.write_table(pa.table({"text": texts}), file)
    mb = sum(map(len, texts)) / 1e6 / len(texts)
    rounds: list[dict[str, float]] = []
    for _ in range(REPEATS if DAFT.exists() else 1):
        found = {"ours": signatures(file)}
        for name in HASHES if DAFT.exists() else ():
            done = subprocess.run([DAFT, "-c", DAFT_PROGRAM, file, name], stdout=subprocess.PIPE, check=True, text=True)
            found[name] = float(done.stdout)
        rounds.append(found)
    speeds = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    ratios = [found["ours"] / max(found[name] for name in HASHES) for found in rounds if len(found) > 1]
    return {
        "document_kb": mb * 1e3,
        "documents_per_cpu_s": speeds,
        "mb_per_cpu_s": {name: speed * mb for name, speed in speeds.items()},
        "ours_over_fastest_of_daft": statistics.median(ratios) if ratios else None,
    }


def curve(folder: Path) -> dict[str, Any]:
    """Candidates among planted pairs, at the similarities that these truly have, beside the formula."""
    from openherd.data.minhash import band_keys, candidate_probability, permutations, signed
    from openherd.data.shingles import Normalisation, jaccards, load_kernel, shingle_sets

    load_kernel(1 << 30)
    bands, rows, threshold = 14, 8, 0.75
    permuted_by = permutations(bands * rows, seed=0)
    writer = Writer(1)
    recall: dict[str, Any] = {}
    true_all, found_all = [], []
    for similarity in SIMILARITIES:
        true, found = [], []
        for _ in range(PAIRS // 500):
            pairs = []
            for _ in range(500):
                words = writer.numbers(int(writer.draw.integers(200, 400)))
                pairs += [writer.text(words), writer.text(writer.changed(words, similarity))]
            texts = pa.array(pairs)
            left, right = np.arange(0, 1_000, 2), np.arange(1, 1_000, 2)
            true.append(jaccards(*shingle_sets(texts, 5, Normalisation()), left, right))
            keys = band_keys(signed(texts, 5, Normalisation(), permuted_by).signatures, bands, np.zeros(1_000, np.uint64))
            found.append((keys[:, left] == keys[:, right]).any(axis=0))
        true_all.append(np.concatenate(true))
        found_all.append(np.concatenate(found))
        expected = candidate_probability(true_all[-1], bands, rows)
        recall[str(similarity)] = {
            "true_jaccard": true_all[-1].mean(),
            "found": found_all[-1].mean(),
            "formula": expected.mean(),
            "difference": found_all[-1].mean() - expected.mean(),
        }
    true_jaccard, is_found = np.concatenate(true_all), np.concatenate(found_all)
    expected = candidate_probability(true_jaccard, bands, rows)
    precision = {}
    for threshold in SIMILARITIES:
        alike = true_jaccard >= threshold
        found_alike, formula = is_found[alike].sum() / is_found.sum(), expected[alike].sum() / expected.sum()
        precision[str(threshold)] = {"found": found_alike, "formula": formula, "difference": found_alike - formula}
    return {
        "pairs_of_each": PAIRS,
        "bands": bands,
        "rows": rows,
        "recall": recall,
        "precision_of_candidates": precision,
        "largest_difference_recall": max(abs(row["difference"]) for row in recall.values()),
        "largest_difference_precision": max(abs(row["difference"]) for row in precision.values()),
    }


def write_documents(folder: Path, n: int) -> None:
    """A finished run of n documents, with copies and planted near-duplicates; what was planted lies beside it."""
    from openherd.core import rundir
    from openherd.core.records import ParquetWriter
    from openherd.core.rundir import Job, Output
    from openherd.data.documents import DOCUMENTS, LANGUAGE_SCHEMA

    writer = Writer(2)
    menus = [writer.text(writer.numbers(6)) for _ in range(500)]

    def stage(config: None, *, out: Output) -> dict[str, int]:
        planted = []
        with out.write(DOCUMENTS) as path, ParquetWriter(path, LANGUAGE_SCHEMA) as file:
            for first in range(0, n, 2_000):
                kinds = writer.draw.random(2_000)
                numbers, texts = [], []
                for i in range(2_000):
                    if i > 200 and kinds[i] < 0.3:
                        source = int(writer.draw.integers(0, 200))
                        similarity = 1.0 if kinds[i] < 0.1 else float(writer.draw.uniform(0.5, 0.95))
                        words = numbers[source] if similarity == 1 else writer.changed(numbers[source], similarity)
                        planted.append((first + i, first + source))
                    else:
                        words = writer.numbers(int(writer.draw.integers(200, 400)))
                    numbers.append(words)
                    texts.append(texts[source] if i > 200 and kinds[i] < 0.1 else f"{menus[i % 500]}\n{writer.text(words)}")
                ids = [f"{first + i:032x}" for i in range(2_000)]
                batch = {
                    "id": ids, "url": [f"https://site-{i % 300}.org/{id_}" for i, id_ in enumerate(ids)], "date": ["2026"] * 2_000,
                    "text": texts, "language": ["en"] * 2_000,
                }  # fmt: skip
                columns = [pa.array(batch.get(field.name, [None] * 2_000), field.type) for field in LANGUAGE_SCHEMA]
                file.write_batch(pa.RecordBatch.from_arrays(columns, schema=LANGUAGE_SCHEMA))
        np.save(folder / "planted.npy", np.array(planted))
        return {}

    rundir.make(Job("given", "3.1.1", 1, {}, {}, {}), folder / "given", stage, None, {})


def multiply(folder: Path, times: int) -> None:
    """The documents again and again, each time with other letters, so that none is like those of another time."""
    from openherd.core import rundir
    from openherd.core.records import ParquetWriter
    from openherd.core.rundir import Job, Output, Run
    from openherd.data.documents import DOCUMENTS, LANGUAGE_SCHEMA

    once = Run.open(folder / "given").file(DOCUMENTS)
    text, id_ = (LANGUAGE_SCHEMA.get_field_index(name) for name in ("text", "id"))

    def stage(config: None, *, out: Output) -> dict[str, int]:
        with out.write(DOCUMENTS) as path, ParquetWriter(path, LANGUAGE_SCHEMA) as file:
            for time_ in range(times):
                letters = np.arange(256, dtype=np.uint8)
                letters[97:123] = np.roll(letters[97:123], time_)
                for batch in pq.ParquetFile(once).iter_batches(batch_size=2_000):
                    validity, offsets, data = batch.column(text).buffers()
                    changed = pa.py_buffer(letters[np.frombuffer(data, np.uint8)])
                    texts = pa.Array.from_buffers(
                        pa.string(), len(batch), [validity, offsets, changed], offset=batch.column(text).offset
                    )
                    ids = pa.array([f"{time_:x}{name[1:]}" for name in batch.column(id_).to_pylist()])
                    columns = [ids if i == id_ else texts if i == text else column for i, column in enumerate(batch.columns)]
                    file.write_batch(pa.RecordBatch.from_arrays(columns, schema=LANGUAGE_SCHEMA))
        return {}

    rundir.make(Job("given", "3.1.1", 1, {"times": times}, {}, {}), folder / "many" / "given", stage, None, {})


def run(name: str, folder: Path, memory_gb: float) -> None:
    """One stage on the documents; prints seconds and peak memory."""
    from openherd.core import rundir
    from openherd.core.rundir import Job, Run
    from openherd.data.dedup_documents import DedupDocumentsConfig, dedup_documents
    from openherd.data.dedup_lines import DedupLinesConfig, dedup_lines
    from openherd.data.engine import EngineConfig

    engine = EngineConfig(processes=2, memory_gb=memory_gb)
    stage, config = {
        "documents": (dedup_documents, DedupDocumentsConfig(engine=engine)),
        "lines": (dedup_lines, DedupLinesConfig(engine=engine, bucket_documents=10_000)),
    }[name]
    given = Run.open(folder / "given")
    start, cpu = time.perf_counter(), time.process_time()
    done, _ = rundir.make(Job(name, "3.1.1", 1, {}, {}, {}), folder / name, stage, config, {"documents": given})
    print(
        json.dumps(
            {
                "wall_s": time.perf_counter() - start,
                "cpu_s": time.process_time() - cpu,
                "peak_gb": peak_gb(),
                "metrics": done.metrics,
            }
        )
    )


def documents(folder: Path, memory_gb: float) -> dict[str, Any]:
    """Both stages on a million documents."""
    write_documents(folder, MILLION)
    found: dict[str, Any] = {"documents": MILLION, "memory_gb_given": memory_gb}
    found["near_duplicates"] = alone("run", "documents", str(folder), str(memory_gb))
    found["planted"] = planted_found(folder)
    found["lines"] = alone("run", "lines", str(folder), str(memory_gb))
    return found


def five_times(folder: Path, memory_gb: float) -> dict[str, Any]:
    """Near-duplicates of five million documents."""
    write_documents(folder, MILLION)
    multiply(folder, 5)
    found = alone("run", "documents", str(folder / "many"), str(memory_gb))
    return {"documents": 5 * MILLION, "memory_gb_given": memory_gb, "near_duplicates": found}


def planted_found(folder: Path) -> dict[str, Any]:
    """How many of the planted pairs ended in one cluster, of all kinds of similarity."""
    table = pq.read_table(folder / "documents" / "duplicates.parquet", columns=["cluster", "id"])
    cluster_of = dict(zip((int(i, 16) for i in table.column("id").to_pylist()), table.column("cluster").to_pylist(), strict=True))
    pairs = np.load(folder / "planted.npy").tolist()
    together = sum(a in cluster_of and cluster_of[a] == cluster_of.get(b) for a, b in pairs)
    return {"pairs": len(pairs), "in_one_cluster": together}


def write_signatures(folder: Path, n: int) -> None:
    """Parts with signatures of n documents: one in twenty a copy, one in five near another one of its part."""
    from openherd.data.minhash import band_keys
    from openherd.data.signed_parts import ABOUT

    draw = np.random.default_rng(3)
    rows = 16_000
    for number, first in enumerate(range(0, n, rows)):
        signatures = draw.integers(0, 2**32, (rows, 112), np.uint32)
        digests = draw.integers(0, 2**64, (rows, 2), np.uint64)
        near = np.arange(rows * 3 // 4, rows * 19 // 20)
        sources = draw.integers(0, rows // 2, len(near))
        similarity = draw.uniform(0.5, 0.95, len(near))
        stays = draw.random((len(near), 112)) < similarity[:, None]
        signatures[near] = np.where(stays, signatures[sources], signatures[near])
        copies = np.arange(rows * 19 // 20, rows)
        sources = draw.integers(0, rows // 2, len(copies))
        signatures[copies], digests[copies] = signatures[sources], digests[sources]
        about = np.zeros(rows, ABOUT)
        about["id"] = np.char.mod("%032x", first + np.arange(rows))
        about["bytes"] = draw.integers(1_000, 3_000, rows)
        part = folder / "signatures" / f"{number:05d}"
        part.mkdir(parents=True)
        for name, array in (
            ("signatures", signatures), ("keys", band_keys(signatures, 14, np.zeros(rows, np.uint64))), ("digests", digests),
            ("has_terms", np.ones(rows, bool)), ("about", about),
        ):  # fmt: skip
            np.save(part / f"{name}.npy", array)


def signatures_alone(folder: Path, memory_gb: float) -> None:
    """Deduplicate what `write_signatures` wrote; prints seconds and peak memory."""
    from openherd.data.dedup_documents import Corpus, DedupDocumentsConfig, find_duplicates
    from openherd.data.engine import EngineConfig
    from openherd.data.signed_parts import Part

    parts = []
    for path in sorted((folder / "signatures").iterdir()):
        rows = len(np.load(path / "has_terms.npy", mmap_mode="r"))
        parts.append(Part(Path("none"), (), sum(p.rows for p in parts[-1:]) + (parts[-1].first if parts else 0), rows, path))
    n = parts[-1].first + parts[-1].rows
    config = DedupDocumentsConfig(check="signature", engine=EngineConfig(processes=2, memory_gb=memory_gb))
    start, cpu = time.perf_counter(), time.process_time()
    found, incomplete = find_duplicates(Corpus(config, Path("none"), folder, parts, n))
    print(
        json.dumps(
            {
                "documents": n,
                "memory_gb_given": memory_gb,
                "wall_s": time.perf_counter() - start,
                "cpu_s": time.process_time() - cpu,
                "peak_gb": peak_gb(),
                "documents_in_clusters": len(found.numbers),
                "documents_that_go": int((found.keeper != found.numbers).sum()),
                "not_compared_with_all": incomplete,
            }
        )
    )


def measured(part: str, folder: Path) -> dict[str, Any]:
    """One part, its files in a folder of its own that goes after it."""
    own = Path(tempfile.mkdtemp(dir=folder))
    try:
        if part == "twenty_millions":
            write_signatures(own, 20_000_000)
            return alone("signatures", str(own), str(MEMORY_GB[part]))
        if part in MEMORY_GB:
            return {"million": documents, "five_millions": five_times}[part](own, MEMORY_GB[part])
        return {"daft": daft, "curve": curve}[part](own)
    finally:
        shutil.rmtree(own)


def main(arguments: list[str]) -> None:
    """Measure what is asked, or all, and print the figures."""
    if arguments[:1] == ["run"]:
        return run(arguments[1], Path(arguments[2]), float(arguments[3]))
    if arguments[:1] == ["signatures"]:
        return signatures_alone(Path(arguments[1]), float(arguments[2]))
    folder = Path(arguments[1]) if len(arguments) > 1 else Path(tempfile.gettempdir())
    parts = arguments[:1] or ["daft", "curve", "million", "twenty_millions"]
    figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}
    print(json.dumps(figures | {part: measured(part, folder) for part in parts}))
    return None


if __name__ == "__main__":
    main(sys.argv[1:])

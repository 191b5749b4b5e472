"""Token shards: documents as flat little-endian uint32 files, one a source, with an index of document starts (paper 3.1.2).

A document is `<|begin_of_text|>`, its text, `<|end_of_text|>`. `index.json` names the sources with their tokens and documents;
`<source>.starts.npy` holds the token at which each document begins; `documents.parquet` finds a document's id by source and
number.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pyarrow as pa
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.progress import Progress
from openherd.core.records import ParquetWriter, count_rows, read_parquet
from openherd.core.rundir import Output, Run, file_sha256
from openherd.tokenizer.tokenizer import Tokenizer

INDEX = "index.json"
TOKEN = np.dtype("<u4")


@dataclass(frozen=True, kw_only=True)
class TokenShardsConfig:
    """Settings of token shards."""

    batch_documents: Annotated[int, Field(description="documents encoded at once, on all cores", ge=1)] = 256


def in_batches(rows: Iterator[dict[str, Any]], n: int) -> Iterator[list[dict[str, Any]]]:
    """Lists of at most `n` rows."""
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == n:
            yield batch
            batch = []
    if batch:
        yield batch


def token_shards(config: TokenShardsConfig, *, documents: Run, tokenizer: Run, out: Output) -> dict[str, Any]:
    """Encode `train.parquet` into `shards/`."""
    directory = tokenizer.file("tokenizer/tokenizer.json")
    words = Tokenizer.load(directory.parent)
    source_file = documents.file("train.parquet")
    starts: dict[str, list[int]] = {}
    ends: dict[str, int] = {}
    n_bytes = 0
    schema = pa.schema([("source", pa.string()), ("number", pa.int64()), ("id", pa.string())])
    with out.write("shards") as folder:
        folder.mkdir()
        files: dict[str, BinaryIO] = {}
        rows = read_parquet(source_file, ["id", "source", "text"])
        total = count_rows(source_file) or 0
        with (
            ParquetWriter(folder / "documents.parquet", schema) as lineage,
            Progress("token-shards", total, "documents") as progress,
        ):
            for batch in in_batches(rows, config.batch_documents):
                encoded = words.encode_batch([row["text"] for row in batch])
                for row, ids in zip(batch, encoded, strict=True):
                    name = row["source"]
                    if name not in files:
                        files[name] = (folder / f"{name}.bin").open("wb")
                        starts[name], ends[name] = [], 0
                    document = np.array([words.bos_id, *ids, words.eos_id], TOKEN)
                    files[name].write(document.tobytes())
                    lineage.write({"source": name, "number": len(starts[name]), "id": row["id"]})
                    starts[name].append(ends[name])
                    ends[name] += len(document)
                    n_bytes += len(row["text"].encode())
                progress.advance(len(batch))
        for name, file in files.items():
            file.close()
            np.save(folder / f"{name}.starts.npy", np.array(starts[name], np.int64))
        index = {
            "vocabulary": words.vocabulary,
            "tokenizer_sha256": file_sha256(directory),
            "sources": {name: {"tokens": ends[name], "documents": len(starts[name])} for name in sorted(files)},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    if not ends:
        raise InputError(source_file, "no documents", do="look at the reasons in dropped.parquet of the stages before")
    n_tokens = sum(ends.values())
    return {
        "documents": sum(len(s) for s in starts.values()),
        "train_tokens": n_tokens,
        "bytes_per_token": n_bytes / n_tokens,
        "tokens_by_source": dict(sorted(ends.items())),
    }


@dataclass(frozen=True)
class TokenShards:
    """Token shards, memory-mapped."""

    path: Path
    vocabulary: int
    tokens: dict[str, int]  # source to its number of tokens
    starts: dict[str, np.ndarray]  # source to the token at which each document begins
    _files: dict[str, np.ndarray]

    @classmethod
    def open(cls, run: Run) -> "TokenShards":
        """Map the shards of a run. Raises InputError where a file does not fit the index."""
        folder = run.file(f"shards/{INDEX}").parent
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        tokens: dict[str, int] = {}
        starts: dict[str, np.ndarray] = {}
        files: dict[str, np.ndarray] = {}
        for name, entry in index["sources"].items():
            file = folder / f"{name}.bin"
            if not file.exists() or file.stat().st_size != entry["tokens"] * TOKEN.itemsize:
                found = f"{file.stat().st_size:,} bytes" if file.exists() else "missing"
                raise InputError(
                    file, f"a corrupt shard: {found}", allowed=f"{entry['tokens']:,} tokens of 4 bytes", do="run token-shards again"
                )
            files[name] = np.memmap(file, TOKEN, mode="r")
            starts[name] = np.load(folder / f"{name}.starts.npy")
            tokens[name] = entry["tokens"]
        return cls(folder, index["vocabulary"], tokens, starts, files)

    def read(self, source: str, start: int, end: int) -> np.ndarray:
        """Tokens [start, end) of a source's stream, int64. Raises InputError for ids outside the vocabulary."""
        found = self._files[source][start:end].astype(np.int64)
        if len(found) and found.max() >= self.vocabulary:
            raise InputError(
                self.path / f"{source}.bin", f"a corrupt shard: token {found.max()}", allowed=f"under {self.vocabulary}"
            )
        return found

"""Token shards: documents as flat little-endian uint32 files, one a source, with an index of document starts (paper 3.1.2).

A document is `<|begin_of_text|>`, its text, `<|end_of_text|>`. `index.json` names the sources: file, tokens, documents.
Beside `<file>.bin`, `<file>.starts.npy` holds the token at which each document begins, as int64, and `<file>.blocks.npy` the
SHA-256 of each MiB; `documents.parquet` gives a document's id by source and number, so that any token can be traced to its page.
Held-out text is not encoded: evaluation reads it. What is read may lie here, memory-mapped, or elsewhere (`token_files.py`).
"""

import contextlib
import itertools
import json
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pyarrow as pa
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.progress import Progress
from openherd.core.records import ParquetWriter, count_rows, read_parquet
from openherd.core.remote import RemoteRun
from openherd.core.rundir import Output, Run, file_sha256
from openherd.data.block_cache import BlockCache
from openherd.data.token_files import AGAIN, TOKEN, Files, LocalFiles, LocalTokens, RemoteFiles, RemoteTokens, block_sums
from openherd.tokenizer.tokenizer import Tokenizer

FOLDER = "shards"
INDEX = "index.json"
DOCUMENT_IDS = "documents.parquet"
DOCUMENT_IDS_SCHEMA = pa.schema([("source", pa.string()), ("number", pa.int64()), ("id", pa.string())])
START = np.dtype("<i8")


@dataclass(frozen=True, kw_only=True)
class TokenShardsConfig:
    """Settings of token shards."""

    batch_documents: Annotated[int, Field(description="documents encoded at once, on all cores", ge=1)] = 256


@dataclass
class Stream:
    """A source's file while it is being written."""

    name: str  # of the file, without its ending
    file: BinaryIO
    tokens: int = 0
    starts: array = field(default_factory=lambda: array("q"))

    def append(self, document: np.ndarray) -> None:
        """Add a document's tokens."""
        self.file.write(document.astype(TOKEN, copy=False).data)
        self.starts.append(self.tokens)
        self.tokens += len(document)


def file_name(number: int, source: str) -> str:
    """A file name for the source of that number: readable, and safe whatever the source is called."""
    return f"{number:03d}-{re.sub('[^a-z0-9]+', '-', source.lower())[:40]}"


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
    """Encode `train.parquet` into `shards/`. Raises InputError where there are no documents, or one has no source."""
    words_file = tokenizer.file("tokenizer/tokenizer.json")
    words = Tokenizer.load(words_file.parent)
    source_file = documents.file("train.parquet", do="run holdout on them before")
    begin, end = np.array([words.bos_id], TOKEN), np.array([words.eos_id], TOKEN)
    streams: dict[str, Stream] = {}
    n_bytes = 0
    with out.write(FOLDER) as folder:
        folder.mkdir()
        with (
            contextlib.ExitStack() as files,
            ParquetWriter(folder / DOCUMENT_IDS, DOCUMENT_IDS_SCHEMA) as document_ids,
            Progress("token-shards", count_rows(source_file) or 0, "documents") as progress,
        ):
            batches, again = itertools.tee(in_batches(read_parquet(source_file, ["id", "source", "text"]), config.batch_documents))
            encoded = words.encode_batches([row["text"] for row in batch] for batch in again)
            for batch, found in zip(batches, encoded, strict=True):
                for row, ids in zip(batch, found, strict=True):
                    source = row["source"]
                    if not source:
                        raise InputError(source_file, f"document {row['id']} has no source", do="give each document a source")
                    if source not in streams:
                        name = file_name(len(streams), source)
                        streams[source] = Stream(name, files.enter_context((folder / f"{name}.bin").open("wb")))
                    document_ids.write({"source": source, "number": len(streams[source].starts), "id": row["id"]})
                    streams[source].append(np.concatenate([begin, ids, end]))
                    n_bytes += len(row["text"].encode())
                progress.advance(len(batch))
        if not streams:
            raise InputError(source_file, "no documents", do="look at the reasons in dropped.parquet of the stages before")
        for stream in streams.values():
            np.save(folder / f"{stream.name}.starts.npy", np.array(stream.starts, START))
            np.save(folder / f"{stream.name}.blocks.npy", block_sums(folder / f"{stream.name}.bin"))
        index = {
            "vocabulary": words.vocabulary,
            "tokenizer_sha256": file_sha256(words_file),
            "sources": {
                source: {"file": stream.name, "tokens": stream.tokens, "documents": len(stream.starts)}
                for source, stream in sorted(streams.items())
            },
        }
        (folder / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    n_tokens = sum(stream.tokens for stream in streams.values())
    return {
        "documents": sum(len(stream.starts) for stream in streams.values()),
        "train_tokens": n_tokens,
        "bytes_per_token": n_bytes / n_tokens,
        "tokens_by_source": {source: stream.tokens for source, stream in sorted(streams.items())},
    }


@dataclass(frozen=True)
class TokenShards:
    """Token shards: memory-mapped, or of a run elsewhere."""

    path: Path | str
    vocabulary: int
    tokenizer_sha256: str  # of the tokenizer.json that made the tokens
    tokens: dict[str, int]  # source to its number of tokens
    starts: dict[str, np.ndarray]  # source to the token at which each document begins
    _files: Mapping[str, np.ndarray | LocalTokens | RemoteTokens]

    @classmethod
    def open(cls, run: Run | RemoteRun, cache: BlockCache | None = None) -> "TokenShards":
        """Open the shards of a run; one elsewhere needs a cache. Raises InputError where a file is damaged or does not fit the
        index."""
        if isinstance(run, RemoteRun):
            assert cache is not None
            files: Files = RemoteFiles(run, f"{FOLDER}/", cache)
        else:
            files = LocalFiles(run.file(f"{FOLDER}/{INDEX}").parent)
        tokens, starts, found = {}, {}, {}
        try:
            with files.open(INDEX) as file:
                index = json.load(file)
            for source, entry in index["sources"].items():
                tokens[source] = int(entry["tokens"])
                if tokens[source] < 1:
                    raise InputError(files.where(INDEX), f"source {source!r} has {tokens[source]} tokens", do=AGAIN)
                found[source] = files.tokens(str(entry["file"]), tokens[source])
                starts[source] = _read_starts(files, f"{entry['file']}.starts.npy", int(entry["documents"]), tokens[source])
            if not found:
                raise InputError(files.where(INDEX), "no source", do=AGAIN)
            return cls(files.where(), int(index["vocabulary"]), str(index["tokenizer_sha256"]), tokens, starts, found)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(files.where(INDEX), f"a corrupt index ({error!r})", do=AGAIN) from None

    def read(self, source: str, start: int, end: int) -> np.ndarray:
        """Tokens [start, end) of a source's stream, int64; behind its end it begins again. Raises InputError where they are not as
        they were written, and for ids outside the vocabulary."""
        if (behind := end - self.tokens[source]) > 0:
            return np.concatenate([self.read(source, start, self.tokens[source]), self.read(source, 0, behind)])
        found = self._files[source][start:end].astype(np.int64)
        if len(found) and found.max() >= self.vocabulary:
            where = f"{self.path}, source {source!r}"
            raise InputError(where, f"a corrupt shard: token {found.max()}", allowed=f"under {self.vocabulary}", do=AGAIN)
        return found

    @property
    def are_elsewhere(self) -> bool:
        """Whether reading may take its time."""
        return any(isinstance(tokens, RemoteTokens) for tokens in self._files.values())

    def want(self, source: str, start: int, end: int) -> None:
        """Begin to fetch tokens that will be read, where they lie elsewhere."""
        tokens, n = self._files[source], self.tokens[source]
        if isinstance(tokens, RemoteTokens):
            tokens.want(start, min(end, n))
            if end > n:
                tokens.want(0, end - n)


def _read_starts(files: Files, name: str, n_documents: int, n_tokens: int) -> np.ndarray:
    where = files.where(name)
    try:
        with files.open(name) as file:
            starts: np.ndarray = np.load(file)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(where, f"a corrupt index of document starts ({error})", do=AGAIN) from None
    fits = starts.dtype == START and starts.shape == (n_documents,) and n_documents > 0 and starts[0] == 0
    if not fits or (np.diff(starts, append=n_tokens) <= 0).any():
        allowed = f"{n_documents:,} growing numbers from 0 to under {n_tokens:,}"
        raise InputError(where, "a corrupt index of document starts", allowed=allowed, do=AGAIN)
    return starts

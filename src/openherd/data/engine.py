"""Running a stage that looks at one document at a time over the documents of a run (paper 3.1).

Such a stage is a factory `prepare_NAME(config, **resources) -> Judge`, given here as `functools.partial(prepare_NAME, config, ...)`
so that other processes can build it. The documents are cut into shards, ranges of rows that follow from the input alone. A shard
that is judged is a file, whose presence means done and which carries the digest of settings and input; the shards in order are the
output, whichever engine judged them and however often it was stopped. Every document that comes in goes out or is dropped with its
reason; one at which the stage fails, dies, takes too long or too much memory is lost with that reason, and no other.

`local` judges in guarded processes here; `daft-ray` has Daft judge shards on a Ray cluster, in guarded processes there.
"""

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import dataclass, is_dataclass
from functools import partial
from queue import SimpleQueue
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from openherd.core.config import load_config, to_plain
from openherd.core.machine import cores, memory_bytes
from openherd.core.progress import Progress
from openherd.core.rundir import Output, Run, digest_of, make_directory
from openherd.data.document_shards import Shard, shards_of
from openherd.data.documents import DOCUMENTS, Funnel, Judge, Judged, account_of, check_content, judged_of
from openherd.data.guard import Child, Guard, judged_rows
from openherd.data.work import Piece

PROCESS_GB = 1.0  # where the number of processes is not given, each has so much
OWN_GB = 0.5  # what the process that starts them is given of the memory
MACHINE_SHARE = 0.75
ACCOUNTS = 2  # raised when accounts on disk change: those of an older version are not read


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How stages that look at one document at a time are run: the table [engine] of a recipe. Which documents are kept does not
    depend on it, but for those that go beyond a limit."""

    kind: Annotated[Literal["local", "daft-ray"], Field(description="processes here, or Daft on a Ray cluster")] = "local"
    address: Annotated[str, Field(description="of the Ray cluster, HOST:PORT; empty starts one here")] = ""
    processes: Annotated[
        int, Field(description="how many judge at once; 0: one a core; 1: none is started, and a document can end the run", ge=0)
    ] = 0
    memory_gb: Annotated[float, Field(description="memory for all of them; 0: three quarters of the machine's", ge=0)] = 0.0
    timeout_s: Annotated[float, Field(description="processor time for one document, in seconds", gt=0)] = 60.0

    def memory(self) -> float:
        """The memory to keep to, in GB."""
        return self.memory_gb or MACHINE_SHARE * memory_bytes() / 1e9

    def workers(self) -> int:
        """How many processes judge."""
        return self.processes or max(1, min(cores(), int((self.memory() - OWN_GB) / PROCESS_GB)))

    def table_gb(self) -> float:
        """The memory of a table of all documents, where a stage has one; beyond it, it spills."""
        return self.memory() / 2

    def process_bytes(self) -> int:
        """The memory of one of them."""
        return int(max(self.memory() - OWN_GB, self.memory() / 2) / self.workers() * 1e9)


EngineSetting = Annotated[EngineConfig, Field(description="who judges the documents, with what memory and time")]
Config = TypeVar("Config")


def settings_of_run(cls: type[Config], run: Run, changes: Mapping[str, Any] | None = None) -> Config:
    """The settings of a finished run, or with some changed, as its stage takes them.

    Of the engine the manifest holds what counts alone: `timeout_s`, beside the settings. Raises ConfigError.
    """
    settings = {**run.manifest["settings"]}
    if "timeout_s" in settings:
        settings["engine"] = {"timeout_s": settings.pop("timeout_s")}
    return load_config(cls, {**settings, **(changes or {})}, run.path)


def judge_documents(
    stage: str,
    prepare: "partial[Judge]",
    documents: Run,
    out: Output,
    engine: EngineConfig,
    watch: Callable[[Judged], None] | None = None,
    keep_lost: bool = True,
    needs: str = "text",
) -> dict[str, Any]:
    """Judge all documents of a run and write those kept, those dropped, and the account; `watch` sees what is judged, in order.

    `needs` is "text" for a stage on texts, "content" for one on pages, empty for one on both. Raises InputError for the others.

    A document that is lost was not judged. Where its content may be what the stage is there to remove, `keep_lost` is False:
    then its id and reason alone are kept.
    """
    if needs:
        check_content(documents, needs)
    shards = shards_of(documents, out.work, mark_of(stage, prepare, documents, out))
    n_rows = shards[-1].end if shards else 0
    with Progress(stage, n_rows, "documents") as progress:
        accounts = judged_accounts(prepare, documents, shards, engine, progress, keep_lost)
        first = next(accounts, None)
        if first is None:
            empty = pa.RecordBatch.from_pylist([], schema=pq.read_schema(documents.file(DOCUMENTS)))
            first = account_of(prepare()(empty), empty)
        judged = judged_of(first)
        measures = None if judged.measures is None else judged.measures.schema
        with Funnel(stage, out, judged.batch.schema, measures) as funnel:
            for account in itertools.chain([first], accounts):
                funnel.add(account)
                if watch is not None:
                    watch(judged_of(account.filter(pc.invert(account.column("lost")))))
            accounted = funnel.n_out + sum(n for n, _ in funnel.reasons.values())
            if not n_rows == funnel.n_in == accounted:
                raise AssertionError(f"{stage}: {n_rows} documents in, {accounted} accounted for")
    return funnel.metrics()


def judged_accounts(
    prepare: "partial[Judge]",
    documents: Run,
    shards: Sequence[Shard],
    engine: EngineConfig,
    progress: Progress,
    keep_lost: bool = True,
) -> Iterator[pa.RecordBatch]:
    """What is judged of all documents, in order."""
    schema = pq.read_schema(documents.file(DOCUMENTS))

    def here() -> Callable[[pa.RecordBatch], pa.RecordBatch]:
        judge, empty = prepare(), pa.RecordBatch.from_pylist([], schema=schema)
        return partial(judged_rows, judge, schemas=account_of(judge(empty), empty), keep_lost=keep_lost)

    make_guard = partial(Guard, prepare, schema, engine.timeout_s, engine.process_bytes(), keep_lost)
    return accounts_in_order(shards, make_guard, here, engine, progress)


def measure_documents(
    what: str, prepare: "partial[Judge]", documents: Run, out: Output, engine: EngineConfig
) -> Iterator[pa.RecordBatch]:
    """What a function measures of all documents, in order, without those at which it fails; it is kept like what is judged."""
    check_content(documents)
    folder = out.work / what.replace(" ", "-")
    make_directory(folder)
    shards = shards_of(documents, folder, mark_of(what, prepare, documents, out))
    with Progress(what, shards[-1].end if shards else 0, "documents") as progress:
        for account in judged_accounts(prepare, documents, shards, engine, progress):
            yield pa.RecordBatch.from_struct_array(account.filter(pc.is_null(account.column("reason"))).column("measures"))


def mark_of(stage: str, prepare: "partial[Judge]", documents: Run, out: Output) -> str:
    """The digest of what the accounts of a run's shards depend on: stage, settings and inputs."""
    settings = [to_plain(value) for value in (*prepare.args, *prepare.keywords.values()) if is_dataclass(value)]
    for values in settings:
        values.pop("engine", None)  # who judges makes no other rows
    return digest_of([ACCOUNTS, stage, out.digest, documents.digest, settings])


def accounts_in_order(
    pieces: Sequence[Piece],
    make_child: Callable[[], Child],
    make_here: Callable[[], Callable[[Any], Any]],
    engine: EngineConfig,
    progress: Progress,
) -> Iterator[pa.RecordBatch]:
    """The accounts of all pieces, in order, each as soon as it and all before it are there. `make_child` makes a process that does
    them, `make_here` what does them in this one."""
    done = {piece for piece in pieces if piece.is_done()}
    left = [piece for piece in pieces if piece not in done]
    progress.resume_at(sum(piece.done_size for piece in pieces))
    with closing(done_pieces(left, make_child, make_here, engine, progress)) as finished:
        for piece in pieces:
            while piece not in done:
                done.add(next(finished))
            yield from piece.accounts()


def done_pieces(
    pieces: Sequence[Piece],
    make_child: Callable[[], Child],
    make_here: Callable[[], Callable[[Any], Any]],
    engine: EngineConfig,
    progress: Progress,
) -> Generator[Piece, None, None]:
    """Do pieces of work; yields each when it is done."""
    if engine.kind == "daft-ray":
        from openherd.data.daft_ray import done_on_ray

        for piece in done_on_ray(make_child, pieces, engine.processes, engine.address):
            progress.advance(piece.size)
            yield piece
    elif engine.processes == 1:
        here = make_here()
        for piece in pieces:
            piece.do(here, progress.advance)
            yield piece
    else:
        children = [make_child() for _ in range(min(engine.workers(), len(pieces)))]
        yield from done_by_children(children, pieces, progress)


def done_by_children(children: Sequence[Child], pieces: Sequence[Piece], progress: Progress) -> Generator[Piece, None, None]:
    """Do pieces of work by processes here, each asked by a thread; yields each when it is done."""
    free: SimpleQueue[Child] = SimpleQueue()
    for child in children:
        free.put(child)
    lock = threading.Lock()

    def advance(n: int) -> None:
        with lock:
            progress.advance(n)

    def do(piece: Piece) -> Piece:
        child = free.get()
        try:
            piece.do(child, advance)
        finally:
            free.put(child)
        return piece

    with ExitStack() as stack:
        for child in children:
            stack.enter_context(child)
        pool = stack.enter_context(ThreadPoolExecutor(len(children)))
        futures = [pool.submit(do, piece) for piece in pieces]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
            for child in children:
                child.end()

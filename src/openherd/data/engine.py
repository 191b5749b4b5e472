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
from openherd.core.rundir import Output, Run, digest_of
from openherd.data.document_shards import Shard, shards_of
from openherd.data.documents import DOCUMENTS, Funnel, Judge, Judged, account_of, judged_of
from openherd.data.guard import Guard, judged_rows

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
    watch: Callable[[Judged], None] = lambda judged: None,
    keep_lost: bool = True,
) -> dict[str, Any]:
    """Judge all documents of a run and write those kept, those dropped, and the account; `watch` sees what is judged, in order.

    A document that is lost was not judged. Where its content may be what the stage is there to remove, `keep_lost` is False:
    then its id and reason alone are kept.
    """
    shards = shards_of(documents, out.work, mark_of(stage, prepare, documents, out))
    n_rows = shards[-1].end if shards else 0
    with Progress(stage, n_rows, "documents") as progress:
        accounts = accounts_in_order(prepare, documents, shards, engine, progress, keep_lost)
        first = next(accounts, None)
        if first is None:
            empty = pa.RecordBatch.from_pylist([], schema=pq.read_schema(documents.file(DOCUMENTS)))
            first = account_of(prepare()(empty), empty)
        judged = judged_of(first)
        measures = None if judged.measures is None else judged.measures.schema
        with Funnel(stage, out, judged.batch.schema, measures) as funnel:
            for account in itertools.chain([first], accounts):
                funnel.add(account)
                watch(judged_of(account.filter(pc.invert(account.column("lost")))))
            accounted = funnel.n_out + sum(n for n, _ in funnel.reasons.values())
            if not n_rows == funnel.n_in == accounted:
                raise AssertionError(f"{stage}: {n_rows} documents in, {accounted} accounted for")
    return funnel.metrics()


def mark_of(stage: str, prepare: "partial[Judge]", documents: Run, out: Output) -> str:
    """The digest of what the accounts of a run's shards depend on: stage, settings and inputs."""
    settings = [to_plain(value) for value in (*prepare.args, *prepare.keywords.values()) if is_dataclass(value)]
    for values in settings:
        values.pop("engine", None)  # who judges makes no other rows
    return digest_of([ACCOUNTS, stage, out.digest, documents.digest, settings])


def accounts_in_order(
    prepare: "partial[Judge]",
    documents: Run,
    shards: Sequence[Shard],
    engine: EngineConfig,
    progress: Progress,
    keep_lost: bool,
) -> Iterator[pa.RecordBatch]:
    """What is judged of all documents, in order, each account as soon as it and all before it are there."""
    done = {shard for shard in shards if shard.is_done()}
    left = [shard for shard in shards if shard not in done]
    progress.resume_at(sum(shard.rows for shard in done))
    with closing(judged_shards(prepare, documents, left, engine, progress, keep_lost)) as finished:
        for shard in shards:
            while shard not in done:
                done.add(next(finished))
            yield from shard.accounts()


def judged_shards(
    prepare: "partial[Judge]",
    documents: Run,
    shards: Sequence[Shard],
    engine: EngineConfig,
    progress: Progress,
    keep_lost: bool,
) -> Generator[Shard, None, None]:
    """Judge shards; yields each when it is done."""
    schema = pq.read_schema(documents.file(DOCUMENTS))
    make_guard = partial(Guard, prepare, schema, engine.timeout_s, engine.process_bytes(), keep_lost)
    if engine.kind == "daft-ray":
        from openherd.data.daft_ray import judged_on_ray

        for shard in judged_on_ray(make_guard, shards, engine.processes, engine.address):
            progress.advance(shard.rows)
            yield shard
    elif engine.processes == 1:
        judge, empty = prepare(), pa.RecordBatch.from_pylist([], schema=schema)
        schemas = account_of(judge(empty), empty)
        for shard in shards:
            shard.judge(partial(judged_rows, judge, schemas=schemas, keep_lost=keep_lost), progress.advance)
            yield shard
    else:
        guards = [make_guard() for _ in range(min(engine.workers(), len(shards)))]
        yield from judged_by_guards(guards, shards, progress)


def judged_by_guards(guards: Sequence[Guard], shards: Sequence[Shard], progress: Progress) -> Generator[Shard, None, None]:
    """Judge shards by processes here, each fed by a thread; yields each when it is done."""
    free: SimpleQueue[Guard] = SimpleQueue()
    for guard in guards:
        free.put(guard)
    lock = threading.Lock()

    def advance(n: int) -> None:
        with lock:
            progress.advance(n)

    def judge(shard: Shard) -> Shard:
        guard = free.get()
        try:
            shard.judge(guard.judge, advance)
        finally:
            free.put(guard)
        return shard

    with ExitStack() as stack:
        for guard in guards:
            stack.enter_context(guard)
        pool = stack.enter_context(ThreadPoolExecutor(len(guards)))
        futures = [pool.submit(judge, shard) for shard in shards]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
            for guard in guards:
                guard.end()

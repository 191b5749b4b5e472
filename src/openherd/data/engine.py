"""Running a stage that looks at one document at a time over the documents of a run (paper 3.1).

Such a stage is a factory `prepare_NAME(config, **resources) -> Judge`, given here as `functools.partial(prepare_NAME, config, ...)`
so that another process can build it. Every document that comes in goes out or is dropped with its reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from openherd.core.progress import Progress
from openherd.core.records import count_rows
from openherd.core.rundir import Output, Run
from openherd.data.documents import DOCUMENTS, Funnel, Judge, Judged

BATCH_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the stages of a recipe are run, in its table [engine]."""


def judge_documents(
    stage: str,
    prepare: Callable[[], Judge],
    documents: Run,
    out: Output,
    engine: EngineConfig,
    watch: Callable[[Judged], None] = lambda judged: None,
) -> dict[str, Any]:
    """Judge all documents of a run and write those kept, those dropped, and the account; `watch` sees what is judged, in order."""
    judge = prepare()
    file = documents.file(DOCUMENTS)
    schema = judge(pa.RecordBatch.from_pylist([], schema=pq.read_schema(file))).batch.schema
    with Funnel(stage, out, schema) as funnel, Progress(stage, count_rows(file) or 0, "documents") as progress:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=BATCH_ROWS):
            judged = judge(batch)
            if len(judged.drops) != len(batch):
                raise AssertionError(f"{stage}: {len(batch)} documents in, {len(judged.drops)} accounted for")
            watch(judged)
            for row, made, drop in zip(batch.to_pylist(), judged.batch.to_pylist(), judged.drops, strict=True):
                funnel.take(row)
                funnel.keep(made) if drop is None else funnel.drop(made, drop)
            progress.advance(len(batch))
    return funnel.metrics()

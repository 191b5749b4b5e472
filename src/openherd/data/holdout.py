"""Documents set aside for evaluation, and the proof that they stand apart from all that is trained on (paper 3.1.3).

Candidates are chosen by a hash of seed and id, one document at a time, so that the choice does not depend on order or on other
documents. Then the overlap of each is measured: the share of its shingles that stand anywhere in the training text, in one
document or spread over many. A candidate above the limit goes back to training (or out of both), and what goes back counts as
training text for the others, until all that are left are within the limit. The paper does not say how its own held-out text was
kept apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.progress import track
from openherd.core.records import ParquetWriter, count_rows
from openherd.core.rundir import Output, Run
from openherd.core.seeds import uniform
from openherd.data.documents import DOCUMENTS, DROPPED, check_content, content_bytes, dropped_schema, read_documents
from openherd.data.shingles import Hashes, shingles
from openherd.data.words import terms

TRAIN = "train.parquet"
HELDOUT = "heldout.parquet"
REASON = "overlaps training text"


@dataclass(frozen=True, kw_only=True)
class HoldoutConfig:
    """Settings of `holdout`. The paper is silent; ours, but for the 8-word shingles of its contamination study (5.1.4)."""

    share: Annotated[float, Field(description="share of documents that are candidates", gt=0, lt=1)] = 0.05
    max_documents: Annotated[int, Field(description="largest number of candidates; 0 = no limit", ge=0)] = 0
    shingle_words: Annotated[int, Field(description="words per shingle", ge=1)] = 8
    max_overlap: Annotated[
        float, Field(description="largest share of a held-out document's shingles that may stand in the training text", ge=0, le=1)
    ] = 0.2
    overlapping: Annotated[
        Literal["train", "drop"], Field(description="what becomes of a candidate above that: training text, or dropped from both")
    ] = "train"
    seed: Annotated[int, Field(description="seed of the choice")] = 0


def candidates(config: HoldoutConfig, ids: list[str]) -> set[str]:
    """The ids that are chosen, before their overlap is known."""
    drawn = {id_: uniform(config.seed, "holdout", id_) for id_ in ids}
    chosen = sorted((id_ for id_ in drawn if drawn[id_] < config.share), key=lambda id_: (drawn[id_], id_))
    return set(chosen[: config.max_documents or None])


def overlaps(config: HoldoutConfig, documents: Run, chosen: set[str]) -> tuple[dict[str, float], dict[str, float]]:
    """The overlap with the training text of the candidates that stay held out, and of those that do not.

    Memory holds the candidates' shingles alone; the training text is streamed past them.
    """
    own: dict[str, Hashes] = {
        row["id"]: shingles(terms(row["text"]), config.shingle_words)
        for row in read_documents(documents, ["id", "text"])
        if row["id"] in chosen
    }
    known = np.unique(np.concatenate(list(own.values()))) if own else np.empty(0, np.uint64)
    in_training = np.zeros(len(known), bool)
    rows = read_documents(documents, ["id", "text"])
    for row in track(rows, "overlap", "documents", count_rows(documents.file(DOCUMENTS)) or 0):
        if row["id"] not in chosen:
            found = np.intersect1d(known, shingles(terms(row["text"]), config.shingle_words), assume_unique=True)
            in_training[np.searchsorted(known, found)] = True
    place = {id_: np.searchsorted(known, shingled) for id_, shingled in own.items()}
    above: dict[str, float] = {}
    while True:
        left = {id_: float(in_training[at].mean()) if len(at) else 0.0 for id_, at in place.items() if id_ not in above}
        over = {id_: overlap for id_, overlap in left.items() if overlap > config.max_overlap}
        if not over:
            return left, above
        above |= over
        if config.overlapping == "train":
            for id_ in over:
                in_training[place[id_]] = True


def holdout(config: HoldoutConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Split documents into `train.parquet` and `heldout.parquet`; raises InputError where none can be held out."""
    check_content(documents)
    file = documents.file(DOCUMENTS)
    ids = [row["id"] for row in read_documents(documents, ["id"])]
    if not ids:
        raise InputError(file, "no documents", do="look at the reasons in dropped.parquet of the stages before")
    chosen = candidates(config, ids)
    apart, above = overlaps(config, documents, chosen)
    if not apart:
        found = (
            f"none of {len(chosen)} candidates is within max_overlap = {config.max_overlap}"
            if chosen
            else f"none of {len(ids)} is chosen"
        )
        raise InputError(file, found, do="raise share or max_overlap, give another seed, or remove more duplicates before")

    dropped = above if config.overlapping == "drop" else {}
    counts = {part: {"documents": 0, "bytes": 0} for part in ("in", "train", "heldout", "dropped")}

    def count(part: str, row: Mapping[str, Any]) -> None:
        counts[part]["documents"] += 1
        counts[part]["bytes"] += content_bytes(row)

    schema = pq.read_schema(file)
    with (
        out.write(TRAIN) as train_path,
        out.write(HELDOUT) as heldout_path,
        out.write(DROPPED) as dropped_path,
        ParquetWriter(train_path, schema) as train,
        ParquetWriter(heldout_path, schema) as heldout,
        ParquetWriter(dropped_path, dropped_schema(schema)) as dropped_rows,
    ):
        for row in read_documents(documents):
            count("in", row)
            if row["id"] in apart:
                heldout.write(row)
                count("heldout", row)
            elif row["id"] in dropped:
                detail = (
                    f"{dropped[row['id']]:.3f} of its {config.shingle_words}-word shingles stand in it, limit {config.max_overlap}"
                )
                dropped_rows.write({**row, "stage": "holdout", "reason": REASON, "detail": detail})
                count("dropped", row)
            else:
                train.write(row)
                count("train", row)
    return {
        "documents_in": counts["in"]["documents"],
        "documents_out": counts["train"]["documents"] + counts["heldout"]["documents"],
        "bytes_in": counts["in"]["bytes"],
        "bytes_out": counts["train"]["bytes"] + counts["heldout"]["bytes"],
        "dropped": {REASON: counts["dropped"]} if dropped else {},
        "train_documents": counts["train"]["documents"],
        "train_bytes": counts["train"]["bytes"],
        "heldout_documents": counts["heldout"]["documents"],
        "heldout_bytes": counts["heldout"]["bytes"],
        "returned_documents": len(above) - len(dropped),
        "overlap_max": max(apart.values()),
        "overlap_mean": sum(apart.values()) / len(apart),
    }

"""Which field of knowledge each document is of, and how large the fields are (paper 3.1.2).

The paper's knowledge classifier finds what the web has too much of, arts and entertainment for one, so that it can be downsampled;
its categories are not published. Here the classifier is one of one's own: trained on labelled texts (`train-classifier`), or on
clusters (`cluster-documents`). Each document gets the likeliest field and its probability.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from openherd.core.errors import ConfigError
from openherd.core.rundir import Output, Outside, Run
from openherd.data.classifier import load, place_of, with_columns
from openherd.data.documents import LANGUAGE_SCHEMA, Judge, Judged
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents


@dataclass(frozen=True, kw_only=True)
class DomainsConfig:
    """Settings of `domains`; the paper publishes none."""

    column: Annotated[str, Field(description="column that keeps the field", min_length=1)] = "domain"
    min_score: Annotated[float, Field(description="probability under which a document is of no field", ge=0, le=1)] = 0.0
    unknown: Annotated[str, Field(description="what those are called", min_length=1)] = "other"
    engine: EngineSetting = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if self.column in LANGUAGE_SCHEMA.names:
            raise ConfigError("domains", f"column = {self.column!r}, which every document has", do="give another name")


def prepare_domains(config: DomainsConfig, place: str) -> Judge:
    """The stage on batches."""
    model = load(Path(place))

    def judge(batch: pa.RecordBatch) -> Judged:
        scores = model.score(batch.column("text").to_pylist())
        if scores.ndim == 1:
            scores = np.stack([1 - scores, scores], axis=1)
        best = scores.argmax(axis=1) if len(scores) else np.empty(0, int)
        values = scores[np.arange(len(best)), best].astype(np.float32)
        names = [model.labels[i] if v >= config.min_score else config.unknown for i, v in zip(best, values.tolist(), strict=True)]
        columns = {config.column: pa.array(names, pa.string()), f"{config.column}_score": pa.array(values, pa.float32())}
        return Judged(with_columns(batch, columns), [None] * len(batch))

    return judge


def shares(counts: dict[str, list[int]]) -> dict[str, dict[str, float]]:
    """Documents and bytes by name as numbers and shares, the largest first."""
    documents, size = (max(sum(row[i] for row in counts.values()), 1) for i in (0, 1))
    return {
        name: {"documents": n, "bytes": b, "document_share": n / documents, "byte_share": b / size}
        for name, (n, b) in sorted(counts.items(), key=lambda row: (-row[1][1], row[0]))
    }


def domains(config: DomainsConfig, *, documents: Run, classifier: Run | Outside, out: Output) -> dict[str, Any]:
    """Give each document its field; returns the shares of fields besides the funnel, over all and by language."""
    place = str(place_of(classifier))
    labels = load(Path(place)).labels
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    by_language: dict[str, Counter[str]] = defaultdict(Counter)

    def watch(judged: Judged) -> None:
        names = judged.batch.schema.names
        languages = judged.batch.column("language").to_pylist() if "language" in names else [""] * len(judged.batch)
        texts = judged.batch.column("text").to_pylist()
        for name, text, language in zip(judged.batch.column(config.column).to_pylist(), texts, languages, strict=True):
            counts[name][0] += 1
            counts[name][1] += len(text.encode())
            by_language[language or ""][name] += 1

    metrics = judge_documents("domains", partial(prepare_domains, config, place), documents, out, config.engine, watch)
    return metrics | {
        "fields": len(labels),
        "shares": shares(counts),
        "documents_by_language": {language: dict(found.most_common()) for language, found in sorted(by_language.items())},
    }

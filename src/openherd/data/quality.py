"""Model-based quality filtering (paper 3.1.1): each document has a classifier's score, and goes by it or stays.

Four ways: `threshold` drops what scores less; `top` keeps the best share of each language, so that no language is judged by another's
scores; `soft` keeps what scores at least the threshold and below it a share that falls as (score / threshold) ^ power; `pareto` is
GPT-3's rule (Brown et al. 2020, appendix A), which keeps with probability (2 - score) ^ -alpha. What is drawn depends on seed and id
alone. The score stays with the document, so that deduplication can keep the best. The paper gives no threshold.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from openherd.core.errors import ConfigError
from openherd.core.progress import track
from openherd.core.records import count_rows
from openherd.core.rundir import Output, Outside, Run
from openherd.core.seeds import uniform
from openherd.data.classifier import Classifier, checked_label, in_batches, load, place_of, probability_of
from openherd.data.documents import DOCUMENTS, Drop, curate, read_documents

HISTOGRAM_BINS = 40


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Settings of `quality`; the paper publishes none."""

    mode: Annotated[Literal["threshold", "top", "soft", "pareto"], Field(description="how a score decides")] = "threshold"
    threshold: Annotated[float, Field(description="of the score, for threshold and soft", ge=0, le=1)] = 0.5
    top_share: Annotated[float, Field(description="share of each language's documents that top keeps", gt=0, le=1)] = 0.5
    power: Annotated[float, Field(description="how fast soft falls below the threshold", gt=0)] = 4.0
    alpha: Annotated[float, Field(description="pareto's; GPT-3's is 9", gt=0)] = 9.0
    label: Annotated[str, Field(description="the label whose probability is the score; empty: the second of two")] = ""
    score_column: Annotated[str, Field(description="column that keeps the score", min_length=1)] = "score"
    seed: Annotated[int, Field(description="seed of what soft and pareto draw")] = 0


def keep_probability(config: QualityConfig, score: float) -> float:
    """The share of documents of a score that is kept, for all modes but `top`."""
    if config.mode == "pareto":
        return float((2 - score) ** -config.alpha)
    if score >= config.threshold:
        return 1.0
    return float((score / config.threshold) ** config.power) if config.mode == "soft" else 0.0


def judge(config: QualityConfig, id_: str, score: float, least: float | None = None) -> Drop | None:
    """Whether a document goes; `least` is the lowest score that `top` keeps of its language."""
    if config.mode == "top":
        assert least is not None
        return None if score >= least else Drop("quality", f"{score:.4f}, its language's best {config.top_share:g} begin at {least:.4f}")
    p = keep_probability(config, score)
    if p >= 1 or (p > 0 and uniform(config.seed, "quality", id_) < p):
        return None
    return Drop("quality", f"{score:.4f}, limit {config.threshold:g}" if config.mode == "threshold" else f"{score:.4f}, kept {p:.3f}")


def least_scores(scores: Mapping[str, np.ndarray], top_share: float) -> dict[str, float]:
    """The score of the last document that is among the best of each language; equal scores stay together."""
    return {
        language: float(np.partition(of, len(of) - n)[len(of) - n])
        for language, of in scores.items()
        if (n := max(round(top_share * len(of)), 1))
    }


def scored(classifier: Classifier, label: str, rows: Iterable[dict[str, Any]], column: str) -> Iterator[dict[str, Any]]:
    """The rows with their score, rounded to what the column holds, so that it decides as it is read."""
    for batch in in_batches(rows):
        found = probability_of(classifier, [row["text"] for row in batch], label).astype(np.float32)
        for row, score in zip(batch, found.tolist(), strict=True):
            yield {**row, column: score}


def quality(config: QualityConfig, *, documents: Run, classifier: Run | Outside, out: Output) -> dict[str, Any]:
    """Score documents, keep them by their score; returns scores by language besides the funnel."""
    model = load(place_of(classifier))
    label = checked_label(model, config.label, "quality")
    file = documents.file(DOCUMENTS)
    schema = pq.read_schema(file)
    if config.score_column in schema.names:
        found = f"the documents have a column {config.score_column!r}"
        raise ConfigError("quality", found, do="give another score_column")
    schema = schema.append(pa.field(config.score_column, pa.float32()))
    by_language: dict[str, list[float]] = defaultdict(list)
    least: dict[str, float] = {}
    if config.mode == "top":
        first: dict[str, list[float]] = defaultdict(list)
        names = [name for name in ("language", "text") if name in schema.names]
        rows = track(read_documents(documents, names), "scoring", "documents", count_rows(file) or 0)
        for row in scored(model, label, rows, config.score_column):
            first[row.get("language") or ""].append(row[config.score_column])
        least = least_scores({language: np.array(of, np.float32) for language, of in first.items()}, config.top_share)

    def decide(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
        for row in scored(model, label, rows, config.score_column):
            language, score = row.get("language") or "", row[config.score_column]
            by_language[language].append(score)
            yield row, judge(config, row["id"], score, least.get(language))

    metrics = curate("quality", documents, out, schema, decide)
    histogram = np.zeros(HISTOGRAM_BINS, int)
    for of in by_language.values():
        histogram += np.bincount(np.minimum((np.array(of) * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1), minlength=HISTOGRAM_BINS)
    return metrics | {
        "label": label,
        "mean_score_by_language": {language: float(np.mean(of)) for language, of in sorted(by_language.items())},
        **({"least_score_by_language": dict(sorted(least.items()))} if least else {}),
        "score_histogram": histogram.tolist(),
    }

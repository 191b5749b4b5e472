"""Model-based quality filtering (paper 3.1.1): each document has a classifier's score, and goes by it or stays.

Four ways: `threshold` drops what scores less; `top` keeps the best share of each language, so that no language is judged by
another's scores; `soft` keeps what scores at least the threshold and below it a share that falls as (score / threshold) ^ power;
`pareto` is GPT-3's rule (Brown et al. 2020, appendix A), which keeps with probability (2 - score) ^ -alpha. What is drawn depends
on seed and id alone. The score stays with the document, so that deduplication can keep the best. The paper gives no threshold.
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from openherd.core.errors import ConfigError
from openherd.core.rundir import Output, Outside, Run
from openherd.core.seeds import uniform
from openherd.data.classifier import checked_label, load, place_of, scores_column, with_columns
from openherd.data.documents import DOCUMENTS, Drop, Judge, Judged
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents, measure_documents

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
    engine: EngineSetting = field(default_factory=EngineConfig)


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
        return (
            None
            if score >= least
            else Drop("quality", f"{score:.4f}, its language's best {config.top_share:g} begin at {least:.4f}")
        )
    p = keep_probability(config, score)
    if p >= 1 or (p > 0 and uniform(config.seed, "quality", id_) < p):
        return None
    return Drop(
        "quality", f"{score:.4f}, limit {config.threshold:g}" if config.mode == "threshold" else f"{score:.4f}, kept {p:.3f}"
    )


def limits(config: QualityConfig, language: str | None) -> dict[str, tuple[float, float]]:
    """The lowest score, where one limit is for all documents and decides alone."""
    return {config.score_column: (config.threshold, np.inf)} if config.mode == "threshold" else {}


def least_scores(scores: Mapping[str, np.ndarray], top_share: float) -> dict[str, float]:
    """The score of the last document that is among the best of each language; equal scores stay together."""
    return {
        language: float(np.partition(of, len(of) - n)[len(of) - n])
        for language, of in scores.items()
        if (n := max(round(top_share * len(of)), 1))
    }


def prepare_quality(config: QualityConfig, place: str, label: str, least: Mapping[str, float]) -> Judge:
    """The stage on batches; `least` are the scores at which the best of each language begin, for `top`."""
    model = load(Path(place))

    def decide(batch: pa.RecordBatch) -> Judged:
        column = scores_column(model, label, batch)
        ids = batch.column("id").to_pylist()
        languages = batch.column("language").to_pylist() if "language" in batch.schema.names else [""] * len(batch)
        rows = zip(ids, languages, column.to_pylist(), strict=True)
        drops = [judge(config, id_, score, least.get(language or "")) for id_, language, score in rows]
        measures = pa.RecordBatch.from_arrays([column], [config.score_column])
        return Judged(with_columns(batch, {config.score_column: column}), drops, measures)

    return decide


SCORES_SCHEMA = pa.schema([("language", pa.string()), ("score", pa.float32())])


def prepare_scores(place: str, label: str) -> Judge:
    """The scores of batches of documents."""
    model = load(Path(place))

    def score(batch: pa.RecordBatch) -> Judged:
        languages = batch.column("language").to_pylist() if "language" in batch.schema.names else [""] * len(batch)
        columns = {"language": languages, "score": scores_column(model, label, batch)}
        return Judged(batch.select(["id"]), [None] * len(batch), pa.RecordBatch.from_pydict(columns, SCORES_SCHEMA))

    return score


def scores_by_language(config: QualityConfig, place: str, label: str, documents: Run, out: Output) -> dict[str, np.ndarray]:
    """The scores of all documents, 4 bytes each."""
    found: dict[str, array[float]] = defaultdict(lambda: array("f"))
    for scored in measure_documents("scoring", partial(prepare_scores, place, label), documents, out, config.engine):
        for language, score in zip(*(column.to_pylist() for column in scored.columns), strict=True):
            found[language or ""].append(score)
    return {language: np.array(of, np.float32) for language, of in found.items()}


def quality(config: QualityConfig, *, documents: Run, classifier: Run | Outside, out: Output) -> dict[str, Any]:
    """Score documents, keep them by their score; returns scores by language besides the funnel."""
    place = str(place_of(classifier))
    label = checked_label(load(Path(place)), config.label, "quality")
    if config.score_column in pq.read_schema(documents.file(DOCUMENTS)).names:
        found = f"the documents have a column {config.score_column!r}"
        raise ConfigError("quality", found, do="give another score_column")
    is_top = config.mode == "top"
    least = least_scores(scores_by_language(config, place, label, documents, out), config.top_share) if is_top else {}
    histogram = np.zeros(HISTOGRAM_BINS, int)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])  # of scores, and how many, by language

    def watch(judged: Judged) -> None:
        nonlocal histogram
        scores = judged.batch.column(config.score_column).to_numpy()
        bins = np.minimum((scores * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
        histogram += np.bincount(bins, minlength=HISTOGRAM_BINS)
        languages = judged.batch.column("language").to_pylist() if "language" in judged.batch.schema.names else [""] * len(scores)
        for language, score in zip(languages, scores.tolist(), strict=True):
            sums[language or ""][0] += score
            sums[language or ""][1] += 1

    prepare = partial(prepare_quality, config, place, label, least)
    metrics = judge_documents("quality", prepare, documents, out, config.engine, watch)
    return metrics | {
        "label": label,
        "mean_score_by_language": {language: total / n for language, (total, n) in sorted(sums.items())},
        **({"least_score_by_language": dict(sorted(least.items()))} if least else {}),
        "score_histogram": histogram.tolist(),
    }

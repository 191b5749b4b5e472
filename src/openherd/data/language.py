"""Language identification (paper 3.1.1: fastText over 176 languages). Here py3langid, whose model of 140 languages (version 0.4)
is inside the wheel.

Only the first 2,000 characters of the document's prose are looked at: lines with few letters (code, tables) say little.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Annotated, Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pydantic import Field

from openherd.core.rundir import Output, Run
from openherd.data.documents import LANGUAGE_SCHEMA, Drop, Judge, Judged, judge_rows
from openherd.data.engine import EngineConfig, judge_documents

SAMPLE_CHARACTERS = 2_000


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Settings of `language`."""

    languages: Annotated[
        tuple[str, ...], Field(description="ISO 639 codes to keep, of two letters where there is one; empty keeps all")
    ] = ()
    min_score: Annotated[
        float, Field(description="probability under which a document is dropped; the paper is silent", ge=0, le=1)
    ] = 0.0
    engine: Annotated[
        EngineConfig, Field(description="how documents are spread over processes: kind, processes, memory_gb and more")
    ] = field(default_factory=EngineConfig)


@cache
def identifier() -> LanguageIdentifier:
    """The model, loaded once."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def sample(text: str) -> str:
    """The first prose of a text: lines that are mostly letters and spaces, or any text where there are none."""
    lines = [line for line in text[: 4 * SAMPLE_CHARACTERS].splitlines() if line.strip()]
    prose = [line for line in lines if sum(c.isalpha() or c.isspace() for c in line) > 0.8 * len(line)]
    return ("\n".join(prose) or text)[:SAMPLE_CHARACTERS]


def identify(text: str) -> tuple[str, float]:
    """The most likely language and its probability."""
    code, score = identifier().classify(sample(text))
    return str(code), float(score)


def prepare_language(config: LanguageConfig) -> Judge:
    """The stage on batches of documents."""

    def decide(row: dict[str, Any]) -> tuple[dict[str, Any], Drop | None]:
        code, score = identify(row["text"])
        drop = None
        if config.languages and code not in config.languages:
            drop = Drop("language", f"{code} ({score:.2f})")
        elif score < config.min_score:
            drop = Drop("language score", f"{code} {score:.2f}, limit {config.min_score}")
        return {**row, "language": code, "language_score": score}, drop

    return judge_rows(LANGUAGE_SCHEMA, decide)


def language(config: LanguageConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Add `language` and `language_score`; drop what is not asked for. Returns documents by language besides the funnel."""
    counts: Counter[str] = Counter()

    def count(judged: Judged) -> None:
        languages = judged.batch.column("language").to_pylist()
        counts.update(code for code, drop in zip(languages, judged.drops, strict=True) if drop is None)

    metrics = judge_documents("language", partial(prepare_language, config), documents, out, config.engine, count)
    return metrics | {"documents_by_language": dict(sorted(counts.items()))}

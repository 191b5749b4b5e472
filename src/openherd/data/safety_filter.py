"""Known-illegal content, domains of phishing and spam, and harmful text by classifiers (paper 3.1.1: unsafe and adult content).

Known-illegal content is told by the SHA-256 of a page's bytes, of a document's text, or of its text as `plain_text` spells it,
from a list of one's own. Of such a document nothing is kept but its id and the reason: no text, title, address or score. It is
asked first. Then come lists of domains (data/address_lists.py), then classifiers that were trained elsewhere (`classifiers/`,
or a fastText file): a folder's model gives each text a probability, and a document over the threshold goes, or is counted alone
in mode "report".

`measures.parquet` has the domain, the scores and the verdict of each document: `domain-filter` adds them up.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from openherd.core.errors import ConfigError
from openherd.core.rundir import Output, Outside, Run
from openherd.data.address_lists import AddressRules, Builder
from openherd.data.documents import Drop, Judge, Judged
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents
from openherd.data.lists import read_list
from openherd.data.pii import domain_of
from openherd.data.url_filter import checked_digests
from openherd.data.urls import normalise

CLASSIFIERS = ("toxicity", "adult")


@dataclass(frozen=True, kw_only=True)
class SafetyFilterConfig:
    """Settings of `safety-filter`. The paper names the filters and no threshold."""

    illegal_sha256: Annotated[
        tuple[str, ...],
        Field(description="SHA-256 of bytes, texts or plain texts that must not be kept; added to the input `illegal`"),
    ] = ()
    categories: Annotated[
        tuple[str, ...], Field(description="categories of the input `domains` that are used; empty: all of them")
    ] = ()
    # A probability of a calibrated classifier: from 0.5 on it is more likely so than not. Web text has few such pages: 0.9 keeps
    # discussions of the subject, which a lower limit loses first.
    toxicity_threshold: Annotated[float, Field(description="probability from which on a document is toxic", ge=0, le=1)] = 0.9
    adult_threshold: Annotated[float, Field(description="probability from which on a document is adult", ge=0, le=1)] = 0.9
    toxicity_label: Annotated[str, Field(description="the classifier's label for toxic text; empty: the second of two")] = ""
    adult_label: Annotated[str, Field(description="the classifier's label for adult text; empty: the second of two")] = ""
    mode: Annotated[Literal["drop", "report"], Field(description="what is done with text that a classifier finds harmful")] = "drop"
    max_characters: Annotated[int, Field(description="characters of a document that the classifiers read", ge=100)] = 20_000
    engine: EngineSetting = field(default_factory=EngineConfig)


Scorer = Callable[[Sequence[str]], npt.NDArray[np.float64]]  # probabilities that texts are of the class that is looked for


def plain_text(text: str) -> str:
    """A text as digests compare it: compatible characters as one (NFKC), small letters, single blanks, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digests_of(row: Mapping[str, Any]) -> set[str]:
    """The digests by which a page or document may be known."""
    contents = [row["content"]] if row.get("content") is not None else []
    if row.get("text") is not None:
        contents += [row["text"].encode("utf-8", "surrogatepass"), plain_text(row["text"]).encode("utf-8", "surrogatepass")]
    return {hashlib.sha256(content).hexdigest() for content in contents}


def measures_schema() -> pa.Schema:
    """What is measured of a document; a score is null where its classifier was not asked."""
    scores = [(name, pa.float32()) for name in CLASSIFIERS]
    return pa.schema([("domain", pa.string()), *scores, ("harmful", pa.bool_())])


def limits(config: SafetyFilterConfig, language: str | None) -> dict[str, tuple[float, float]]:
    """The highest probability by each classifier: below its threshold."""
    return {name: (0.0, float(np.nextafter(getattr(config, f"{name}_threshold"), -1))) for name in CLASSIFIERS}


@dataclass
class SafetyRules:
    """Everything that is asked of a document, in order; a pure function of it."""

    config: SafetyFilterConfig
    illegal: set[str]
    lists: AddressRules
    scorers: Mapping[str, Scorer] = field(default_factory=dict)

    def known(self, row: Mapping[str, Any]) -> Drop | None:
        """Why a document goes that is known, by its content or by its address."""
        if self.illegal and digests_of(row) & self.illegal:
            return Drop("illegal content", keep_content=False)
        found, is_allowed = self.lists.find(normalise(row.get("url") or ""))
        return Drop("unsafe domain", ", ".join(filter(None, found))) if found and not is_allowed else None

    def scores(self, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """The probabilities by each classifier."""
        read = [text[: self.config.max_characters] for text in texts]
        return {name: scorer(read) for name, scorer in self.scorers.items()}

    def by_scores(self, scores: Mapping[str, float]) -> Drop | None:
        """Why a document goes by its scores: the first classifier over its threshold."""
        for name, score in scores.items():
            threshold = getattr(self.config, f"{name}_threshold")
            if score >= threshold:
                return Drop(name, f"{score:.3f}, limit {threshold:g}")
        return None

    def judge(self, batch: pa.RecordBatch) -> Judged:
        """A batch of pages or documents; pages, which have no text yet, are asked for content and address alone."""
        rows = batch.to_pylist()
        drops = [self.known(row) for row in rows]
        asked = [place for place, drop in enumerate(drops) if drop is None and "text" in batch.schema.names]
        scores = self.scores([rows[place]["text"] or "" for place in asked]) if asked else {}
        measures: list[dict[str, Any]] = [
            {
                "domain": domain_of(row["url"]) if drop is None or drop.keep_content else "",
                "harmful": drop is not None,
            }
            for row, drop in zip(rows, drops, strict=True)
        ]
        for i, place in enumerate(asked):
            own = {name: float(values[i]) for name, values in scores.items()}
            drop = self.by_scores(own)
            measures[place] |= {**own, "harmful": drop is not None}
            drops[place] = drop if self.config.mode == "drop" else None
        return Judged(batch, drops, pa.RecordBatch.from_pylist(measures, schema=measures_schema()))


def prepare_safety_filter(
    config: SafetyFilterConfig, *, illegal: tuple[str, ...], lists: AddressRules, models: Mapping[str, Path]
) -> Judge:
    """The judgement over batches; `models` holds a classifier's folder, or file, by its name."""
    digests = checked_digests((*config.illegal_sha256, *illegal), "illegal content", "bytes or texts")
    scorers = {name: scorer_of(path, getattr(config, f"{name}_label")) for name, path in models.items()}
    return SafetyRules(config, digests, lists, scorers).judge


def scorer_of(place: Path, label: str) -> Scorer:
    """The classifier in a folder or file, as the probability of its label. Raises InputError."""
    from openherd.data.classifier import checked_label, load, probability_of

    classifier = load(place)
    return partial(probability_of, classifier, label=checked_label(classifier, label, place))


def place_of(given: Run | Outside) -> Path:
    """Where a run's classifier lies, or a user's."""
    from openherd.data import classifier

    return classifier.place_of(given)


def safety_filter(
    config: SafetyFilterConfig,
    *,
    documents: Run,
    illegal: Outside | None = None,
    domains: Outside | None = None,
    toxicity: Run | Outside | None = None,
    adult: Run | Outside | None = None,
    out: Output,
) -> dict[str, Any]:
    """Drop known-illegal content, unsafe domains, and text that the classifiers `toxicity` and `adult` find harmful.

    Where there is a list of illegal content, nothing is kept of a document that is lost: it may be such.
    """
    builder = Builder()
    builder.read(domains, config.categories)
    models = {name: place_of(given) for name, given in (("toxicity", toxicity), ("adult", adult)) if given}
    digests = tuple(read_list(illegal))
    if not (digests or config.illegal_sha256 or domains or models):
        raise ConfigError("safety-filter", "nothing to filter by", do="give illegal, domains, toxicity or adult")
    prepare = partial(prepare_safety_filter, config, illegal=digests, lists=builder.build(), models=models)
    n_harmful = 0

    def watch(judged: Judged) -> None:
        nonlocal n_harmful
        assert judged.measures is not None
        n_harmful += sum(judged.measures.column("harmful").to_pylist())

    keep_lost = not (digests or config.illegal_sha256)
    metrics = judge_documents("safety-filter", prepare, documents, out, config.engine, watch, keep_lost, needs="")
    return metrics | {"harmful_documents": n_harmful}

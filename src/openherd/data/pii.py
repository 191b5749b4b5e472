"""Personal data in documents: dropped, replaced by a placeholder, or reported (paper 3.1.1 removes domains with much of it).

The paper drops whole domains that are likely to hold much personal data: this stage counts it, `domain-filter` drops by the counts.
Besides, each kind has a mode of its own. Where two findings overlap one stays: a kind with a check before one without, then the
longer, then the first; what is left is disjoint, whatever found it. What a document loses is nowhere in this stage's output, also
not in the copy of a dropped document unless `dropped_text` says so; what stood before this stage holds it still.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import phonenumbers
import pyarrow as pa
from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Output, Run
from openherd.data.documents import Drop, Judge, Judged
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents
from openherd.data.name_tagger import NameTagger
from openherd.data.pii_patterns import REGIONS, Span, find_emails, find_ibans, find_ips, find_letter_ids, find_numbers
from openherd.data.street_addresses import find_addresses
from openherd.data.urls import host_of, normalise, registrable_domain

Mode = Literal["off", "report", "replace", "drop"]
TEXTS = ("title", "text")
# The order in which overlapping findings are believed: those whose check digits are right, then those with a form, then guesses.
KINDS = ("email", "iban", "card", "ip", "national_id", "phone", "address", "name")
PLACEHOLDERS = {kind: f"<{kind.upper()}>" for kind in KINDS}


@dataclass(frozen=True, kw_only=True)
class PiiConfig:
    """Settings of `pii`. The paper gives none; the modes are FineWeb's (e-mail and public IP addresses replaced) and alike."""

    email: Annotated[Mode, Field(description="e-mail addresses")] = "replace"
    phone: Annotated[Mode, Field(description="telephone numbers")] = "replace"
    ip: Annotated[Mode, Field(description="IP addresses, version 4 and 6")] = "replace"
    card: Annotated[Mode, Field(description="payment cards (Luhn, issuers' prefixes and lengths)")] = "replace"
    iban: Annotated[Mode, Field(description="international bank account numbers (modulo 97)")] = "replace"
    national_id: Annotated[Mode, Field(description="national ids of 35 states, with their checks")] = "replace"
    # Found by how they are written, without a check: the guide gives the scores. Names of authors and of public people are names
    # too.
    address: Annotated[Mode, Field(description="street addresses")] = "report"
    name: Annotated[Mode, Field(description="names of people, by a small tagger; slow")] = "off"
    drop_at: Annotated[int, Field(description="findings of kinds in mode 'drop' from which on a document goes", ge=1)] = 1
    placeholders: Annotated[dict[str, str], Field(description="what stands for a kind; those not named have '<KIND>'")] = field(
        default_factory=dict
    )
    dropped_text: Annotated[
        Literal["redact", "keep", "none"],
        Field(description="text of a document dropped here: all found replaced, as it was, or nothing of the document but its id"),
    ] = "redact"
    phone_regions: Annotated[
        tuple[str, ...], Field(description="ISO codes of states whose national numbers are known without a word before them")
    ] = REGIONS
    only_public_ips: Annotated[bool, Field(description="leave private, loopback and documentation addresses alone")] = True
    min_name_score: Annotated[float, Field(description="probability from which on words are a name", gt=0, lt=1)] = 0.5
    engine: EngineSetting = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.placeholders) - set(KINDS)):
            raise ConfigError("placeholders", f"no kind {unknown[0]!r}", allowed=", ".join(KINDS))
        if unknown := sorted(set(self.phone_regions) - phonenumbers.SUPPORTED_REGIONS):
            raise ConfigError("phone_regions", f"no state {unknown[0]!r}", allowed="ISO codes in capitals, such as DE or BR")

    @property
    def modes(self) -> dict[str, Mode]:
        """The mode of each kind."""
        return {kind: getattr(self, kind) for kind in KINDS}


def resolve(spans: Iterable[Span]) -> list[Span]:
    """Disjoint spans in order: of two that overlap the kind earlier in KINDS stays, then the longer, then the first."""
    rank = {kind: place for place, kind in enumerate(KINDS)}
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda s: (rank[s.kind], s.start - s.end, s.start, s.what)):
        place = bisect_left(kept, span)
        if (place == 0 or kept[place - 1].end <= span.start) and (place == len(kept) or span.end <= kept[place].start):
            kept.insert(place, span)
    return kept


def find(text: str, config: PiiConfig, tagger: NameTagger | None = None) -> list[Span]:
    """All personal data of the kinds that are not off, disjoint and in order."""
    return resolve(suspects(text, config, tagger))


def suspects(text: str, config: PiiConfig, tagger: NameTagger | None = None) -> list[Span]:
    """The same as each finder says it; spans of two kinds may overlap."""
    wanted = {kind for kind, mode in config.modes.items() if mode != "off"}
    spans: list[Span] = []
    if "email" in wanted:
        spans += find_emails(text)
    if "ip" in wanted:
        spans += find_ips(text, config.only_public_ips)
    if "iban" in wanted:
        spans += find_ibans(text)
    if wanted & {"card", "phone", "national_id"}:
        spans += find_numbers(text, wanted, config.phone_regions)
    if "national_id" in wanted:
        spans += find_letter_ids(text)
    if "address" in wanted:
        spans += find_addresses(text)
    if "name" in wanted and tagger:
        spans += (Span(start, end, "name") for start, end in tagger.find(text, config.min_name_score))
    return spans


def redact(text: str, spans: Sequence[Span], placeholders: Mapping[str, str] = PLACEHOLDERS) -> str:
    """The text with each of the spans, disjoint and in order, replaced by its kind's placeholder."""
    parts, done = [], 0
    for span in spans:
        parts += [text[done : span.start], placeholders[span.kind]]
        done = span.end
    return "".join([*parts, text[done:]])


def judge_texts(
    texts: Sequence[str], config: PiiConfig, tagger: NameTagger | None = None
) -> tuple[list[str], Drop | None, Counter[str]]:
    """A document's texts as they go on, why it goes if it does, and how much of each kind was found.

    What is replaced, and what drops, is not hidden by a finding of a kind that is only reported.
    """
    said = [suspects(text, config, tagger) for text in texts]
    found = [resolve(spans) for spans in said]
    counts = Counter(span.kind for spans in found for span in spans)
    placeholders = {**PLACEHOLDERS, **config.placeholders}

    def of_mode(mode: Mode) -> list[list[Span]]:
        return [resolve(span for span in spans if config.modes[span.kind] == mode) for spans in said]

    def redacted(by: list[list[Span]]) -> list[str]:
        return [redact(text, spans, placeholders) for text, spans in zip(texts, by, strict=True)]

    condemning = Counter(span.kind for spans in of_mode("drop") for span in spans)
    if condemning.total() < config.drop_at:
        return redacted(of_mode("replace")), None, counts
    told = ", ".join(f"{kind} {condemning[kind]}" for kind in KINDS if condemning[kind])
    drop = Drop("personal data", told, keep_content=config.dropped_text != "none")
    return redacted(found) if config.dropped_text == "redact" else list(texts), drop, counts


def domain_of(url: str | None) -> str:
    """The registrable domain of a document's address; empty where it has none."""
    return registrable_domain(host_of(normalise(url or "")))


def measures_schema() -> pa.Schema:
    """What is measured of a document: its domain, characters and findings."""
    counts = [(kind, pa.int32()) for kind in KINDS]
    return pa.schema([("domain", pa.string()), ("characters", pa.int64()), *counts])


def prepare_pii(config: PiiConfig, *, names: Path | None = None) -> Judge:
    """The judgement over batches of documents: their texts, and their titles where they have any."""
    tagger = NameTagger.load(names) if config.name != "off" else None

    def judge(batch: pa.RecordBatch) -> Judged:
        columns = [name for name in TEXTS if name in batch.schema.names]
        if "text" not in columns:
            raise InputError("pii", "pages without text", do="give it what extraction or a later stage wrote")
        texts = [[text or "" for text in batch.column(name).to_pylist()] for name in columns]
        judged = [judge_texts(row, config, tagger) for row in zip(*texts, strict=True)]
        made = batch
        for place, name in enumerate(columns):
            column = pa.array([left[place] for left, _, _ in judged], pa.string())
            made = made.set_column(made.schema.get_field_index(name), name, column)
        drops = [drop for _, drop, _ in judged]
        keeps = [drop is None or drop.keep_content for drop in drops]
        domains = [domain_of(url) if keep else "" for url, keep in zip(batch.column("url").to_pylist(), keeps, strict=True)]
        counts = {kind: [found[kind] for _, _, found in judged] for kind in KINDS}
        characters = [sum(map(len, row)) for row in zip(*texts, strict=True)]
        measures = {"domain": domains, "characters": characters, **counts}
        return Judged(made, drops, pa.RecordBatch.from_pydict(measures, schema=measures_schema()))

    return judge


def pii(config: PiiConfig, *, documents: Run, names: Run | None = None, out: Output) -> dict[str, Any]:
    """Drop documents with personal data, replace it, or count it. `names`: a tagger of one's own, else the built-in one.

    `measures.parquet` has a row for each document, also for those dropped; the counts are of what was found, not of what it was.
    Of a document that is lost nothing is kept unless dropped ones are kept as they were: what it holds was not looked for.
    Returns findings by kind besides the funnel.
    """
    found: Counter[str] = Counter()
    n_documents: Counter[str] = Counter()
    prepare = partial(prepare_pii, config, names=names.path / "model" if names else None)

    def watch(judged: Judged) -> None:
        assert judged.measures is not None
        for row in judged.measures.select(KINDS).to_pylist():
            for kind in KINDS:
                found[kind] += row[kind]
                n_documents[kind] += row[kind] > 0

    keep_lost = config.dropped_text == "keep"
    metrics = judge_documents("pii", prepare, documents, out, config.engine, watch, keep_lost)
    return metrics | {"found": dict(found), "documents_with": dict(n_documents)}

"""The documents of a mix: target shares by downsampling what there is too much of, and by epochs of what there is too little of
(paper 3.1.2).

Each document belongs to one component of the mix: by a column (`source`, `domain`, `kind`), or for the paper's mix by kind and
language. First single fields are thinned (`field_shares`: the paper downsamples arts and entertainment). Then, for a training of
`total_bytes`, a component that has more than its share keeps a seeded part of its documents; one that has less is seen several
times, and its mean epochs are told. `source` becomes the component, so that token shards have a stream for each, and `pretrain`
takes the same mix by `source_mix`, or these shares as `source_weights`.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from openherd.core.config import nearest
from openherd.core.errors import ConfigError
from openherd.core.rundir import Output, Run
from openherd.core.seeds import uniform
from openherd.data.classifier import with_columns
from openherd.data.document_shards import read_rows
from openherd.data.documents import DOCUMENTS, Drop, Judge, Judged, batch_bytes, check_content
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents
from openherd.data.mix import MIXES

PLAN = "mix.json"
KIND, LANGUAGE, SOURCE = "kind", "language", "source"
ROUNDING = 1e-9  # of epochs that are reckoned


@dataclass(frozen=True, kw_only=True)
class MixDocumentsConfig:
    """Settings of `mix-documents`."""

    mix: Annotated[Literal["paper", "tutorial", "given"], Field(description="target shares by name, or given by shares")] = "paper"
    shares: Annotated[dict[str, float], Field(description="target shares of a given mix; they need not sum to 1")] = field(
        default_factory=dict
    )
    column: Annotated[
        str, Field(description="column that tells a component; empty: kind and language for the paper's mix, else source")
    ] = ""
    components: Annotated[dict[str, tuple[str, ...]], Field(description="component: its values of the column")] = field(
        default_factory=dict
    )
    rest: Annotated[str, Field(description="component of all other values; empty: the mix's largest")] = ""
    main_languages: Annotated[tuple[str, ...], Field(description="languages that are not multilingual in the paper's mix")] = (
        "en",
    )
    field_column: Annotated[str, Field(description="column of the fields that field_shares thins")] = "domain"
    field_shares: Annotated[dict[str, float], Field(description="field: share of its documents that stays")] = field(
        default_factory=dict
    )
    total_bytes: Annotated[
        int,
        Field(
            description="text that training will see, repeats counted; 0: as epochs says",
            ge=0,
        ),
    ] = 0
    epochs: Annotated[float, Field(description="times that the scarcest component is seen, where total_bytes is 0", gt=0)] = 1.0
    most_epochs: Annotated[
        float, Field(description="refuse to show a component more often; 4 lose little (Muennighoff et al. 2023)", gt=0)
    ] = 4.0
    seed: Annotated[int, Field(description="seed of what is downsampled")] = 0
    engine: EngineSetting = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        targets = self.targets()
        if not targets or min(targets.values()) <= 0:
            raise ConfigError("mix-documents", f"shares = {self.shares}", allowed="a share over 0 for each component")
        if self.mix != "given" and self.shares:
            raise ConfigError("mix-documents", f"mix = {self.mix!r} and shares", allowed="shares with mix = 'given'")
        for name in (*self.components, *([self.rest] if self.rest else [])):
            if name not in targets:
                raise ConfigError("mix-documents", f"no component {name!r}", do=nearest(name, targets))
        for name, share in self.field_shares.items():
            if not 0 <= share <= 1:
                raise ConfigError("mix-documents", f"field_shares: {name} = {share}", allowed="0 to 1")

    def targets(self) -> dict[str, float]:
        """Target shares, which sum to 1."""
        given = self.shares if self.mix == "given" else MIXES[self.mix]
        total = sum(given.values())
        return {name: share / total for name, share in given.items()} if total > 0 else {}


class Components:
    """Which component a document belongs to."""

    def __init__(self, config: MixDocumentsConfig, columns: list[str]) -> None:
        """`columns` are those of the documents. Raises ConfigError where one that is needed is missing."""
        targets = config.targets()
        self.by_kind = config.mix == "paper" and not config.column
        self.column = config.column or (KIND if self.by_kind else SOURCE)
        self.rest = config.rest or max(targets, key=lambda name: targets[name])
        self.main_languages = config.main_languages
        self.of_value = {name: name for name in targets}
        self.of_value |= {value: name for name, values in config.components.items() for value in values}
        needed = [self.column, *([LANGUAGE] if self.by_kind else []), *([config.field_column] if config.field_shares else [])]
        if missing := [name for name in needed if name not in columns]:
            do = "run code-reasoning before, or give column and components" if missing[0] == KIND else "give another column"
            raise ConfigError("mix-documents", f"the documents have no column {missing[0]!r}", allowed=", ".join(columns), do=do)

    def of(self, row: Mapping[str, Any]) -> str:
        """The component of a row."""
        if self.by_kind and row[self.column] not in ("code", "reasoning") and row[LANGUAGE] not in self.main_languages:
            return "multilingual"
        return self.of_value.get(row[self.column] or "", self.rest)


@dataclass(frozen=True)
class Plan:
    """What becomes of each component."""

    targets: dict[str, float]  # shares
    total_bytes: float
    keep: dict[str, float]  # share of its documents


def planned(config: MixDocumentsConfig, available: Mapping[str, int]) -> Plan:
    """Downsampling and epochs for the target shares. Raises ConfigError for a component that is empty, or seen too often."""
    targets = config.targets()
    for name in targets:
        if not available.get(name):
            do = "give more data, components, or a mix without it"
            raise ConfigError("mix-documents", f"no document is of {name!r}", allowed=", ".join(targets), do=do)
    total = float(config.total_bytes or min(config.epochs * available[name] / share for name, share in targets.items()))
    wanted = {name: share * total / available[name] for name, share in targets.items()}
    most = max(wanted, key=lambda name: wanted[name])
    if wanted[most] > config.most_epochs * (1 + ROUNDING):
        fits = min(config.most_epochs * available[name] / share for name, share in targets.items())
        found = f"{most!r} has {available[most]:,} bytes and would be seen {wanted[most]:.2f} times"
        do = f"give more data, at most total_bytes = {int(fits)}, or raise most_epochs"
        raise ConfigError("mix-documents", found, allowed=f"most_epochs = {config.most_epochs:g}", do=do)
    keep = {name: min(n, 1.0) for name, n in wanted.items()}
    return Plan(targets, total, keep)


def is_thinned(config: MixDocumentsConfig, row: Mapping[str, Any]) -> bool:
    """Whether a document goes because there is too much of its field."""
    share = config.field_shares.get(row[config.field_column] or "", 1.0) if config.field_shares else 1.0
    return share < 1 and uniform(config.seed, "field", row["id"]) >= share


def without_text(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """What rows say beside their text."""
    return list(batch.select([name for name in batch.schema.names if name not in ("text", "content")]).to_pylist())


def prepare_mix_documents(config: MixDocumentsConfig, columns: list[str], keep: Mapping[str, float]) -> Judge:
    """The stage on batches; `keep` is each component's share that stays."""
    components = Components(config, columns)

    def judge(batch: pa.RecordBatch) -> Judged:
        rows = without_text(batch)
        names = [components.of(row) for row in rows]
        drops: list[Drop | None] = []
        for name, row in zip(names, rows, strict=True):
            if is_thinned(config, row):
                drops.append(Drop(f"field {row[config.field_column]}", f"{config.field_shares[row[config.field_column]]:g} stays"))
            elif uniform(config.seed, "mix", row["id"]) >= keep[name]:
                drops.append(Drop(f"more {name} than the mix has", f"{keep[name]:.4f} stays"))
            else:
                drops.append(None)
        return Judged(with_columns(batch, {SOURCE: pa.array(names, pa.string())}), drops)

    return judge


def mix_documents(config: MixDocumentsConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Downsample documents to a mix's shares; returns shares before and after, and the mean epochs of each component."""
    check_content(documents)
    columns = list(pq.read_schema(documents.file(DOCUMENTS)).names)
    components = Components(config, columns)
    available: dict[str, int] = defaultdict(int)
    came: dict[str, int] = defaultdict(int)
    fields: set[str] = set()
    file = documents.file(DOCUMENTS)
    for batch in read_rows(file, 0, pq.read_metadata(file).num_rows):
        for row, size in zip(without_text(batch), batch_bytes(batch).to_pylist(), strict=True):
            came[components.of(row)] += size
            if config.field_shares:
                fields.add(row[config.field_column] or "")
            if not is_thinned(config, row):
                available[components.of(row)] += size
    absent = sorted(config.field_shares.keys() - fields)
    for name in absent:  # a corpus may have none of a field, so this is told and refuses nothing
        sys.stderr.write(f"  mix-documents: field_shares: no document is of {name!r}; {nearest(name, fields)}\n")
    plan = planned(config, available)
    kept: dict[str, int] = dict.fromkeys(plan.targets, 0)

    def watch(judged: Judged) -> None:
        rows = zip(judged.batch.column(SOURCE).to_pylist(), judged.batch.column("text").to_pylist(), judged.drops, strict=True)
        for name, text, drop in rows:
            kept[name] += 0 if drop else len(text.encode())

    prepare = partial(prepare_mix_documents, config, columns, plan.keep)
    metrics = judge_documents("mix-documents", prepare, documents, out, config.engine, watch)
    # What was drawn is not quite what was planned: epochs are those of the documents that stayed.
    epochs = {name: share * plan.total_bytes / kept[name] if kept[name] else 0.0 for name, share in plan.targets.items()}
    total_in, total_kept = max(sum(came.values()), 1), max(sum(kept.values()), 1)
    found = {
        "source_weights": plan.targets,
        "total_bytes": plan.total_bytes,
        "share_before": {name: came[name] / total_in for name in plan.targets},
        "share_kept": {name: n / total_kept for name, n in kept.items()},
        "kept_bytes": kept,
        "downsampled_to": plan.keep,
        "mean_epochs": epochs,
        "fields_absent": absent,
    }
    with out.write(PLAN) as path:
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return metrics | found

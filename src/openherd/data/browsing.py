"""One self-contained page about what curation did to a corpus, to browse (paper 3.1.1).

The funnel; documents by language and by registered domain; the numbers that stages measured, with the limits drawn; clusters of
near-duplicates with what differs; samples of what was kept and of what was dropped, by reason. Nothing of the corpus is held but
what is shown: counts are grouped by DuckDB within a limit, samples are drawn while the files are read. What a stage dropped without
its content is shown by id and reason alone; personal data is replaced in all that is shown.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from openherd.core.rundir import Run
from openherd.data.curated import Curated, curated, last_stages
from openherd.data.distributions import Distribution, distributions
from openherd.data.documents import DROPPED
from openherd.data.duplicate_clusters import clusters_section
from openherd.data.excerpts import address, excerpt
from openherd.data.found_rows import rows_at, sampled_places
from openherd.data.shares import Key, count_shares, database, keys, largest, shares_of
from openherd.report import curation
from openherd.report.curation_figures import measure_bars, share_bars
from openherd.report.markup import Html, code, details, document, element, figure, join, paragraph, prose, side_by_side, table

HEAD = ("document", "begins", "about it")
SHOWN = ("id", "url", "title", "text", "content", "language", "language_score", "source", "reason", "detail")


@dataclass(frozen=True, kw_only=True)
class BrowsingConfig:
    """What the page shows; all ours."""

    samples: Annotated[int, Field(description="documents shown of each stage and reason, and of what was kept", ge=0)] = 24
    characters: Annotated[int, Field(description="characters shown of a document", ge=1)] = 500
    groups: Annotated[int, Field(description="languages, and domains, told one by one", ge=1)] = 20
    clusters: Annotated[int, Field(description="clusters of near-duplicates shown", ge=0)] = 12
    seed: Annotated[int, Field(description="of the samples")] = 0
    memory_gb: Annotated[float, Field(description="memory of the counts by language and domain, in GB", gt=0)] = 1.0


def data_page(config: BrowsingConfig, runs: Mapping[str, Run], where: object) -> str:
    """The page about these runs. Raises InputError where none of them is a curation stage."""
    stages = curated(runs, where)
    known = {run.digest: run for run in [*(stage.run for stage in stages), *runs.values()]}
    parts = [("funnel", "Funnel", curation.funnel(tuple(known.values())))]
    with database(config.memory_gb) as connection:
        count_shares(connection, stages)
        rate, _ = curation.bytes_per_token(tuple(known.values()))
        for key, title in (("language", "Languages"), ("domain", "Domains")):
            parts.append((f"{key}s", title, shares_section(connection, key, stages, config.groups, rate)))  # type: ignore[arg-type]
    measured = [part for stage in stages for part in measures_section(stage, config.seed)]
    if measured:
        parts.append(("measures", "Measures", join(measured)))
    if (clusters := clusters_section(stages, config.clusters, config.characters, config.seed)) is not None:
        parts.append(("duplicates", "Near-duplicates", clusters))
    parts.append(("dropped", "Dropped", join(dropped_samples(config, stages))))
    parts.append(("kept", "Kept", join(kept_samples(config, stages))))
    return document(f"Curation of {where}", parts, header(where, stages))


def header(where: object, stages: Sequence[Curated]) -> Html:
    """What this is, and of which runs."""
    return join([
        element("h1", f"Curation of {where}"),
        element("p", "What was kept, what was dropped, and why. E-mail addresses, telephone numbers and other personal data are "
                "replaced by placeholders in all text shown; names are not.", class_="lead"),
        paragraph("Stages: ", *(join([code(f"{s.name} {s.run.digest[:12]}"), " "]) for s in stages)),
        paragraph("One document's story is printed by ", code("openherd data explain ID RUN"), "."),
    ])  # fmt: skip


def shares_section(connection: Any, key: Key, stages: Sequence[Curated], most: int, rate: float) -> Html:
    """Documents, bytes and tokens by stage of each language or domain."""
    last = [stages.index(stage) for stage in last_stages(list(stages))]
    chosen = largest(connection, key, last, most)
    found = shares_of(connection, key, chosen)
    order = [name for name in (*chosen, "others", "none") if any(share.key == name for share in found)]
    if not chosen:
        return paragraph(f"No document has a {key}.")
    n_keys = keys(connection, key)
    plural = key if n_keys == 1 else f"{key}s"
    by_stage: dict[str, list[list[str]]] = {"Documents": [], "Bytes": [], "Estimated tokens": []}
    left, went = [], []
    for name in order:
        own = [share for share in found if share.key == name]
        documents = [sum(s.documents for s in own if s.kept and s.stage == number) for number in range(len(stages))]
        sizes = [sum(s.bytes for s in own if s.kept and s.stage == number) for number in range(len(stages))]
        tokens = [f"{round(size / rate):,}" if stage.has_text else "" for size, stage in zip(sizes, stages, strict=True)]
        dropped = sum(s.documents for s in own if not s.kept)
        by_stage["Documents"].append([name, *(f"{n:,}" for n in documents), f"{dropped:,}"])
        by_stage["Bytes"].append([name, *(f"{size:,}" for size in sizes)])
        by_stage["Estimated tokens"].append([name, *tokens])
        left.append(sum(documents[number] for number in last))
        went.append(dropped)
    head = (key, *(stage.name for stage in stages), "dropped, all stages")
    note = {
        "language": "A document has a language from the stage on that told it; before that it counts as none.",
        "domain": "A registered domain is what one owner registered under a public suffix: example.co.uk, ann.github.io.",
    }[key]
    return join([
        paragraph(f"{n_keys:,} {plural}; those with the most documents at the end are told one by one. {note}"),
        figure(share_bars(order, left, went, "documents"), f"Documents by {key}: kept to the end, dropped on the way"),
        *(stages_table(f"{what} kept by each stage, by {key}", head, rows) for what, rows in by_stage.items()),
    ])  # fmt: skip


def stages_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """A table with a column for each stage under its title; the head may be longer than the rows."""
    return join([element("h3", title), table(title, head[: len(rows[0])], rows, right=range(1, len(head)))])


def measures_section(stage: Curated, seed: int) -> Iterator[Html]:
    """Small pictures of all that a stage measured, the limits drawn."""
    limits = stage.limits(None)
    for path in stage.measures:
        found = distributions(path, limits, seed)
        if not found:
            continue
        yield element("h3", f"{stage.name}: {path.name}")
        yield paragraph(
            "Documents by measure, the axis of documents logarithmic; blue: kept, hatched: dropped by this stage for any reason; "
            "dashed: the limit. The outermost bars hold all that lies beyond. Measures that are the same for all are left out."
        )
        yield side_by_side(*(measure_figure(one) for one in found))


def measure_figure(one: Distribution) -> Html:
    """One measure with its limits in words."""
    bounds = [f"at least {one.low:g}"] if one.low is not None else []
    bounds += [f"at most {one.high:g}"] if one.high is not None else []
    allowed = f"; allowed: {', '.join(bounds)}" if bounds else ""
    caption = f"{one.name.replace('_', ' ')}: {one.least:.4g} to {one.greatest:.4g}{allowed}"
    return figure(measure_bars(one.name, one.edges, one.kept, one.dropped, (one.low, one.high)), caption)


def dropped_samples(config: BrowsingConfig, stages: Sequence[Curated]) -> Iterator[Html]:
    """Documents that each stage dropped, by reason, those with the most documents first."""
    for stage in stages:
        file = stage.output(DROPPED)
        found = sampled_places(file, "reason", config.samples, config.seed) if file and config.samples else {}
        for reason, n, _ in curation.reasons(stage.run.metrics):
            if file and (places := found.get(reason)):
                yield samples_of(f"{stage.name}: {reason}", n, file, places, config.characters)


def kept_samples(config: BrowsingConfig, stages: Sequence[Curated]) -> Iterator[Html]:
    """Documents that are there at the end."""
    for stage in last_stages(list(stages)):
        for file in stage.kept if config.samples else ():
            if places := sampled_places(file, None, config.samples, config.seed).get(None):
                n = stage.run.manifest["outputs"][file.name]["rows"]
                yield samples_of(f"{stage.name}: kept in {file.name}", n, file, places, config.characters)


def samples_of(title: str, n: int, file: Path, places: Sequence[int], characters: int) -> Html:
    """A list of documents that opens on demand."""
    rows = []
    for place in places:  # one at a time: pages may be large
        for row in rows_at(file, [place]):
            shown = {name: row.get(name) for name in SHOWN}
            about = [shown["detail"], *(f"{name} {shown[name]:.3g}" if isinstance(shown[name], float) else f"{name} {shown[name]}"
                     for name in ("language", "language_score", "source") if shown[name] not in (None, ""))]  # fmt: skip
            names = join([code(shown["id"]), element("pre", address(shown["url"] or ""))])
            about_it = prose("\n".join(excerpt(str(line), 2 * characters) for line in about if line))
            rows.append((names, beginning(shown, characters), about_it))
    summary = f"{title} ({n:,} document{'s' * (n != 1)}, {len(rows)} shown)"
    return details(summary, table(summary, HEAD, rows, stacked=True))


def beginning(row: Mapping[str, Any], characters: int) -> Html | str:
    """How a document begins, or that nothing of it was kept."""
    text = row["text"] if row["text"] is not None else curation.excerpt(row, characters + curation.BESIDE)
    return "content not kept" if text is None else element("pre", excerpt(text.lstrip(), characters))

"""One self-contained page about a run, made from run directories alone (the numbers that the paper shows in sections 3 to 5).

Every part is shown only where its stages are among the runs. The page asks for nothing from anywhere and works from a file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from openherd.core.progress import format_duration
from openherd.core.rundir import Output, Run
from openherd.report.classifiers import classifiers
from openherd.report.curation import Shown, curation
from openherd.report.experiments import experiments
from openherd.report.markup import Html, code, document, element, join, paragraph, side_by_side, table, tiles
from openherd.report.runs import Runs, file_of, names, of_stage, places, scalars, si
from openherd.report.scaling import ladder
from openherd.report.scores import model_bits, scores
from openherd.report.terminal import TOY_PARAMETERS, says
from openherd.report.training import PHASES, samples, training

REPORT = "report.html"
TINTS = 4


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Settings of `report`; all ours."""

    title: Annotated[str, Field(description="title of the page")] = "A run of openherd"
    dropped_samples: Annotated[int, Field(description="dropped documents shown per stage and reason", ge=0)] = 3
    sample_characters: Annotated[int, Field(description="characters shown of a dropped document", ge=1)] = 160
    example_answers: Annotated[int, Field(description="example answers shown, over all sets of questions", ge=0)] = 12
    token_text: Annotated[str, Field(description="text shown split into tokens")] = (
        "def area(radius: float) -> float:\n    return 3.14159 * radius ** 2\n\n"
        "Tokenizers don't see words: they see déjà vu, 2024 and naïveté."
    )


def write_report(config: ReportConfig, runs: tuple[Run, ...], out: Output, shown: Shown) -> dict[str, Any]:
    """Write `report.html` about these runs; `shown` makes a piece of a document fit to be looked at."""
    parts = {
        ("stages", "Stages"): stages(runs),
        ("curation", "Curation"): curation(runs, config.dropped_samples, config.sample_characters, shown),
        ("classifiers", "Classifiers"): classifiers(runs),
        ("tokenizer", "Tokenizer"): tokenizer(runs, config.token_text),
        ("training", "Training"): training(runs),
        ("scores", "Scores"): scores(runs, config.example_answers),
        ("scaling", "Scaling laws"): ladder(runs),
        ("experiments", "Data experiments"): experiments(runs),
        ("samples", "Samples"): samples(runs),
        ("lineage", "Lineage"): lineage(runs),
    }
    sections = [(name, title, content) for (name, title), content in parts.items() if content]
    page = document(config.title, sections, header(config.title, runs))
    with out.write(REPORT) as path:
        path.write_text(page, encoding="utf-8")
    return {"runs": len(runs), "sections": len(sections), "bytes": len(page.encode())}


def header(title: str, runs: Runs) -> Html:
    """What this is, on what it ran, and the few numbers that matter most."""
    manifests = [run.manifest for run in runs]
    systems = dict.fromkeys(f"Python {m['python']} on {m['platform']}" for m in manifests)
    packages = dict.fromkeys(f"{name} {version}" for m in manifests for name, version in m["packages"].items())
    devices = dict.fromkeys(
        f"{m['device']['device']}, {m['device']['threads']} threads" for m in manifests if m["device"]["threads"] > 1
    )
    return join([
        element("h1", title),
        element("p", what_it_is(runs), class_="lead"),
        tiles(key_numbers(runs)),
        paragraph(f"{'; '.join(systems)}. Computed on {'; '.join(devices) or 'cpu'}."),
        paragraph(f"Packages: {', '.join(packages)}."),
    ])  # fmt: skip


def what_it_is(runs: Runs) -> str:
    """One paragraph: what was made, and plainly whether it is a toy."""
    trained = of_stage(runs, *PHASES)
    text = "One run of openherd, the system of “The Llama 3 Herd of Models”. All on this page was read from its run directories."
    if not trained:
        return text
    parameters = trained[-1].metrics.get("parameters", 0)
    tokens = sum(run.metrics.get("tokens", 0) for run in trained)
    size = f"The model has {si(parameters)} parameters and was trained on {si(tokens)} tokens"
    if parameters < TOY_PARAMETERS:
        size += "; Llama 3 405B has 405 billion and saw 15.6 trillion. It is a toy: it shows the whole way, but is no assistant. "
        size += "recipes/1b.toml makes a real model"
    return f"{text} {size}."


def key_numbers(runs: Runs) -> list[tuple[str, str]]:
    """The numbers at the top of the page."""
    numbers = []
    if trained := of_stage(runs, *PHASES):
        numbers.append(("parameters", f"{trained[-1].metrics.get('parameters', 0):,}"))
        numbers.append(("tokens seen", f"{sum(run.metrics.get('tokens', 0) for run in trained):,}"))
    bits = [estimate["value"] for run in of_stage(runs, "evaluate-text") for estimate in model_bits(run).values()]
    if bits:
        numbers.append(("bits per byte, best", f"{min(bits):.3f}"))
    for run in of_stage(runs, "evaluate-answers"):
        if "heldout_phrasings" in run.metrics:
            numbers.append(("token F1, new phrasing", f"{run.metrics['heldout_phrasings']['f1']['value']:.3f}"))
    return [*numbers, ("wall time", format_duration(sum(run.manifest["wall_s"] for run in runs)))]


def stages(runs: Runs) -> Html:
    """The table of stages."""
    name = names(runs)
    rows: list[tuple[object, ...]] = [
        (
            name[run.digest],
            run.manifest["section"],
            *says(run),
            f"{run.manifest['wall_s']:,.1f}",
            element("div", code(place), class_="place"),
        )
        for run, place in zip(runs, places(runs), strict=True)
    ]
    rows.append(("all", "", "", "", f"{sum(run.manifest['wall_s'] for run in runs):,.1f}", ""))
    return table("Stages", ("stage", "paper", "went in", "came out", "seconds", "run directory"), rows, right=(4,))


def tokenizer(runs: Runs, text: str) -> Html | None:
    """Vocabulary, compression, tokens by source, and a text split into tokens; None where no tokenizer was trained."""
    made, shards = of_stage(runs, "tokenizer"), of_stage(runs, "token-shards")
    if not made and not shards:
        return None
    name = names(runs)
    read = {"tokenizer": "on the sample it learned from", "token-shards": "on all training text"}
    facts = [
        table(name[run.digest], (f"{name[run.digest]}: {read[run.manifest['stage']]}", ""), scalars(run.metrics), right=(1,))
        for run in [*made, *shards]
    ]
    counts = [
        table(key, (key.replace("_", " "), ""), [(source, f"{n:,}") for source, n in value.items()], right=(1,))
        for run in shards
        for key, value in run.metrics.items()
        if isinstance(value, dict) and all(isinstance(n, int) for n in value.values())
    ]
    parts = [side_by_side(*facts, *counts)]
    for run in made:
        if file := file_of(run, "tokenizer/tokenizer.json"):
            parts += [element("h3", "A text, split into tokens"), chips(pieces(file, text))]
    return join(parts)


def pieces(file: Path, text: str) -> list[tuple[str, list[int]]]:
    """A text in the pieces that its tokens cover, with their ids; the tokens of one character stay together."""
    from tokenizers import Tokenizer

    found: list[tuple[str, list[int]]] = []
    encoded = Tokenizer.from_file(str(file)).encode(text, add_special_tokens=False)
    reached = 0
    for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        if start < reached:
            before, ids = found.pop()
            found.append((before + text[reached:end], [*ids, token]))
        else:
            found.append((text[start:end], [token]))
        reached = max(end, reached)
    return found


def chips(split: list[tuple[str, list[int]]]) -> Html:
    """Pieces of text on alternating grounds; pointing at one shows its ids."""
    spans = [
        element("span", piece, class_=f"tint-{i % TINTS}", title=f"token {' '.join(map(str, ids))}")
        for i, (piece, ids) in enumerate(split)
    ]
    n = sum(len(ids) for _, ids in split)
    note = (
        f"{n} tokens for {sum(len(piece.encode()) for piece, _ in split)} bytes; tokens that share a character stand on one ground."
    )
    return join([element("div", *spans, class_="tokens"), paragraph(note)])


def lineage(runs: Runs) -> Html:
    """Each run's digest, and what it was made from."""
    name = names(runs)
    rows = [
        (
            name[run.digest],
            code(run.digest[:12]),
            run.manifest["version"],
            join(
                element("div", f"{label}: ", name.get(entry["digest"], entry["source"]), " ", code(entry["digest"][:12]))
                for label, entry in run.manifest["inputs"].items()
            ),
            run.manifest["seed"] if run.manifest["seed"] is not None else "",
        )
        for run in runs
    ]
    text = (
        "A digest names a stage's version, settings and inputs: the same digest is the same work. A run's own story is printed by "
    )
    return join(
        [
            paragraph(text, code("openherd show DIR"), "."),
            table("Lineage", ("run", "digest", "version", "made from", "seed"), rows, right=(2, 4)),
        ]
    )

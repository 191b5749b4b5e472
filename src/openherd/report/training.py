"""The report's part on training (paper 3.4, 4.1.3): loss and learning rate over the phases, and what the model wrote after each."""

from collections.abc import Sequence
from typing import Any

from openherd.core.metrics import format_metric
from openherd.core.progress import format_duration
from openherd.core.records import read_jsonl
from openherd.report.figures import Curve, training_curves
from openherd.report.markup import Html, details, element, figure, join, paragraph, table
from openherd.report.runs import Runs, file_of, names, of_stage

PHASES = ("pretrain", "long-context", "anneal", "continue-pretrain")
COLUMNS = (
    ("steps", "steps"),
    ("tokens", "tokens"),
    ("context", "context"),
    ("loss_nats_last_5_percent", "loss at the end (nats)"),
    ("tokens_per_s", "tokens/s"),
    ("precision", "precision"),
)


def curves(runs: Runs) -> list[Curve]:
    """What each run logged; its tokens are counted on from the run that it went on from, where that is among them."""
    name, reached = names(runs), dict[str, float]()
    found = []
    for run in runs:
        records = [record for record in run.records() if not record.get("skipped")]
        start = reached.get(run.manifest["inputs"].get("base", {}).get("digest"), 0.0)
        reached[run.digest] = start + (records[-1]["tokens"] if records else 0)
        if records:
            column = {key: [r[key] for r in records] for key in ("loss_nats", "learning_rate", "gradient_norm")}
            found.append(Curve(name[run.digest], [start + r["tokens"] for r in records], **column))
    return found


def shown(key: str, value: object) -> str:
    """A metric in the table of phases: losses with the same digits, to be compared."""
    return f"{value:.3f}" if isinstance(value, float) and key.startswith("loss") else format_metric(value)


def training(runs: Runs) -> Html | None:
    """The part on training, or None where there was none."""
    phases, finetuned = of_stage(runs, *PHASES), of_stage(runs, "sft")
    if not phases and not finetuned:
        return None
    name = names(runs)
    rows = [
        (
            name[run.digest],
            *(shown(key, run.metrics.get(key, "")) for key, _ in COLUMNS),
            format_duration(run.manifest["wall_s"]),
        )
        for run in [*phases, *finetuned]
    ]
    drawn = [
        figure(training_curves(found), caption)
        for some, caption in (
            (phases, "Loss, learning rate and gradient norm over the tokens of all phases; dotted lines stand between phases"),
            (finetuned, "Supervised finetuning: loss on the assistant's tokens, learning rate and gradient norm"),
        )
        if (found := curves(some))
    ]
    head = ("phase", *(title for _, title in COLUMNS), "time")
    return join([table("Training phases", head, rows, right=range(1, len(head))), *drawn])


def by_prompt(samples: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Samples of the same prompt together, prompts in the order of their first."""
    prompts: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        prompts.setdefault(sample["prompt"], []).append(sample)
    return prompts


def samples(runs: Runs) -> Html | None:
    """What the models wrote, or None where no evaluation kept samples."""
    files = [file for run in of_stage(runs, "evaluate-text") if (file := file_of(run, "samples.jsonl"))]
    prompts = by_prompt([sample for file in files for sample in read_jsonl(file)])
    if not prompts:
        return None
    temperatures = sorted({s["temperature"] for found in prompts.values() for s in found})
    first, *others = [
        (
            join(["Prompt: ", element("code", prompt)]),
            table(
                f"What follows {prompt}",
                ("model", "temperature", "goes on with"),
                [(s["model"], f"at {format_metric(s['temperature'])}", element("pre", s["continuation"])) for s in found],
                stacked=True,
            ),
        )
        for prompt, found in prompts.items()
    ]
    text = (
        f"The same prompts, given to the model as each phase left it, at temperature {', '.join(map(format_metric, temperatures))}."
    )
    return join([paragraph(text), element("h3", first[0]), first[1], *(details(title, table) for title, table in others)])

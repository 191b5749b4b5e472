"""The report's part on scores (paper 5): bits per byte and answers, each beside its baselines, with the weights that it read."""

from collections.abc import Sequence
from typing import Any

from openherd.core.metrics import Estimate, format_metric
from openherd.core.records import read_jsonl
from openherd.core.rundir import Run
from openherd.report.figures import Score, score_bars, spread
from openherd.report.markup import Html, code, element, figure, join, paragraph, prose, side_by_side, table
from openherd.report.runs import Runs, file_of, of_stage

BASELINES = (("trigram", "token trigram"), ("xz_primed", "xz, primed"), ("xz", "xz alone"))
SETS = (("heldout_phrasings", "trained entries, held-out phrasing"), ("heldout_entries", "held-out entries"))
MEASURES = (("f1", "token F1"), ("exact", "exact match"))


def model_bits(run: Run) -> dict[str, Estimate]:
    """Bits per byte of each model that an `evaluate-text` run read."""
    return {
        name: found["bits_per_byte"] for name, found in run.metrics.items() if isinstance(found, dict) and "bits_per_byte" in found
    }


def bits_scores(run: Run) -> list[Score]:
    """Bits per byte of models and baselines."""
    scores = [Score(name, value) for name, value in model_bits(run).items()]
    return scores + [Score(label, run.metrics[key], is_baseline=True) for key, label in BASELINES if key in run.metrics]


def answer_scores(found: dict[str, Any]) -> list[Score]:
    """The scores of one set of questions, the model's and the retrieval's."""
    pairs = [
        (key, f"{who}, {label}", who != "model")
        for key, label in MEASURES
        for key, who in ((key, "model"), (f"retrieval_{key}", "retrieval"))
    ]
    return [Score(label, found[key], is_baseline) for key, label, is_baseline in pairs if key in found]


def verdict(run: Run) -> str | None:
    """The best model against the trigram, in words."""
    models, trigram = model_bits(run), run.metrics.get("trigram")
    if not models or not isinstance(trigram, dict):
        return None
    best = min(models, key=lambda name: models[name]["value"])
    ours = models[best]
    apart = ours["high"] < trigram["low"] or trigram["high"] < ours["low"]
    relation = "less than" if ours["value"] < trigram["value"] else "no less than"
    return (
        f"The best model is {best} with {ours['value']:.3f} bits per byte, {relation} the trigram model's {trigram['value']:.3f}; "
        f"their intervals {'lie apart' if apart else 'overlap'}."
    )


def scores(runs: Runs, examples: int) -> Html | None:
    """The part on scores, or None where nothing was evaluated."""
    found = [_text(run) for run in of_stage(runs, "evaluate-text")] + [
        _answers(run, examples) for run in of_stage(runs, "evaluate-answers")
    ]
    return join(found) if found else None


def _text(run: Run) -> Html:
    bars = bits_scores(run)
    weights = {name: found.get("weights_sha256", "") for name, found in run.metrics.items() if isinstance(found, dict)}
    rows = [(s.label, *_numbers(s.value), code(weights[s.label][:12]) if weights.get(s.label) else "") for s in bars]
    smoothing = run.metrics.get("trigram_smoothing")
    return join([
        element("h3", "Bits per byte of held-out documents"),
        paragraph("The bits that a byte of text takes under a model's predictions: lower is better. Lines are 95% intervals."),
        paragraph(verdict(run)) if verdict(run) else None,
        figure(score_bars(bars, "bits per byte"), "Bits per byte on held-out documents; baselines are hatched"),
        table("Bits per byte", ("model", "bits per byte", "95% interval", "documents", "weights read"), rows, right=(1, 2, 3)),
        paragraph(f"Trigram: {smoothing}.") if smoothing else None,
    ])  # fmt: skip


def _answers(run: Run, examples: int) -> Html:
    file = file_of(run, "answers.jsonl")
    answers = example_answers(list(read_jsonl(file)), examples) if file else []
    present = [(key, title) for key, title in SETS if key in run.metrics]
    return join([
        element("h3", "Answers to questions"),
        paragraph(
            "The baseline, retrieval, gives the stored answer of the most similar training question. "
            "Nothing about a held-out entry was trained on in a dialog: the model can only have read of it, or guess."
        ),
        paragraph("Weights read: ", code(run.metrics.get("weights_sha256", "not recorded"))),
        side_by_side(*(_answer_set(title, answer_scores(run.metrics[key])) for key, title in present)),
        *(_examples(title, [a for a in answers if a["set"] == key]) for key, title in present),
    ])  # fmt: skip


def _answer_set(title: str, found: list[Score]) -> Html:
    rows = [(s.label, *_numbers(s.value)) for s in found]
    drawn = figure(score_bars(found, "score", 1.3), f"Answers: {title}; the baseline is hatched")
    return element("div", drawn, table(f"Answers: {title}", ("score", "value", "95% interval", "questions"), rows, right=(1, 2, 3)))


def _examples(title: str, answers: list[dict[str, Any]]) -> Html | None:
    rows = [(prose(a["question"]), element("pre", a["expected"]), element("pre", a["answer"]), f"{a['f1']:.2f}") for a in answers]
    head = ("question", "expected", "answer", "F1")
    heading = element("h3", f"Examples: {title}")
    return (
        join(
            [heading, paragraph("Evenly spaced through the set, not chosen."), table(f"Examples: {title}", head, rows, right=(3,))]
        )
        if rows
        else None
    )


def example_answers(answers: Sequence[dict[str, Any]], examples: int) -> list[dict[str, Any]]:
    """At most `examples` answers, the same number of each set, evenly spaced."""
    sets = list(dict.fromkeys(a["set"] for a in answers))
    chosen = []
    for name in sets:
        of_set = [a for a in answers if a["set"] == name]
        chosen += [of_set[i] for i in spread(len(of_set), examples // len(sets))]
    return chosen


def _numbers(value: Estimate | float) -> tuple[str, str, str]:
    if isinstance(value, dict):
        return f"{value['value']:.3f}", f"{value['low']:.3f} to {value['high']:.3f}", format_metric(value.get("n", ""))
    return f"{value:.3f}", "", ""

"""The report's part on scores (paper 5): bits per byte and answers, each beside its baselines, with the weights that it read."""

from collections.abc import Sequence
from typing import Any

from openherd.core.metrics import Estimate, format_metric
from openherd.core.records import read_jsonl
from openherd.core.rundir import Run
from openherd.report.figures import Score, heat_map, score_bars, spread
from openherd.report.markup import Html, code, element, figure, join, paragraph, prose, side_by_side, table
from openherd.report.runs import Runs, file_of, of_stage

BASELINES = (("trigram", "token trigram"), ("xz_primed", "xz, primed"), ("xz", "xz alone"))
SETS = (
    ("heldout_phrasings", "trained entries, held-out phrasing"),
    ("later_turns", "the same as later turns of a chat"),
    ("heldout_entries", "held-out entries"),
)
GATES = (
    "short_context_loss_bits_per_byte",
    "bits_per_byte_before",
    "bits_per_byte_after",
    "needle_accuracy",
    "needle_accuracy_longest",
    "needle_ranked_first",
    "needle_ranked_first_by_chance",
)
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
    """The best model against each baseline, in words: the trigram model with the interval of the difference, text by text."""
    models = model_bits(run)
    if not models:
        return None
    best = min(models, key=lambda name: models[name]["value"])
    ours = models[best]["value"]
    against = []
    for key, label in BASELINES:
        if key in run.metrics:
            its = run.metrics[key]["value"] if isinstance(run.metrics[key], dict) else run.metrics[key]
            against.append(f"{abs(its - ours):.3f} {'under' if ours < its else 'above'} {label}'s {its:.3f}")
    text = f"The best model is {best} with {ours:.3f} bits per byte: {', '.join(against)}."
    less = run.metrics[best].get("bits_per_byte_less_trigram")
    if less is None or less["n"] < 2:
        return text
    interval = f"95% interval {less['low']:+.3f} to {less['high']:+.3f}"
    return f"{text} Document by document it is {less['value']:+.3f} from the trigram model, {interval}."


def changes(run: Run) -> list[str]:
    """What each phase did to its base's score, and averaging to the last checkpoint's, in words with the difference's interval."""
    found = []
    for name, bits in model_bits(run).items():
        of = run.metrics[name]
        if "bits_per_byte_less_base" in of:
            what = f"{name}: {of['bits_per_byte_of_base']:.3f} bits per byte before, {bits['value']:.3f} after"
            found.append(f"{what}: {_difference(of['bits_per_byte_less_base'])}.")
        if "bits_per_byte_less_last_checkpoint" in of:
            found.append(f"{name}, averaged against its last checkpoint: {_difference(of['bits_per_byte_less_last_checkpoint'])}.")
    return found


def _difference(less: Estimate) -> str:
    return f"document by document {less['value']:+.3f}, 95% interval {less['low']:+.3f} to {less['high']:+.3f}"


def scores(runs: Runs, examples: int) -> Html | None:
    """The part on scores, or None where nothing was evaluated."""
    found = [_text(run) for run in of_stage(runs, "evaluate-text")]
    found += [_context(run) for run in of_stage(runs, "context-gate")]
    found += [_answers(run, examples) for run in of_stage(runs, "evaluate-answers")]
    return join(found) if found else None


def _context(run: Run) -> Html:
    m = run.metrics
    lengths = list(m["accuracy"])
    depths = list(m["accuracy"][lengths[0]])
    shares = [[m["accuracy"][length][depth] for length in lengths] for depth in depths]
    columns, rows = [f"{int(length):,}" for length in lengths], [f"{depth}%" for depth in depths]
    cells = [(row, *map("{:.2f}".format, some)) for row, some in zip(rows, shares, strict=True)]
    recovered = "has recovered" if m["short_context_recovered"] else "has not recovered"
    return join([
        element("h3", f"The two gates of a longer context: {m['needle_longest_tokens']:,} tokens"),
        paragraph(
            f"Short text, read at {m['short_context_tokens']:,} tokens, {recovered}. {m['needles']:,} facts were hidden in "
            "held-out text and asked for at its end. Both have to be whole before the context grows further (paper 3.4.2). "
            "Intervals are over documents, and over the texts that needles were hidden in."
        ),
        table("Gates", ("score", "value", "95% interval", "cases"), [(n.replace("_", " "), *_numbers(m[n])) for n in GATES],
              right=(1, 2, 3)),
        figure(heat_map(columns, rows, shares, ("tokens", "depth")), "Share of needles found, by length and depth"),
        table("Needles found", ("depth", *columns), cells, right=range(1, len(columns) + 1)),
        paragraph("Weights read: ", code(m["weights_sha256"])),
    ])  # fmt: skip


def _text(run: Run) -> Html:
    bars = bits_scores(run)
    weights = {name: found.get("weights_sha256", "") for name, found in run.metrics.items() if isinstance(found, dict)}
    rows = [(s.label, *_numbers(s.value), code(weights[s.label][:12]) if weights.get(s.label) else "") for s in bars]
    smoothing = run.metrics.get("trigram_smoothing")
    return join([
        element("h3", "Bits per byte of held-out documents"),
        paragraph("The bits that a byte of text takes under a model's predictions: lower is better. Lines are 95% intervals."),
        paragraph(verdict(run)) if verdict(run) else None,
        *map(paragraph, changes(run)),
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
        side_by_side(*(_answer_set(title, run.metrics[key]) for key, title in present)),
        table(
            "Answers",
            ("questions about", "score", "value", "95% interval", "entries"),
            [(title, s.label, *_numbers(s.value)) for key, title in present for s in answer_scores(run.metrics[key])],
            right=(2, 3, 4),
        ),
        *(_examples(title, [a for a in answers if a["set"] == key]) for key, title in present),
    ])  # fmt: skip


def _answer_set(title: str, metrics: dict[str, Any]) -> Html:
    asked = f", {metrics['questions']:,} questions" if "questions" in metrics else ""
    return figure(score_bars(answer_scores(metrics), "score", 1.3), f"Answers: {title}{asked}; the baseline is hatched")


def _examples(title: str, answers: list[dict[str, Any]]) -> Html | None:
    if not answers:
        return None
    rows = [(prose(a["question"]), element("pre", a["expected"]), element("pre", a["answer"]), f"{a['f1']:.2f}") for a in answers]
    return join([
        element("h3", f"Examples: {title}"),
        paragraph("Evenly spaced through the set, not chosen."),
        table(f"Examples: {title}", ("question", "expected", "answer", "F1"), rows, right=(3,), stacked=True),
    ])  # fmt: skip


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
        interval = f"{value['low']:.3f} to {value['high']:.3f}" if value["low"] < value["high"] else ""
        return f"{value['value']:.3f}", interval, format_metric(value.get("n", ""))
    return f"{value:.3f}", "", ""

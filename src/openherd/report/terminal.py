"""Runs as a person reads them on a terminal: the table of a run, one run's story, two runs side by side, a sweep."""

import json
import os
import statistics
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openherd.core.metrics import format_metric, is_estimate
from openherd.core.records import read_jsonl
from openherd.core.rundir import MANIFEST, Run

Rows = Sequence[Sequence[str]]
TOY_PARAMETERS = 500_000_000  # under this a model is said to be a toy

# What the table of a run says went into a stage and came out of it, from its metrics, and what is told beyond that when the stage
# ends. Of parts with '; ' between them those are left out whose metrics are missing. Curation stages share the default.
CURATION = ("{documents_in:,} documents, {bytes_in:.1f} MB", "{documents_out:,} documents, {bytes_out:.1f} MB")
TRAINING = ("{tokens:,} tokens", "{parameters:,} parameters, loss {loss_nats_last_5_percent:.3f} nats")
TRAINED = ("{texts:,} texts", "held out {heldout_texts:,}; AUC {heldout_auc:.4f}; accuracy {heldout_accuracy:.4f}")
SAYS: dict[str, tuple[str, ...]] = {
    "python-docs": ("Python {python}", "{pages:,} pages, {bytes:.1f} MB"),
    "label-documents": (
        "{documents:,} documents",
        "{labelled:,} labelled; {unlabelled:,} without a label; {not_asked:,} not asked; cost {cost:.4g}",
    ),
    "train-classifier": TRAINED,
    "train-transformer": TRAINED,
    "cluster-documents": ("{documents:,} documents", "{clusters:,} clusters, mean cosine {mean_cosine:.3f}"),
    "mix-experiment": (
        "{runs:,} runs",
        "best foretold {best_foretold}; measured {best_measured}; {pairs_in_order} of {pairs} pairs in order",
    ),
    "data-value": ("", "best {best}"),
    "holdout": (CURATION[0], "{train_documents:,} to train on, {heldout_documents:,} held out"),
    "tokenizer": ("", "{vocabulary:,} tokens, {bytes_per_token:.2f} bytes each"),
    "import": ("{format} directory", "{parameters:,} parameters, {dtype}"),
    "extend-tokenizer": (
        "{new_tokens:,} new tokens, {bytes_per_token_before:.2f} to {bytes_per_token_after:.2f} bytes each",
        "{bits_per_byte_before:.3f} to {bits_per_byte_after:.3f} bits/byte before training",
    ),
    "token-shards": ("{documents:,} documents", "{train_tokens:,} tokens"),
    "pretrain": TRAINING,
    "long-context": TRAINING,
    "context-gate": (
        "{needles:,} needles to {needle_longest_tokens:,} tokens",
        "short text {short_context_loss_bits_per_byte:+.3f} bits/byte; found {needle_accuracy:.2f}",
        "of the longest {needle_accuracy_longest:.2f}; short text's 95% interval "
        "[{short_context_loss_bits_per_byte.low:+.3f}, {short_context_loss_bits_per_byte.high:+.3f}]; "
        "ranked first {needle_ranked_first:.2f}, by chance {needle_ranked_first_by_chance:.2f}",
    ),
    "anneal": TRAINING,
    "continue-pretrain": TRAINING,
    "dialogs": ("", "{dialogs:,} to train on, {entries:,} entries"),
    "sft": ("{dialogs:,} dialogs", TRAINING[1]),
    "evaluate-text": (
        "{heldout_documents:,} documents",
        "{anneal.bits_per_byte:.3f} bits/byte; trigram {trigram:.3f}, xz {xz:.3f}",
        "before → after annealing {anneal.bits_per_byte_of_base:.3f} → {anneal.bits_per_byte:.3f}, "
        "{anneal.bits_per_byte_less_base:+.3f} "
        "[{anneal.bits_per_byte_less_base.low:+.3f}, {anneal.bits_per_byte_less_base.high:+.3f}]; "
        "averaging {anneal.bits_per_byte_less_last_checkpoint:+.3f}",
    ),
    "evaluate-forgetting": (
        "{general_documents:,} general and {new_documents:,} new documents",
        "forgot {forgetting_bits_per_byte:.4f}, gained {gain_bits_per_byte:.4f} bits/byte",
    ),
    "evaluate-answers": (
        "{questions:,} questions",
        "F1 {heldout_phrasings.f1:.3f}, later turns {later_turns.f1:.3f}, new entries {heldout_entries.f1:.3f}",
    ),
    "scaling-ladder": (
        "{runs:,} runs",
        "{within_interval} of {runs_foretold} foretold within the interval; at most {largest_relative_error:.1%} off",
    ),
    "report": ("", "report.html"),
}


def says(run: Run) -> tuple[str, str]:
    """What went into a run's stage and what came out, in a few words."""
    went_in, came_out, *_ = _told(run)
    return went_in, came_out


def told(run: Run) -> str:
    """What a run did, in one line."""
    went_in, *came_out = _told(run)
    return " → ".join(filter(None, (went_in, "; ".join(filter(None, came_out)))))


def _told(run: Run) -> list[str]:
    values: dict[str, Any] = {}
    for name, value in flat_metrics(run.metrics).items():
        values[name] = value["value"] if is_estimate(value) else value
        if is_estimate(value):
            values |= {f"{name}.{end}": value[end] for end in ("low", "high")}
    for name in ("bytes", "bytes_in", "bytes_out"):
        if name in values:
            values[name] /= 1e6
    return [_fill(text, values) for text in SAYS.get(run.manifest["stage"], CURATION)]


def _fill(text: str, values: Mapping[str, Any]) -> str:
    """The text with its {metric:format} fields filled; parts where a metric is missing are left out."""
    return "; ".join(filter(None, (_fill_part(part, values) for part in text.split("; "))))


def _fill_part(text: str, values: Mapping[str, Any]) -> str:
    filled = ""
    for literal, name, form, _ in string.Formatter().parse(text):
        filled += literal
        if name:
            if name not in values:
                return ""
            filled += format(values[name], form or "")
    return filled


def run_table(recipe: Path | None, out: Path, done: Sequence[tuple[str, Run, bool]], width: int = 0) -> str:
    """Each stage of a run: what went in and out, seconds, where to look; and what to do next.

    Where that is wider than `width` columns (0: any width is right) a stage takes two lines.
    """
    rows = []
    for name, run, before in done:
        seconds = f"{run.manifest['wall_s']:.1f}" + (" *" if before and recipe is not None else "  ")
        place = os.path.relpath(run.path, out) if run.path.is_relative_to(out) else str(run.path)
        rows.append((name, *says(run), seconds, place))
    runs = {run.manifest["stage"]: run for _, run, _ in done}
    text = table(("stage", "in", "out", "s  ", "where"), rows, right=[3])
    if width and max(map(len, text.splitlines())) > width:
        first = table(("stage", "s  ", "where"), [(name, seconds, place) for name, _, _, seconds, place in rows], right=[1])
        second = [" → ".join(filter(None, row[1:3])) for row in rows]
        head, *others = first.splitlines()
        text = "\n".join([head, *(f"{line}\n    {told}" for line, told in zip(others, second, strict=True))])
    lines = [text]
    if recipe is not None and any(before for _, _, before in done):
        lines.append("* was done before and is up to date")
    if "report" in runs:
        lines.append(f"report   {runs['report'].file('report.html')}")
    if "sft" in runs:
        parameters = runs["sft"].metrics["parameters"]
        lines.append(f"chat     openherd chat {out}")
        if "dialogs" in runs:
            lines.append(f"ask      {example_question(runs['dialogs'])}")
        if parameters < TOY_PARAMETERS:
            lines.append(f"         This model is a toy of {parameters / 1e6:.1f}M parameters: it repeats what it read.")
            lines.append("         recipes/1b.toml makes a real one: your crawl, a large GPU.")
    return "\n".join(lines)


def example_question(dialogs: Run) -> str:
    """What the model of a run can be asked: a held-out phrasing of an entry that it was trained on."""
    return str(next(read_jsonl(dialogs.file("heldout_phrasings.jsonl")))["messages"][0]["content"])


def table(head: Sequence[str], rows: Rows, right: Iterable[int] = ()) -> str:
    """Columns as wide as their widest cell, two spaces apart; the columns `right` are flush right."""
    right = set(right)
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()

    return "\n".join([line(head), *(line(row) for row in rows)])


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Nested metrics with dotted names; a score with an interval stays whole."""
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, dict) and not is_estimate(value):
            flat.update({f"{name}.{inner}": v for inner, v in flat_metrics(value).items()})
        else:
            flat[name] = value
    return flat


def diff_text(first: Mapping[str, Run], second: Mapping[str, Run]) -> str:
    """Settings, inputs and metrics of two runs that differ, stage by stage; each stage of one alone is named."""
    parts = []
    for stage in dict.fromkeys([*first, *second]):
        if stage not in first or stage not in second:
            parts.append(f"{stage}: only in {'A' if stage in first else 'B'}")
            continue
        a, b = first[stage].manifest, second[stage].manifest
        here, there = ({name: output["sha256"][:12] for name, output in m["outputs"].items()} for m in (a, b))
        if a["digest"] == b["digest"] and here == there:
            parts.append(f"{stage}: the same run ({a['digest'][:12]})")
            continue
        rows = []
        for kind, one, other in (
            ("setting", a["settings"], b["settings"]),
            ("data", {n: v["digest"][:12] for n, v in a["inputs"].items()}, {n: v["digest"][:12] for n, v in b["inputs"].items()}),
            ("metric", flat_metrics(a["metrics"]), flat_metrics(b["metrics"])),
            ("package", {"python": a["python"], **a["packages"]}, {"python": b["python"], **b["packages"]}),
            ("device", a["device"], b["device"]),
            ("output", here, there),
        ):
            if kind == "output" and a["digest"] != b["digest"]:
                continue  # of other settings or inputs they differ anyhow
            for key in dict.fromkeys([*one, *other]):
                if one.get(key) != other.get(key):
                    rows.append((kind, key, _cell(one.get(key)), _cell(other.get(key)), _change(one.get(key), other.get(key))))
        if a["version"] != b["version"]:
            rows.append(("version", "", str(a["version"]), str(b["version"]), ""))
        body = table(("", "name", "A", "B", "B - A"), rows) if rows else "no setting, input or metric differs"
        parts.append(f"{stage}:\n" + "\n".join("  " + line for line in body.splitlines()))
    return "\n".join(parts)


def _cell(value: Any) -> str:
    text = (
        "-"
        if value is None
        else format_metric(value)
        if not isinstance(value, (list, dict)) or is_estimate(value)
        else json.dumps(value)
    )
    return text if len(text) <= 48 else text[:45] + "..."


def _change(a: Any, b: Any) -> str:
    if is_estimate(a) and is_estimate(b):
        apart = a["high"] < b["low"] or b["high"] < a["low"]
        return f"{b['value'] - a['value']:+.4g}" + (" (intervals apart)" if apart else " (intervals overlap)")
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return f"{b - a:+.4g}" if numbers else ""


def show_run(run: Run) -> str:
    """Manifest, metrics and lineage of one run, back to its outside inputs."""
    m = run.manifest
    head = [
        ("stage", f"{m['stage']} (paper {m['section']}), version {m['version']}"),
        ("digest", m["digest"]),
        ("finished", f"{m['finished']} after {m['wall_s']:,.1f} s on {m['device']['device']}, {m['device']['threads']} threads"),
        ("packages", ", ".join(f"{n} {v}" for n, v in m["packages"].items()) + f", Python {m['python']}"),
    ]
    parts = [str(run.path), *(f"  {k:<10}{v}" for k, v in head)]
    for title, pairs in (
        ("settings", {k: json.dumps(v) for k, v in m["settings"].items()}),
        ("metrics", {k: _cell(v) for k, v in flat_metrics(m["metrics"]).items()}),
        ("outputs", {k: _output(v) for k, v in m["outputs"].items()}),
    ):
        width = max((len(k) for k in pairs), default=0)
        parts += ["", title, *(f"  {k:<{width}}  {v}" for k, v in pairs.items())]
    parts += ["", "lineage", *_lineage(run, 1)]
    return "\n".join(parts)


def _output(entry: Mapping[str, Any]) -> str:
    rows = f", {entry['rows']:,} rows" if entry["rows"] is not None else ""
    return f"{entry['bytes']:,} bytes{rows}, sha256 {entry['sha256'][:12]}"


def _lineage(run: Run, depth: int) -> list[str]:
    lines = []
    for name, entry in run.manifest["inputs"].items():
        lines.append(f"{'  ' * depth}{name} <- {entry['source']} ({entry['digest'][:12]})")
        if (run.path / entry["source"] / MANIFEST).exists():
            source = run.input(name)
            lines[-1] += f", {source.manifest['stage']}"
            lines += _lineage(source, depth + 1)
    return lines


def sweep_table(variants: Mapping[tuple[str, int], Sequence[tuple[str, Run]]]) -> str:
    """For each score and final loss that differs: a line a variant, with its interval; over several seeds mean and deviation."""
    cells = {
        key: {
            f"{stage} {name}": value
            for stage, run in runs
            for name, value in flat_metrics(run.metrics).items()
            if is_estimate(value) or name == "final_loss_nats"
        }
        for key, runs in variants.items()
    }
    names = dict.fromkeys(name for row in cells.values() for name in row)
    differing = [n for n in names if len({json.dumps(row.get(n)) for row in cells.values()}) > 1] or list(names)
    by_label: dict[str, list[dict[str, Any]]] = {}
    for (label, _), row in cells.items():
        by_label.setdefault(label, []).append(row)
    blocks = []
    for name in differing:
        rows = [(label, _over_seeds([row[name] for row in rows if name in row])) for label, rows in by_label.items()]
        width = max(len(label) for label, _ in rows)
        blocks.append("\n".join([name, *(f"  {label:<{width}}  {text}" for label, text in rows)]))
    return "\n".join(blocks)


def _over_seeds(found: Sequence[Any]) -> str:
    if len(found) < 2:
        return _cell(found[0] if found else None)
    values = [value["value"] if is_estimate(value) else value for value in found]
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{format_metric(mean)} ± {format_metric(deviation)} ({', '.join(map(format_metric, values))})"

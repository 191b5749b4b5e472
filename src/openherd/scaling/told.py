"""Fits, advice and forecasts as a person reads them in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from openherd.scaling.fit import Fit

LAWS = {
    "parametric": "L = E + A / N^alpha + B / D^beta; optimal N ~ C^exponent",
    "overtrain": "L = E + (a M^eta + b M^-eta) C^-eta, M = D / N",
    "isoflop": "optimal N = coefficient C^exponent, optimal D = tokens_coefficient C^tokens_exponent",
}


def count(value: float) -> str:
    """A count with the field's letters: 8.03B, 15T."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size and abs(value) < 1e15:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def with_interval(found: Mapping[str, Any], shown: Any = count) -> str:
    """A value, and its interval where it has one."""
    text = shown(found["value"])
    if found["interval"]:
        text += f" [{shown(found['interval'][0])}, {shown(found['interval'][1])}]"
    return text


def fit_text(fit: Fit) -> str:
    """A fit: law, values with intervals, what was left out, warnings."""
    group = ", ".join(f"{name} {value}" for name, value in fit.group.items())
    lines = [f"{fit.law}: {LAWS[fit.law]}", *([f"  {group}"] if group else [])]
    for name, value in fit.values.items():
        if ends := fit.intervals.get(name):
            lines.append(f"  {name:<20}{value:<14.6g}[{ends[0]:.4g}, {ends[1]:.4g}]")
        else:
            lines.append(f"  {name:<20}{value:.9g}")
    lines.append(f"  {fit.runs_used} runs" + "".join(f"; {n} left out: {why}" for why, n in fit.left_out.items()))
    for name, value in fit.more.items():
        if isinstance(value, float):
            lines.append(f"  {name.replace('_', ' ')}: {value:.3g}")
    for budget in fit.more.get("budgets", ()):
        optimum = f"{count(budget['parameters']):>8} parameters on {count(budget['tokens']):>8} tokens, loss {budget['loss']:.4f}"
        lines.append(f"  {budget['flops']:10.3g} FLOPs: {optimum}")
    return "\n".join([*lines, *(f"  warning: {text}" for text in fit.warnings)])


def advice_text(advice: Mapping[str, Any]) -> str:
    """What to train for a budget."""
    served = f", {count(advice['served_tokens'])} tokens served among them" if advice["served_tokens"] else ""
    lines = [
        f"{advice['flops']:.4g} FLOPs{served}, by the law {advice['law']}:",
        f"  parameters            {with_interval(advice['parameters'])}",
        f"  tokens                {with_interval(advice['tokens'])}",
        f"  tokens per parameter  {with_interval(advice['tokens_per_parameter'])}",
        f"  loss                  {with_interval(advice['loss'], lambda v: f'{v:.4f}')}",
    ]
    if served:
        lines.append(f"  share of training     {with_interval(advice['training_share'], lambda v: f'{v:.1%}')}")
        lines.append(f"  parameters, if none were served: {with_interval(advice['parameters_without_serving'])}")
    return "\n".join([*lines, *_without_interval(advice)])


def comparison_text(found: Mapping[str, Any]) -> str:
    """A model beside the compute-optimal ones."""
    same, budget = found["same_loss"], found["same_flops"]
    size, length = count(found["parameters"]), count(found["tokens"])
    best = f"{with_interval(same['parameters'])} parameters on {with_interval(same['tokens'])} tokens"
    lines = [
        f"{size} on {length} tokens ({count(found['tokens_per_parameter'])} per parameter, {found['flops']:.3g} FLOPs), by the law "
        f"{found['law']}: loss {with_interval(found['loss'], lambda v: f'{v:.4f}')}",
        f"  the same loss at the least FLOPs: {best}, {with_interval(same['flops'], lambda v: f'{v:.3g}')} FLOPs",
        f"  so training costs {with_interval(found['training_cost_times'], lambda v: f'{v:.3g}')} times as much, a token served "
        f"{with_interval(found['serving_cost_times'], lambda v: f'{v:.3g}')} times as much",
    ]
    if found["even_at_served_tokens"]["value"] > 0:
        lines.append(f"  it pays from {with_interval(found['even_at_served_tokens'])} served tokens on")
    best = f"{with_interval(budget['parameters'])} on {with_interval(budget['tokens'])} tokens"
    lines.append(f"  the least loss for its FLOPs: {with_interval(budget['loss'], lambda v: f'{v:.4f}')}, {best}")
    return "\n".join([*lines, *_without_interval({**found, "parameters": found["loss"]})])


def _without_interval(found: Mapping[str, Any]) -> list[str]:
    if found["parameters"]["interval"]:
        return []
    return ["  no intervals: a published law comes without the draws of its values; --runs RUNS.csv fits one that has them"]


def llama_3_text(found: Mapping[str, Any]) -> str:
    """The paper's own law for optimal tokens, in its two readings."""
    rows = [
        f"  {name:<28}{count(found[f'parameters_{key}']):>8} parameters on {count(found[f'tokens_{key}']):>8} tokens"
        for name, key in (("by the printed pair", "by_printed_pair"), ("through the printed optimum", "through_printed_optimum"))
    ]
    head = f"{found['flops']:.4g} FLOPs, by Llama 3's law of optimal tokens (paper 3.2.1):"
    return "\n".join([head, *rows, f"  {found['note']}"])


def forecast_text(found: Mapping[str, Any]) -> str:
    """Both stages, and what they foretell."""
    low, high = found["nll_per_decade_interval"]
    middle = "" if found["sigmoid_middle_nll"] is None else f", its middle at {found['sigmoid_middle_nll']:.4g}"
    lines = [
        f"stage one, {found['runs']} runs: NLL {found['nll_per_decade']:+.4g} [{low:+.4g}, {high:+.4g}] per decade of FLOPs",
        f"stage two, {found['models']} models: a sigmoid of slope {found['sigmoid_slope']:.4g}{middle}, from {found['chance']:g}",
    ]
    for row in found["forecast"]:
        nll, accuracy = row["nll_interval"], row["accuracy_interval"]
        lines.append(
            f"{row['flops']:10.3g} FLOPs: NLL {row['nll']:.4f} [{nll[0]:.4f}, {nll[1]:.4f}], accuracy {row['accuracy']:.3f} "
            f"[{accuracy[0]:.3f}, {accuracy[1]:.3f}], {row['decades_beyond']:.1f} decades beyond the runs"
        )
    return "\n".join([*lines, *(f"warning: {text}" for text in found["warnings"])])


def json_lines(objects: Sequence[Mapping[str, Any]]) -> str:
    """One object a line; what is no number is null."""
    import json
    import math

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: clean(v) for name, v in value.items()}
        if isinstance(value, list | tuple):
            return [clean(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return "\n".join(json.dumps(clean(o), allow_nan=False) for o in objects)

"""The experiment that scores a data mix (paper 3.1.2): small models on each mix foretell how a large one would do on it.

The paper trains several small models on a mix, foretells a large model's performance from them, repeats that for other mixes, and
trains a larger model on the best. Here the runs of one mix are those with the same `source_weights`; of each mix the `small_models`
least in FLOPs are fitted by a power law of their held-out bits per byte, for each kind of held-out text by itself, and foretell the
mix at the FLOPs of the largest run. A mix's score is the mean over kinds, weighed by `target_weights`. Larger runs are in no fit:
they say how far the foretelling is off, and whether the order of the mixes is right.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from openherd.core.config import nearest
from openherd.core.errors import ConfigError, InputError
from openherd.core.records import read_parquet
from openherd.core.rundir import Output, Run
from openherd.evaluation.text import choose_texts
from openherd.inference.engine import bits_of
from openherd.model.device import Device, announce, choose_device
from openherd.model.weights import load_model, model_of
from openherd.tokenizer.tokenizer import Tokenizer

FOUND = "mixes.json"


@dataclass(frozen=True, kw_only=True)
class MixExperimentConfig:
    """Settings of `mix-experiment`; the paper gives neither sizes nor the form of the law, all are ours."""

    small_models: Annotated[int, Field(description="models of each mix that are fitted, the least in FLOPs", ge=3)] = 3
    target_weights: Annotated[
        dict[str, float], Field(description="weight of each source of held-out text in a mix's score; empty: all alike")
    ] = field(default_factory=dict)
    max_heldout_bytes: Annotated[int, Field(description="held-out text of each source that is scored; 0 = all", ge=0)] = 0
    device: Annotated[Device, Field(description="where to compute; auto: CUDA, else mps, else cpu")] = "auto"
    seed: Annotated[int, Field(description="seed of the choice of documents")] = 0


@dataclass(frozen=True)
class Trained:
    """One run of the experiment."""

    name: str
    mix: str  # its source weights, as text
    flops: float
    bits_per_byte: dict[str, float]  # by source of held-out text


def mix_of(run: Run) -> str:
    """A run's mix as text: shares of its sources in percent."""
    weights: Mapping[str, float] = run.manifest["settings"].get("source_weights") or {}
    if not weights:
        return str(run.manifest["settings"].get("source_mix", "given")).replace("given", "by tokens")
    total = sum(weights.values())
    return ", ".join(f"{name} {100 * w / total:g}%" for name, w in sorted(weights.items()) if w > 0)


def power_law(flops: Sequence[float], loss: Sequence[float]) -> tuple[float, float, float]:
    """Intercept and slope of log loss over log FLOPs by least squares, and the sum of squared residuals."""
    x, y = np.log(np.asarray(flops, float)), np.log(np.asarray(loss, float))
    slope, intercept = np.polyfit(x, y, 1)
    return float(intercept), float(slope), float(((y - intercept - slope * x) ** 2).sum())


def spread_at(flops: Sequence[float], at: float) -> float:
    """By how much the variance of a single run foretold at `at` exceeds that of a run about the law."""
    x = np.log(np.asarray(flops, float))
    return float(1 + 1 / len(x) + (math.log(at) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())


def foretell(runs: Sequence[Trained], small_models: int, weights: Mapping[str, float]) -> dict[str, Any]:
    """For each mix its score at the FLOPs of the largest run, with a 95% interval, and what larger runs of it measured.

    The scatter of runs about their laws is taken to be the same for all mixes and sources. Raises InputError for too few runs.
    """
    by_mix: dict[str, list[Trained]] = defaultdict(list)
    for run in sorted(runs, key=lambda r: (r.flops, r.name)):
        by_mix[run.mix].append(run)
    for mix, of in by_mix.items():
        if len({run.flops for run in of[:small_models]}) < small_models:
            raise InputError(
                "mix-experiment", f"{len(of)} runs of the mix {mix}", allowed=f"{small_models} of different FLOPs or more"
            )
    target = max(run.flops for run in runs)
    total = sum(weights.values())
    share = {source: w / total for source, w in weights.items()}
    laws = {
        (mix, source): power_law([r.flops for r in of[:small_models]], [r.bits_per_byte[source] for r in of[:small_models]])
        for mix, of in by_mix.items()
        for source in share
    }
    freedom = len(laws) * (small_models - 2)
    scatter = math.sqrt(sum(law[2] for law in laws.values()) / freedom)
    found = {}
    for mix, of in by_mix.items():
        of_source = {source: math.exp(laws[mix, source][0] + laws[mix, source][1] * math.log(target)) for source in share}
        score = sum(share[source] * value for source, value in of_source.items())
        factor = spread_at([r.flops for r in of[:small_models]], target)
        # Relative errors of sources, which add up as independent ones.
        error = scatter * math.sqrt(factor * sum((share[s] * v) ** 2 for s, v in of_source.items()))
        larger = [r for r in of[small_models:] if r.flops == target]
        found[mix] = {
            "foretold": {"value": score, "low": score - 1.96 * error, "high": score + 1.96 * error, "n": small_models},
            "foretold_by_source": of_source,
            "measured": sum(share[s] * larger[0].bits_per_byte[s] for s in share) if larger else None,
            "measured_by_source": larger[0].bits_per_byte if larger else None,
        }
    return {"target_flops": target, "scatter": scatter, "mixes": found}


def verdict(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The best mix as foretold; how far off the foretold scores are, and how many pairs of mixes are in the right order."""
    best = min(found, key=lambda mix: found[mix]["foretold"]["value"])
    told: dict[str, Any] = {"best_foretold": best}
    measured = {mix: of["measured"] for mix, of in found.items() if of["measured"] is not None}
    if not measured:
        return told
    errors = [abs(found[mix]["foretold"]["value"] / value - 1) for mix, value in measured.items()]
    within = [found[mix]["foretold"]["low"] <= value <= found[mix]["foretold"]["high"] for mix, value in measured.items()]
    pairs = [(a, b) for i, a in enumerate(measured) for b in list(measured)[i + 1 :]]
    right = [(found[a]["foretold"]["value"] < found[b]["foretold"]["value"]) == (measured[a] < measured[b]) for a, b in pairs]
    told |= {
        "best_measured": min(measured, key=lambda mix: measured[mix]),
        "largest_relative_error": max(errors),
        "within_interval": sum(within),
        "measured_mixes": len(measured),
    }
    return told | ({"pairs_in_order": sum(right), "pairs": len(pairs)} if pairs else {})


def measured(run: Run, texts: Mapping[str, list[str]], device: str) -> Trained:
    """A run with its held-out bits per byte by source."""
    directory, _ = model_of(run)
    model, tokenizer, name = load_model(directory, device), Tokenizer.load(directory), run.path.parent.name
    bits = {
        source: sum(bits_of(model, tokenizer, of, f"{name}, {source}")) / sum(len(text.encode()) for text in of)
        for source, of in texts.items()
    }
    return Trained(name, mix_of(run), 6.0 * run.metrics["parameters"] * run.metrics["tokens"], bits)


def mix_experiment(config: MixExperimentConfig, *, models: tuple[Run, ...], documents: Run, out: Output) -> dict[str, Any]:
    """Score mixes by small models that were trained on them; `models` are all runs, of all mixes and sizes."""
    shared = {run.manifest["inputs"].get("shards", {}).get("digest") for run in models}
    if len(shared) > 1:
        raise InputError("mix-experiment", "runs on different data", allowed="runs on one set of token shards, with other weights")
    file = documents.file("heldout.parquet")
    sources = sorted({row["source"] or "" for row in read_parquet(file, ["source"])})
    weights = config.target_weights or dict.fromkeys(sources, 1.0)
    for name in weights:
        if name not in sources:
            raise ConfigError("mix-experiment", f"no held-out text of source {name!r}", do=nearest(name, sources))
    if min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ConfigError("mix-experiment", f"target_weights = {weights}", allowed="weights of at least 0, one of them more")
    device = choose_device(config.device)
    announce(out, device)
    texts = {name: choose_texts(file, config.max_heldout_bytes, config.seed, [name]) for name in sources}
    runs = [measured(run, texts, str(device)) for run in models]
    told = foretell(runs, config.small_models, weights)
    points = [{"run": r.name, "mix": r.mix, "flops": r.flops, "bits_per_byte": r.bits_per_byte} for r in runs]
    with out.write(FOUND) as path:
        path.write_text(json.dumps({**told, "target_weights": weights, "runs": points}, indent=1) + "\n", encoding="utf-8")
    return {**told, **verdict(told["mixes"]), "runs": len(runs), "heldout_documents": {name: len(of) for name, of in texts.items()}}

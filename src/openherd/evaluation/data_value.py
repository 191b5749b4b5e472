"""The experiment that scores a data set by annealing (paper 3.1.3): what 30% of it, at the end of training, does to a model.

The paper takes an 8B model that is half trained, lets the learning rate fall linearly to zero over 40B tokens of 30% the new set
and 70% the default mix, and reads off benchmarks what the set is worth; it names no control. Here one is demanded: the same
annealing on the default mix alone (`default`). Each set's value is the change of held-out bits per byte against it, by source of
the text, taken document by document, so that its interval is that of the change.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from openherd.core.errors import ConfigError, InputError
from openherd.core.metrics import Estimate, ratio_estimate
from openherd.core.records import read_parquet
from openherd.core.rundir import Output, Run
from openherd.evaluation.text import choose_texts
from openherd.inference.engine import bits_of
from openherd.model.device import Device, announce, choose_device
from openherd.model.weights import load_model, model_of
from openherd.tokenizer.tokenizer import Tokenizer

HELDOUT = "heldout.parquet"
SAME = ("steps", "sequence_length", "batch_tokens", "learning_rate", "averaged_checkpoints", "seed")  # of the annealings compared


@dataclass(frozen=True, kw_only=True)
class DataValueConfig:
    """Settings of `data-value`."""

    target_sources: Annotated[tuple[str, ...], Field(description="sources of held-out text that the value is of; empty: all")] = ()
    max_heldout_bytes: Annotated[int, Field(description="held-out text of each source that is scored; 0 = all", ge=0)] = 0
    device: Annotated[Device, Field(description="where to compute; auto: CUDA, else mps, else cpu")] = "auto"
    seed: Annotated[int, Field(description="seed of the choice of documents")] = 0


def check_alike(default: Run, models: tuple[Run, ...]) -> None:
    """Raise InputError where annealings differ in more than their sources: the value would not be the data's."""
    for run in models:
        for name in SAME:
            mine, its = run.manifest["settings"].get(name), default.manifest["settings"].get(name)
            if mine != its:
                raise InputError(run.path, f"{name} = {mine}, the default's is {its}", do="anneal alike, on other source_weights")
        base = [r.manifest["inputs"].get("base", {}).get("digest") for r in (run, default)]
        if base[0] != base[1]:
            raise InputError(run.path, "annealed from another model than the default", do="anneal both from one")
    if len({run.digest for run in (default, *models)}) <= len(models):
        raise InputError("data-value", "the same run twice", allowed="the default, and one run for each data set")


def data_value(config: DataValueConfig, *, default: Run, models: tuple[Run, ...], documents: Run, out: Output) -> dict[str, Any]:
    """Score each of `models`, annealed with a part of another data set, against `default` on `heldout.parquet`."""
    check_alike(default, models)
    file = documents.file(HELDOUT)
    sources = sorted({row["source"] or "" for row in read_parquet(file, ["source"])})
    targets = config.target_sources or tuple(sources)
    if missing := [name for name in targets if name not in sources]:
        raise ConfigError("data-value", f"no held-out text of source {missing[0]!r}", allowed=", ".join(sources))
    device = choose_device(config.device)
    announce(out, device)
    texts = {name: choose_texts(file, config.max_heldout_bytes, config.seed, [name]) for name in sources}
    sizes = {name: [float(len(text.encode())) for text in of] for name, of in texts.items()}

    def bits(run: Run) -> dict[str, list[float]]:
        directory, _ = model_of(run)
        model, tokenizer = load_model(directory, str(device)), Tokenizer.load(directory)
        return {name: bits_of(model, tokenizer, of, f"{run.path.parent.name}, {name}") for name, of in texts.items()}

    def estimate(found: dict[str, list[float]], names: tuple[str, ...], less: dict[str, list[float]] | None = None) -> Estimate:
        values = [v - (less[name][i] if less else 0.0) for name in names for i, v in enumerate(found[name])]
        return ratio_estimate(values, [n for name in names for n in sizes[name]])

    before = bits(default)
    values: dict[str, Any] = {}
    for run in models:
        after = bits(run)
        weights = run.manifest["settings"].get("source_weights") or {}
        change = estimate(after, targets, before)
        values[run.path.parent.name] = {
            "source_weights": weights,
            "value_bits_per_byte": {**change, "value": -change["value"], "low": -change["high"], "high": -change["low"]},
            "is_better": change["high"] < 0,
            "change_by_source": {name: estimate(after, (name,), before) for name in sources},
            "bits_per_byte": estimate(after, targets),
            "epochs": run.metrics.get("epochs", {}),
        }
    best = max(values, key=lambda name: values[name]["value_bits_per_byte"]["value"], default="")
    return {
        "default_bits_per_byte": estimate(before, targets),
        "values": values,
        "best": best,
        "target_sources": list(targets),
        "heldout_documents": {name: len(of) for name, of in texts.items()},
    }

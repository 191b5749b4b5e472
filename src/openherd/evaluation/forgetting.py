"""What a model forgot and what it learned (paper 5.1): bits per held-out byte before and after, on general text and on the new.

Both models score the same documents; a difference is taken document by document, so that its interval is that of the change and
not of the texts. They may have different tokenizers: bits are divided by bytes. `require = "forgetting_bits_per_byte <= 0.02"` in a
recipe makes it a gate.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from openherd.core.errors import ConfigError
from openherd.core.metrics import ratio_estimate
from openherd.core.records import read_parquet
from openherd.core.rundir import Output, Run
from openherd.evaluation.text import bits_of, choose_texts
from openherd.model.device import Device, announce, choose_device
from openherd.model.weights import load_model, model_of
from openherd.tokenizer.tokenizer import Tokenizer

HELDOUT = "heldout.parquet"


@dataclass(frozen=True, kw_only=True)
class EvaluateForgettingConfig:
    """Settings of `evaluate-forgetting`."""

    general_sources: Annotated[
        tuple[str, ...], Field(description="sources like the text that the model learned from; all others are new", min_length=1)
    ]
    max_heldout_bytes: Annotated[
        int, Field(description="held-out text scored of each kind, whole documents, at least one; 0 = all", ge=0)
    ] = 1_000_000
    dtype: Annotated[
        Literal["keep", "bfloat16"], Field(description="of the weights while they score; keep: that of each model's files")
    ] = "keep"
    device: Annotated[Device, Field(description="where to compute; auto: CUDA, else mps, else cpu")] = "auto"
    seed: Annotated[int, Field(description="seed of the choice of documents")] = 0


def evaluate_forgetting(
    config: EvaluateForgettingConfig, *, before: Run, after: Run, documents: Run, out: Output
) -> dict[str, Any]:
    """Score two models on `heldout.parquet`: what the second lost on the general sources, and gained on the others."""
    file = documents.file(HELDOUT)
    found = {row["source"] or "" for row in read_parquet(file, ["source"])}
    new = found - set(config.general_sources)
    missing = [name for name in config.general_sources if name not in found]
    if missing or not new:
        text = f"no held-out document of source {missing[0]!r}" if missing else "no held-out document of another source"
        do = "give sources as they stand in the documents; raise the holdout's share where one has too few"
        raise ConfigError("evaluate-forgetting", text, allowed=f"sources here: {', '.join(sorted(found))}", do=do)
    device = choose_device(config.device)
    announce(out, device)
    kinds = {"general": set(config.general_sources), "new": new}
    texts = {kind: choose_texts(file, config.max_heldout_bytes, config.seed, sources) for kind, sources in kinds.items()}
    sizes = {kind: [float(len(text.encode())) for text in texts[kind]] for kind in kinds}
    bits: dict[tuple[str, str], list[float]] = {}
    metrics: dict[str, Any] = {}
    for name, run in (("before", before), ("after", after)):
        directory, metrics[f"weights_sha256_{name}"] = model_of(run)
        model = load_model(directory, dtype=torch.bfloat16 if config.dtype == "bfloat16" else None).to(device)
        tokenizer = Tokenizer.load(directory)
        for kind in kinds:
            bits[kind, name] = bits_of(model, tokenizer, texts[kind], f"{kind}, {name}")
            metrics[f"{kind}_bits_per_byte_{name}"] = ratio_estimate(bits[kind, name], sizes[kind])
    for metric, kind, sign in (("forgetting", "general", 1), ("gain", "new", -1)):
        change = [sign * (a - b) for a, b in zip(bits[kind, "after"], bits[kind, "before"], strict=True)]
        metrics[f"{metric}_bits_per_byte"] = ratio_estimate(change, sizes[kind])
        metrics[f"{kind}_documents"], metrics[f"{kind}_bytes"] = len(sizes[kind]), int(sum(sizes[kind]))
    return metrics

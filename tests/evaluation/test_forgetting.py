"""What was forgotten and gained: against transformers' losses, and as a gate."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from openherd.core.errors import ConfigError, OpenherdError
from openherd.core.records import ParquetWriter
from openherd.data.documents import TEXT_SCHEMA
from openherd.evaluation.forgetting import EvaluateForgettingConfig, evaluate_forgetting
from openherd.runner import check_gate

TEXTS = {
    "web": ["The class number1 does that. " * 3, "Nothing else, ünï."],
    "law": ["The module shall do this, and the class that.", "The module."],
    "wiki": ["The number of the module is one."],
}
CONFIG = EvaluateForgettingConfig(general_sources=("web", "wiki"), device="cpu")


@pytest.fixture(scope="module")
def mixed(finished):
    lineage = {"url": "", "date": "", "file": "", "offset": 0, "title": ""}

    def stage(config, *, out):
        with out.write("heldout.parquet") as path, ParquetWriter(path, TEXT_SCHEMA) as writer:
            for i, (source, text) in enumerate((s, t) for s, texts in TEXTS.items() for t in texts):
                writer.write({**lineage, "id": f"{i:032x}", "source": source, "text": text})
        return {}

    return finished("holdout", stage)


@pytest.fixture(scope="module")
def models(model_run):
    return {"before": model_run("pretrain", 1, context=256), "after": model_run("continue-pretrain", 2, context=256)}


def bits_of(run, texts):
    """By transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = run.file("model/config.json").parent
    theirs, encode = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), AutoTokenizer.from_pretrained(directory)
    bits = 0.0
    for text in texts:
        ids = torch.tensor([encode(text)["input_ids"]])
        bits += theirs(ids, labels=ids).loss.item() * (ids.shape[1] - 1) / math.log(2)
    return bits


def test_both_kinds_before_and_after(finished, models, mixed):
    found = finished("evaluate-forgetting", evaluate_forgetting, CONFIG, documents=mixed, **models)
    texts = {"general": [*TEXTS["web"], *TEXTS["wiki"]], "new": TEXTS["law"]}
    rates = {}
    for kind in texts:
        n_bytes = sum(len(text.encode()) for text in texts[kind])
        assert (found.metrics[f"{kind}_documents"], found.metrics[f"{kind}_bytes"]) == (len(texts[kind]), n_bytes)
        for name, run in models.items():
            rates[kind, name] = bits_of(run, texts[kind]) / n_bytes
            assert found.metrics[f"{kind}_bits_per_byte_{name}"]["value"] == pytest.approx(rates[kind, name], rel=1e-5)
    forgetting, gain = found.metrics["forgetting_bits_per_byte"], found.metrics["gain_bits_per_byte"]
    assert forgetting["value"] == pytest.approx(rates["general", "after"] - rates["general", "before"], abs=1e-4)
    assert gain["value"] == pytest.approx(rates["new", "before"] - rates["new", "after"], abs=1e-4)
    assert forgetting["low"] < forgetting["value"] < forgetting["high"]
    step = SimpleNamespace(name="forgetting", require=f"forgetting_bits_per_byte <= {forgetting['value'] + 0.01}")
    check_gate(step, found)
    step.require = f"forgetting_bits_per_byte <= {forgetting['value'] - 0.01}"
    with pytest.raises(OpenherdError, match="its gate is not met: forgetting_bits_per_byte is"):
        check_gate(step, found)


def test_scored_in_bf16(finished, models, mixed):
    exact, rounded = (
        finished("evaluate-forgetting", evaluate_forgetting, replace(CONFIG, dtype=dtype), documents=mixed, **models).metrics
        for dtype in ("keep", "bfloat16")
    )
    assert exact["gain_bits_per_byte"]["value"] != rounded["gain_bits_per_byte"]["value"]
    assert exact["gain_bits_per_byte"]["value"] == pytest.approx(rounded["gain_bits_per_byte"]["value"], abs=0.05)


def test_the_same_model_forgets_nothing(finished, models, mixed):
    found = finished(
        "evaluate-forgetting", evaluate_forgetting, CONFIG, documents=mixed, before=models["before"], after=models["before"]
    )
    for name in ("forgetting_bits_per_byte", "gain_bits_per_byte"):
        assert (found.metrics[name]["value"], found.metrics[name]["high"]) == (0.0, 0.0)
    assert found.metrics["weights_sha256_before"] == found.metrics["weights_sha256_after"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (("web", "wick"), "no held-out document of source 'wick'; allowed: sources here: law, web, wiki"),
        (("web", "wiki", "law"), "no held-out document of another source"),
    ],
)
def test_sources_that_are_not_there(finished, models, mixed, sources, message):
    config = replace(CONFIG, general_sources=sources)
    with pytest.raises(ConfigError, match=message):
        finished("evaluate-forgetting", evaluate_forgetting, config, documents=mixed, **models)

"""Bits per byte against transformers and `xz`; which documents are scored; whose weights were read."""

import hashlib
import math
import shutil
import subprocess

import pytest
import torch

from openherd.core.errors import ConfigError, InputError
from openherd.core.records import read_jsonl, read_parquet
from openherd.evaluation.ngram import Trigram
from openherd.evaluation.text import EvaluateTextConfig, bits_of, choose_texts, evaluate_text
from openherd.inference.reference import generate_greedy
from openherd.model.weights import load_model, model_of

PROMPTS = ("The module", "The class number1 ")
CONFIG = EvaluateTextConfig(device="cpu", prompts=PROMPTS, sample_tokens=6)


@pytest.fixture(scope="module")
def models(model_run):
    return model_run("pretrain", 1), model_run("anneal", 2)


@pytest.fixture(scope="module")
def evaluated(finished, models, documents):
    return finished("evaluate-text", evaluate_text, CONFIG, models=models, documents=documents)


@pytest.fixture(scope="module")
def texts(documents):
    return [row["text"] for row in read_parquet(documents.file("heldout.parquet")) if row["text"]]


def test_bits_equal_those_of_transformers(model_run, tokenizer):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = model_run("pretrain", 3, context=256).file("model/config.json").parent
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    encode = AutoTokenizer.from_pretrained(directory)  # puts <|begin_of_text|> in front
    texts = ["The module number1 does this.", "ÜÜ", "x", "The class " * 20]
    expected = []
    for text in texts:
        ids = torch.tensor([encode(text)["input_ids"]])
        assert ids.shape[1] > 1
        loss = theirs(ids, labels=ids).loss.item()
        expected.append(loss * (ids.shape[1] - 1) / math.log(2))
    assert bits_of(load_model(directory), tokenizer, texts, "test") == pytest.approx(expected, rel=1e-5)


def test_bits_per_byte_are_all_bits_over_all_bytes(evaluated, models, texts, tokenizer):
    n_bytes = sum(len(text.encode()) for text in texts)
    assert evaluated.metrics["heldout_bytes"] == n_bytes
    assert evaluated.metrics["heldout_documents"] == len(texts) == 3, "the empty one has nothing to score"
    for run in models:
        model = load_model(run.file("model/config.json").parent)
        bits = sum(bits_of(model, tokenizer, texts, "test"))
        found = evaluated.metrics[run.manifest["stage"]]
        assert found["bits_per_byte"]["value"] == pytest.approx(bits / n_bytes)
        assert found["bits_per_byte"]["n"] == 3
        less = found["bits_per_byte_less_trigram"]["value"]
        assert less == pytest.approx(bits / n_bytes - evaluated.metrics["trigram"]["value"])


def test_the_trigram_learns_from_the_training_text(evaluated, documents, texts, tokenizer):
    training = [row["text"] for row in read_parquet(documents.file("train.parquet"))]
    trigram = Trigram([tokenizer.encode(text) for text in training], tokenizer.vocabulary, tokenizer.bos_id)
    bits = -sum(trigram.log2_probabilities(tokenizer.encode(text)).sum() for text in texts)
    assert evaluated.metrics["trigram"]["value"] == pytest.approx(bits / evaluated.metrics["heldout_bytes"])
    assert evaluated.metrics["training_bytes"] == len("".join(training).encode())


@pytest.mark.skipif(shutil.which("xz") is None, reason="no xz here")
def test_xz_is_the_program(evaluated, documents, texts):
    def size(text):
        return len(subprocess.run(["xz", "-9", "--stdout", "-"], input=text.encode(), capture_output=True, check=True).stdout)

    heldout = "".join(texts)
    training = "".join(row["text"] for row in read_parquet(documents.file("train.parquet")))
    n_bytes = len(heldout.encode())
    assert evaluated.metrics["xz"] == pytest.approx(8 * size(heldout) / n_bytes)
    assert evaluated.metrics["xz_primed"] == pytest.approx(8 * (size(training + heldout) - size(training)) / n_bytes)


def test_scores_name_the_weights_they_read(evaluated, models):
    digests = {
        run.manifest["stage"]: hashlib.sha256(run.file("model/model.safetensors").read_bytes()).hexdigest() for run in models
    }
    assert {name: evaluated.metrics[name]["weights_sha256"] for name in digests} == digests
    assert len(set(digests.values())) == 2


def test_other_weights_than_the_manifests_are_refused(model_run):
    run = model_run("sft", 4)
    assert model_of(run)[0] == run.path / "model"
    weights = run.file("model/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged: its SHA-256 is not the manifest's"):
        model_of(run)


def test_samples_continue_each_prompt_greedily_and_by_chance(evaluated, models, tokenizer):
    rows = list(read_jsonl(evaluated.file("samples.jsonl")))
    asked = [(row["model"], row["temperature"], row["prompt"]) for row in rows]
    assert asked == [(run.manifest["stage"], t, prompt) for run in models for t in (0.0, CONFIG.temperature) for prompt in PROMPTS]
    model = load_model(models[1].file("model/config.json").parent)
    greedy = generate_greedy(model, [tokenizer.bos_id, *tokenizer.encode(PROMPTS[0])], 6, tokenizer.stop_ids)
    assert rows[len(rows) // 2]["continuation"] == tokenizer.decode(greedy)


def test_the_outcome_is_the_same_again(finished, evaluated, models, documents):
    again = finished("evaluate-text", evaluate_text, CONFIG, models=models, documents=documents)
    assert again.metrics == evaluated.metrics
    assert again.file("samples.jsonl").read_bytes() == evaluated.file("samples.jsonl").read_bytes()


def test_whole_documents_are_drawn_up_to_the_limit(documents):
    file = documents.file("train.parquet")
    everything = choose_texts(file, 0, 0)
    assert everything == [row["text"] for row in read_parquet(file)]
    sizes = {text: len(text.encode()) for text in everything}
    for limit in (1, 300, 1000, 10**6):
        for seed in range(3):
            drawn = choose_texts(file, limit, seed)
            assert drawn == [text for text in everything if text in drawn], "in the file's order"
            assert len(drawn) == 1 or sum(sizes[text] for text in drawn) <= limit
            assert drawn == everything or sum(sizes[text] for text in drawn) + max(sizes.values()) > limit
            assert set(drawn) <= set(choose_texts(file, 2 * limit, seed)), "more room takes nothing out"
    assert len({tuple(choose_texts(file, 300, seed)) for seed in range(5)}) > 1


def test_runs_that_cannot_be_told_apart_are_refused(finished, models, documents):
    for given in ((), (models[0], models[0])):
        with pytest.raises(ConfigError, match="allowed: at least one run, each once"):
            finished("evaluate-text", evaluate_text, CONFIG, models=given, documents=documents)

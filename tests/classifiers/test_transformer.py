"""A Transformer classifier: rows, the objective, what transformers makes of its folder, and that it learns and is applied."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.conftest import document
from openherd.classifiers.transformer import (
    FILLING,
    Classify,
    TrainTransformerConfig,
    packed,
    row_of,
    steps_of,
    train_transformer,
)
from openherd.core.errors import ConfigError, InputError
from openherd.data.batches import IGNORED
from openherd.data.calibration import Calibration
from openherd.data.classifier import load
from openherd.data.quality import QualityConfig, quality
from openherd.data.transformer_model import TransformerModel, trunk_of
from openherd.model.config import ModelConfig
from openherd.model.weights import read_config
from openherd.parallel.tensor import Head
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn
from tiny import tiny_model, write_tiny

SHAPE = {"n_layers": 2, "d_model": 32, "n_heads": 2, "n_kv_heads": 1, "head_width": 16, "d_feed_forward": 48}
GOOD = [f"the herd {i} sleeps in the fold" for i in range(48)]
BAD = [f"click {i} to buy a watch" for i in range(48)]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(learn([*GOOD, *BAD], 280), path, 64)
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def tokenizer(run_stage, words):
    def stage(config, *, out):
        with out.write("tokenizer") as path:
            words.save(path)
        return {}

    return run_stage(stage, None)


def model(words, labels=("bad", "good"), **more):
    shape = ModelConfig(**SHAPE, vocabulary=words.vocabulary, max_positions=64)
    made = tiny_model(shape)
    trunk = trunk_of(shape)
    trunk.load_state_dict({n: p for n, p in made.named_parameters() if n != "head.weight"}, assign=True)
    rows = torch.randn(len(labels), 32, generator=torch.Generator().manual_seed(1))
    calibration = Calibration(kind="temperature", scale=0.5)
    return TransformerModel(labels, trunk, rows, words, more.get("text_tokens", 16), calibration)


@pytest.mark.parametrize("labels", [("bad", "good"), ("a", "b", "c")])
def test_transformers_says_the_same_of_its_folder(tmp_path, words, labels):
    from transformers import AutoModelForSequenceClassification

    made = model(words, labels)
    made.save(tmp_path / "m")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m").eval()
    assert theirs.config.id2label == dict(enumerate(labels))
    texts = [*GOOD[:3], "a", "click " * 40]
    for text, ours in zip(texts, made.logits(texts), strict=True):
        ids = [words.bos_id, *words.encode(text)][:16]
        with torch.inference_mode():
            logits = theirs(torch.tensor([ids])).logits[0].double().numpy()
        assert ours == pytest.approx(logits[1:] - logits[:1] if len(labels) == 2 else logits, abs=1e-4)
    assert np.array_equal(load(tmp_path / "m").score(texts), made.score(texts))


def test_a_text_alone_and_among_others_scores_the_same(words):
    made = model(words)
    texts = [*GOOD[:5], "x", *BAD[:5]]
    alone = np.concatenate([made.logits([text]) for text in texts])
    assert made.logits(texts) == pytest.approx(alone, abs=1e-5)
    assert made.logits([]).shape == (0, 1)


@given(
    lengths=st.lists(st.integers(1, 10), min_size=1, max_size=20),
    seed=st.integers(0, 5),
    rows=st.integers(1, 3),
)
def test_every_text_is_seen_once_an_epoch(lengths, seed, rows):
    config = TrainTransformerConfig(text_tokens=10, batch_tokens=10 * rows, epochs=2, seed=seed)
    steps = steps_of(lengths, config)
    assert {len(step) for step in steps} == {rows}
    flat = [i for step in steps for row in step for i in row]
    assert sorted(flat) == sorted([*range(len(lengths))] * 2)
    assert all(sum(lengths[i] for i in row) <= 10 for step in steps for row in step)
    assert packed([10, 10], [1, 0], 10) == [[1], [0]]


def test_a_row_by_hand():
    row = row_of([[1, 5, 6], [1, 7]], [0, 1], 7, 9)
    assert row["tokens_BT"] == [1, 5, 6, 1, 7, 9, 9]
    assert row["labels_BT"] == [IGNORED, IGNORED, 0, IGNORED, 1, IGNORED, IGNORED]
    assert row["positions_BT"] == [0, 1, 2, 0, 1, 0, 0]
    assert row["documents_BT"] == [0, 0, 0, 1, 1, FILLING, FILLING]


def test_the_objective_is_the_labels_cross_entropy_alone():
    hidden, head = torch.randn(1, 4, 8), torch.randn(50, 8)
    labels = torch.tensor([[IGNORED, 2, IGNORED, 0]])
    batch = {"labels_BT": labels}
    found = Classify(3).losses(hidden, Head(head), batch)["loss_nats"]
    logits = hidden[0, [1, 3]] @ head[:3].T
    assert found.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor([2, 0]), reduction="sum").item())
    assert Classify(3).counts(batch) == {"loss_nats": 2}


def small(**more):
    settings = {
        "size": "herd-31k", "text_tokens": 24, "batch_tokens": 192, "epochs": 3, "learning_rate": 1e-2, "precision": "float32",
        "device": "cpu", "micro_batch_sequences": 8,
    }  # fmt: skip
    return TrainTransformerConfig(**{**settings, **more})


def test_it_learns_and_is_applied(documents_run, run_stage, rows_of, tokenizer):
    rows = [[document(text) for text in texts] for texts in (GOOD, BAD)]
    run = run_stage(
        train_transformer,
        small(),
        positives=documents_run(rows[0]),
        negatives=documents_run(rows[1]),
        tokenizer=tokenizer,
    )
    assert run.metrics["heldout_auc"]["value"] > 0.95
    assert run.metrics["labels"] == ["random", "reference"]
    judged = run_stage(quality, QualityConfig(), documents=documents_run([*rows[0][:10], *rows[1][:10]]), classifier=run)
    assert {row["text"] for row in rows_of(judged)} == set(GOOD[:10])


def test_it_begins_with_a_language_model(documents_run, run_stage, words):
    def stage(config, *, out):
        shape = ModelConfig(**SHAPE, vocabulary=words.vocabulary, max_positions=64, tied_embeddings=True)
        write_tiny(tiny_model(shape), words, out)
        return {}

    base = run_stage(stage, None)
    rows = [documents_run([document(text) for text in texts]) for texts in (GOOD, BAD)]
    run = run_stage(train_transformer, small(epochs=1), positives=rows[0], negatives=rows[1], base=base)
    assert not read_config(run.path / "model", "LlamaForSequenceClassification").tied_embeddings
    assert run.metrics["steps"] > 0
    wrong = small(text_tokens=96)
    with pytest.raises(InputError, match="text_tokens = 96; allowed: at most 64"):
        run_stage(train_transformer, wrong, positives=rows[0], negatives=rows[1], base=base)


def test_what_cannot_be_is_refused(documents_run, run_stage, tokenizer):
    with pytest.raises(ConfigError, match="did you mean 'herd-31k'"):
        small(size="herd-31")
    with pytest.raises(ConfigError, match="a multiple of text_tokens"):
        small(batch_tokens=100)
    one = documents_run(["a"])
    with pytest.raises(InputError, match="a base, or a tokenizer, not both"):
        run_stage(train_transformer, small(), positives=one, negatives=one)


def test_a_damaged_folder_is_refused(tmp_path, words):
    folder = tmp_path / "m"
    model(words).save(folder)
    (folder / "classifier.json").unlink()
    with pytest.raises(InputError, match=r"no classifier \(no classifier.json\)"):
        load(folder)
    replace(model(words), rows_LD=torch.zeros(3, 32)).save(folder)
    with pytest.raises(InputError, match=r"rows of shape .3, 32. for 2 labels"):
        load(folder)

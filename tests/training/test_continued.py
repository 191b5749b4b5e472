"""Continued pre-training from a model that brings no optimizer: shares, a fresh start, adapters, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openherd.core import rundir
from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Job, Output, Run, file_sha256
from openherd.data.batches import BatchSource
from openherd.data.token_files import block_sums
from openherd.data.token_shards import START, TOKEN, TokenShards
from openherd.model.attention import CausalAttend
from openherd.model.config import ModelConfig
from openherd.model.weights import load_model
from openherd.parallel.checkpoint import load_moments
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn
from openherd.training import continued, loop
from openherd.training.anneal import AnnealConfig, anneal
from openherd.training.continued import ContinuePretrainConfig, continue_pretrain, with_replay
from openherd.training.optimizer import make_adamw
from openherd.training.phase import Base, write_trained
from openherd.training.schedule import warmup_cosine
from tiny import tiny_model, write_tiny

CONFIG = ContinuePretrainConfig(
    replay={"web": 0.25}, steps=6, sequence_length=16, batch_tokens=64, learning_rate=1e-2, final_learning_rate=1e-3,
    warmup_steps=2, precision="float32", device="cpu", micro_batch_sequences=4, most_epochs=1e6, checkpoint_steps=2,
)  # fmt: skip
LORA = replace(CONFIG, lora_rank=2, lora_alpha=4.0)


def finished(path: Path, stage, config=None, settings=None, **inputs) -> Run:
    path.mkdir(exist_ok=True)
    return rundir.make(Job("test", "0", 1, settings or {}, {}, {}), path, stage, config, inputs)[0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(learn([Path(__file__).read_text(encoding="utf-8")], 300), path, 64)
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def base(tokenizer, tmp_path_factory) -> Run:
    """As `import` leaves a model: no settings, no optimizer; and with rows that no token uses."""
    shape = {"n_layers": 2, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "head_width": 8, "d_feed_forward": 24}
    model = tiny_model(ModelConfig(**shape, vocabulary=tokenizer.vocabulary + 4, max_positions=64))
    return finished(tmp_path_factory.mktemp("base"), lambda _, *, out: write_tiny(model, tokenizer, out) or {})


def shards_of(tokenizer: Tokenizer, path: Path) -> Run:
    """Random tokens of three sources."""
    sizes = {"books": 600, "law": 200, "web": 900}

    def stage(config, *, out):
        with out.write("shards") as folder:
            folder.mkdir()
            for name, n in sizes.items():
                np.random.default_rng(n).integers(0, 300, n).astype(TOKEN).tofile(folder / f"{name}.bin")
                np.save(folder / f"{name}.blocks.npy", block_sums(folder / f"{name}.bin"))
                np.save(folder / f"{name}.starts.npy", np.arange(0, n, 50, dtype=START))
            index = {
                "vocabulary": tokenizer.vocabulary,
                "tokenizer_sha256": file_sha256(tokenizer.directory / "tokenizer.json"),
                "sources": {name: {"file": name, "tokens": n, "documents": n // 50} for name, n in sizes.items()},
            }
            (folder / "index.json").write_text(json.dumps(index))
        return {}

    return finished(path, stage)


@pytest.fixture(scope="module")
def shards(tokenizer, tmp_path_factory) -> Run:
    return shards_of(tokenizer, tmp_path_factory.mktemp("shards"))


def test_replay_has_its_share_over_any_prefix(shards):
    tokens = TokenShards.open(shards)
    assert with_replay(tokens, CONFIG) == pytest.approx({"web": 0.25, "books": 0.75 * 0.75, "law": 0.75 * 0.25})
    weighed = with_replay(tokens, replace(CONFIG, source_weights={"law": 2.0}))
    assert weighed == {"law": 0.75, "web": 0.25}
    source = BatchSource(tokens, 0, "test", 16, weighed)
    seen = np.cumsum([source.window(i)[0] == "web" for i in range(400)])
    assert np.abs(seen - 0.25 * np.arange(1, 401)).max() <= 0.5
    assert with_replay(tokens, replace(CONFIG, replay={})) == pytest.approx({"books": 6 / 17, "law": 2 / 17, "web": 9 / 17})


def test_it_goes_on_from_an_imported_model(base, shards, tmp_path):
    from transformers import AutoModelForCausalLM

    run = finished(tmp_path / "run", continue_pretrain, CONFIG, base=base, shards=shards)
    records = run.records()
    rates = [warmup_cosine(i, peak=1e-2, floor=1e-3, warmup_steps=2, decay_steps=6) for i in range(6)]
    assert [r["learning_rate"] for r in records] == rates
    theirs = AutoModelForCausalLM.from_pretrained(base.file("model/config.json").parent, dtype=torch.float32)
    assert run.metrics["steps"] == 6
    assert records[0]["loss_nats"] == pytest.approx(loss_of(theirs, shards, run.metrics["shares"]), abs=1e-5)
    after = AutoModelForCausalLM.from_pretrained(run.file("model/config.json").parent, dtype=torch.float32)
    assert loss_of(after, shards, run.metrics["shares"]) < records[0]["loss_nats"]


def test_a_phase_behind_one_of_its_kind_has_an_order_of_its_own(base, shards, tmp_path):
    """Continued pre-training, annealing, and both again, the model handed on: the first batches of each, told by their loss."""
    annealing = AnnealConfig(
        steps=2, averaged_checkpoints=1, sequence_length=16, batch_tokens=64, device="cpu", most_epochs=1e6, micro_batch_sequences=4
    )
    run = base
    for i, phases in enumerate(
        ({}, {"continue-pretrain": 1}, {"continue-pretrain": 1, "anneal": 1}, {"continue-pretrain": 2, "anneal": 1})
    ):
        stage, config, name = [(continue_pretrain, CONFIG, "continue-pretrain"), (anneal, annealing, "anneal")][i % 2]
        before = load_model(run.file("model/config.json").parent)
        assert run.metrics.get("phases", {}) == phases
        run = finished(tmp_path / str(i), stage, config, base=run, shards=shards)
        weights = run.metrics.get("shares") or TokenShards.open(shards).tokens
        nth = f"{name}-2.16" if i > 1 else f"{name}.16"
        batch = {
            key: torch.from_numpy(rows)
            for key, rows in BatchSource(TokenShards.open(shards), 0, nth, 16, weights).batch(0, 4).items()
        }
        logits_BTV = before(batch["tokens_BT"], batch["positions_BT"], CausalAttend(batch["documents_BT"]))
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), batch["labels_BT"].flatten())
        assert run.records()[0]["loss_nats"] == pytest.approx(loss.item(), abs=1e-5)


def loss_of(model, shards, shares):
    """The first batch's loss by transformers, document by document."""
    batch = BatchSource(TokenShards.open(shards), 0, "continue-pretrain.16", 16, shares).batch(0, 4)
    total = count = 0
    for row in range(4):
        for document in np.unique(batch["documents_BT"][row]):
            here = batch["documents_BT"][row] == document
            labels = torch.from_numpy(batch["labels_BT"][row][here])
            logits = model(torch.from_numpy(batch["tokens_BT"][row][here])[None]).logits[0]
            total += torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
            count += int((labels != -100).sum())
    return total / count


def test_shards_of_another_tokenizer_are_refused(base, tokenizer, tmp_path):
    """Of as many tokens, learned on another text: that the vocabularies are of one size says nothing."""
    write_tokenizer(learn([Path(rundir.__file__).read_text(encoding="utf-8")], 300), tmp_path / "other", 64)
    other = Tokenizer.load(tmp_path / "other")
    assert other.vocabulary == tokenizer.vocabulary
    wrong = shards_of(other, tmp_path / "wrong")
    annealing = AnnealConfig(sequence_length=16, batch_tokens=64, device="cpu")
    for stage, config in ((continue_pretrain, CONFIG), (anneal, annealing)):
        with pytest.raises(InputError, match=r"not made with the tokenizer .*model/tokenizer.json; run token-shards with it"):
            finished(tmp_path / stage.__name__, stage, config, base=base, shards=wrong)


@pytest.mark.parametrize("bf16", [False, True])
def test_adapters_are_added_in(base, shards, tmp_path, monkeypatch, bf16):
    """What is written has the logits of the frozen model with its adapters beside; what no adapter touches is the same bits."""
    config = replace(LORA, lora_bf16=bf16, precision="bfloat16" if bf16 else "float32")
    kept = {}

    def write(model, *rest):
        kept["model"] = model
        return write_trained(model, *rest)

    monkeypatch.setattr(continued, "write_trained", write)
    run = finished(tmp_path / "run", continue_pretrain, config, base=base, shards=shards)
    model = kept["model"]
    before, after = (load_model(r.file("model/config.json").parent) for r in (base, run))
    assert {name.rpartition(".")[2] for name, _ in model.trained()} == {"lora_a", "lora_b"}
    for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True):
        frozen = "norm" in name or name in ("embed.weight", "head.weight")
        assert torch.equal(old.bfloat16().float() if bf16 else old, new) == frozen, name
    assert not [name for name in (run.path / "state").iterdir() if name.stat().st_size > 200_000]
    if not bf16:
        tokens = torch.randint(0, 300, (3, 20), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.allclose(model.stages[0].model(tokens), after(tokens), atol=1e-5)
        assert not torch.allclose(before(tokens), after(tokens), atol=1e-2)


def test_adapters_stopped_and_resumed(base, shards, tmp_path, monkeypatch):
    whole = finished(tmp_path / "whole", continue_pretrain, LORA, base=base, shards=shards)
    real, stop = loop.set_learning_rate, 5

    def dying(optimizer, rate):
        nonlocal stop
        stop -= 1
        if stop == 0:
            raise KeyboardInterrupt
        real(optimizer, rate)

    monkeypatch.setattr(loop, "set_learning_rate", dying)
    with pytest.raises(KeyboardInterrupt):
        finished(tmp_path / "parts", continue_pretrain, LORA, base=base, shards=shards)
    assert (tmp_path / "parts" / ".checkpoints").exists()
    monkeypatch.undo()
    parts = finished(tmp_path / "parts", continue_pretrain, LORA, base=base, shards=shards)
    weights = [run.manifest["outputs"]["model/model.safetensors"]["sha256"] for run in (whole, parts)]
    assert weights[0] == weights[1]


def test_the_next_phase_takes_up_moments_of_all_weights_alone(base, shards, tmp_path):
    """Not those of adapters that are added in: annealing begins afresh then."""
    full = finished(tmp_path / "full", continue_pretrain, CONFIG, base=base, shards=shards)
    lora = finished(tmp_path / "lora", continue_pretrain, LORA, {"lora_rank": 2}, base=base, shards=shards)
    (tmp_path / "out").mkdir()
    opened = [Base.open(run, CONFIG, Output(tmp_path / "out")) for run in (base, full, lora)]
    assert [before.state for before in opened] == [None, full.path / "state", None]
    model = opened[1].model("test", CONFIG, [p.rows for p in CONFIG.pieces()])
    optimizer = make_adamw(model.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1)
    load_moments(full.path / "state", model, optimizer)
    config = AnnealConfig(
        steps=2, averaged_checkpoints=1, sequence_length=16, batch_tokens=64, device="cpu", most_epochs=1e6, micro_batch_sequences=4
    )
    assert finished(tmp_path / "anneal", anneal, config, base=lora, shards=shards).metrics["steps"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replay": {"web": 1.0}}, "shares over 0, under 1 together"),
        ({"replay": {"web": 0.0}}, "shares over 0, under 1 together"),
        ({"source_weights": {"web": 1.0}}, "'web' stands in replay and in source_weights"),
        ({"warmup_steps": 6}, "warmup_steps = 6; allowed: under steps = 6"),
        ({"sequence_length": 15}, "a multiple of the sequence length 15"),
    ],
)
def test_settings_that_do_not_fit(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replay": {"wep": 0.1}}, "replay: no source 'wep'; did you mean 'web'"),
        ({"replay": {"web": 0.1, "law": 0.2, "books": 0.1}}, "every source is replayed"),
        ({"sequence_length": 128, "batch_tokens": 128}, "at most 64, the model's context"),
        ({"most_epochs": 0.1}, "would be seen"),
        ({"lora_rank": 2, "lora_bf16": True}, "lora_bf16 with precision float32; allowed: precision = 'bfloat16'"),
    ],
)
def test_what_does_not_fit_the_inputs(base, shards, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        finished(tmp_path / "run", continue_pretrain, replace(CONFIG, **change), base=base, shards=shards)


def test_rows_of_new_tokens_must_be_trained(base, shards, tmp_path):
    grown = replace(base, manifest={**base.manifest, "stage": "extend-tokenizer"})
    with pytest.raises(ConfigError, match=r"whose rows would stay means; allowed: lora_whole = \['embeddings'\] with it"):
        finished(tmp_path / "frozen", continue_pretrain, LORA, base=grown, shards=shards)
    run = finished(tmp_path / "whole", continue_pretrain, replace(LORA, lora_whole=("embeddings",)), base=grown, shards=shards)
    before, after = (load_model(r.file("model/config.json").parent) for r in (base, run))
    assert not torch.equal(before.embed.weight, after.embed.weight)
    assert torch.equal(before.norm.weight, after.norm.weight)


def test_adapters_in_two_halves_of_a_way_back_are_refused():
    from openherd.parallel.layout import ParallelConfig

    zbv = ParallelConfig(pp=2, pipeline_schedule="ZBV", virtual_stages=2)
    with pytest.raises(ConfigError, match="lora_rank with pipeline_schedule = 'ZBV'; allowed: 1F1B or interleaved"):
        replace(LORA, parallel=zbv)

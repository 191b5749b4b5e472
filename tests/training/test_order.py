"""Whole recipes at the smallest scale: the tutorial's order of phases and its RoPE base, gates between stages, scores before and
after.
"""

import math
import random
from pathlib import Path

import pytest
import torch

from openherd.cli import main
from openherd.core.records import read_parquet
from openherd.data.token_shards import TokenShards
from openherd.evaluation.text import bits_of
from openherd.inference.engine import log_probabilities
from openherd.model.attention import CausalAttend
from openherd.model.weights import load_model, read_config
from openherd.parallel.checkpoint import load_moments, updates_of
from openherd.report.scores import changes
from openherd.report.terminal import told
from openherd.runner import Recipe, open_stage, read_run_file, run_recipe, unfinished
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.training.anneal import last_checkpoint
from openherd.training.optimizer import make_adamw
from openherd.training.phase import all_weights, batches, piece

WORDS = (Path(__file__).parent.parent.parent / "LICENSE").read_text().lower().split()  # English that is always here
SHARED = 'device = "cpu"\nprecision = "float32"\nmicro_batch_sequences = 8\n'
RECIPE = f"""
name = "tutorial"
[[stage]]
use = "sources"
inputs = {{ pages = "PAGES" }}
[[stage]]
use = "extraction"
inputs = {{ documents = "sources" }}
[[stage]]
use = "language"
inputs = {{ documents = "extraction" }}
languages = ["en"]
[[stage]]
use = "holdout"
inputs = {{ documents = "language" }}
share = 0.1
[[stage]]
use = "tokenizer"
inputs = {{ documents = "holdout" }}
merges_base = 300
merges_multilingual = 0
[[stage]]
use = "token-shards"
inputs = {{ documents = "holdout", tokenizer = "tokenizer" }}
[[stage]]
use = "pretrain"
inputs = {{ shards = "token-shards", tokenizer = "tokenizer" }}
size = "herd-1m"
steps = 12
sequence_lengths = [64]
batch_tokens = [256]
ramp_tokens = []
learning_rate = 3e-3
warmup_steps = 2
decay_steps = 12
{SHARED}
[[stage]]
use = "anneal"
inputs = {{ base = "pretrain", shards = "token-shards" }}
steps = 8
sequence_length = 64
batch_tokens = 256
learning_rate = 3e-3
averaged_checkpoints = 2
average_over = 0.5
{SHARED}
[[stage]]
use = "long-context"
inputs = {{ base = "anneal", shards = "token-shards" }}
sequence_lengths = [128]
stage_steps = [3]
batch_tokens = 256
learning_rate = 1e-3
warmup_steps = 2
rope_factor = 1.0
rope_theta = 8e6
{SHARED}
[[stage]]
name = "gate-128"
use = "context-gate"
inputs = {{ model = "long-context", before = "anneal", documents = "holdout" }}
device = "cpu"
haystacks = 1
lengths = [96, 128]
needle = "{{key}}: {{value}}"
tolerance_bits_per_byte = 100.0
require = "short_context_recovered >= 1"
[[stage]]
name = "long-context-again"
use = "long-context"
inputs = {{ base = "long-context", shards = "token-shards" }}
sequence_lengths = [128]
stage_steps = [2]
batch_tokens = 256
rope_factor = 1.0
{SHARED}
[[stage]]
use = "evaluate-text"
inputs = {{ models = ["pretrain", "anneal", "long-context", "long-context-again"], documents = "holdout" }}
sample_tokens = 2
device = "cpu"
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tutorial")
    drawn = random.Random(0)
    for i in range(60):
        (folder / "pages").mkdir(exist_ok=True)
        (folder / "pages" / f"{i}.txt").write_text(" ".join(drawn.choices(WORDS, k=120)))
    file = folder / "tutorial.toml"
    file.write_text(RECIPE.replace("PAGES", str(folder / "pages")))
    return file


@pytest.fixture(scope="module")
def out(recipe):
    run_recipe(Recipe.read(recipe), recipe.parent / "run", quiet=True)
    return recipe.parent / "run"


@pytest.fixture(scope="module")
def by_name(out):
    from openherd.core.rundir import Run

    return {name: Run.open(path) for name, path in read_run_file(out).items()}


def model_dir(run):
    return run.file("model/config.json").parent


def test_the_tutorials_order_and_rope_base(by_name):
    shape = read_config(model_dir(by_name["long-context"]))
    assert (shape.rope_theta, shape.rope_scaling, shape.max_positions) == (8e6, None, 128)
    again = read_config(model_dir(by_name["long-context-again"]))
    assert again == shape, "and it stays where nothing is said"
    assert by_name["anneal"].metrics["context"] == 64


def test_long_context_goes_on_from_the_averaged_weights_and_the_last_moments(by_name):
    """The loss of its first step, computed anew; the updates that its moments have seen; a rate that starts from zero."""
    shards, run = TokenShards.open(by_name["token-shards"]), by_name["long-context"]
    part = batches(shards, [piece("", 128, 256, 3)], 0, "long-context", all_weights(shards, {}))
    batch = part(0, 0, 1)
    model = load_model(model_dir(by_name["anneal"]))
    model.config = read_config(model_dir(run))
    logits_BTV = model(batch["tokens_BT"], batch["positions_BT"], CausalAttend(batch["documents_BT"]))
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), batch["labels_BT"].flatten())
    assert run.records()[0]["loss_nats"] == pytest.approx(loss.item(), abs=1e-5)
    assert [r["learning_rate"] for r in run.records()] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert updates(by_name["anneal"]) == 20
    assert updates(run) == 23


def updates(run):
    """How many updates the optimizer state of a run has seen."""
    from openherd.parallel.apply import Sharded
    from openherd.parallel.layout import ParallelConfig
    from openherd.parallel.mesh import World

    model = Sharded(read_config(model_dir(run)), World(ParallelConfig(), torch.device("cpu")), "float32")
    optimizer = make_adamw(model.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1)
    load_moments(run.path / "state", model, optimizer)
    return updates_of(optimizer)


def test_a_second_long_context_run_has_data_of_its_own(by_name):
    shards, run = TokenShards.open(by_name["token-shards"]), by_name["long-context-again"]
    assert run.metrics["phases"] == {"pretrain": 1, "anneal": 1, "long-context": 2}
    steps, weights = [piece("", 128, 256, 3)], all_weights(shards, {})
    first, second = (batches(shards, steps, 0, name, weights)(0, 0, 1) for name in ("long-context", "long-context-2"))
    assert not torch.equal(first["tokens_BT"], second["tokens_BT"])
    model = load_model(model_dir(by_name["long-context"]))
    logits_BTV = model(second["tokens_BT"], second["positions_BT"], CausalAttend(second["documents_BT"]))
    loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), second["labels_BT"].flatten())
    assert run.records()[0]["loss_nats"] == pytest.approx(loss.item(), abs=1e-5)


def test_scores_before_and_after_annealing(by_name):
    run = by_name["evaluate-text"]
    texts = [row["text"] for row in read_parquet(by_name["holdout"].file("heldout.parquet"))]
    n_bytes = sum(len(text.encode()) for text in texts)
    tokenizer = Tokenizer.load(model_dir(by_name["pretrain"]))
    before, after = (bits_of(load_model(model_dir(by_name[name])), tokenizer, texts, "") for name in ("pretrain", "anneal"))
    last_model = last_checkpoint(by_name["anneal"], torch.device("cpu"))
    last = [
        -float(log_probabilities(last_model, [[tokenizer.bos_id, *ids]], 64)[0].sum()) / math.log(2)
        for ids in tokenizer.encode_batch(texts)
    ]
    found = run.metrics["anneal"]
    assert found["bits_per_byte_of_base"] == pytest.approx(sum(before) / n_bytes)
    less = found["bits_per_byte_less_base"]
    differences = [a - b for a, b in zip(after, before, strict=True)]
    assert less["value"] == pytest.approx(sum(differences) / n_bytes)
    mean = sum(differences) / n_bytes
    half = 1.96 * math.sqrt(sum((d - mean * len(t.encode())) ** 2 for d, t in zip(differences, texts, strict=True))) / n_bytes
    assert (less["low"], less["high"]) == pytest.approx((mean - half, mean + half))
    assert found["bits_per_byte_less_last_checkpoint"]["value"] == pytest.approx((sum(after) - sum(last)) / n_bytes, abs=1e-6)
    assert sum(last) != sum(after)
    assert "bits_per_byte_less_base" not in run.metrics["pretrain"]
    first, second = (run.metrics[name] for name in ("long-context", "long-context-2"))
    assert first["bits_per_byte_of_base"] == pytest.approx(found["bits_per_byte"]["value"])
    assert second["bits_per_byte_of_base"] == pytest.approx(first["bits_per_byte"]["value"])
    assert second["weights_sha256"] == by_name["long-context-again"].manifest["outputs"]["model/model.safetensors"]["sha256"]
    assert "bits_per_byte_less_last_checkpoint" not in first
    line = told(run)
    assert f"before → after annealing {sum(before) / n_bytes:.3f} → {sum(after) / n_bytes:.3f}, {mean:+.3f} [" in line
    assert "averaging " in line
    said = [text.partition(":")[0] for text in changes(run)]
    assert said == ["anneal", "anneal, averaged against its last checkpoint", "long-context", "long-context-2"]


def test_the_last_checkpoint_is_that_of_the_last_step(by_name):
    """The mean of two snapshots is half of each: the last one, taken twice, less the mean, is the other."""
    from openherd.parallel.apply import Sharded
    from openherd.parallel.checkpoint import load_state
    from openherd.parallel.layout import ParallelConfig
    from openherd.parallel.mesh import World

    run = by_name["anneal"]
    first, second = sorted((run.path / "snapshots").glob("step-*"))
    model = Sharded(read_config(model_dir(run)), World(ParallelConfig(), torch.device("cpu")), "float32")
    load_state(first, model, None, {})
    mean, last = load_model(model_dir(run)), last_checkpoint(run, torch.device("cpu"))
    assert second.name == "step-00000008"
    for name, parameter in mean.named_parameters():
        ours = dict(last.named_parameters())[name]
        assert torch.allclose(2 * parameter - ours, model.whole(name), atol=1e-6), name
        assert not torch.equal(ours, parameter) or "norm" in name


def test_a_gate_stops_a_run_and_a_changed_setting_lets_it_go_on(recipe, out, capsys):
    closed = ["--set", "gate-128.tolerance_bits_per_byte=0", "--set", "long-context.learning_rate=0.3"]
    assert main(["run", str(recipe), "--out", str(out), *closed]) == 2
    printed = capsys.readouterr().err
    assert (
        "openherd: stage 'gate-128': its gate is not met: short_context_recovered is False; allowed: short_context_recovered >= 1"
        in printed
    )
    assert "short text +" in printed, "the gate's scores are told before it stops"
    assert "10/12 gate-128" in printed
    assert "11/12" not in printed
    left = read_run_file(unfinished(out / "run.json"))
    assert (left["gate-128"] / "needles.jsonl").exists(), "what was made stays"
    assert not left["long-context-again"].exists()
    assert main(["run", str(recipe), "--out", str(out), *closed[2:]]) == 0
    printed = capsys.readouterr()
    assert " 9/12 long-context · up to date" in printed.err
    assert open_stage(out, "evaluate-text").path == read_run_file(out)["evaluate-text"]
    assert " bits/byte; found 0.00" in printed.out

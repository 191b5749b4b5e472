"""The dry run against reality: bytes of a real step on one process, and the paper's figures from the recipes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openherd.cli import main
from openherd.core.errors import ConfigError
from openherd.data.token_shards import TokenShards
from openherd.interchange.extension import ExtendTokenizerConfig
from openherd.model.config import ModelConfig
from openherd.model.transformer import Transformer
from openherd.parallel.apply import Sharded
from openherd.parallel.checkpoint import Checkpointer
from openherd.parallel.layout import ParallelConfig, Rows
from openherd.parallel.mesh import World
from openherd.parallel.rehearsal import META, Kept, Kernels, kept_bytes
from openherd.runner import Recipe, dry_run
from openherd.training.anneal import AnnealConfig
from openherd.training.continued import ContinuePretrainConfig
from openherd.training.dry_run import GIB, PARTS, EveryToken, cases_of, dry_run_text, dry_runs, first_sources, fits_text, shape_of
from openherd.training.optimizer import make_adamw
from openherd.training.phase import Piece

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SHAPE = ModelConfig(n_layers=3, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=64, vocabulary=96)
ROWS, TOKENS = 2, 48
BATCH = {name: torch.zeros(ROWS, TOKENS, dtype=torch.int64) for name in ("tokens_BT", "labels_BT", "documents_BT")}
BATCH["positions_BT"] = torch.arange(TOKENS).expand(ROWS, -1)


def real(precision, float8="none", **layout):
    model = Sharded(SHAPE, World(ParallelConfig(**layout), torch.device("cpu")), precision, float8)
    model.fill(lambda name: torch.full(dict(Transformer(SHAPE).named_parameters())[name].shape, 0.1))
    return model


def reckoned(precision="float32", micro=ROWS, float8="none", **layout):
    config = AnnealConfig(
        steps=5, sequence_length=TOKENS, batch_tokens=4 * TOKENS, precision=precision, micro_batch_sequences=micro, float8=float8,
        averaged_checkpoints=1, checkpoint_behind=False, parallel=ParallelConfig(**layout),
    )  # fmt: skip
    return dry_runs([("test", config, SHAPE)])[0]


def run(stage, precision):
    stage.objective = EveryToken()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        return stage(None, **BATCH)


@pytest.mark.parametrize(
    ("precision", "float8"),
    [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "feed_forward"), ("bfloat16", "every_feed_forward")],
)
def test_bytes_of_a_step_are_those_of_plain_torch(precision, float8):
    """Weights, gradients and AdamW's moments of torch's own objects; what autograd saves, by its hooks."""
    model = real(precision, float8)
    apart = {t.untyped_storage().data_ptr() for t in (*model.stages[0].parameters(), *BATCH.values())}
    saved = {}

    def save(tensor):
        if tensor.shape[-2:] != (TOKENS, TOKENS) and tensor.untyped_storage().data_ptr() not in apart:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with Kernels(), torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = run(model.stages[0], precision)
    loss.sum().backward()
    parameters = [p for _, p in model.trained()]
    optimizer = torch.optim.AdamW(parameters)
    optimizer.step()
    (process,) = reckoned(precision, float8=float8).processes
    assert process.weights == sum(p.nbytes for p in parameters)
    assert process.gradients == sum(p.grad.nbytes for p in parameters)
    assert process.moments == sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim)
    # Autocast has cast every matrix but FP8's: of so few logits the head's too, which is not kept where they are many.
    head = SHAPE.vocabulary * SHAPE.d_model * 2 if precision == "bfloat16" else 0
    one_sum = 4
    assert process.activations + process.gathered + head == sum(saved.values()) + one_sum
    layers = {"none": 0, "feed_forward": 1, "every_feed_forward": 3}[float8]
    assert reckoned(precision).processes[0].gathered - process.gathered == layers * 2 * 3 * 32 * 64


def test_fp8_of_some_layers_and_recomputation():
    """Of three processes' layers one is in FP8; what is computed again is such a layer."""
    ends, middle, _ = reckoned("bfloat16", micro=1, float8="feed_forward", pp=3).processes
    assert ends.gathered - middle.gathered == 2 * 3 * 32 * 64
    plain, low = (reckoned("bfloat16", float8=setting, recompute="full").processes[0] for setting in ("none", "feed_forward"))
    assert plain.recomputed == low.recomputed > 0  # the same is kept of its input
    assert "float8 = feed_forward" in dry_run_text(reckoned("bfloat16", float8="feed_forward"), 80, 8)
    for precision in ("float32", "float16"):
        with pytest.raises(ConfigError, match=f"precision = '{precision}'; allowed: 'bfloat16'"):
            reckoned(precision, float8="feed_forward")


@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_fake_tensors_keep_what_real_ones_do(how):
    model = real("float32", recompute=how)
    with Kernels(), Kept(model.stages[0]) as kept:
        out = run(model.stages[0], "float32")
    measured = kept.bytes(BATCH.values())
    del out
    alone = Sharded(SHAPE, World(ParallelConfig(recompute=how), META), "float32")
    assert kept_bytes(alone.stages[0], "float32", EveryToken(), Rows(ROWS, TOKENS)) == measured
    (process,) = reckoned(recompute=how).processes
    assert process.activations == measured
    none = reckoned().processes[0]
    assert process.total <= none.total if how == "none" else process.activations < none.activations
    assert (process.recomputed > 0) == (how != "none")


def test_what_is_gathered_and_summed_by_hand():
    """FSDP over two: weights halved; layers gathered in bf16, the rest in fp32; whole sums where there are two micro-batches."""
    matrices, norms = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64, 2 * 32
    layers, rest = 3 * (matrices + norms), 2 * 96 * 32 + 32
    both = reckoned("bfloat16", micro=1, dp_shard=2).processes[0]
    assert both.elements == (layers + rest) // 2
    assert both.gathered == 2 * layers + 4 * rest
    assert both.gradients == both.weights
    assert both.summed == 4 * (layers + rest)
    one = reckoned("bfloat16", dp_shard=2, reshard_after_forward=True).processes[0]
    assert one.gathered == 2 * 2 * (matrices + norms) + 4 * rest
    assert one.summed == 0


def test_alike_layouts_and_steps():
    found = reckoned(pp=2, micro=1)
    assert [p.layers for p in found.processes] == [2, 1]
    assert found.steps == 5
    assert found.tokens == 5 * 4 * TOKENS
    assert found.micro_batches(found.pieces[0]) == (4, 1)
    first, last = found.processes
    hidden = 4 * TOKENS * 32
    assert first.pipeline == last.pipeline == 4 * hidden  # the states of four micro-batches, or their gradients
    assert first.activations % 2 == 0  # two on their way, on the last place one
    assert fits_text(found, 1.0) == ""
    small = first.total / 2 / GIB
    assert "does not fit" in fits_text(found, small)


class Ramp(AnnealConfig):
    """Short sequences in two micro-batches a process, then longer ones in one."""

    def pieces(self):
        return [Piece(16, 8, 5), Piece(24, 4, 5)]


@pytest.mark.parametrize("micro", [1, 2])
def test_every_piece_is_reckoned(micro):
    """Gradients of several micro-batches are summed whole: that may be more than longer sequences keep."""
    settings = {"precision": "bfloat16", "micro_batch_sequences": micro, "parallel": ParallelConfig(dp_shard=2)}

    def alone(sequences, length):
        config = AnnealConfig(steps=5, sequence_length=length, batch_tokens=sequences * length, averaged_checkpoints=1, **settings)
        return dry_runs([("test", config, SHAPE)])[0].largest

    (process,) = dry_runs([("test", Ramp(**settings), SHAPE)])[0].processes
    short, long = alone(8, 16), alone(4, 24)
    assert [short.summed > 0, long.summed > 0] == [True, micro == 1]
    assert process == max(short, long, key=lambda p: p.total) == (short if micro == 2 else long)


def test_cases_that_another_exceeds_are_left_out():
    short, long, wide = Rows(1, 4), Rows(1, 8), Rows(2, 4)
    assert cases_of([(short, 8), (long, 8), (long, 16)]) == {long: (8, 16)}
    assert cases_of([(short, 16), (long, 8), (wide, 8), (short, 16)]) == {short: (16,), long: (8,), wide: (8,)}


def test_a_layout_that_cannot_run_is_refused():
    with pytest.raises(ConfigError, match=r"test: this layout cannot run: 4 heads are no multiple of tp = 3"):
        reckoned(tp=3)
    with pytest.raises(ConfigError, match="sequences of 48 tokens; allowed: 32, the model's context"):
        dry_runs([("test", AnnealConfig(sequence_length=48, batch_tokens=48), replace(SHAPE, max_positions=32))])


@pytest.mark.slow
def test_the_paper_s_run_fits_80_gb():
    """405B: Table 4's second row."""
    (found,) = dry_run(Recipe.read(RECIPES / "405b.toml"), ["pretrain"], "")
    assert found.parallel.world == 16_384
    assert found.shape == replace(found.shape, vocabulary=128_256, rope_theta=500_000.0, rope_scaling=None)
    assert found.tokens == pytest.approx(15.6e12, rel=1e-3)
    assert found.steps == pytest.approx(1.1e6, rel=1e-3)
    assert [(p.sequence_length, p.batch_sequences // 128) for p in found.pieces] == [(4_096, 8), (8_192, 8), (8_192, 16)]
    assert [p.layers for p in found.processes] == [7, *[8] * 14, 7]
    assert 6 * 405_853_388_800 * found.tokens == pytest.approx(3.8e25, rel=0.01)  # paper 3.2.1
    # fp32 weights of one of 128 shards of an eighth of 8 layers
    assert found.processes[1].weights == 8 * 4 * ((3_187_703_808 - 2 * 16_384) // 8 + 2 * 16_384) // 128
    assert fits_text(found, 80) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["8b", "70b", "405b", "tutorial-405b"])
def test_every_stage_of_a_real_recipe_runs_and_fits(name):
    found = dry_run(Recipe.read(RECIPES / f"{name}.toml"), [], "")
    by_name = {stage.stage: stage for stage in found}
    assert [text for stage in found if (text := fits_text(stage, 80))] == []
    assert by_name["pretrain"].tokens == pytest.approx(14e12 if name.startswith("tutorial") else 15.6e12, rel=1e-3)
    long = [stage for stage in found if stage.stage.startswith("long-context")]
    assert len(long) == 6
    assert sum(stage.tokens for stage in long) == pytest.approx(800e9, rel=1e-3)
    lengths = [stage.pieces[0].sequence_length for stage in long]
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == 131_072
    assert len({stage.parallel.world for stage in found}) == 1
    last = long[-1].parallel
    assert (last.tp, last.cp, last.dp) == (8, 16, 8)
    theta = 8e6 if name.startswith("tutorial") else 500_000
    assert long[-1].shape.rope_theta == theta
    assert (long[-1].shape.rope_scaling is None) == name.startswith("tutorial")
    assert by_name["anneal"].tokens == pytest.approx(1e12 if name.startswith("tutorial") else 40e9, rel=1e-3)


def continued(**settings):
    """A dry run of continued pre-training, with recomputation."""
    config = ContinuePretrainConfig(
        steps=5, warmup_steps=1, sequence_length=TOKENS, batch_tokens=2 * TOKENS, precision="bfloat16", micro_batch_sequences=ROWS,
        parallel=ParallelConfig(recompute="full"), **settings,
    )  # fmt: skip
    (found,) = dry_runs([("test", config, SHAPE)])
    return config, found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offload", [False, True])
def test_moments_are_where_the_optimizer_keeps_them(dtype, offload, tmp_path):
    model = real("float32")
    optimizer = make_adamw(
        model.trained(), beta1=0.9, beta2=0.95, epsilon=1e-5, weight_decay=0.1, moments_dtype=dtype, offload=offload
    )  # fmt: skip
    moments = sum(t.nbytes for state in optimizer.state.values() for t in state.values() if t.ndim)
    _, found = continued(moments_dtype=dtype, optimizer_offload=offload)
    (process,) = found.processes
    assert process.moments == (0 if offload else moments)
    assert process.written == process.weights + moments
    # Moments, and of two tensors weight and gradient in fp32; the copy that is written behind training.
    held = moments + 2 * 2 * 4 * 96 * 32 if offload else 0
    assert process.host == held + process.written
    assert f"{process.host / GIB:.2f} GiB a process" in dry_run_text(found, 80, 8)
    _, waits = continued(moments_dtype=dtype, optimizer_offload=offload, checkpoint_behind=False)
    assert waits.processes[0].host == held
    with Checkpointer(model, optimizer, behind=True) as checkpointer:
        checkpointer.save(tmp_path / "one", {})
    assert process.written == sum(copy.nbytes for copy in checkpointer.copies.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("how", ["none", "selective", "full"])
@pytest.mark.parametrize("whole", [(), ("embeddings",)])
def test_lora_is_reckoned_as_it_is(bf16, how, whole):
    """Against the real model and a real step: weights, gradients and moments to the byte, and what autograd saves."""
    config, _ = continued(lora_rank=4, lora_bf16=bf16, lora_whole=whole)
    layout = ParallelConfig(recompute=how)
    (found,) = dry_runs([("test", replace(config, parallel=layout), SHAPE)])
    (process,) = found.processes
    model = Sharded(SHAPE, World(layout, torch.device("cpu")), "bfloat16", lora=config.lora)
    for _, _, local in (*model.parts, *model.frozen):
        torch.nn.init.constant_(local, 0.1)
    with Kernels(), Kept(model.stages[0]) as kept:
        out = run(model.stages[0], "bfloat16")
    assert process.activations == kept.bytes(BATCH.values())
    del out
    model.gradients(EveryToken(), BATCH, {"loss_nats": 1}, ROWS)
    trained = [p for _, p in model.trained()]
    assert process.gradients == sum(p.grad.nbytes for p in trained)
    assert process.moments == 2 * process.gradients
    assert process.weights == process.gradients + sum(p.nbytes for _, p, _ in model.frozen)
    assert process.written == 3 * process.gradients
    adapted = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))  # of a layer in bf16
    of_layer = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    frozen = 0 if bf16 else of_layer * (3 if how == "none" else 1)
    assert process.gathered == 3 * adapted + frozen


def test_lora_over_processes():
    """FSDP gathers adapters with their layer, and sums whole gradients of what is trained alone."""
    config, _ = continued(lora_rank=4, lora_bf16=True)
    config = replace(config, micro_batch_sequences=1, batch_tokens=4 * TOKENS, parallel=ParallelConfig(dp_shard=2))
    (process,) = dry_runs([("test", config, SHAPE)])[0].processes
    adapters = 3 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))
    base = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 2 * 96 * 32 + 32
    assert process.gradients == 4 * adapters // 2
    assert process.weights == process.gradients + 2 * base // 2
    assert process.summed == 4 * adapters
    assert process.gathered == 2 * (adapters + base)
    with pytest.raises(ConfigError, match="lora_bf16 with precision float32"):
        dry_runs([("test", replace(config, precision="float32"), SHAPE)])


def test_adapters_on_a_process_without_layers_are_refused():
    config, _ = continued(lora_rank=4)
    config = replace(config, micro_batch_sequences=1, batch_tokens=4 * TOKENS, parallel=ParallelConfig(pp=4))
    with pytest.raises(ConfigError, match="3 layers, pp = 4: with adapters each process needs a layer"):
        dry_runs([("test", config, SHAPE)])
    (found,) = dry_runs([("test", replace(config, lora_whole=("embeddings",)), SHAPE)])
    assert [p.layers for p in found.processes] == [1, 1, 1, 0]


def test_new_tokens_make_the_model_larger():
    assert shape_of(ExtendTokenizerConfig(new_tokens=32), SHAPE) == replace(SHAPE, vocabulary=128)


def table_of_memory():
    """The rows of the table in docs/continued-pretraining.md: model, settings, and its figures."""
    text = (RECIPES.parent / "docs" / "continued-pretraining.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| llama3")]
    return [(model, tuple(re.findall("`(.*?)`", settings)), figures) for model, settings, *figures in rows]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "settings", "figures"), table_of_memory())
def test_the_table_of_memory_for_continued_pre_training(model, settings, figures):
    """Of the documentation; what the recipe's comments say is in it too."""
    recipe = Recipe.read(RECIPES / "continue-8b.toml", [f"continue-pretrain.{setting}" for setting in settings])
    (found,) = dry_run(recipe, ["continue-pretrain"], model)
    p = found.largest
    work = p.gathered + p.summed + p.activations + p.recomputed + p.pipeline + p.logits
    sizes = [p.weights, p.gradients, p.moments, work, p.total, p.host]
    fits = next((f"{gb} GB" for gb in (24, 48, 80) if fits_text(found, 0.9 * gb) == ""), "none")
    if found.parallel.world > 1 and fits != "none":
        fits = f"{found.parallel.world} of {fits}"
    assert figures == [*(f"{size / GIB:.1f}" for size in sizes), fits]


def test_the_recipe_s_comments_are_the_table_s():
    comments = (RECIPES / "continue-8b.toml").read_text(encoding="utf-8").partition("\nname =")[0]
    told = re.findall(r"\d+\.\d", comments.partition("# Memory")[2].partition("# Reckoned")[0])
    known = {figure for _, _, figures in table_of_memory() for figure in figures}
    assert len(told) > 8
    assert set(told) <= known


RECIPE = """
[[stage]]
use = "import"
inputs = { source = "./no/such/model" }

[[stage]]
use = "sources"
inputs = { pages = "./none/*.html" }

[[stage]]
use = "extraction"
inputs = { documents = "sources" }

[[stage]]
use = "holdout"
inputs = { documents = "extraction" }

[[stage]]
use = "token-shards"
inputs = { documents = "holdout", tokenizer = "import" }

[[stage]]
use = "anneal"
inputs = { base = "import", shards = "token-shards" }
steps = 10
averaged_checkpoints = 2
sequence_length = 256
batch_tokens = 256

[[stage]]
use = "dialogs"
inputs = { documents = "holdout" }

[[stage]]
use = "sft"
inputs = { base = "anneal", dialogs = "dialogs" }
sequence_length = 256
batch_tokens = 512
"""


def test_the_first_batches_and_a_process_s_tensors(tmp_path, capsys):
    """By hand: 96 tokens of vocabulary, half of each matrix's rows; three steps, the last of them of another piece."""

    class Short(Ramp):
        def pieces(self):
            return [Piece(16, 8, 2), Piece(24, 4, 8)]

    settings = {"steps": 10, "learning_rate": 1e-3, "averaged_checkpoints": 1, "micro_batch_sequences": 2}
    config = Short(**settings, parallel=ParallelConfig(dp_shard=2))
    (found,) = dry_runs([("test", config, SHAPE)])
    lines = [line.split() for line in dry_run_text(found, 80, 8).splitlines()]
    at = lines.index(["first", "steps:"])
    assert [" ".join(line) for line in lines[at + 2 : at + 5]] == [
        "0 0.001 4 x 16 2 of 2 x 16 128",
        "1 0.0009 4 x 16 2 of 2 x 16 128",
        "2 0.0008 2 x 24 1 of 2 x 24 96",
    ]
    assert " ".join(lines[at + 5]) == "the first batch: of shards that are not here yet"
    (shapes,) = (dict(p.shapes) for p in found.processes)
    # Embedding and head; query, key, value and output of three layers; gate, up, down; norms.
    assert shapes == {(48, 32): 2, (16, 32): 6, (8, 32): 6, (32, 32): 6, (16, 64): 3, (16,): 7}
    assert "at 0: 2 of 48 x 32" in dry_run_text(found, 80, 8)
    config = replace(config, micro_batch_sequences=1, parallel=ParallelConfig(pp=4))
    (deep,) = dry_runs([("test", config, replace(SHAPE, n_layers=6))])
    assert [text.split(":")[0].strip() for text in dry_run_text(deep, 80, 8).splitlines()[-3:]] == ["at 0", "at 1, 2", "at 3"]


def test_the_sources_of_the_first_batch():
    shards = TokenShards(Path(), 96, "", {"web": 900, "books": 300}, {}, {})
    config = AnnealConfig(steps=5, averaged_checkpoints=1, sequence_length=16, batch_tokens=16 * 16)
    assert first_sources(config, shards) == {"books": 0.25, "web": 0.75}
    assert first_sources(replace(config, source_weights={"books": 1.0}), shards) == {"books": 1.0}
    mixed = ContinuePretrainConfig(steps=5, warmup_steps=1, sequence_length=16, batch_tokens=16 * 16, replay={"web": 0.125})
    assert first_sources(mixed, shards) == {"books": 0.875, "web": 0.125}


def test_the_command(tmp_path, capsys):
    """Nothing it names is there; a table or JSON, and the exit code says whether it fits."""
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE)
    command = ["run", str(recipe), "--dry-run"]
    assert main(command) == 2
    assert "the size of 'no/such/model' is not known; give --size" in capsys.readouterr().err
    command += ["--size", "herd-1m"]
    assert main([*command, "--stage", "sft", "--json"]) == 0
    (sft,) = json.loads(capsys.readouterr().out)
    assert sft["stage"] == "sft"
    assert sft["steps"] == 0
    (process,) = sft["processes"]
    assert process["total"] == sum(process[part] for part in PARTS)
    assert main([*command, "--device-gb", "0.001"]) == 1
    text, said = capsys.readouterr()
    assert "anneal: " in text
    assert "10 steps, 2560 tokens" in text
    assert "as many steps as its data make" in text
    assert said.count("does not fit: 0.") == 2
    assert main([*command, "--stage", "pretrain"]) == 2
    assert "no training stage 'pretrain'" in capsys.readouterr().err
    assert main([*command, "--device-gb", "0"]) == 2
    assert main([*command, "--set", "sft.parallel={tp=3}"]) == 2
    assert "sft: this layout cannot run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [recipe]
    with pytest.raises(SystemExit):
        main(["run", str(recipe), "--out", str(tmp_path / "x"), "--json"])
    assert "--json is for --dry-run" in capsys.readouterr().err

"""Layouts as others take them: our own recipe is read and reckoned, others' arguments by hand."""

import re

import pytest

from openherd.core.errors import ConfigError
from openherd.planning.engines import engine
from openherd.planning.exports import export
from openherd.planning.hardware import hardware
from openherd.planning.search import Job, evaluate, parse_layout, search
from openherd.runner import Recipe, dry_run


def job(engine_name, model="llama3-8b", gpus=64, precision="bf16", **more):
    return Job(model=model, gpus=gpus, hardware=hardware("h100"), precision=precision, engine=engine(engine_name), **more)


def arguments(text):
    """Name and value of each line."""
    return dict(re.fullmatch(r"--([\w.-]+) ?(.*)", line).groups() for line in text.splitlines() if line.startswith("--"))


@pytest.mark.slow
def test_a_recipe_of_ours_is_read_and_reckoned_to_the_same_bytes(tmp_path):
    asked = job("ours", batch_tokens=2**22)
    best = search(asked).best[0]
    path = tmp_path / "planned.toml"
    path.write_text(export(asked, best, "recipe"), encoding="utf-8")
    (found,) = dry_run(Recipe.read(path), ["pretrain"], "")
    s = best.step
    assert (found.parallel.tp, found.parallel.cp, found.parallel.pp, found.parallel.dp) == (s.tp, s.cp, s.pp, s.dp)
    assert found.tokens == pytest.approx(15.6e12, rel=1e-6)
    told = float((best.memory.total - best.memory.fragmentation).max())
    assert found.largest.total == pytest.approx(told, rel=1e-9 if s.virtual_stages == 1 else 0.05)


def test_torchtitan_s_arguments():
    asked = job("torchtitan", "llama3-405b", 16_384)
    layout = evaluate(asked, parse_layout("tp=8,pp=16,v=8,recompute=full", asked))
    given = arguments(export(asked, layout, "torchtitan"))
    assert given["parallelism.tensor_parallel_degree"] == "8"
    assert given["parallelism.pipeline_parallel_degree"] == "16"
    assert given["parallelism.pipeline_parallel_schedule"] == "Interleaved1F1B"
    # 126 layers and the two that are taken from the ends, in 128 stages.
    assert given["parallelism.pipeline_parallel_layers_per_stage"] == "1"
    assert given["parallelism.pipeline_parallel_first_stage_less_layers"] == "1"
    assert given["parallelism.data_parallel_shard_degree"] == "128"
    assert (given["training.local_batch_size"], given["training.global_batch_size"]) == ("16", "2048")
    assert "training.disable_cuda_graphs" in given  # torchtitan 0.3.0 has none beside a pipeline
    assert export(asked, layout, "torchtitan").endswith("\nactivation-checkpoint:full")


def test_megatron_s_arguments():
    asked = job("megatron", "llama3-405b", 16_384, "fp8")
    layout = evaluate(asked, parse_layout("tp=8,pp=16,v=8,recompute=full", asked))
    given = arguments(export(asked, layout, "megatron"))
    assert given["num-layers"] == "126"
    assert given["num-virtual-stages-per-pipeline-rank"] == "8"
    assert "account-for-embedding-in-pipeline-split" in given
    assert "account-for-loss-in-pipeline-split" in given
    assert (given["num-query-groups"], given["ffn-hidden-size"], given["rotary-base"]) == ("8", "53248", "500000")
    assert (given["micro-batch-size"], given["global-batch-size"]) == ("1", "2048")
    assert (given["fp8-format"], given["fp8-recipe"]) == ("hybrid", "tensorwise")
    assert (given["recompute-granularity"], given["recompute-method"]) == ("full", "uniform")
    assert "untie-embeddings-and-output-weights" in given
    even = job("megatron", "llama3-70b", 64)
    plain = arguments(export(even, evaluate(even, parse_layout("tp=4,pp=4,v=5,recompute=full", even)), "megatron"))
    assert "account-for-loss-in-pipeline-split" not in plain


def test_what_cannot_be_exported():
    asked = job("llama3", "llama3-405b", 16_384)
    paper = evaluate(asked, parse_layout("tp=8,pp=16,v=8", asked))
    with pytest.raises(
        ConfigError, match=r"--export recipe: this layout needs 1\d\d.\d GiB of 79.2 with that program; plan for it: "
    ):
        export(asked, paper, "recipe")
    with pytest.raises(ConfigError, match="--export: 'slurm'; allowed: recipe, torchtitan, megatron"):
        export(asked, paper, "slurm")
    odd = job("megatron", "llama3-405b", 16_384)
    with pytest.raises(ConfigError, match="126 layers in 80 stages; allowed: layers, or layers"):
        export(odd, evaluate(odd, parse_layout("tp=8,pp=8,v=10,recompute=full", odd)), "megatron")
    four_bits = Job(model="llama3-8b", gpus=8, hardware=hardware("gb200"), precision="nvfp4", engine=engine("megatron"))
    with pytest.raises(ConfigError, match="--export megatron: --precision nvfp4; allowed: bf16, fp8, mxfp8"):
        export(four_bits, search(four_bits).best[0], "megatron")


def test_what_an_export_would_leave_out_is_refused():
    small = {"batch_tokens": 2**19}
    uneven = job("megatron", gpus=8, **small)
    layout = evaluate(uneven, parse_layout("tp=2,pp=4,layers=11+7+7+7,recompute=full", uneven))
    for to in ("megatron", "torchtitan", "recipe"):
        with pytest.raises(ConfigError, match=rf"--export {to}: layers=11\+7\+7\+7; allowed: layers as even as can be"):
            export(uneven, layout, to)
    same = evaluate(uneven, parse_layout("tp=2,pp=4,layers=8+8+8+8,recompute=full", uneven))
    assert export(uneven, same, "megatron") == export(
        uneven, evaluate(uneven, parse_layout("tp=2,pp=4,recompute=full", uneven)), "megatron"
    )
    eight_bits = job("torchtitan", gpus=8, precision="fp8", **small)
    with pytest.raises(ConfigError, match="--export torchtitan: --precision fp8; allowed: bf16"):
        export(eight_bits, evaluate(eight_bits, parse_layout("tp=8,recompute=full", eight_bits)), "torchtitan")
    many = job("megatron", batch_tokens=2**17)
    few = evaluate(many, parse_layout("tp=2,pp=4,v=2,recompute=full", many))
    with pytest.raises(ConfigError, match="2 micro-batches, virtual stages and pp = 4; allowed: a multiple of pp"):
        export(many, few, "megatron")


def test_megatron_is_told_that_llama_has_no_dropout():
    asked = job("megatron", gpus=8, batch_tokens=2**19)
    given = arguments(export(asked, evaluate(asked, parse_layout("tp=8,recompute=full", asked)), "megatron"))
    assert (given["attention-dropout"], given["hidden-dropout"]) == ("0", "0")

"""Imports of models that transformers wrote, and of Meta's layout, against transformers and the models they were made from."""

import json
import pickle
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from interchange_models import META, SHAPES, sharp_model, write_meta
from openherd.cli import main
from openherd.core.errors import InputError
from openherd.core.rundir import Run
from openherd.interchange import importing
from openherd.interchange.check import slow_logits
from openherd.interchange.sources import HuggingFace, Meta, open_source
from openherd.model.shards import Planned, in_shards, write_shards
from openherd.model.weights import load_model, read_config, save_model
from openherd.tokenizer.files import write_ranks
from openherd.tokenizer.tokenizer import Tokenizer

# The format without tools, as templates of 2024 have it.
OLD_TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {%- set role = 'ipython' if message.role == 'tool' else message.role %}
    {%- set said = message.content | tojson if message.content is mapping else message.content | trim %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + said + '<|eot_id|>' }}
{%- endfor %}"""
TOKENS = torch.randint(500, (1, 90), generator=torch.Generator().manual_seed(3))


def imported(source, out, *more: str) -> Run:
    assert main(["import", str(source), "--out", str(out), *more]) == 0
    return Run.open(out)


@pytest.mark.parametrize(
    ("shape", "dtype"), [*((shape, "float32") for shape in SHAPES), ("llama-3.1", "bfloat16"), ("64-wide", "float16")]
)
def test_what_transformers_wrote_is_the_same_model(shape, dtype, hugging_face, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    source = hugging_face(shape, getattr(torch, dtype), "20KB")
    run = imported(source, tmp_path / "run")
    assert len(list((run.path / "model").glob("*.safetensors"))) > 1
    assert read_config(run.path / "model") == SHAPES[shape]
    check = run.metrics["check"]
    assert run.metrics["dtype"] == dtype
    assert check["largest_logit_difference"] < 1e-4 * max(check["largest_logit"], 1)
    assert check["greedy_same"] == check["greedy_of"] == 64
    assert "greedy 64 of 64 tokens" in capsys.readouterr().out
    oracle = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        theirs = oracle(TOKENS).logits
        ours = load_model(run.path / "model", dtype=torch.float32)(TOKENS)
        assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
        assert (slow_logits(HuggingFace(source), TOKENS[0].tolist()) - theirs[0]).abs().max() < 1e-4 * theirs.abs().max()
        if dtype == "bfloat16":
            half = load_model(run.path / "model")(TOKENS).float()
            assert (half - theirs).norm() / theirs.norm() < 4e-2
    again = AutoModelForCausalLM.from_pretrained(run.path / "model", dtype=torch.float32)
    for one, other in zip(oracle.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("wrong", ["theta", "factor", "pairs"])
def test_a_wrong_rotation_is_seen(wrong, hugging_face):
    """The control: what these models cannot hide."""
    source = HuggingFace(hugging_face("64-wide"))
    right = slow_logits(source, TOKENS[0].tolist())
    if wrong == "theta":
        source.config = replace(source.config, rope_theta=1e4)
    elif wrong == "factor":
        source.config = replace(source.config, rope_scaling=None)
    else:
        source.pairs_halves = False
    assert (slow_logits(source, TOKENS[0].tolist()) - right).abs().max() > 0.05 * right.abs().max()


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_metas_checkpoints_are_the_same_model(shards, dtype, tmp_path, capsys):
    model = sharp_model(META)
    write_meta(model, tmp_path / "meta", shards, dtype)
    run = imported(tmp_path / "meta", tmp_path / "run")
    assert read_config(run.path / "model") == META
    for name, tensor in load_model(run.path / "model").state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].to(dtype)), name
    check = run.metrics["check"]
    assert check["largest_logit_difference"] < 1e-4 * check["largest_logit"]
    assert check["greedy_same"] == 64
    theirs = slow_logits(Meta(tmp_path / "meta"), TOKENS[0].tolist())  # pairs neighbours, from Meta's own order of rows
    with torch.no_grad():
        assert (load_model(run.path / "model", dtype=torch.float32)(TOKENS)[0] - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_embeddings_sliced_by_columns(tmp_path, capsys):
    """As before Llama 3, and in some of its checkpoints."""
    model = sharp_model(META)
    write_meta(model, tmp_path / "meta", 2)
    whole = model.state_dict()["embed.weight"]
    for number, part in enumerate(whole.chunk(2, 1)):
        file = tmp_path / "meta" / f"consolidated.{number:02d}.pth"
        torch.save(torch.load(file, weights_only=True) | {"tok_embeddings.weight": part.clone()}, file)
    run = imported(tmp_path / "meta", tmp_path / "run")
    assert torch.equal(load_model(run.path / "model").embed.weight, whole)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_head_equal_to_the_embeddings_is_a_tied_one(shards, tmp_path, capsys):
    model = sharp_model(replace(META, tied_embeddings=True))
    write_meta(model, tmp_path / "meta", shards)
    assert "output.weight" in torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True)
    run = imported(tmp_path / "meta", tmp_path / "run")
    assert read_config(run.path / "model") == replace(META, tied_embeddings=True)
    assert run.metrics["check"]["greedy_same"] == 64


def test_metas_tokenizer_comes_along(tokenizer_directory, tmp_path):
    words = Tokenizer.load(tokenizer_directory)
    write_meta(sharp_model(META), tmp_path / "meta")
    write_ranks(words.tokens, tmp_path / "meta" / "tokenizer.model")
    run = imported(tmp_path / "meta", tmp_path / "run")
    assert run.metrics["tokenizer"]
    assert (run.path / "model" / "tokenizer.json").read_bytes() == (tokenizer_directory / "tokenizer.json").read_bytes()
    assert json.loads((run.path / "model" / "config.json").read_text())["bos_token_id"] == words.bos_id
    assert main(["generate", str(run.path), "hello", "--max-new-tokens", "2"]) == 0


def test_rope_factors_of_metas_releases(tmp_path):
    small = sharp_model(META)
    write_meta(small, tmp_path / "meta")
    assert open_source(tmp_path / "meta").config.rope_scaling.factor == 8.0
    assert open_source(tmp_path / "meta", 32.0).config.rope_scaling.factor == 32.0
    write_meta(small, tmp_path / "meta", use_scaled_rope=False)
    found = open_source(tmp_path / "meta").config
    assert (found.rope_scaling, found.max_positions) == (None, 8_192)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_type_can_be_changed(dtype, hugging_face, tmp_path):
    source = hugging_face("tied-one-layer-128-wide")
    run = imported(source, tmp_path / "run", "--dtype", dtype)
    ours, theirs = load_model(run.path / "model"), load_model(source)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other.to(getattr(torch, dtype))), name
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(run.path / "model").dtype == getattr(torch, dtype)


def test_values_that_fp16_cannot_hold_are_refused(tmp_path, capsys):
    model = sharp_model(SHAPES["64-wide"])
    model.head.weight.data[0, 0] = -1e5
    save_model(model.bfloat16(), tmp_path / "large")
    assert main(["import", str(tmp_path / "large"), "--out", str(tmp_path / "run"), "--dtype", "float16"]) == 2
    assert "lm_head.weight holds values over 65,504" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


def test_a_chat_template_is_compared(hugging_face, tmp_path, capsys):
    source = hugging_face("llama-3.1", tokenizer=True)
    assert imported(source, tmp_path / "same").metrics["check"]["template"] == "the same"
    config = json.loads((source / "tokenizer_config.json").read_text())
    other = config | {"chat_template": OLD_TEMPLATE.replace("| trim", "")}
    (source / "tokenizer_config.json").write_text(json.dumps(other))
    found = imported(source, tmp_path / "other").metrics["check"]["template"]
    assert found.startswith("differs: at token")
    dated = "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ' }}"
    dated += "{{- (date_string | default('1 Jan 2024')) + '\n\n' + messages[0].content + '<|eot_id|>' }}"
    dated += "{%- set messages = messages[1:] %}"
    start, _, loop = OLD_TEMPLATE.partition("{%- for")
    (source / "chat_template.jinja").write_text(start + dated + "{%- for" + loop)
    found = imported(source, tmp_path / "dated").metrics["check"]["template"]
    assert found == "the same, with the dates that it adds"
    (source / "chat_template.jinja").write_text("{{ raise_exception('no tools') }}")
    assert imported(source, tmp_path / "fails").metrics["check"]["template"] == "not compared (it fails: no tools)"


def test_the_check_can_be_skipped_and_the_manifest_says_so(hugging_face, tmp_path, capsys):
    assert imported(hugging_face("64-wide"), tmp_path / "run", "--no-check").metrics["check"] == "skipped"
    assert "check: skipped" in capsys.readouterr().out


def test_another_model_is_refused_and_nothing_is_left(hugging_face, tmp_path, monkeypatch, capsys):
    source = hugging_face("64-wide")
    monkeypatch.setattr(importing, "read_as_ours", lambda model, name: model.read(name) * (1.5 if "layers.1.mlp" in name else 1))
    assert main(["import", str(source), "--out", str(tmp_path / "run"), "--dtype", "float32"]) == 0  # a change of type is no proof
    write_meta(sharp_model(META), tmp_path / "meta")
    assert main(["import", str(tmp_path / "meta"), "--out", str(tmp_path / "bad")]) == 2
    assert "the imported model is another: largest logit difference" in capsys.readouterr().err
    assert not (tmp_path / "bad" / "model").exists()
    assert not (tmp_path / "bad" / "manifest.json").exists()


def change(file, **values):
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "qwen3"}, "model_type = 'qwen3'; allowed: llama"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures = ['LlamaForSequenceClassification']"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'; allowed: silu"),
        ({"attention_bias": True}, "attention_bias = True; allowed: False"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "RoPE of type 'yarn'; allowed: llama3, or none"),
        ({"num_hidden_layers": 4}, "9 tensors are missing: model.layers.3.input_layernorm.weight"),
        ({"num_hidden_layers": 2}, "9 unexpected tensors: model.layers.2"),
        ({"vocab_size": 516}, "2 tensors of another shape: lm_head.weight is (515, 128); allowed: (516, 128)"),
    ],
)
def test_what_is_no_llama_3_is_named(values, said, hugging_face, tmp_path, capsys):
    source = hugging_face("64-wide")
    change(source / "config.json", **values)
    capsys.readouterr()
    assert main(["import", str(source), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run" / "model").exists()


def test_older_configurations_are_read(hugging_face):
    source = hugging_face("64-wide")
    found = json.loads((source / "config.json").read_text())
    rope = found.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    (source / "config.json").write_text(json.dumps(found | {"rope_scaling": rope, "rope_theta": theta}))
    assert read_config(source) == SHAPES["64-wide"]


def test_idle_tensors_are_passed_over(tmp_path, capsys):
    save_model(sharp_model(SHAPES["tied-one-layer-128-wide"]), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(64)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    assert imported(tmp_path / "model", tmp_path / "run").metrics["check"]["greedy_same"] == 64


class Payload:
    def __reduce__(self):
        return (print, ("this was run",))


def test_nothing_in_a_checkpoint_is_run(tmp_path, capsys):
    write_meta(sharp_model(META), tmp_path / "meta")
    torch.save({"tok_embeddings.weight": Payload()}, tmp_path / "meta" / "consolidated.00.pth")
    assert main(["import", str(tmp_path / "meta"), "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr()
    assert "not a file of plain tensors" in printed.err
    assert "nothing in it was run" in printed.err
    assert "this was run" not in printed.out
    (tmp_path / "meta" / "consolidated.00.pth").write_bytes(pickle.dumps(Payload()))
    assert main(["import", str(tmp_path / "meta"), "--out", str(tmp_path / "run")]) == 2
    assert "this was run" not in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["shard", "params", "layer", "width"])
def test_damaged_checkpoints_of_meta_are_named(missing, tmp_path, capsys):
    write_meta(sharp_model(META), tmp_path / "meta", 2)
    folder = tmp_path / "meta"
    if missing == "shard":
        (folder / "consolidated.01.pth").unlink()
    elif missing == "params":
        (folder / "params.json").write_text('{"dim": 64}')
    elif missing == "layer":
        shard = torch.load(folder / "consolidated.01.pth", weights_only=True)
        del shard["layers.1.attention.wo.weight"]
        torch.save(shard, folder / "consolidated.01.pth")
    else:
        change(folder / "params.json", multiple_of=256)
    assert main(["import", str(folder), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    said = {
        "shard": "of another shape",
        "params": "not a readable params.json",
        "layer": "layers.1.attention.wo",
        "width": "of another shape",
    }
    assert said[missing] in error
    assert len(error.splitlines()) == 1


def test_shards_are_written_tensor_by_tensor(tmp_path):
    plan = [Planned(f"t{i}", (i + 1, 3), torch.float32 if i % 2 else torch.bfloat16) for i in range(7)]
    values = {p.name: torch.randn(p.shape).to(p.dtype) for p in plan}
    write_shards(plan, values.__getitem__, tmp_path, "test", most=60)
    sizes = [sum(t.n_bytes for t in shard) for shard in in_shards(plan, 60)]
    assert len(sizes) > 2
    assert all(size <= 60 for size in sizes[:-1]) or max(sizes) == max(p.n_bytes for p in plan)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes)
    for name, file in index["weight_map"].items():
        assert torch.equal(safetensors.torch.load_file(tmp_path / file)[name], values[name])


def test_an_imported_model_is_a_stage_to_go_on_from(hugging_face, tmp_path):
    """Finetuning one finds its model, its tokenizer, and no optimizer's state."""
    from openherd.core.rundir import Output
    from openherd.posttraining.sft import SftConfig
    from openherd.training.phase import Base

    run = imported(hugging_face("llama-3.1", torch.bfloat16, tokenizer=True), tmp_path / "run")
    (tmp_path / "out").mkdir()
    config = SftConfig(device="cpu", precision="float32")
    base = Base.open(run, config, Output(tmp_path / "out"))
    assert base.state is None
    assert {p.dtype for _, p in base.model("sft", config, []).trained()} == {torch.float32}
    assert base.tokenizer.vocabulary == 560


def test_an_index_cannot_name_files_elsewhere(hugging_face, tmp_path):
    source = hugging_face("64-wide", shard_size="20KB")
    index = json.loads((source / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "../plain/model.safetensors"
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"names '\.\./plain/model\.safetensors', which is not there"):
        load_model(source)


def test_a_tensor_in_two_files_is_refused(hugging_face, tmp_path, capsys):
    """The index names one of them, and nobody knows which is meant."""
    source = hugging_face("64-wide", shard_size="20KB")
    files = sorted(source.glob("*.safetensors"))
    tensors = safetensors.torch.load_file(files[1])
    stale = {name: torch.zeros_like(tensor) for name, tensor in safetensors.torch.load_file(files[0]).items()}
    safetensors.torch.save_file(tensors | stale, files[1], metadata={"format": "pt"})
    assert main(["import", str(source), "--out", str(tmp_path / "run")]) == 2
    assert "stands in another file too; allowed: each tensor once" in capsys.readouterr().err
    with pytest.raises(InputError, match="stands in another file too"):
        load_model(source)


def test_a_tokenizer_larger_than_the_model_is_refused(hugging_face, tmp_path, capsys):
    source = hugging_face("64-wide", tokenizer=True)
    assert main(["import", str(source), "--out", str(tmp_path / "run")]) == 2
    assert "its tokenizer has 560 tokens and its model 515" in capsys.readouterr().err

"""Exports read back: by the gguf package, by a plain loader in Meta's conventions, by our own import; and their checks."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch

from interchange_models import META, SHAPES, sharp_model
from openherd.cli import main
from openherd.core.rundir import file_sha256
from openherd.interchange import exporting, llama_cpp
from openherd.interchange.check import slow_logits
from openherd.interchange.exporting import meta_params
from openherd.interchange.llama_cpp import Gguf
from openherd.interchange.sources import HuggingFace, Meta, meta_config
from openherd.model.config import SIZES, RopeScaling
from openherd.model.weights import load_model, read_config, save_model
from openherd.tokenizer.files import read_ranks
from openherd.tokenizer.tokenizer import Tokenizer

TOKENS = torch.randint(500, (90,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.fixture
def model(tmp_path, tokenizer_directory):
    """A function that makes a model directory with a tokenizer."""

    def make(config, dtype=torch.float32):
        save_model(sharp_model(config).to(dtype), tmp_path / "model")
        Tokenizer.load(tokenizer_directory).save(tmp_path / "model")
        return tmp_path / "model"

    return make


def exported(directory, to: str, out, *more: str) -> dict:
    assert main(["export", str(directory), "--to", to, "--out", str(out), *more]) == 0
    manifest = out / "openherd.json" if out.is_dir() else out.with_name(out.name + ".json")
    return json.loads(manifest.read_text())


def twin_of_llama_cpp(file, tokens) -> torch.Tensor:
    """Logits as llama.cpp computes them, straight from the file: neighbours turned one by one, tensors by their own names."""
    reader = gguf.GGUFReader(file)
    tensors = {t.name: torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type)).double() for t in reader.tensors}

    def fact(key):
        return reader.get_field(f"llama.{key}").contents()

    heads, kv, width = fact("attention.head_count"), fact("attention.head_count_kv"), fact("rope.dimension_count")
    divisors = tensors.get("rope_freqs.weight", torch.ones(width // 2))
    n = len(tokens)

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + fact("attention.layer_norm_rms_epsilon")).sqrt() * tensors[name]

    def turn(x):  # (T, heads, width)
        out = x.clone()
        for i in range(width // 2):
            angle = torch.arange(n).double() / (fact("rope.freq_base") ** (2 * i / width) * divisors[i])
            c, s = angle.cos()[:, None], angle.sin()[:, None]
            out[..., 2 * i] = x[..., 2 * i] * c - x[..., 2 * i + 1] * s
            out[..., 2 * i + 1] = x[..., 2 * i] * s + x[..., 2 * i + 1] * c
        return out

    x = tensors["token_embd.weight"][tokens]
    for layer in range(fact("block_count")):
        part = {key: f"blk.{layer}.{key}.weight" for key in ("attn_norm", "ffn_norm")}
        w = {name.split(".")[2]: t for name, t in tensors.items() if name.startswith(f"blk.{layer}.")}
        h = norm(x, part["attn_norm"])
        q, k, v = ((h @ w[f"attn_{p}"].T).view(n, -1, width) for p in "qkv")
        q, k = turn(q), turn(k).repeat_interleave(heads // kv, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / width**0.5
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)
        mixed = torch.einsum("hij,jhd->ihd", scores, v.repeat_interleave(heads // kv, 1)).reshape(n, -1)
        x = x + mixed @ w["attn_output"].T
        h = norm(x, part["ffn_norm"])
        x = x + (torch.nn.functional.silu(h @ w["ffn_gate"].T) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    return (norm(x, "output_norm.weight") @ tensors.get("output.weight", tensors["token_embd.weight"]).T).float()


ALIGNED = {  # q8_0 wants multiples of 32
    "scaled": replace(SHAPES["64-wide"], vocabulary=576),
    "three-kv-heads-80-wide": replace(SHAPES["three-kv-heads-80-wide"], d_feed_forward=96, vocabulary=560),
    "tied": replace(SHAPES["tied-one-layer-128-wide"], vocabulary=560),
}
BOUNDS = {"f16": 1e-2, "bf16": 1e-1, "q8_0": 3e-1}  # of the largest logit, from fp32 weights; attention is sharp in these models
GGML = {"f16": gguf.GGMLQuantizationType.F16, "bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}


def rounded(model, kind):
    """The model with its matrices as the package rounds them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                values = gguf.quants.quantize(parameter.numpy(), GGML[kind])
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(values, GGML[kind]).reshape(parameter.shape)))
    return model


@pytest.mark.parametrize("kind", GGML)
@pytest.mark.parametrize("shape", ALIGNED)
def test_a_gguf_file_is_the_same_model(shape, kind, model, tmp_path, capsys):
    config = ALIGNED[shape]
    directory = model(config)
    manifest = exported(directory, "gguf", tmp_path / "m.gguf", "--type", kind)
    with torch.no_grad():
        ours = rounded(load_model(directory), kind)(torch.tensor([TOKENS]))[0]
    theirs = twin_of_llama_cpp(tmp_path / "m.gguf", TOKENS)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert (slow_logits(Gguf(tmp_path / "m.gguf"), TOKENS) - theirs).abs().max() < 1e-4 * theirs.abs().max()
    check = manifest["check"]
    assert (check["greedy_of"], check["template"]) == (64, "the same")
    assert 0 < check["largest_logit_difference"] < BOUNDS[kind] * check["largest_logit"]
    assert manifest["weights"] == kind
    assert manifest["files"]["m.gguf"]["sha256"] == file_sha256(tmp_path / "m.gguf")
    assert manifest["made_from"]["model.safetensors"] == file_sha256(directory / "model.safetensors")
    assert "check: largest logit difference" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_the_type_of_the_weights_is_kept_bit_for_bit(kind, dtype, model, tmp_path, capsys):
    directory = model(ALIGNED["scaled"], dtype)
    exported(directory, "gguf", tmp_path / "m.gguf", "--type", kind)
    source, other = HuggingFace(directory), Gguf(tmp_path / "m.gguf")
    assert other.found().keys() == source.found().keys()
    for name in source.found():
        if "q_proj" not in name and "k_proj" not in name:
            assert torch.equal(source.read(name).float(), other.read(name)), name
    # A head's rows 0 and H/2 are a pair with us, its rows 0 and 1 in the file.
    ours, theirs = (s.read("model.layers.1.self_attn.q_proj.weight").float() for s in (source, other))
    assert torch.equal(theirs[:4], ours[[0, 32, 1, 33]])
    assert torch.equal(theirs[64:66], ours[[64, 96]])


def test_a_forgotten_permutation_is_refused(model, tmp_path, monkeypatch, capsys):
    directory = model(ALIGNED["scaled"], torch.bfloat16)
    monkeypatch.setattr(llama_cpp, "heads_of", lambda name, config: 0)
    assert main(["export", str(directory), "--to", "gguf", "--out", str(tmp_path / "m.gguf")]) == 2
    assert "the exported model is another: largest logit difference" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_the_tokenizer_and_the_template_are_in_the_file(model, tmp_path, capsys):
    config = replace(ALIGNED["scaled"], vocabulary=576)
    directory = model(config)
    exported(directory, "gguf", tmp_path / "m.gguf", "--no-check")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    found = {key: field.contents() for key, field in reader.fields.items()}
    words = Tokenizer.load(directory)
    file = json.loads((directory / "tokenizer.json").read_text())
    assert found["general.architecture"] == "llama"
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "llama-bpe")
    tokens = found["tokenizer.ggml.tokens"]
    assert tokens[:304] == sorted(file["model"]["vocab"], key=file["model"]["vocab"].get)
    assert tokens[304:560] == [added["content"] for added in file["added_tokens"]]
    assert found["tokenizer.ggml.token_type"] == [1] * 304 + [3] * 256 + [5] * 16  # normal, control, unused
    assert found["tokenizer.ggml.merges"] == [" ".join(pair) for pair in file["model"]["merges"]]
    ids = {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "eot": "<|eot_id|>", "eom": "<|eom_id|>",
           "padding": "<|finetune_right_pad_id|>"}  # fmt: skip
    assert {key: found[f"tokenizer.ggml.{key}_token_id"] for key in ids} == {key: words.id(t) for key, t in ids.items()}
    assert found["tokenizer.ggml.add_bos_token"] is True
    template = json.loads((directory / "tokenizer_config.json").read_text())["chat_template"]
    assert found["tokenizer.chat_template"] == template
    assert found["llama.context_length"] == 128
    assert found["general.file_type"] == 1  # mostly f16
    assert all((t.tensor_type == gguf.GGMLQuantizationType.F32) == (len(t.shape) == 1) for t in reader.tensors)


@pytest.mark.parametrize("config", [META, replace(META, tied_embeddings=True), replace(META, d_feed_forward=197)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_metas_format_and_back(config, dtype, model, tmp_path, capsys):
    directory = model(config, dtype)
    manifest = exported(directory, "meta", tmp_path / "meta")
    assert sorted(manifest["files"]) == ["consolidated.00.pth", "params.json", "tokenizer.model"]
    check = manifest["check"]
    assert check["greedy_same"] == 64
    assert check["largest_logit_difference"] < 1e-4 * check["largest_logit"]
    n_bytes = sum(f.stat().st_size for f in directory.glob("*.safetensors"))
    assert (tmp_path / "meta" / "consolidated.00.pth").stat().st_size < n_bytes + 100_000  # no more than its tensors
    state = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True)
    ours = load_model(directory).state_dict()
    assert torch.equal(state["output.weight"], ours["head.weight"])
    assert torch.equal(state["layers.1.feed_forward.w3.weight"], ours["layers.1.feed_forward.up.weight"])
    assert torch.equal(state["layers.0.attention.wk.weight"][:4], ours["layers.0.attention.key.weight"][[0, 8, 1, 9]])
    assert read_ranks(tmp_path / "meta" / "tokenizer.model") == Tokenizer.load(directory).tokens
    assert Meta(tmp_path / "meta").config == config
    assert main(["import", str(tmp_path / "meta"), "--out", str(tmp_path / "back")]) == 0
    back = load_model(tmp_path / "back" / "model")
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in ours.items())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        found, given = (json.loads((d / name).read_text()) for d in (tmp_path / "back" / "model", directory))
        assert {**found, "model_max_length": 0} == {**given, "model_max_length": 0}


def test_an_unusual_factor_is_told(model, tmp_path, capsys):
    directory = model(replace(META, rope_scaling=RopeScaling(factor=16.0)))
    manifest = exported(directory, "meta", tmp_path / "meta")
    assert manifest["check"]["greedy_same"] == 64
    assert "import it with --rope-factor 16" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["llama3-8b", "llama3-70b", "llama3-405b", "llama3.2-1b", "llama3.2-3b"])
def test_params_of_the_released_sizes(size, tmp_path):
    facts = meta_params(tmp_path, SIZES[size])
    released = {"llama3-8b": (1.3, 1_024), "llama3-70b": (1.3, 4_096), "llama3-405b": (1.2, 4_096)}
    if size in released:
        assert (facts["ffn_dim_multiplier"], facts["multiple_of"]) == released[size]
    (tmp_path / "params.json").write_text(json.dumps(facts))
    assert meta_config(tmp_path / "params.json", facts["vocab_size"], SIZES[size].tied_embeddings, 0.0) == SIZES[size]


def test_hf_is_the_directory_itself(model, tmp_path, capsys):
    directory = model(SHAPES["64-wide"])
    manifest = exported(directory, "hf", tmp_path / "hf")
    assert sorted(manifest["files"]) == sorted(f.name for f in directory.iterdir())
    for file in directory.iterdir():
        assert (tmp_path / "hf" / file.name).read_bytes() == file.read_bytes()
    assert manifest["check"]["greedy_same"] == 64
    assert read_config(tmp_path / "hf") == SHAPES["64-wide"]


def test_the_check_can_be_skipped_and_the_manifest_says_so(model, tmp_path, monkeypatch, capsys):
    directory = model(META)
    monkeypatch.setattr(exporting, "compare", None)
    assert exported(directory, "meta", tmp_path / "meta", "--no-check")["check"] == "skipped"
    assert "check: skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("config", "words", "said"),
    [
        (SHAPES["three-kv-heads-80-wide"], ["--to", "meta"], "heads of 80, 6 of them, in a model 96 wide"),
        (SHAPES["64-wide"], ["--to", "meta"], "RoPE scaled from 32 positions on"),
        (SHAPES["three-kv-heads-80-wide"], ["--to", "gguf", "--type", "q8_0"], "72 wide; allowed: multiples of 32 in q8_0"),
        (SHAPES["64-wide"], ["--to", "gguf"], "560 tokens, and the model has 515"),
        (META, ["--to", "hf", "--type", "f16"], "--type: f16 with --to hf"),
        ("no tokenizer", ["--to", "gguf"], "no tokenizer.json"),
        ("large", ["--to", "gguf", "--type", "f16"], "holds values over 65,504"),
        ("split", ["--to", "gguf"], "splits text otherwise than Llama 3"),
        ("there", ["--to", "hf"], "is there already; give another --out"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_named(config, words, said, model, tmp_path, capsys):
    directory = model(META if isinstance(config, str) else config)
    if config == "no tokenizer":
        (directory / "tokenizer.json").unlink()
    elif config == "large":
        large = sharp_model(META)
        large.head.weight.data[0, 0] = 1e5
        save_model(large, directory)
    elif config == "split":
        file = json.loads((directory / "tokenizer.json").read_text())
        file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\S+|\s+"
        (directory / "tokenizer.json").write_text(json.dumps(file))
    elif config == "there":
        (tmp_path / "out").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(["export", str(directory), *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_many_rows_are_converted_in_parts(monkeypatch):
    rows = torch.randn(70, 64)
    whole = llama_cpp.converted(rows, gguf.GGMLQuantizationType.Q8_0)
    monkeypatch.setattr(llama_cpp, "AT_ONCE", 64 * 9)
    assert np.array_equal(llama_cpp.converted(rows, gguf.GGMLQuantizationType.Q8_0), whole)
    assert np.abs(gguf.quants.dequantize(whole, gguf.GGMLQuantizationType.Q8_0) - rows.numpy()).max() < 0.02

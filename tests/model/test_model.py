"""The model against transformers' Llama, and against hand-worked values of the paper."""

import json

import pytest
import torch

from openherd.core.errors import InputError
from openherd.model.attention import CausalAttend
from openherd.model.config import SIZES, ModelConfig, RopeScaling
from openherd.model.flops import flops_per_token, kv_bytes_per_token, layer_parameters, parameters
from openherd.model.rope import inverse_frequencies
from openherd.model.transformer import Transformer
from openherd.model.weights import load_model, read_config, save_model
from tiny import tiny_model

SCALING = RopeScaling(factor=4.0, original_positions=16)
SHAPES = {
    "grouped": ModelConfig(n_layers=2, d_model=48, n_heads=6, n_kv_heads=2, head_width=8, d_feed_forward=80, vocabulary=101),
    "three-kv-heads-scaled": ModelConfig(
        n_layers=3, d_model=60, n_heads=6, n_kv_heads=3, head_width=10, d_feed_forward=64, vocabulary=77, rope_scaling=SCALING
    ),
    "tied-one-layer-wide-heads": ModelConfig(
        n_layers=1, d_model=32, n_heads=2, n_kv_heads=1, head_width=64, d_feed_forward=48, vocabulary=65, tied_embeddings=True
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(shape, tmp_path):
    from transformers import AutoModelForCausalLM

    model = tiny_model(SHAPES[shape])
    save_model(model, tmp_path)
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    tokens = torch.randint(SHAPES[shape].vocabulary, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (model(tokens) - oracle(tokens).logits).abs().max() < 1e-5
        assert (load_model(tmp_path)(tokens) - model(tokens)).abs().max() == 0
    assert read_config(tmp_path) == SHAPES[shape]
    assert sum(p.numel() for p in oracle.parameters()) == parameters(SHAPES[shape])


def test_bf16_is_close_to_transformers(tmp_path):
    from transformers import AutoModelForCausalLM

    model = tiny_model(SHAPES["grouped"]).bfloat16()
    save_model(model, tmp_path)
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    tokens = torch.randint(101, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model(tokens).float(), oracle(tokens).logits.float()
    assert (ours - theirs).norm() / theirs.norm() < 1e-2


def test_packed_documents_equal_separate_runs():
    model = tiny_model(SHAPES["three-kv-heads-scaled"])
    lengths = [5, 1, 11]
    tokens = torch.randint(77, (1, sum(lengths)), generator=torch.Generator().manual_seed(2))
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.no_grad():
        packed = model(tokens, positions, CausalAttend(documents))
        apart = torch.cat([model(part) for part in tokens.split(lengths, dim=1)], dim=1)
        leaking = model(tokens, positions, CausalAttend())
    assert (packed - apart).abs().max() < 1e-5
    assert (leaking - apart).abs().max() > 1e-2  # the mask is what makes them equal


def test_the_papers_sizes():
    assert parameters(SIZES["llama3-8b"]) == 8_030_261_248
    assert parameters(SIZES["llama3-70b"]) == 70_553_706_496
    assert parameters(SIZES["llama3-405b"]) == 405_853_388_800
    assert sum(layer_parameters(SIZES["llama3-405b"]).values()) == 3_187_703_808
    assert [kv_bytes_per_token(SIZES[f"llama3-{n}b"]) for n in (8, 70, 405)] == [131_072, 327_680, 516_096]


def test_ladder_names_are_true():
    for name, config in SIZES.items():
        millions = float(name.rsplit("-", 1)[1].rstrip("mb")) * (1000 if name.endswith("b") else 1)
        assert parameters(config) / 1e6 == pytest.approx(millions, rel=0.25), name


@pytest.mark.parametrize("name", [n for n in SIZES if SIZES[n].n_layers < 7])
def test_parameters_are_counted_as_built(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in Transformer(SIZES[name]).parameters()) == parameters(SIZES[name])


def test_flops_worked_by_hand():
    config = ModelConfig(n_layers=1, d_model=4, n_heads=2, n_kv_heads=1, head_width=2, d_feed_forward=3, vocabulary=5)
    # query 16 + key 8 + value 8 + output 16 + feed-forward 36 + head 20 = 104 weights; scores and values 2 * 2 * 4 * 2 keys = 32
    assert flops_per_token(config, sequence_length=3) == 3 * (2 * 104 + 32)
    assert flops_per_token(config, sequence_length=3, causal=False) == 3 * (2 * 104 + 48)


def test_rope_scaling_of_llama_3_1():
    plain = inverse_frequencies(ModelConfig(n_layers=1, d_model=8, n_heads=1, n_kv_heads=1, head_width=128, d_feed_forward=8))
    ratio = plain / inverse_frequencies(SIZES["llama3-8b"])
    kept, stretched = (ratio == 1).sum().item(), torch.isclose(ratio, torch.tensor(8.0)).sum().item()
    assert (kept, 64 - kept - stretched, stretched) == (29, 6, 29)  # worked out in the fact sheet, 1.3


def test_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="no multiple of n_kv_heads = 4"):
        ModelConfig(n_layers=1, d_model=8, n_heads=6, n_kv_heads=4, head_width=2, d_feed_forward=8)


def test_damaged_model_directories_are_named(tmp_path):
    with pytest.raises(InputError, match="no model directory"):
        load_model(tmp_path)
    save_model(tiny_model(SHAPES["grouped"]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InputError, match="9 tensors are missing"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 81}))
    with pytest.raises(InputError, match=r"another shape.*allowed: \(81, 48\)|another shape"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_model(tmp_path)

"""The model against hand-worked values of the paper."""

import json

import pytest
import torch

from openherd.core.errors import InputError
from openherd.model.config import SIZES, ModelConfig
from openherd.model.flops import flops_per_token, kv_bytes_per_token, layer_parameters, parameters
from openherd.model.rope import inverse_frequencies
from openherd.model.transformer import Transformer
from openherd.model.weights import load_model, save_model
from tiny import tiny_model

SMALL = ModelConfig(n_layers=2, d_model=48, n_heads=6, n_kv_heads=2, head_width=8, d_feed_forward=80, vocabulary=101)


def test_the_papers_sizes():
    assert parameters(SIZES["llama3-8b"]) == 8_030_261_248
    assert parameters(SIZES["llama3-70b"]) == 70_553_706_496
    assert parameters(SIZES["llama3-405b"]) == 405_853_388_800
    assert sum(layer_parameters(SIZES["llama3-405b"]).values()) == 3_187_703_808
    assert [kv_bytes_per_token(SIZES[f"llama3-{n}b"]) for n in (8, 70, 405)] == [131_072, 327_680, 516_096]


def test_ladder_names_are_true():
    for name, config in SIZES.items():
        number = float(name.rsplit("-", 1)[1][:-1])
        assert parameters(config) == pytest.approx(number * {"k": 1e3, "m": 1e6, "b": 1e9}[name[-1]], rel=0.25), name


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
    save_model(tiny_model(SMALL), tmp_path)
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

"""The model against transformers' Llama in odd shapes: logits, cache, packed documents, both precisions, each with a control.

The attention of these random models is sharp (weights of standard deviation 1/sqrt(width) are what six times the released 0.02
would be), so that a wrong RoPE shows: the controls say by how much.
"""

import dataclasses

import pytest
import torch

from openherd.inference.engine import generate
from openherd.inference.paged import PagedAttend, Part
from openherd.inference.sampling import Sampling
from openherd.model.attention import CausalAttend
from openherd.model.config import ModelConfig, RopeScaling
from openherd.model.flops import parameters
from openherd.model.transformer import Transformer
from openherd.model.weights import load_model, read_config, save_model
from tiny import tiny_model

SCALING = RopeScaling(factor=8.0, original_positions=32)


def shape(layers, d, heads, kv_heads, width, ffn, vocabulary, **more):
    """A model's shape in one line."""
    sizes = {"n_layers": layers, "d_model": d, "n_heads": heads, "n_kv_heads": kv_heads, "head_width": width, "d_feed_forward": ffn}
    return ModelConfig(**sizes, vocabulary=vocabulary, **more)


SHAPES = {
    "3-kv-heads-of-64": shape(2, 96, 6, 3, 64, 160, 101),
    "3-kv-heads-of-64-scaled": shape(2, 96, 6, 3, 64, 160, 101, rope_scaling=SCALING),
    "heads-of-80-scaled": shape(3, 80, 4, 2, 80, 96, 77, rope_scaling=SCALING),
    "heads-of-80-tied-old-base": shape(2, 240, 3, 3, 80, 96, 1_001, tied_embeddings=True, rope_theta=10_000.0),
    "heads-of-128-tied-one-layer": shape(1, 64, 2, 1, 128, 112, 65, tied_embeddings=True),
    "heads-of-128-scaled-one-layer": shape(1, 384, 3, 1, 128, 200, 130, rope_scaling=SCALING),
}
TEXT = 128  # tokens, four times the scaled models' original context


def tokens_for(config, rows=2):
    """Random tokens, the same each time."""
    return torch.randint(config.vocabulary, (rows, TEXT), generator=torch.Generator().manual_seed(1))


def oracle_of(directory, **more):
    """Transformers' model of a directory."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, **more)


def bound(logits):
    """1e-5; beyond logits of 10, where fp32 itself is coarser, a millionth of the largest."""
    return max(1e-5, 1e-6 * float(logits.abs().max()))


def swapped_pairs(model):
    """The same model with its queries and keys in the other pairing."""
    other = Transformer(model.config)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if "attention.query" in name or "attention.key" in name:
            heads = tensor.shape[0] // model.config.head_width
            state[name] = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape)
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_fp32_logits_are_within_1e_5(name, tmp_path):
    config = SHAPES[name]
    model, tokens = tiny_model(config), tokens_for(config)
    save_model(model, tmp_path)
    oracle = oracle_of(tmp_path, attn_implementation="eager")
    theirs = oracle(tokens).logits
    assert read_config(tmp_path) == config
    assert sum(p.numel() for p in oracle.parameters()) == parameters(config)
    assert (model(tokens) - theirs).abs().max() < bound(theirs)
    assert (load_model(tmp_path)(tokens) - model(tokens)).abs().max() == 0
    other_base = Transformer(dataclasses.replace(config, rope_theta=80_000.0))
    other_base.load_state_dict(model.state_dict())
    unscaled = Transformer(dataclasses.replace(config, rope_scaling=None))
    unscaled.load_state_dict(model.state_dict())
    controls = {"base": other_base, "pairs": swapped_pairs(model), **({"scaling": unscaled} if config.rope_scaling else {})}
    for what, control in controls.items():
        assert (control(tokens) - theirs).abs().max() > 0.1, what


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_bf16_logits_are_within_one_percent(name, tmp_path):
    """Or within what transformers' own two ways to attend differ by; and nearer to fp32 than either."""
    config = SHAPES[name]
    model, tokens = tiny_model(config).bfloat16(), tokens_for(config)
    save_model(model, tmp_path)
    theirs, other = (
        oracle_of(tmp_path, dtype=torch.bfloat16, attn_implementation=way)(tokens).logits.float() for way in ("sdpa", "eager")
    )
    exact = oracle_of(tmp_path, dtype=torch.float32)(tokens).logits
    ours = model(tokens).float()
    assert relative(ours, theirs) < max(1e-2, 1.25 * relative(other, theirs))
    assert relative(ours, exact) < min(1e-2, relative(theirs, exact), relative(other, exact))
    assert relative(swapped_pairs(model).bfloat16()(tokens).float(), theirs) > 1e-1


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_packed_documents_equal_separate_runs_of_the_oracle(name, tmp_path):
    config = SHAPES[name]
    model, tokens = tiny_model(config), tokens_for(config, rows=1)
    save_model(model, tmp_path)
    oracle = oracle_of(tmp_path, attn_implementation="eager")
    lengths = [60, 1, 40, TEXT - 101]
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = model(tokens, positions, CausalAttend(documents))
    apart = torch.cat([oracle(part).logits for part in tokens.split(lengths, dim=1)], dim=1)
    assert (packed - apart).abs().max() < bound(apart)
    assert (model(tokens, positions) - apart).abs().max() > 1e-1  # unmasked, it leaks


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_the_cache_changes_nothing(name, tmp_path):
    config = SHAPES[name]
    model, tokens = tiny_model(config), tokens_for(config)
    save_model(model, tmp_path)
    whole = oracle_of(tmp_path, attn_implementation="eager")(tokens).logits
    attend = PagedAttend(config, 2 * TEXT, 1, torch.float32, torch.device("cpu"))
    blocks = torch.randperm(2 * TEXT, generator=torch.Generator().manual_seed(0)).view(2, TEXT).tolist()
    parts = []
    for part in torch.arange(TEXT).split([70, 1, 1, 30, 1, TEXT - 103]):
        attend.place([Part(own, int(part[0]), len(part)) for own in blocks])
        hidden = model.trunk(model.embed(tokens[:, part].flatten()[None]), part.repeat(2)[None], attend)
        parts.append(model.head(hidden).view(2, len(part), -1))
    assert (torch.cat(parts, dim=1) - whole).abs().max() < bound(whole)


@pytest.mark.parametrize("name", ["3-kv-heads-of-64-scaled", "heads-of-80-tied-old-base"])
@torch.no_grad()
def test_greedy_continuations_are_the_oracles(name, tmp_path):
    config = SHAPES[name]
    model = tiny_model(config)
    save_model(model, tmp_path, bos=0, eos=[])
    prompt = tokens_for(config)[:1, :20]
    oracle = oracle_of(tmp_path)
    theirs = oracle.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=64, do_sample=False, pad_token_id=0)
    assert generate(model, prompt.tolist(), Sampling(max_new_tokens=64), ()) == [theirs[0, 20:].tolist()]

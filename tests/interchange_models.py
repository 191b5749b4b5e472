"""Models of other people's making, made on the spot."""

import json
from pathlib import Path

import torch

from openherd.interchange.sources import hugging_face_name_of, to_neighbours
from openherd.model.config import ModelConfig, RopeScaling
from openherd.model.transformer import Transformer
from openherd.model.weights import hugging_face_name
from tiny import tiny_model

SCALING = RopeScaling(factor=8.0, original_positions=8_192)
SHAPES = {
    "llama-3.1": ModelConfig(
        n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, head_width=16, d_feed_forward=256, vocabulary=560, rope_scaling=SCALING,
        max_positions=131_072,
    ),
    "three-kv-heads-80-wide": ModelConfig(
        n_layers=2, d_model=96, n_heads=6, n_kv_heads=3, head_width=80, d_feed_forward=72, vocabulary=547, max_positions=128
    ),
    "tied-one-layer-128-wide": ModelConfig(
        n_layers=1, d_model=64, n_heads=2, n_kv_heads=1, head_width=128, d_feed_forward=96, vocabulary=581, tied_embeddings=True,
        max_positions=128,
    ),
    "64-wide": ModelConfig(
        n_layers=3, d_model=128, n_heads=2, n_kv_heads=1, head_width=64, d_feed_forward=160, vocabulary=515, max_positions=128,
        rope_scaling=RopeScaling(factor=4.0, original_positions=32),
    ),
}  # fmt: skip
META = ModelConfig(  # what Meta's rule for the feed-forward width allows
    n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, head_width=16, d_feed_forward=192, vocabulary=560, rope_scaling=SCALING,
    max_positions=131_072,
)  # fmt: skip


def sharp_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """A random model whose attention looks at single places: an evenly spread one hides a wrong rotation."""
    model = tiny_model(config, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                parameter *= 2.5
    return model


def write_meta(model: Transformer, folder: Path, shards: int = 1, dtype: torch.dtype = torch.float32, **params: object) -> None:
    """A checkpoint as Meta writes it: neighbours paired, sliced for `shards` GPUs, frequencies beside."""
    folder.mkdir(parents=True, exist_ok=True)
    c = model.config
    names = ["tok_embeddings", "norm", "output"]
    parts = [f"attention.w{x}" for x in "qkvo"] + [f"feed_forward.w{i}" for i in (1, 2, 3)]
    names += [f"layers.{i}.{part}" for i in range(c.n_layers) for part in (*parts, "attention_norm", "ffn_norm")]
    ours = {hugging_face_name(name): tensor for name, tensor in model.state_dict().items()}
    files: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    for name in names:
        theirs, side = hugging_face_name_of(f"{name}.weight")
        tensor = ours[theirs].to(dtype)
        if name.endswith((".wq", ".wk")):
            tensor = to_neighbours(tensor, c.n_heads if name.endswith("wq") else c.n_kv_heads)
        slices = [tensor] * shards if side is None else tensor.chunk(shards, side)
        for file, part in zip(files, slices, strict=True):
            file[f"{name}.weight"] = part.clone()
    for i, file in enumerate(files):
        file["rope.freqs"] = torch.zeros(c.head_width // 2)
        torch.save(file, folder / f"consolidated.{i:02d}.pth")
    facts = {
        "dim": c.d_model, "n_layers": c.n_layers, "n_heads": c.n_heads, "n_kv_heads": c.n_kv_heads, "vocab_size": c.vocabulary,
        "ffn_dim_multiplier": 1.1, "multiple_of": 64, "norm_eps": c.norm_epsilon, "rope_theta": c.rope_theta,
        "use_scaled_rope": c.rope_scaling is not None,
    }  # fmt: skip
    (folder / "params.json").write_text(json.dumps(facts | params))

"""Model directories: Hugging Face's format from the first day (safetensors, config.json), so that transformers and vLLM load
them.
"""

import json
import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from openherd.core.errors import InputError
from openherd.model.config import ModelConfig, RopeScaling
from openherd.model.transformer import Transformer

WEIGHTS = "model.safetensors"
CONFIG = "config.json"

# Our parameter names to Hugging Face's.
NAMES = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
}
LAYER = re.compile(r"layers\.(\d+)\.(.+)\.weight")


def hugging_face_name(name: str) -> str:
    """The Hugging Face name of one of our parameters."""
    if match := LAYER.fullmatch(name):
        return f"model.layers.{match[1]}.{NAMES[match[2]]}.weight"
    return NAMES[name]


def hugging_face_config(config: ModelConfig, dtype: str, bos: int | None = None, eos: list[int] | None = None) -> dict[str, Any]:
    """The contents of config.json."""
    scaling = None
    if (s := config.rope_scaling) is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": s.factor,
            "low_freq_factor": s.low_frequency_factor,
            "high_freq_factor": s.high_frequency_factor,
            "original_max_position_embeddings": s.original_positions,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": config.n_layers,
        "hidden_size": config.d_model,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.d_feed_forward,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "torch_dtype": dtype,
    }


def read_config(directory: Path) -> ModelConfig:
    """The shape of a model directory. Raises InputError where config.json is missing, damaged or of another architecture."""
    file = directory / CONFIG
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["model_type"] != "llama":
            raise InputError(file, f"model_type {found['model_type']!r}", allowed="llama")
        scaling = None
        if found.get("rope_scaling"):
            scaling = RopeScaling(
                factor=found["rope_scaling"]["factor"],
                low_frequency_factor=found["rope_scaling"]["low_freq_factor"],
                high_frequency_factor=found["rope_scaling"]["high_freq_factor"],
                original_positions=found["rope_scaling"]["original_max_position_embeddings"],
            )
        return ModelConfig(
            n_layers=found["num_hidden_layers"],
            d_model=found["hidden_size"],
            n_heads=found["num_attention_heads"],
            n_kv_heads=found["num_key_value_heads"],
            head_width=found["head_dim"],
            d_feed_forward=found["intermediate_size"],
            vocabulary=found["vocab_size"],
            rope_theta=found["rope_theta"],
            rope_scaling=scaling,
            norm_epsilon=found["rms_norm_eps"],
            tied_embeddings=found["tie_word_embeddings"],
            max_positions=found["max_position_embeddings"],
        )
    except FileNotFoundError:
        raise InputError(directory, f"no model directory (it holds no {CONFIG})") from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(file, f"not a readable model configuration ({error!r})") from None


def save_model(model: Transformer, directory: Path, bos: int | None = None, eos: list[int] | None = None) -> None:
    """Write config.json and model.safetensors into an existing or new directory; tied embeddings are written once."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if not (name == "head.weight" and model.config.tied_embeddings):
            tensors[hugging_face_name(name)] = tensor.detach().contiguous().cpu()
    safetensors.torch.save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    dtype = str(model.embed.weight.dtype).removeprefix("torch.")
    config = hugging_face_config(model.config, dtype, bos, eos)
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_model(directory: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """Read a model directory; `dtype` None keeps the file's.

    Raises InputError that names missing, unexpected and wrongly shaped tensors.
    """
    config = read_config(directory)
    with torch.device("meta"):
        model = Transformer(config)
    expected = {hugging_face_name(n): (n, p.shape) for n, p in model.named_parameters()}
    file = directory / WEIGHTS
    try:
        with safetensors.safe_open(file, framework="pt", device=device) as tensors:
            found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            _check_tensors(file, {name: tuple(shape) for name, (_, shape) in expected.items()}, found)
            state = {ours: tensors.get_tensor(name).to(dtype) for name, (ours, _) in expected.items()}
    except FileNotFoundError:
        raise InputError(directory, f"no {WEIGHTS}") from None
    except safetensors.SafetensorError as error:
        raise InputError(file, f"damaged ({error})", do="make it again") from None
    model.load_state_dict(state, assign=True, strict=False)
    if config.tied_embeddings:
        model.head.weight = model.embed.weight
    return model


def _check_tensors(file: Path, expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise InputError(file, f"{len(missing)} tensors are missing: {', '.join(missing[:4])}")
    if extra:
        raise InputError(file, f"{len(extra)} unexpected tensors: {', '.join(extra[:4])}")
    wrong = [f"{n} is {found[n]}" for n in sorted(expected) if found[n] != expected[n]]
    if wrong:
        name = wrong[0].split(" ")[0]
        raise InputError(file, f"{len(wrong)} tensors of another shape: {wrong[0]}", allowed=str(expected[name]))

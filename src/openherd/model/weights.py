"""Model directories: Hugging Face's format from the first day (safetensors, config.json), so that transformers and vLLM load
them.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from openherd.core.errors import InputError
from openherd.core.rundir import Run, digest_of
from openherd.model.config import ModelConfig, RopeScaling
from openherd.model.shards import INDEX, WEIGHTS, Planned, write_shards
from openherd.model.transformer import Transformer

CONFIG = "config.json"
SUPPORTED = {  # what a Llama 3 may say of itself; the first is what transformers takes where nothing is said
    "model_type": ("llama",),
    "architectures": (None, ["LlamaForCausalLM"]),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
}

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


def read_config(directory: Path, architecture: str = "") -> ModelConfig:
    """The shape of a model directory, of a language model or of another architecture with its trunk.

    Raises InputError where config.json is missing, damaged, or of what is not built here.
    """
    file = directory / CONFIG
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        supported = {**SUPPORTED, "architectures": ([architecture],)} if architecture else SUPPORTED
        for key, allowed in supported.items():
            if found.get(key, allowed[0]) not in allowed:
                raise InputError(file, f"{key} = {found[key]!r}", allowed=" or ".join(map(str, allowed)))
        rope = found.get("rope_parameters") or found.get("rope_scaling") or {}  # as transformers 5 writes it, and before
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "llama3"):
            raise InputError(file, f"RoPE of type {kind!r}", allowed="llama3, or none")
        heads = found["num_attention_heads"]
        return ModelConfig(
            n_layers=found["num_hidden_layers"],
            d_model=found["hidden_size"],
            n_heads=heads,
            n_kv_heads=found.get("num_key_value_heads") or heads,
            head_width=found.get("head_dim") or found["hidden_size"] // heads,
            d_feed_forward=found["intermediate_size"],
            vocabulary=found["vocab_size"],
            rope_theta=float(rope.get("rope_theta", found.get("rope_theta", 10_000.0))),  # transformers' default
            rope_scaling=None
            if kind == "default"
            else RopeScaling(
                factor=rope["factor"],
                low_frequency_factor=rope["low_freq_factor"],
                high_frequency_factor=rope["high_freq_factor"],
                original_positions=rope["original_max_position_embeddings"],
            ),
            norm_epsilon=found.get("rms_norm_eps", 1e-6),
            tied_embeddings=found.get("tie_word_embeddings", False),
            max_positions=found.get("max_position_embeddings", 2_048),
        )
    except FileNotFoundError:
        raise InputError(directory, f"no model directory (it holds no {CONFIG})") from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(file, f"not a readable model configuration ({error!r})") from None


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model directory: one, or the shards that its index names. Raises InputError."""
    if (directory / WEIGHTS).exists():
        return [directory / WEIGHTS]
    try:
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except FileNotFoundError:
        raise InputError(directory, f"no {WEIGHTS} and no {INDEX}") from None
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(directory / INDEX, f"damaged ({error!r})", do="get the model again") from None
    for name in names:
        if Path(name).name != name or not (directory / name).exists():
            raise InputError(directory / INDEX, f"names {name!r}, which is not there", do="get the missing shard")
    return [directory / name for name in names]


def open_weights(file: Path, device: str = "cpu") -> Any:
    """One safetensors file, memory-mapped; a context manager. Raises InputError where it is damaged."""
    try:
        return safetensors.safe_open(file, framework="pt", device=device)
    except safetensors.SafetensorError as error:
        raise InputError(file, f"damaged ({error})", do="make it again") from None


@cache
def expected_tensors(config: ModelConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Hugging Face name of each tensor: our name and its shape."""
    with torch.device("meta"):
        model = Transformer(config)
    return {hugging_face_name(name): (name, tuple(p.shape)) for name, p in model.named_parameters()}


def check_tensors(where: Path, config: ModelConfig, found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises InputError that names missing, unexpected and wrongly shaped tensors."""
    expected = {name: shape for name, (_, shape) in expected_tensors(config).items()}
    missing, extra = (
        sorted(expected.keys() - found.keys()),
        sorted(n for n in found.keys() - expected.keys() if not is_idle(n, config)),
    )
    if missing:
        raise InputError(where, f"{len(missing)} tensors are missing: {', '.join(missing[:4])}")
    if extra:
        raise InputError(where, f"{len(extra)} unexpected tensors: {', '.join(extra[:4])}")
    wrong = [name for name in sorted(expected) if found[name] != expected[name]]
    if wrong:
        text = f"{len(wrong)} tensors of another shape: {wrong[0]} is {found[wrong[0]]}"
        raise InputError(where, text, allowed=str(expected[wrong[0]]))


def refuse_twins(file: Path, found: Collection[str], more: Collection[str]) -> None:
    """Raises InputError where a tensor stands in two files: which of them is meant, nobody knows."""
    if twins := sorted(set(found) & set(more)):
        text = f"{twins[0]} stands in another file too"
        raise InputError(file, text, allowed="each tensor once", do="remove files that belong to another model")


def is_idle(name: str, config: ModelConfig) -> bool:
    """Whether a file may hold this tensor although nothing reads it: old tables of frequencies, the head of a tied model."""
    return name.endswith("rotary_emb.inv_freq") or (config.tied_embeddings and name == NAMES["head.weight"])


def save_model(model: Transformer, directory: Path, bos: int | None = None, eos: list[int] | None = None) -> None:
    """Write config.json and model.safetensors into an existing or new directory; tied embeddings are written once."""
    tensors = {name: tensor.detach().cpu() for name, tensor in model.named_parameters()}
    write_model(model.config, model.embed.weight.dtype, tensors.__getitem__, directory, bos, eos)


def write_model(
    config: ModelConfig,
    dtype: torch.dtype,
    read: Callable[[str], Tensor],
    directory: Path,
    bos: int | None = None,
    eos: list[int] | None = None,
) -> None:
    """Write a model directory, large ones in shards; `read` gives each tensor by our name, in the model's order, once."""
    directory.mkdir(parents=True, exist_ok=True)
    names = {hugging_face: name for hugging_face, (name, _) in expected_tensors(config).items()}
    plan = [Planned(hugging_face, shape, dtype) for hugging_face, (_, shape) in expected_tensors(config).items()]
    write_shards(plan, lambda name: read(names[name]), directory, "model")
    found = hugging_face_config(config, str(dtype).removeprefix("torch."), bos, eos)
    (directory / CONFIG).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def read_tensors(directory: Path, device: str = "cpu") -> tuple[ModelConfig, dict[str, Tensor]]:
    """Shape and tensors of a model directory, by our names. On the processor tensors are the mapped file, read when used.

    Raises InputError that names missing, unexpected and wrongly shaped tensors.
    """
    config = read_config(directory)
    ours = {hugging_face: name for hugging_face, (name, _) in expected_tensors(config).items()}
    found: dict[str, tuple[int, ...]] = {}
    state: dict[str, Tensor] = {}
    for file in weight_files(directory):
        with open_weights(file, device) as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            refuse_twins(file, found, shapes)
            found |= shapes
            state |= {ours[name]: tensors.get_tensor(name) for name in shapes if name in ours}
    check_tensors(directory, config, found)
    return config, state


def load_model(directory: Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """Read a model directory; `dtype` None keeps the file's. Raises InputError, as `read_tensors`."""
    config, state = read_tensors(directory, device)
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True, strict=False)
    if config.tied_embeddings:
        model.head.weight = model.embed.weight
    return model


def model_of(run: Run) -> tuple[Path, str]:
    """The model directory of a run and the digest of its weights: the SHA-256 of the file, or one over those of its shards.

    Raises InputError where the weights, the shape or the tokenizer are not those that the run wrote.
    """
    for name in (f"model/{CONFIG}", "model/tokenizer.json"):
        if name in run.manifest["outputs"]:
            run.verified(name)
    names = [name for name in sorted(run.manifest["outputs"]) if name.startswith("model/") and name.endswith(".safetensors")]
    files = [run.verified(name) for name in names or [f"model/{WEIGHTS}"]]
    digests = [str(run.manifest["outputs"][name]["sha256"]) for name in names]
    return files[0].parent, digests[0] if len(digests) == 1 else digest_of(digests)

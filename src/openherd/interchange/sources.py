"""Models as others keep them: Hugging Face directories and Meta's checkpoints, read tensor by tensor (paper 3.2).

Meta pairs neighbours in its rotary embedding, (x_0, x_1), (x_2, x_3), ...; Hugging Face, and we, pair halves, (x_0, x_{H/2}), ...
The rows of query and key projections are put in the other order at the border, and the models are the same.

Meta's shards for several GPUs hold slices: of rows (query, key, value, gate, up, head), of columns (output, down), or whole
(norms). Token embeddings are slices of rows in Llama 3 and of columns before; the shapes tell.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from openherd.core.errors import InputError
from openherd.model.config import LLAMA_3_2, SIZES, ModelConfig, RopeScaling
from openherd.model.weights import expected_tensors, open_weights, read_config, refuse_twins, weight_files

PARAMS = "params.json"
LARGEST_F16 = 65_504
RANKS = "tokenizer.model"  # Meta's
CONSOLIDATED = "consolidated.*.pth"


class ModelSource(Protocol):
    """A model somewhere else."""

    path: Path
    config: ModelConfig
    pairs_halves: bool
    """Whether its queries and keys are in the order that pairs halves."""

    @property
    def frequencies(self) -> Sequence[float] | None:
        """Radians per position of each pair, where it states them; None where its configuration does."""

    def found(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each tensor, by Hugging Face name."""

    def read(self, name: str) -> Tensor:
        """One tensor as the source has it: unpermuted, whole."""


class HuggingFace:
    """A directory with config.json and safetensors."""

    pairs_halves = True
    frequencies: Sequence[float] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_config(path)
        self.files = weight_files(path)

    @cached_property
    def _where(self) -> dict[str, Path]:
        places: dict[str, Path] = {}
        for file in self.files:
            with open_weights(file) as tensors:
                refuse_twins(file, places, tensors.keys())
                places |= dict.fromkeys(tensors.keys(), file)
        return places

    def found(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each tensor."""
        facts = {}
        for name, file in self._where.items():
            with open_weights(file) as tensors:
                part = tensors.get_slice(name)
                facts[name] = (tuple(part.get_shape()), dtype_of(file, name, part.get_dtype()))
        return facts

    def read(self, name: str) -> Tensor:
        """One tensor; a copy, so that the mapped file can go."""
        with open_weights(self._where[name]) as tensors:
            return tensors.get_tensor(name).clone()

    @contextmanager
    def mapped(self) -> Iterator[Callable[[str], Tensor]]:
        """A function that gives tensors as views of the mapped files, which stay open."""
        with ExitStack() as stack:
            opened = {file: stack.enter_context(open_weights(file)) for file in self.files}
            yield lambda name: opened[self._where[name]].get_tensor(name)


def dtype_of(file: Path, name: str, written: str) -> torch.dtype:
    """The type of a tensor. Raises InputError for one that is no plain float."""
    known = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    if written not in known:
        raise InputError(file, f"{name} is of type {written}", allowed=", ".join(known), do="give the model unquantised")
    return known[written]


# Meta's names of tensors, and along which side its shards slice them (None: whole in each).
META_NAMES = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", 0),
    "norm.weight": ("model.norm.weight", None),
    "output.weight": ("lm_head.weight", 0),
}
META_LAYER = {
    "attention.wq": ("self_attn.q_proj", 0),
    "attention.wk": ("self_attn.k_proj", 0),
    "attention.wv": ("self_attn.v_proj", 0),
    "attention.wo": ("self_attn.o_proj", 1),
    "feed_forward.w1": ("mlp.gate_proj", 0),
    "feed_forward.w3": ("mlp.up_proj", 0),
    "feed_forward.w2": ("mlp.down_proj", 1),
    "attention_norm": ("input_layernorm", None),
    "ffn_norm": ("post_attention_layernorm", None),
}
IDLE = ("rope.freqs",)


def hugging_face_name_of(meta: str) -> tuple[str, int | None] | None:
    """Hugging Face's name of one of Meta's tensors, and the side along which shards slice it; None for one that Llama 3 has not."""
    if match := re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", meta):
        entry = META_LAYER.get(match[2])
        return (f"model.layers.{match[1]}.{entry[0]}.weight", entry[1]) if entry else None
    return META_NAMES.get(meta)


def meta_config(file: Path, vocabulary: int, tied: bool, rope_factor: float) -> ModelConfig:
    """The shape that Meta's params.json describes; `rope_factor` 0 takes the released one. Raises InputError."""
    try:
        p = json.loads(file.read_text(encoding="utf-8"))
        d, heads = int(p["dim"]), int(p["n_heads"])
        hidden = feed_forward_width(d, p.get("ffn_dim_multiplier"), int(p.get("multiple_of", 256)))
        scaled = bool(p.get("use_scaled_rope", False))
        shape = ModelConfig(
            n_layers=int(p["n_layers"]),
            d_model=d,
            n_heads=heads,
            n_kv_heads=int(p.get("n_kv_heads") or heads),
            head_width=d // heads,
            d_feed_forward=hidden,
            vocabulary=vocabulary,
            rope_theta=float(p.get("rope_theta", 10_000.0)),
            norm_epsilon=float(p.get("norm_eps", 1e-5)),
            tied_embeddings=tied,
            max_positions=131_072 if scaled else 8_192,
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(file, f"not a readable {PARAMS} ({error!r})") from None
    scaling = RopeScaling(factor=rope_factor or released_rope_factor(shape)) if scaled else None
    return replace(shape, rope_scaling=scaling)


def released_rope_factor(config: ModelConfig) -> float:
    """What params.json does not say: Llama 3.1 and 3.3 were released with 8, the small text models of 3.2 with 32."""
    small = {(s.n_layers, s.d_model) for s in SIZES.values() if s.rope_scaling == LLAMA_3_2["rope_scaling"]}
    return 32.0 if (config.n_layers, config.d_model) in small else 8.0


def feed_forward_width(d: int, multiplier: float | None, multiple: int) -> int:
    """The rule of Meta's code: 8/3 of the width, times a factor, up to a multiple."""
    hidden = int(2 * 4 * d / 3)
    hidden = int(multiplier * hidden) if multiplier else hidden
    return -(-hidden // multiple) * multiple


class Meta:
    """A directory with params.json and consolidated.*.pth, one file or one for each model-parallel rank."""

    pairs_halves = False
    frequencies: Sequence[float] | None = None

    def __init__(self, path: Path, rope_factor: float = 0.0) -> None:
        self.path = path
        self.files = sorted(path.glob(CONSOLIDATED))
        if not self.files:
            raise InputError(path, f"no {CONSOLIDATED}")
        self._shards = [load_pth(file) for file in self.files]
        self._names: dict[str, tuple[str, int | None]] = {}
        unknown = []
        for name in self._shards[0]:
            if name in IDLE:
                continue
            if found := hugging_face_name_of(name):
                self._names[found[0]] = (name, found[1])
            else:
                unknown.append(name)
        if unknown:
            raise InputError(
                self.files[0], f"{len(unknown)} unexpected tensors: {', '.join(unknown[:4])}", allowed="a text Llama 3"
            )
        embedding = self._names.get("model.embed_tokens.weight")
        if embedding is None:
            raise InputError(self.files[0], "1 tensors are missing: tok_embeddings.weight")
        by_rows = self._embedding_by_rows()
        self._names["model.embed_tokens.weight"] = (embedding[0], 0 if by_rows else 1)
        rows = self._shards[0][embedding[0]].shape[0] * (len(self._shards) if by_rows else 1)
        if self._head_is_embedding():
            del self._names["lm_head.weight"]
        self.config = meta_config(path / PARAMS, rows, "lm_head.weight" not in self._names, rope_factor)

    def _head_is_embedding(self) -> bool:
        """Whether the head is the embeddings again, as in the small models of Llama 3.2: they are tied."""
        both = [(shard["tok_embeddings.weight"], shard.get("output.weight")) for shard in self._shards]
        return all(
            head is not None and head.shape == words.shape and torch.equal(head[:1], words[:1]) and torch.equal(head, words)
            for words, head in both
        )

    def _embedding_by_rows(self) -> bool:
        width = json.loads((self.path / PARAMS).read_text(encoding="utf-8")).get("dim")
        return bool(self._shards[0]["tok_embeddings.weight"].shape[1] == width)

    def found(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of each tensor, put together from the shards."""
        facts = {}
        for name, (meta, side) in self._names.items():
            parts = [shard[meta].shape for shard in self._parts(meta)]
            shape = list(parts[0])
            if side is not None:
                shape[side] = sum(part[side] for part in parts)
            facts[name] = (tuple(shape), self._shards[0][meta].dtype)
        return facts

    def _parts(self, meta: str) -> list[dict[str, Tensor]]:
        for file, shard in zip(self.files, self._shards, strict=True):
            if meta not in shard:
                raise InputError(file, f"1 tensors are missing: {meta}")
        return self._shards

    def read(self, name: str) -> Tensor:
        """One tensor, its slices put together; query and key in Meta's order."""
        meta, side = self._names[name]
        parts = [shard[meta] for shard in self._parts(meta)]
        return parts[0] if side is None or len(parts) == 1 else torch.cat(parts, dim=side)


def load_pth(file: Path) -> dict[str, Tensor]:
    """Tensors by name, memory-mapped; nothing in the file is run. Raises InputError for a file that is no plain set of tensors."""
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler's, torch's and zip's errors have no common class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        do = "nothing in it was run; get it from its source"
        raise InputError(file, f"not a file of plain tensors ({reason})", do=do) from None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(file, "not a dictionary of tensors")
    return found


def to_halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection that pair neighbours, in the order that pairs halves."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(weight.shape)


def to_neighbours(weight: Tensor, heads: int) -> Tensor:
    """The way back."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def heads_of(name: str, config: ModelConfig) -> int:
    """Heads of a query or key projection by its Hugging Face name; 0 for another tensor."""
    return config.n_heads if "self_attn.q_proj" in name else config.n_kv_heads if "self_attn.k_proj" in name else 0


def read_as_ours(source: ModelSource, name: str) -> Tensor:
    """A tensor of a source in the order of Hugging Face's."""
    tensor = source.read(name)
    heads = heads_of(name, source.config)
    return tensor if source.pairs_halves or not heads else to_halves(tensor, heads)


def narrowed(tensor: Tensor, dtype: torch.dtype, where: Path, name: str) -> Tensor:
    """A tensor in another type. Raises InputError where fp16 cannot hold its values, which would become infinite."""
    if dtype == torch.float16 and not bool((tensor.abs() <= LARGEST_F16).all()):
        text = f"{name} holds values over {LARGEST_F16:,}"
        raise InputError(where, text, allowed="smaller ones in float16", do="take bfloat16")
    return tensor.to(dtype)


def open_source(path: Path, rope_factor: float = 0.0) -> ModelSource:
    """The model in a directory. Raises InputError where there is none, or it is of another architecture."""
    if (path / PARAMS).exists():
        return Meta(path, rope_factor)
    if (path / "original" / PARAMS).exists() and not (path / "config.json").exists():
        return Meta(path / "original", rope_factor)
    return HuggingFace(path)


def names_in_order(config: ModelConfig) -> list[str]:
    """Hugging Face names of all tensors of a shape, in the order of the model."""
    return list(expected_tensors(config))

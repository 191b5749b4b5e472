"""GGUF files, which llama.cpp and ollama run: written tensor by tensor over the `gguf` package, and read back (paper 3.2).

Names and keys are those of the format's `llama` architecture. It pairs neighbours in its rotary embedding, as Meta does; norms are
fp32; the scaling of the frequencies is a tensor of divisors, `rope_freqs.weight`; a tied head is left out. The tokenizer goes in as
tokens, merges and the name of Llama 3's way to split, which its pattern must be.
"""

from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType, TokenType
from torch import Tensor

from openherd.core.errors import InputError
from openherd.core.progress import Progress
from openherd.interchange.sources import META_LAYER, ModelSource, heads_of, names_in_order, narrowed, to_neighbours
from openherd.model.config import ModelConfig
from openherd.model.rope import inverse_frequencies
from openherd.tokenizer.pattern import SPLIT_PATTERN
from openherd.tokenizer.special import END_OF_MESSAGE, END_OF_TURN, PAD
from openherd.tokenizer.tokenizer import Tokenizer, split_pattern

ARCHITECTURE = "llama"
SPLIT = "llama-bpe"  # the format's name for Llama 3's pattern
TYPES = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
BLOCK = 32  # values that share a scale in q8_0
AT_ONCE = 16_000_000  # values converted at once: the package makes several copies
DIVISORS = "rope_freqs.weight"
ENDS = {  # Hugging Face's names of what is no layer
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
    "attention_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
}
LAYER_NAMES = {META_LAYER[meta][0]: name for meta, name in LAYER.items()}


def gguf_name(name: str) -> str:
    """The name in a GGUF file of one of Hugging Face's tensors."""
    if name in ENDS:
        return ENDS[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[part]}.weight"


def write_gguf(source: ModelSource, tokenizer: Tokenizer, template: str | None, file: Path, kind: str) -> None:
    """Write a model and its tokenizer. Raises InputError where the format cannot hold them."""
    config = source.config
    quantised, file_type = TYPES[kind]
    found = source.found()
    plan: list[tuple[str, tuple[int, ...], GGMLQuantizationType]] = []
    for name in names_in_order(config):
        shape = found[name][0]
        if len(shape) > 1 and kind == "q8_0" and shape[-1] % BLOCK:
            text = f"{name} is {shape[-1]} wide"
            raise InputError(source.path, text, allowed=f"multiples of {BLOCK} in q8_0", do="take --type f16 or bf16")
        plan.append((name, shape, quantised if len(shape) > 1 else GGMLQuantizationType.F32))
    divisors = frequency_divisors(config)
    sizes = [n_bytes(shape, dtype) for _, shape, dtype in plan]
    with closing(gguf.GGUFWriter(file, ARCHITECTURE)) as writer, Progress("export", sum(sizes) // 1_000_000, "MB") as progress:
        write_facts(writer, config, file_type)
        write_words(writer, tokenizer, template, config.vocabulary)
        if divisors is not None:
            writer.add_tensor_info(DIVISORS, divisors.shape, divisors.dtype, divisors.nbytes)
        for (name, shape, dtype), size in zip(plan, sizes, strict=True):
            writer.add_tensor_info(gguf_name(name), shape, np.dtype(np.float32), size, raw_dtype=dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if divisors is not None:
            writer.write_tensor_data(divisors)
        done = 0
        for (name, _, dtype), size in zip(plan, sizes, strict=True):
            tensor = source.read(name)
            if source.pairs_halves and (heads := heads_of(name, config)):
                tensor = to_neighbours(tensor, heads)
            tensor = narrowed(tensor, torch.float16, source.path, name) if dtype == GGMLQuantizationType.F16 else tensor
            writer.write_tensor_data(converted(tensor, dtype))
            done += size
            progress.advance(done // 1_000_000 - progress.done)


def n_bytes(shape: tuple[int, ...], dtype: GGMLQuantizationType) -> int:
    """Bytes of a tensor in the file."""
    block, size = gguf.GGML_QUANT_SIZES[dtype]
    return int(np.prod(shape)) // block * size


def converted(tensor: Tensor, dtype: GGMLQuantizationType) -> np.ndarray:
    """A tensor as the file has it, some rows at a time."""
    if dtype == GGMLQuantizationType.F32:
        return tensor.float().contiguous().numpy()
    if dtype == GGMLQuantizationType.F16:
        return tensor.contiguous().numpy()
    if dtype == GGMLQuantizationType.BF16:
        return tensor.bfloat16().contiguous().view(torch.uint8).numpy()
    rows = tensor.split(max(AT_ONCE // tensor.shape[-1], 1))
    return np.concatenate([gguf.quants.quantize(part.float().contiguous().numpy(), dtype) for part in rows])


def frequency_divisors(config: ModelConfig) -> np.ndarray | None:
    """What llama.cpp divides the frequencies of RoPE's base by, (H/2,); None without scaling."""
    if config.rope_scaling is None:
        return None
    plain = config.rope_theta ** (-np.arange(0, config.head_width, 2) / config.head_width)
    return (plain / inverse_frequencies(config).double().numpy()).astype(np.float32)


def write_facts(writer: gguf.GGUFWriter, config: ModelConfig, file_type: LlamaFileType) -> None:
    """The shape."""
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_feed_forward)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_vocab_size(config.vocabulary)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def write_words(writer: gguf.GGUFWriter, tokenizer: Tokenizer, template: str | None, vocabulary: int) -> None:
    """The tokenizer. Raises InputError where it splits otherwise than Llama 3, or has more tokens than the model."""
    file = tokenizer.contents()
    if split_pattern(file) != SPLIT_PATTERN or file["model"]["type"] != "BPE" or not file["model"]["ignore_merges"]:
        raise InputError(tokenizer.directory, "splits text otherwise than Llama 3", allowed="Llama 3's pattern, in a GGUF file")
    if tokenizer.vocabulary > vocabulary:
        text = f"{tokenizer.vocabulary:,} tokens, and the model has {vocabulary:,}"
        raise InputError(tokenizer.directory, text, allowed="no more tokens than the model")
    tokens = [f"[UNUSED_{i}]" for i in range(vocabulary)]
    types = [TokenType.UNUSED] * vocabulary
    for token, i in file["model"]["vocab"].items():
        tokens[i], types[i] = token, TokenType.NORMAL
    for added in file["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")  # byte-level pairs
    writer.add_tokenizer_pre(SPLIT)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in file["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    others = {END_OF_TURN: writer.add_eot_token_id, END_OF_MESSAGE: writer.add_eom_token_id, PAD: writer.add_pad_token_id}
    for special, add in others.items():
        for i in tokenizer.ids_of([special]):
            add(i)
    writer.add_add_bos_token(True)
    if template:
        writer.add_chat_template(template)


class Gguf:
    """A GGUF file as a source: what is in it, for the check of an export."""

    pairs_halves = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = gguf.GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.template: str | None = self._value("tokenizer.chat_template")

        def fact(key: str) -> Any:
            return self._value(f"{ARCHITECTURE}.{key}")

        self.config = ModelConfig(
            n_layers=fact("block_count"),
            d_model=fact("embedding_length"),
            n_heads=fact("attention.head_count"),
            n_kv_heads=fact("attention.head_count_kv"),
            head_width=fact("rope.dimension_count"),
            d_feed_forward=fact("feed_forward_length"),
            vocabulary=fact("vocab_size"),
            rope_theta=fact("rope.freq_base"),
            norm_epsilon=fact("attention.layer_norm_rms_epsilon"),
            tied_embeddings=ENDS["lm_head.weight"] not in self._tensors,
            max_positions=fact("context_length"),
        )

    def _value(self, key: str) -> Any:
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    @cached_property
    def frequencies(self) -> list[float]:
        """As the file states them: powers of the base over the tensor of divisors."""
        c = self.config
        plain = [c.rope_theta ** (-2 * i / c.head_width) for i in range(c.head_width // 2)]
        divisors = self._tensors[DIVISORS].data if DIVISORS in self._tensors else [1.0] * len(plain)
        return [f / float(d) for f, d in zip(plain, divisors, strict=True)]

    def found(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape of each tensor; read as fp32."""
        names = {gguf_name(name): name for name in names_in_order(self.config)}
        return {
            names[t.name]: (tuple(int(n) for n in reversed(t.shape)), torch.float32)
            for t in self._reader.tensors
            if t.name != DIVISORS
        }

    def read(self, name: str) -> Tensor:
        """One tensor in fp32, in the file's own order of rows."""
        tensor = self._tensors[gguf_name(name)]
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values = np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        return torch.from_numpy(values.reshape(shape))

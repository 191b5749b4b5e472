"""Model shapes: the paper's three (Table 3), Llama 3.2's two small ones, and our ladder below them (paper 3.2). No torch here.

Widths are in elements, `rope_theta` is RoPE's base, `max_positions` the context in tokens. "Llama 3" means the 3.1 models, as in
the paper; their RoPE scaling stands in Meta's released code and not in the paper. The ladder's rows under 1B are ours: width over
depth and feed-forward width keep Llama 3's proportions.
"""

from dataclasses import dataclass
from typing import Any

VOCABULARY = 128_256  # 128,000 byte pairs and 256 special tokens; Table 3 prints 128,000


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3.1's rescaling of RoPE frequencies for longer contexts (Meta's released code; the paper does not mention it)."""

    factor: float = 8.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8_192


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of one model."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_width: int
    d_feed_forward: int
    vocabulary: int = VOCABULARY
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    tied_embeddings: bool = False
    max_positions: int = 8_192

    def __post_init__(self) -> None:
        sizes = {
            name: getattr(self, name) for name in ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_width", "d_feed_forward")
        }
        wrong = [f"{name} = {n}" for name, n in {**sizes, "vocabulary": self.vocabulary}.items() if n < 1]
        if wrong:
            raise ValueError(f"{wrong[0]}; sizes are at least 1")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads = {self.n_heads} is no multiple of n_kv_heads = {self.n_kv_heads}")
        if self.head_width % 2:
            raise ValueError(f"head_width = {self.head_width} is odd; RoPE rotates pairs")


LLAMA_3_1 = {"rope_scaling": RopeScaling(), "max_positions": 131_072}
LLAMA_3_2: dict[str, Any] = {"rope_scaling": RopeScaling(factor=32.0), "max_positions": 131_072, "tied_embeddings": True}


def _row(layers: int, d: int, heads: int, kv_heads: int, width: int, ffn: int, **more: Any) -> ModelConfig:
    return ModelConfig(n_layers=layers, d_model=d, n_heads=heads, n_kv_heads=kv_heads, head_width=width, d_feed_forward=ffn, **more)


SIZES: dict[str, ModelConfig] = {
    # name                layers  d_model heads kv width  ffn
    "herd-31k":     _row(2,    24,   2, 1,  12,    64, vocabulary=768, tied_embeddings=True),
    "herd-60k":     _row(3,    32,   2, 1,  16,    96, vocabulary=768, tied_embeddings=True),
    "herd-110k":    _row(3,    48,   3, 1,  16,   128, vocabulary=768, tied_embeddings=True),
    "herd-230k":    _row(4,    64,   4, 2,  16,   176, vocabulary=768, tied_embeddings=True),
    "herd-470k":    _row(4,    96,   3, 1,  32,   256, vocabulary=768, tied_embeddings=True),
    "herd-880k":    _row(4,   128,   4, 2,  32,   384, vocabulary=768, tied_embeddings=True),
    "herd-1m":      _row(4,   128,   4, 2,  32,   384, vocabulary=2_304, tied_embeddings=True),
    "herd-2m":      _row(4,   192,   3, 1,  64,   512, vocabulary=2_304),
    "herd-5m":      _row(6,   256,   4, 2,  64,   704, vocabulary=2_304),
    "herd-12m":     _row(8,   320,   5, 1,  64,   896, vocabulary=8_448, tied_embeddings=True),
    "herd-30m":     _row(10,  448,   7, 1,  64, 1_216, vocabulary=16_640, tied_embeddings=True),
    "herd-60m":     _row(12,  576,   9, 3,  64, 1_536, vocabulary=33_024, tied_embeddings=True),
    "herd-125m":    _row(16,  768,  12, 4,  64, 2_048, vocabulary=33_024, tied_embeddings=True),
    "herd-350m":    _row(24, 1_024, 16, 4,  64, 2_816, vocabulary=65_792, tied_embeddings=True),
    "herd-760m":    _row(24, 1_536, 24, 8,  64, 4_096, tied_embeddings=True),
    "llama3.2-1b":  _row(16, 2_048, 32, 8,  64, 8_192, **LLAMA_3_2),
    "llama3.2-3b":  _row(28, 3_072, 24, 8, 128, 8_192, **LLAMA_3_2),
    "llama3-8b":    _row(32, 4_096, 32, 8, 128, 14_336, **LLAMA_3_1),
    "llama3-70b":   _row(80, 8_192, 64, 8, 128, 28_672, **LLAMA_3_1),
    "llama3-405b":  _row(126, 16_384, 128, 8, 128, 53_248, **LLAMA_3_1),
}  # fmt: skip

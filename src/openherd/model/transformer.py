"""The Llama 3 Transformer: pre-norm, grouped-query attention, SwiGLU, RMSNorm, RoPE (paper 3.2).

Written for one process; parallelism is applied from outside. `embed`, `trunk` and `head` are public: a pipeline slices the trunk, a
reward model puts another head on, speech splices embeddings before it. Layers are keyed by index, so that a slice keeps its names.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openherd.model.attention import Attend, Attention, CausalAttend
from openherd.model.config import ModelConfig
from openherd.model.layers import Embedding, Linear
from openherd.model.rope import inverse_frequencies, rotation


class RMSNorm(nn.Module):
    """x / rms(x), computed in fp32, times a learned weight."""

    def __init__(self, d_model: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.epsilon = epsilon

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return F.rms_norm(x_BTD, self.weight.shape, self.weight.to(x_BTD.dtype), self.epsilon)


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Linear(config.d_model, config.d_feed_forward)
        self.up = Linear(config.d_model, config.d_feed_forward)
        self.down = Linear(config.d_feed_forward, config.d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Shape (B, T, D) to (B, T, D)."""
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.attention = Attention(config, index)
        self.feed_forward_norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.feed_forward = FeedForward(config)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Shape (B, T, D) to (B, T, D)."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), cos, sin, attend)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


class Transformer(nn.Module):
    """Tokens to logits; weights are uninitialised until `init.initialise` or `weights.load_model`."""

    def __init__(self, config: ModelConfig, layers: range | None = None) -> None:
        """With `layers` it has these alone."""
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocabulary, config.d_model)
        self.layers = nn.ModuleDict({str(i): Layer(config, i) for i in (range(config.n_layers) if layers is None else layers)})
        self.norm = RMSNorm(config.d_model, config.norm_epsilon)
        self.head = Linear(config.d_model, config.vocabulary)
        if config.tied_embeddings:
            self.head.weight = self.embed.weight

    def trunk(self, x_BTD: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Embeddings to final hidden states, both (B, T, D). `positions_BT` counts from 0 in each document."""
        cos, sin = rotation(inverse_frequencies(self.config).to(x_BTD.device), positions_BT)
        for layer in self.layers.values():
            x_BTD = layer(x_BTD, cos, sin, attend)
        return self.norm(x_BTD)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor | None = None, attend: Attend | None = None) -> Tensor:
        """Logits (B, T, V) in the weights' dtype; by default one document a row, causally."""
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
        return self.head(self.trunk(self.embed(tokens_BT), positions_BT, attend or CausalAttend()))

"""The Llama 3 Transformer: pre-norm, grouped-query attention, SwiGLU, RMSNorm, RoPE (paper 3.2).

Written for one process; parallelism is applied from outside. `embed`, `trunk` and `head` are public: a pipeline slices the trunk, a
reward model puts another head on, speech splices embeddings before it. Layers are keyed by index, so that a slice keeps its names.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openherd.model.attention import Attend, Attention, CausalAttend
from openherd.model.config import ModelConfig
from openherd.model.layers import Embedding, Linear
from openherd.model.rope import inverse_frequencies, rotation


class RMSNorm(nn.Module):
    """x / rms(x), computed in fp32, times a learned weight; under autocast in its dtype, which every reader would cast it to."""

    def __init__(self, d_model: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.epsilon = epsilon

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalise the last dimension."""
        device = x_BTD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_BTD.dtype
        # torch has one kernel for this on GPUs, makes one when it compiles, and spreads its operations over a mesh.
        if device == "cpu" and type(x_BTD) is Tensor and x_BTD.dtype == torch.float32 and not torch.compiler.is_compiling():
            y_BTD: Tensor = _Norm.apply(x_BTD, self.weight, self.epsilon)
        else:
            y_BTD = F.rms_norm(x_BTD, self.weight.shape, self.weight.to(x_BTD.dtype), self.epsilon)
        return y_BTD.to(dtype)


class _Norm(torch.autograd.Function):
    """The norm of fp32 on a processor, where torch's own way back goes through memory twice as often."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        inverse = x_BTD.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x_BTD, inverse, weight_D)
        return (x_BTD * inverse).mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Of the input and the weight."""
        x_BTD, inverse, weight_D = ctx.saved_tensors
        unit_BTD = x_BTD * inverse
        work_BTD = gradients[0] * unit_BTD
        of_weight_D = work_BTD.flatten(0, -2).sum(0)
        with torch.autocast("cpu", enabled=False):  # the way back may run under it, and this product is one of fp32
            along = (work_BTD @ weight_D.float()).div_(x_BTD.shape[-1]).unsqueeze(-1)
        torch.mul(gradients[0], weight_D, out=work_BTD)
        return work_BTD.addcmul_(unit_BTD, along, value=-1).mul_(inverse), of_weight_D, None


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

    def trunk(self, x_BTD: Tensor, positions_BT: Tensor, attend: Attend, frequencies: Tensor | None = None) -> Tensor:
        """Embeddings to final hidden states, both (B, T, D). `positions_BT` counts from 0 in each document; `frequencies` are those
        of RoPE for one who has them on the device."""
        if frequencies is None:
            frequencies = inverse_frequencies(self.config).to(x_BTD.device)
        cos, sin = rotation(frequencies, positions_BT)
        for layer in self.layers.values():
            x_BTD = layer(x_BTD, cos, sin, attend)
        return self.norm(x_BTD)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor | None = None, attend: Attend | None = None) -> Tensor:
        """Logits (B, T, V) in the weights' dtype; by default one document a row, causally."""
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
        return self.head(self.trunk(self.embed(tokens_BT), positions_BT, attend or CausalAttend()))

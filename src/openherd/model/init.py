"""Initial weights (the paper states no scheme).

Projections are normal with standard deviation 1/sqrt(input width); embeddings have 0.02, as in the released configurations; the
output head is zero, so that the first predictions are uniform; norms start at 1. With `depth_scaled` the two projections that
write to the residual stream are divided by sqrt(2 * layers), so that its variance does not grow with depth (GPT-2's rule).

Very small models trained on little text want large embeddings and no depth scaling: docs/decisions has the figures.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from openherd.core.seeds import derive_seed
from openherd.model.config import ModelConfig
from openherd.model.transformer import Transformer

RESIDUAL = ("attention.output.weight", "feed_forward.down.weight")


def initial_weights(
    config: ModelConfig, seed: int, *, embedding_std: float = 0.02, depth_scaled: bool = True
) -> Callable[[str], Tensor]:
    """Parameters by name; each depends on the seed and its own name alone, so that any process can draw those it needs."""
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Transformer(config).named_parameters()}

    def draw(name: str) -> Tensor:
        shape = shapes[name]
        if len(shape) == 1:
            return torch.ones(shape)
        if name == "head.weight":
            return torch.zeros(shape)
        std = embedding_std if name == "embed.weight" else shape[1] ** -0.5
        if depth_scaled and name.endswith(RESIDUAL):
            std /= math.sqrt(2 * config.n_layers)
        return torch.randn(shape, generator=torch.Generator().manual_seed(derive_seed(seed, "init", name))) * std

    return draw


@torch.no_grad()
def initialise(model: Transformer, seed: int, *, embedding_std: float = 0.02, depth_scaled: bool = True) -> None:
    """Fill a model's parameters."""
    draw = initial_weights(model.config, seed, embedding_std=embedding_std, depth_scaled=depth_scaled)
    for name, parameter in model.named_parameters():
        parameter.copy_(draw(name))

"""Initial weights (the paper states no scheme).

Projections are normal with standard deviation 1/sqrt(input width); embeddings have 0.02, as in the released configurations; the
output head is zero, so that the first predictions are uniform; norms start at 1. With `depth_scaled` the two projections that
write to the residual stream are divided by sqrt(2 * layers), so that its variance does not grow with depth (GPT-2's rule).

Very small models trained on little text want large embeddings and no depth scaling: docs/decisions has the figures.
"""

import math

import torch

from openherd.core.seeds import derive_seed
from openherd.model.transformer import Transformer

RESIDUAL = ("attention.output.weight", "feed_forward.down.weight")


@torch.no_grad()
def initialise(model: Transformer, seed: int, *, embedding_std: float = 0.02, depth_scaled: bool = True) -> None:
    """Fill a model's parameters; each depends on the seed and its own name alone, not on the order of the layers."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator(device="cpu").manual_seed(derive_seed(seed, "init", name))
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        elif name == "head.weight":
            parameter.zero_()
        else:
            std = embedding_std if name == "embed.weight" else parameter.shape[1] ** -0.5
            if depth_scaled and name.endswith(RESIDUAL):
                std /= math.sqrt(2 * model.config.n_layers)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

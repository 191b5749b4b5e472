"""Initial weights (the paper states no scheme).

Normal with standard deviation 0.02 for embeddings, as in the released configurations, and 1/sqrt(input width) for projections;
the two projections that write to the residual stream are divided by sqrt(2 * layers), so that its variance does not grow with
depth (GPT-2's rule). Norms start at 1.
"""

import math

import torch

from openherd.core.seeds import derive_seed
from openherd.model.transformer import Transformer

EMBEDDING_STD = 0.02


@torch.no_grad()
def initialise(model: Transformer, seed: int) -> None:
    """Fill a model's parameters; each depends on the seed and its own name alone, not on the order of the layers."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator(device="cpu").manual_seed(derive_seed(seed, "init", name))
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        std = EMBEDDING_STD if name.startswith("embed") else parameter.shape[1] ** -0.5
        if name.endswith(("attention.output.weight", "feed_forward.down.weight")):
            std /= math.sqrt(2 * model.config.n_layers)
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

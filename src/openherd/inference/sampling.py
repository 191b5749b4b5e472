"""Choosing the next token from logits."""

import torch
from torch import Tensor


def sample(logits_BV: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """The next token of each row, shape (B,). `temperature` 0 is greedy; `top_p` keeps the fewest tokens with that probability."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities = torch.softmax(logits_BV.float() / temperature, -1)
    if top_p < 1:
        ordered, index = probabilities.sort(-1, descending=True)
        ordered[(ordered.cumsum(-1) - ordered) >= top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]

"""Generation without a cache, one prompt, greedy: the slow and obvious twin of `engine.py`."""

from collections.abc import Collection, Sequence

import torch

from openherd.model.transformer import Transformer


@torch.no_grad()
def generate_greedy(model: Transformer, prompt: Sequence[int], max_new_tokens: int, stop: Collection[int]) -> list[int]:
    """The most likely continuation, token by token; ends before a stop token."""
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        token = int(model(torch.tensor([tokens]))[0, -1].argmax())
        if token in stop:
            break
        tokens.append(token)
    return tokens[len(prompt) :]

"""Activations computed again on the way back instead of kept (paper 3.3.2 does without, at 8K tokens and 16-way pipelines).

`full` keeps each layer's input and computes the layer again. `selective` keeps what is dear to compute, matrix products and
attention, and computes norms, rotations and activation functions again. Neither changes a result. A step of a 42M model on two
cores, 4 x 1,024 tokens: selective 1.04 of the time and 0.71 of the memory in fp32, 1.01 and 0.72 in bf16; full 1.12 and 0.46, 1.22
and 0.46.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from openherd.parallel.layout import Recompute

aten = torch.ops.aten
KEPT = {  # outputs that selective recomputation keeps
    aten.mm.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.openherd.causal_attention.default,
}


def policy(_: Any, operation: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
    """Whether an operation's output is kept."""
    kept = operation in KEPT or "_varlen_attn" in str(operation)  # registered only when it is first used
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def recompute(layer: nn.Module, how: Recompute) -> None:
    """Make a layer keep less for the way back, in place."""
    if how == "none":
        return
    more: dict[str, Any] = {"context_fn": partial(create_selective_checkpoint_contexts, policy)} if how == "selective" else {}
    plain = layer.forward

    def forward(*inputs: Any) -> Any:  # a plain function: of a partial one the compiler lets go without a word
        return checkpoint(plain, *inputs, use_reentrant=False, preserve_rng_state=False, **more)

    layer.forward = forward

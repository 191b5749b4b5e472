"""Low-rank adapters (LoRA, Hu et al. 2021; the paper trains all weights): a projection W is kept and becomes W + s B A, of which A
(rank, in) and B (out, rank) are trained; s is alpha / rank.

Added from outside, behind tensor parallelism, whose cut they follow: B is cut as the rows of W are, A as its columns are. B begins
at zero, so that training begins at the base model. What is frozen has no gradient and no place in optimizer or checkpoints, and may
be kept in bf16, in which models are published. The model is written with the adapters added in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.nn import functional as F

from openherd.core.seeds import derive_seed
from openherd.model.layers import Linear
from openherd.model.transformer import Transformer

Projection = Literal["query", "key", "value", "output", "gate", "up", "down"]
Whole = Literal["embeddings", "norms"]
ATTENTION = ("query", "key", "value", "output")
A, B = "lora_a", "lora_b"


@dataclass(frozen=True)
class Lora:
    """Which projections get adapters, and what is trained whole beside them."""

    rank: int
    alpha: float
    projections: tuple[Projection, ...]
    whole: tuple[Whole, ...] = ()
    bf16: bool = False  # of what is frozen

    @property
    def scale(self) -> float:
        """What the adapters' product is multiplied by."""
        return self.alpha / self.rank

    @property
    def in_layers_alone(self) -> bool:
        """Whether a process without layers trains nothing."""
        return "embeddings" not in self.whole

    def trains(self, name: str) -> bool:
        """Whether a parameter of the model itself is trained."""
        if "norm" in name:
            return "norms" in self.whole
        return "embeddings" in self.whole and not name.startswith("layers.")


def add_adapters(model: Transformer, lora: Lora) -> None:
    """Freeze a model, or a slice of one, and put adapters on its projections, in place; on the meta device."""
    for name, parameter in list(model.named_parameters()):
        if not lora.trains(name):
            module = model.get_submodule(name.rpartition(".")[0])
            frozen = parameter.detach().to(torch.bfloat16 if lora.bf16 else parameter.dtype)
            module.weight = nn.Parameter(frozen, requires_grad=False)
    if model.config.tied_embeddings and model.head is not None and model.embed is not None:
        model.head.weight = model.embed.weight
    if lora.bf16 and model.embed is not None:
        model.embed.register_forward_hook(_in_fp32)
    for layer in model.layers.values():
        for name in lora.projections:
            adapt(layer.get_submodule(f"{'attention' if name in ATTENTION else 'feed_forward'}.{name}"), lora)


def adapt(linear: nn.Module, lora: Lora) -> None:
    """Put an adapter on one projection, cut as its weight is."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    n_out, n_in = weight.shape
    for name, shape, side in ((A, (lora.rank, n_in), 1), (B, (n_out, lora.rank), 0)):
        tensor = torch.empty(shape, device=weight.device)
        if isinstance(weight, DTensor):
            placements = [p if p.is_shard(side) else Replicate() for p in weight.placements]
            tensor = distribute_tensor(tensor, weight.device_mesh, placements)
        linear.register_parameter(name, nn.Parameter(tensor))
    linear.__class__ = Adapted
    assert isinstance(linear, Adapted)
    linear.lora_scale = lora.scale


class Adapted(Linear):
    """A projection with an adapter: x (W + scale B A)^T, without the sum of the matrices.

    A class, so that all layers share one compiled graph: methods replaced one by one give torch's compiler one for each, up to 8,
    and the layers beyond run as they are.
    """

    lora_a: Tensor
    lora_b: Tensor
    lora_scale: float

    def forward(self, x: Tensor) -> Tensor:
        """The projection."""
        return F.linear(x, self.weight) + self.lora_scale * F.linear(F.linear(x, self.lora_a), self.lora_b)


def _in_fp32(module: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
    """Hidden states are fp32 whatever the embeddings are kept in."""
    return found.float()


def with_adapters(read: Callable[[str], Tensor], lora: Lora, seed: int) -> Callable[[str], Tensor]:
    """Parameters by name: those that `read` gives, and the adapters' initial ones, each by seed and name alone.

    A is uniform within 1 / sqrt(in), as nn.Linear's weights are; B is zero.
    """

    def get(name: str) -> Tensor:
        module, _, kind = name.rpartition(".")
        if kind not in (A, B):
            return read(name)
        n_out, n_in = read(f"{module}.weight").shape
        if kind == B:
            return torch.zeros(n_out, lora.rank)
        generator = torch.Generator().manual_seed(derive_seed(seed, "lora", name))
        return (2 * torch.rand(lora.rank, n_in, generator=generator) - 1) * n_in**-0.5

    return get

"""Matrix products of the feed-forward networks in FP8 (paper 6.2, which does so in inference; here in training too).

Every row gets a scale of its own, at every use, so that its largest value becomes FP8's largest. A row is what is summed over: the
way forward has rows of tokens and of outputs, the way back others, so that each tensor is quantised along both of its sides.
Values are e4m3; gradients are e5m2, which reaches further and is coarser. Sums are fp32, results bf16. All else stays as it is, the
first and the last layer too, as in the paper, unless every one is asked for.

The paper's bound of 1,200 on activations is for a few odd tokens in inference, and is not here: what it cuts would have no
gradient. On the processor the products are torch's own, right but slow, for tests and rehearsals alone. CUDA wants compute
capability 8.9.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.nn import functional as F

from openherd.core.errors import ConfigError
from openherd.model.config import ModelConfig
from openherd.model.layers import Linear
from openherd.model.transformer import Layer, Transformer
from openherd.parallel.layout import ParallelConfig

Float8 = Literal["none", "feed_forward", "every_feed_forward"]
VALUES, GRADIENTS = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # sides of the matrices that the device multiplies
CAPABILITY = (8, 9)
LEAST = 1e-12  # a row of zeros is divided by this


def check_float8(setting: Float8, shape: ModelConfig, layout: ParallelConfig, device: torch.device, precision: str) -> None:
    """Raise ConfigError where FP8 cannot be computed."""
    where = f"float8 = {setting!r}"
    if precision != "bfloat16":
        raise ConfigError(where, f"precision = {precision!r}", allowed="'bfloat16', in which all else is computed")
    for name, n, parts in (("d_model", shape.d_model, 1), ("d_feed_forward", shape.d_feed_forward, layout.tp)):
        if n % (MULTIPLE * parts):
            found = f"{name} = {n}" + (f", tp = {parts}" if parts > 1 else "")
            raise ConfigError(where, found, allowed=f"multiples of {MULTIPLE * parts}")
    if not float8_layers(setting, shape.n_layers):
        found = f"{shape.n_layers} layers, of which the first and the last stay in bf16"
        raise ConfigError(where, found, do="take 'every_feed_forward'")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        found = ".".join(str(n) for n in torch.cuda.get_device_capability(device))
        raise ConfigError(where, f"a GPU of compute capability {found}", allowed="8.9 and above (Ada, Hopper)")
    if device.type not in ("cuda", "cpu", "meta"):
        raise ConfigError(where, f"device = {device.type!r}", allowed="'cuda', or 'cpu' for a rehearsal")


def float8_layers(setting: Float8, n_layers: int) -> range:
    """The layers whose feed-forward network computes in FP8."""
    return {"none": range(0), "feed_forward": range(1, n_layers - 1), "every_feed_forward": range(n_layers)}[setting]


def apply_float8(model: Transformer, layers: range) -> None:
    """Let these layers' feed-forward networks, of those that a model or a slice of one has, multiply in FP8."""
    for name, layer in model.layers.items():
        assert isinstance(layer, Layer)
        if int(name) in layers:
            for linear in (layer.feed_forward.gate, layer.feed_forward.up, layer.feed_forward.down):
                linear.__class__ = Float8Linear


class Float8Linear(Linear):
    """A projection that multiplies in FP8; a class, so that all layers share one compiled graph."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """The projection."""
        return float8_forward(self, x_BTD)


def float8_forward(linear: nn.Linear, x_BTD: Tensor) -> Tensor:
    """x W^T by products in FP8; input and weight are bf16 first, as everywhere else.

    Of a weight that tensor parallelism has spread each process multiplies its own part, and scales its own part of a row.
    """
    weight = linear.weight
    if isinstance(weight, DTensor) and isinstance(x_BTD, DTensor):
        by_columns = weight.placements == (Shard(0),)
        of_x, of_out = ([Partial()], [Shard(x_BTD.ndim - 1)]) if by_columns else ([Shard(x_BTD.ndim - 1)], [Partial()])
        x, own = x_BTD.to_local(grad_placements=of_x), weight.to_local(grad_placements=weight.placements)
        return DTensor.from_local(float8_linear(x, own), weight.device_mesh, of_out, run_check=False)
    return float8_linear(x_BTD, weight)


def float8_linear(x_BTD: Tensor, weight_FD: Tensor) -> Tensor:
    """x W^T of what one process has, bf16."""
    out: Tensor = _Float8Linear.apply(x_BTD.flatten(0, -2).bfloat16(), weight_FD)
    return out.unflatten(0, x_BTD.shape[:-1])


def quantise(x_MK: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows in FP8, and the scale of each by which they are multiplied, shape (M, 1), fp32."""
    largest_M1 = x_MK.abs().amax(1, keepdim=True).float()
    scale_M1 = largest_M1.clamp(min=LEAST) / torch.finfo(dtype).max
    return (x_MK.float() / scale_M1).to(dtype), scale_M1


def product(a_MK: Tensor, b_NK: Tensor, dtype: torch.dtype) -> Tensor:
    """a b^T, bf16, `a` in this FP8 type and `b` in that of values."""
    a_MK, b_NK = (F.pad(t, (0, -t.shape[1] % MULTIPLE)).contiguous() for t in (a_MK, b_NK))
    (a, scale_a), (b, scale_b) = quantise(a_MK, dtype), quantise(b_NK, VALUES)
    rows = F.ScalingType.RowWise
    return F.scaled_mm(a, b.T, scale_a, rows, scale_b.T, rows, output_dtype=torch.bfloat16)


def product_slowly(a_MK: Tensor, b_NK: Tensor, dtype: torch.dtype) -> Tensor:
    """The twin of `product`: quantised, and multiplied out in fp32."""
    a, b = ((q.float() * scale) for q, scale in (quantise(a_MK, dtype), quantise(b_NK, VALUES)))
    return (a @ b.T).bfloat16()


class _Float8Linear(torch.autograd.Function):
    """Three products; each quantises anew along what it sums over. The weight itself is kept, and no copy in bf16."""

    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x_MK, weight_NK)
        return product(x_MK, weight_NK.bfloat16(), VALUES)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Of input and weight."""
        x_MK, weight_NK = ctx.saved_tensors
        (of_out_MN,) = gradients
        of_x = product(of_out_MN, weight_NK.bfloat16().T, GRADIENTS)
        return of_x, product(of_out_MN.T, x_MK.T, GRADIENTS).to(weight_NK.dtype)

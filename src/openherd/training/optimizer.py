"""AdamW (paper 3.4.1). Betas, epsilon, decay and clipping are not stated for the flagship; the defaults are Llama 2's.

The two moments may rest elsewhere than they are used: in bf16, which halves them, or in the processor's memory, which takes them
off the device. The arithmetic of an update is fp32 in each case. What is written back to bf16 is rounded up or down by chance, so
that it is right on average: the nearest value would not move where 1 - beta2 is below half of bf16's step (0.2 to 0.4%).
DeepSeek-V3 kept both in bf16 without a loss that it could see (its section 3.3.3); how it rounded it does not say.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from openherd.core.seeds import derive_seed
from openherd.parallel.stage import EMBED

DecaySchedule = Literal["rate", "rate_squared", "independent"]
MomentsDtype = Literal["float32", "bfloat16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FIRST, SECOND = "exp_avg", "exp_avg_sq"  # torch's names of the moments


class AdamW(torch.optim.AdamW):
    """torch's AdamW; its moments are there from the beginning, in this dtype, and in the processor's memory where offloaded."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, betas: tuple[float, float], epsilon: float, moments: torch.dtype, offload: bool
    ) -> None:
        super().__init__(groups, lr=0.0, betas=betas, eps=epsilon, fused=True)
        self.dtype, self.offload = moments, offload
        for _, _, parameter in self.parameters():
            home = torch.device("cpu") if offload else parameter.device
            kept: dict[str, Any] = {"device": home, "pin_memory": offload and copies_behind(parameter.device)}
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=home),
                FIRST: torch.zeros(parameter.shape, dtype=moments, **kept),
                SECOND: torch.zeros(parameter.shape, dtype=moments, **kept),
            }

    def parameters(self) -> list[tuple[dict[str, Any], str, nn.Parameter]]:
        """Each with its group and its name."""
        return [(g, name, p) for g in self.param_groups for name, p in zip(g["param_names"], g["params"], strict=True)]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Apply the gradients: to all parameters at once, or to one after the other where moments have to come and go."""
        if self.dtype == torch.float32 and not self.offload:
            super().step()
            return
        of_group = self.parameters()
        parameters = [parameter for _, _, parameter in of_group]
        updates = int(self.state[parameters[0]]["step"])
        here: Iterable[tuple[Tensor, Any]] = in_processor(parameters) if self.offload else ((p, p.grad) for p in parameters)
        for (group, name, parameter), (weight, gradient) in zip(of_group, here, strict=True):
            found = self.state[parameter]
            moments = {moment: found[moment].float() for moment in (FIRST, SECOND)}
            adamw(
                [weight], [gradient], [moments[FIRST]], [moments[SECOND]], [], [found["step"]],
                fused=True, amsgrad=False, maximize=False, lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1],
                weight_decay=group["weight_decay"], eps=group["eps"],
            )  # fmt: skip
            if self.dtype == torch.bfloat16:
                # A function of step and name alone: a resumed run draws the same, and so do all who hold a copy of a weight.
                generator = torch.Generator(weight.device).manual_seed(derive_seed(updates, name))
                for moment, exact in moments.items():
                    round_by_chance(found[moment], exact, generator)
            if weight is not parameter:
                parameter.copy_(weight, non_blocking=copies_behind(parameter.device))


def copies_behind(device: torch.device) -> bool:
    """Whether a device copies to and from pinned memory while the processor goes on."""
    return device.type == "cuda"


def in_processor(parameters: Sequence[nn.Parameter]) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and gradient of each in the processor's memory; the next ones are on their way while these are used.

    There are two places, used by turns. The device copies in the order it is told to, so that it fills a place only when the
    weights that go back from there have left.
    """
    behind = copies_behind(parameters[0].device)
    largest = max(p.numel() for p in parameters)
    places = [torch.empty(2, largest, dtype=torch.float32, pin_memory=behind) for _ in range(2)]

    def fetch(number: int) -> tuple[Tensor, Tensor, torch.cuda.Event | None]:
        parameter = parameters[number]
        weight, gradient = (part[: parameter.numel()].view_as(parameter) for part in places[number % 2])
        weight.copy_(parameter, non_blocking=behind)
        gradient.copy_(parameter.grad, non_blocking=behind)
        arrived = torch.cuda.Event() if behind else None
        if arrived is not None:
            arrived.record()
        return weight, gradient, arrived

    coming = fetch(0)
    for number in range(len(parameters)):
        weight, gradient, arrived = coming
        if number + 1 < len(parameters):
            coming = fetch(number + 1)
        if arrived is not None:
            arrived.synchronize()
        yield weight, gradient


def round_by_chance(target: Tensor, exact: Tensor, generator: torch.Generator) -> None:
    """Write fp32 into bf16: to one of the two neighbours, the nearer the likelier, so that the mean is `exact`."""
    noise = torch.randint(1 << 16, exact.shape, dtype=torch.int32, device=exact.device, generator=generator)
    target.copy_(((exact.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32))


def make_adamw(
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    weight_decay_schedule: DecaySchedule = "rate",
    rates: Iterable[float] = (),
    decay_norms: bool = False,
    decay_embeddings: bool = True,
    moments_dtype: MomentsDtype = "float32",
    offload: bool = False,
) -> AdamW:
    """AdamW in two groups, with weight decay and without; the learning rate is set at every step.

    One-dimensional parameters are norms; embeddings are the model's `embed`, with the head where it is tied. A step takes from each
    weight this share of it: `rate` weight_decay x rate; `rate_squared` weight_decay x rate x rate, the coefficient being itself
    proportional to the rate; `independent` weight_decay x rate / peak, the peak being the largest of `rates`.
    """

    def decays(name: str, parameter: nn.Parameter) -> bool:
        return decay_norms if parameter.ndim <= 1 else decay_embeddings or name != EMBED

    trained = [(name, p) for name, p in parameters if p.requires_grad]
    # torch takes the rate times a coefficient.
    coefficient = weight_decay / max(rates, default=1.0) if weight_decay_schedule == "independent" else weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [(name, p) for name, p in trained if decays(name, p)], "weight_decay": coefficient},
        {"params": [(name, p) for name, p in trained if not decays(name, p)], "weight_decay": 0.0},
    ]
    if weight_decay_schedule == "rate_squared":
        groups = [{**group, "decay_per_rate": group["weight_decay"]} for group in groups]
    kept = [group for group in groups if group["params"]]
    return AdamW(kept, betas=(beta1, beta2), epsilon=epsilon, moments=DTYPES[moments_dtype], offload=offload)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set every group's learning rate, and the weight decay that follows it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        if "decay_per_rate" in group:
            group["weight_decay"] = group["decay_per_rate"] * learning_rate

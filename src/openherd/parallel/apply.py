"""A model in its layout: what is applied from outside, in which order, and why (paper 3.3.2).

1. The pipeline cuts the model, while it lies on the meta device: no process ever holds layers that are not its own.
2. Tensor parallelism shards each layer, so that what comes after sees the smaller parameters. Adapters follow its cut.
3. FP8 products, recomputation and compilation wrap layers, inside of FSDP: what is computed again finds its weights gathered.
4. FSDP shards over data-parallel processes and CP: outermost, since its traffic can wait.

Gradients are sums: the objective divides by counts of the whole batch, over all processes. They are accumulated over micro-batches
and reduced in fp32, as in the paper.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from openherd.model.config import ModelConfig
from openherd.model.slices import stage_layers
from openherd.model.transformer import Transformer
from openherd.parallel.context import own_chunks
from openherd.parallel.float8 import Float8, apply_float8, check_float8, float8_layers
from openherd.parallel.layout import micro_batches
from openherd.parallel.lora import A, B, Lora, add_adapters
from openherd.parallel.loss_scale import LossScale
from openherd.parallel.mesh import World, add_up
from openherd.parallel.pipeline import Pipeline, own_stages, stage_process
from openherd.parallel.recompute import recompute
from openherd.parallel.stage import EMBED, Batch, Objective, Stage
from openherd.parallel.tensor import apply_tensor

LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}  # what products are computed in, over fp32 weights


class Sharded:
    """A model as this process holds it: its stages, on its device, in fp32. With `lora` most of it is frozen."""

    def __init__(self, shape: ModelConfig, world: World, precision: str, float8: Float8 = "none", lora: Lora | None = None) -> None:
        """The weights are not filled: see `fill`. Raises ConfigError where `float8` cannot be computed."""
        self.shape, self.world, self.precision, self.lora = shape, world, precision, lora
        self.loss_scale = LossScale.of(precision)
        layout = world.layout
        if float8 != "none":
            check_float8(float8, shape, layout, world.device, precision)
        of_stages = stage_layers(shape.n_layers, layout.stages)
        self.stages = []
        for number in own_stages(layout, world.index("pp")):
            with torch.device("meta"):
                model = Transformer(shape, of_stages[number])
            stage = Stage(model, world, first=number == 0, last=number == layout.stages - 1)
            if layout.tp > 1:
                apply_tensor(model, world.mesh["tp"])  # type: ignore[index]
            apply_float8(model, float8_layers(float8, shape.n_layers))
            if lora is not None:
                add_adapters(model, lora)
            for layer in model.layers.values():
                recompute(layer, layout.recompute)
                if layout.compile:
                    layer.compile()
            _apply_fsdp(stage, world, precision)
            materialise(stage, world.device)
            self.stages.append(stage)
        self._pipelines: dict[tuple[int, ...], Pipeline] = {}
        held = [(name, p, local_part(p)) for stage in self.stages for name, p in stage.named_weights()]
        self.parts = [part for part in held if part[1].requires_grad]
        self.frozen = [part for part in held if not part[1].requires_grad]

    @torch.no_grad()
    def fill(self, read: Callable[[str], Tensor]) -> None:
        """Take this process's part of each tensor that `read` gives by name, whole, on the processor."""
        for name, parameter, local in (*self.parts, *self.frozen):
            local.copy_(read(name)[own_slices(parameter)])

    def names(self) -> list[str]:
        """All parameters of the whole model, in its order."""
        with torch.device("meta"):
            return [name for name, _ in Transformer(self.shape).named_parameters()]

    @torch.no_grad()
    def whole(self, name: str) -> Tensor:
        """A parameter, whole and with its adapter added in, in the first process's memory.

        Every process must ask for it, and for all in one order.
        """
        layout = self.world.layout
        held = {own: p for own, p, _ in (*self.parts, *self.frozen)}
        mine = held.get(name)
        if mine is not None:
            tensor = gathered(mine)
            module = name.rpartition(".")[0]
            if self.lora is not None:
                tensor = tensor.float()
                if f"{module}.{A}" in held:
                    tensor = tensor + self.lora.scale * gathered(held[f"{module}.{B}"]) @ gathered(held[f"{module}.{A}"])
        owner = stage_process(layout, self.stage_of(name))
        if owner == 0:
            return tensor if mine is not None else torch.empty(0)
        with torch.device("meta"):
            shape = dict(Transformer(self.shape).named_parameters())[name].shape
        here = self.world.index("pp")
        if here == owner:
            self.world.send(tensor.contiguous(), 0)
        return self.world.receive(torch.empty(shape), owner) if here == 0 else torch.empty(0)

    def stage_of(self, name: str) -> int:
        """The number of the stage that has a parameter."""
        if name.startswith("layers."):
            of_stages = stage_layers(self.shape.n_layers, self.world.layout.stages)
            return next(i for i, layers in enumerate(of_stages) if int(name.split(".")[1]) in layers)
        return 0 if name == EMBED else self.world.layout.stages - 1

    def gradients(self, objective: Objective, batch: Batch, counts: Mapping[str, float], most_rows: int) -> dict[str, float]:
        """Accumulate a step's gradients, times the loss scale, over this process's rows of the batch; returns each term's mean over
        the whole batch."""
        for stage in self.stages:
            stage.objective = objective
        layout, device = self.world.layout, self.world.device
        rows = batch["tokens_BT"].shape[0]
        n = micro_batches(layout, rows, most_rows)
        divisors = torch.tensor([max(count, 1) for count in counts.values()], dtype=torch.float32, device=device)
        tokens = batch["tokens_BT"].shape[1]
        batch = own_chunks(batch, layout.cp, self.world.index("cp"))
        scaled = divisors / self.loss_scale.value
        with torch.autocast(device.type, dtype=LOW.get(self.precision), enabled=self.precision in LOW):
            if layout.pp > 1:
                key = (rows // n, tokens, n, len(counts))
                if key not in self._pipelines:
                    self._pipelines[key] = Pipeline(self.stages, self.world, key[:2], n, len(counts))
                sums = self._pipelines[key].run(batch, scaled)
            else:
                sums = self._accumulate(batch, scaled, n)
        if self.shape.tied_embeddings and layout.pp > 1:
            self._add_tied()
        if self.world.mesh is None:
            return dict(zip(counts, (sums / divisors).tolist(), strict=True))
        # Each process of a tensor-parallel group has the whole sum.
        total = self.world.sum([float(v) / layout.tp for v in sums])
        return {name: value / max(counts[name], 1) for name, value in zip(counts, total, strict=True)}

    def _accumulate(self, batch: Batch, divisors: Tensor, n: int) -> Tensor:
        stage = self.stages[0]
        total = torch.zeros_like(divisors)
        size = batch["tokens_BT"].shape[0] // n
        for i in range(n):
            micro = {name: tensor[i * size : (i + 1) * size] for name, tensor in batch.items()}
            if isinstance(stage, FSDPModule):
                stage.set_is_last_backward(i == n - 1)
                stage.set_reshard_after_backward(i == n - 1)
                stage.set_requires_gradient_sync(i == n - 1)
            sums = stage(None, **micro)
            (sums / divisors).sum().backward()
            total += sums.detach()
        return total

    def _add_tied(self) -> None:
        """A tied embedding that stands on the first stage and as the head on the last has the sum of both gradients on both."""
        twins = [p for name, p, _ in self.parts if name == EMBED]
        if len(twins) == 2:
            total = local_gradient(twins[0]) + local_gradient(twins[1])
            for p in twins:
                local_gradient(p).copy_(total)
        elif twins and self.world.ends_group is not None:
            add_up(local_gradient(twins[0]), self.world.ends_group)

    def clip(self, largest_norm: float) -> float:
        """Take the loss scale out of the gradients, and scale them so that their global norm is at most `largest_norm`; returns the
        norm before."""
        gradients = [local_gradient(p) for _, p, _ in self.parts]
        # In fp32 torch's sum over a large matrix is off by more than layouts may differ; Apple's GPUs have no more.
        exact = None if self.world.device.type == "mps" else torch.float64
        norms = torch.stack(torch._foreach_norm(gradients, 2, exact)).tolist()
        norm = math.sqrt(self.sum_over_parts([v * v for v in norms])) / self.loss_scale.value
        factor = (largest_norm / (norm + 1e-6) if norm > largest_norm else 1.0) / self.loss_scale.value
        if factor != 1:
            torch._foreach_mul_(gradients, factor)
        return norm

    def sum_over_parts(self, squares: Sequence[float]) -> float:
        """Sum over all processes of a value of each of their parts; those that several hold count once."""
        if self.world.mesh is None:
            return sum(squares)
        copies = [self._copies(name, p) for name, p, _ in self.parts]
        return self.world.sum([sum(v / n for v, n in zip(squares, copies, strict=True))])[0]

    def _copies(self, name: str, parameter: nn.Parameter) -> float:
        """How many processes, or stages of one, hold the same part of a parameter."""
        n = 2.0 if name == EMBED and self.shape.tied_embeddings and self.world.layout.pp > 1 else 1.0
        if isinstance(parameter, DTensor):
            for size, placement in zip(parameter.device_mesh.shape, parameter.placements, strict=True):
                n *= size if isinstance(placement, Replicate) else 1
        return n

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """What an optimizer updates: name and local part of each parameter."""
        return [(name, local) for name, _, local in self.parts]

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply the gradients, and forget them."""
        for _, parameter, local in self.parts:
            local.grad = local_gradient(parameter)
        optimizer.step()
        self.zero()

    def not_finite(self) -> str:
        """The name of a parameter that holds NaN or infinity on some process; '' where none does."""
        mine = [not bool(local.isfinite().all()) for _, local in self.trained()]
        if not self.world.sum([float(any(mine))])[0]:
            return ""
        return next((name for (name, _), broken in zip(self.trained(), mine, strict=True) if broken), "a weight")

    def zero(self) -> None:
        """Forget the gradients."""
        for _, parameter, local in self.parts:
            parameter.grad = local.grad = None


def materialise(stage: Stage, device: torch.device) -> None:
    """Give a stage memory on a device; what is in it is not filled."""
    model = stage.model
    stage.to_empty(device=device)
    if model.head is not None and model.embed is not None and model.config.tied_embeddings:
        model.head.weight = model.embed.weight


def _apply_fsdp(stage: Stage, world: World, precision: str) -> None:
    """Shard over data-parallel processes and CP. Layers are gathered in the dtype they compute in; embedding, norm and head, which
    autocast treats one by one, in fp32. Gradients are summed in fp32."""
    layout = world.layout
    if world.mesh is None or layout.dp * layout.cp == 1:
        return
    mesh = world.mesh["dp_replicate", "shards"] if layout.dp_replicate > 1 else world.mesh["shards"]
    whole = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    low = MixedPrecisionPolicy(LOW.get(precision), torch.float32, cast_forward_inputs=False)
    for layer in stage.model.layers.values():
        fully_shard(layer, mesh=mesh, reshard_after_forward=layout.reshard_after_forward, mp_policy=low)
    fully_shard(stage, mesh=mesh, reshard_after_forward=False, mp_policy=whole)
    for module in (stage, *stage.model.layers.values()):
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def gathered(parameter: nn.Parameter) -> Tensor:
    """A parameter from all who hold a part of it, in the processor's memory."""
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach().cpu()


def local_part(parameter: nn.Parameter) -> nn.Parameter:
    """What this process holds of a parameter, for the optimizer: the same memory."""
    return nn.Parameter(parameter.to_local().detach()) if isinstance(parameter, DTensor) else parameter


def local_gradient(parameter: nn.Parameter) -> Tensor:
    """This process's part of a parameter's gradient, whose parts lie as the parameter's; zero where nothing asked for one."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    gradient = parameter.grad
    if not isinstance(gradient, DTensor):
        return gradient
    assert isinstance(parameter, DTensor)
    if gradient.placements != parameter.placements:  # sums that torch has left to whom they concern
        parameter.grad = gradient = gradient.redistribute(placements=parameter.placements)
    return gradient.to_local()


def own_slices(parameter: Tensor) -> tuple[slice, ...]:
    """Where this process's part lies in the whole tensor."""
    if not isinstance(parameter, DTensor):
        return tuple(slice(None) for _ in parameter.shape)
    shape, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    return tuple(slice(first, first + n) for first, n in zip(offset, shape, strict=True))

"""Recomputation changes no bit of a gradient, and computes again what it says."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from openherd.model.attention import CausalAttend
from openherd.model.config import ModelConfig
from openherd.parallel.apply import Sharded
from openherd.parallel.layout import ParallelConfig
from openherd.parallel.lora import Lora, with_adapters
from openherd.parallel.mesh import World
from openherd.parallel.recompute import recompute
from openherd.training import parity
from openherd.training.objective import NextToken
from tiny import tiny_model

LAYERS = 3
CONFIG = ModelConfig(n_layers=LAYERS, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=48, vocabulary=64)


class Operations(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def gradients(how, precision, documents=None):
    model = tiny_model(CONFIG)
    tokens = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))
    for layer in model.layers.values():
        recompute(layer, how)
    with Operations() as seen:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model(tokens, attend=CausalAttend(documents)).float().square().mean()
        loss.backward()
    return seen.counts, loss.detach(), [p.grad for p in model.parameters()]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", ["selective", "full"])
def test_the_same_gradients_bit_for_bit(how, precision, packed):
    documents = torch.arange(20).div(7, rounding_mode="floor").expand(2, -1) if packed else None
    plain, loss, wanted = gradients("none", precision, documents)
    counts, again, found = gradients(how, precision, documents)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert counts["silu"] == 2 * plain["silu"] == 2 * LAYERS
    if how == "selective":
        assert counts["mm"] == plain["mm"]
    else:  # seven products a layer; the last of them is needed by nothing on the way back
        assert plain["mm"] + 6 * LAYERS <= counts["mm"] <= plain["mm"] + 7 * LAYERS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler looks at it
@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_compiled_layers_train_as_plain_ones(how):
    """All layers share one compiled graph forward; what is asked for is compiled, and not silently left out."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    shape = replace(CONFIG, n_layers=10)  # more than the compiler tries anew before it gives up
    runs = []
    for compiled in (False, True):
        world = World(ParallelConfig(compile=compiled, recompute=how), torch.device("cpu"))
        runs.append(parity.sharded_run(shape, world, 4, 32, 2, steps=3)[0])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    plain, found = runs
    assert found.losses == pytest.approx(plain.losses, abs=2e-6)
    assert max(float((found.weights[name] - plain.weights[name]).abs().max()) for name in plain.weights) < 2e-6


ALL = ("query", "key", "value", "output", "gate", "up", "down")


def losses_of(compiled, precision, **more):
    """Losses of three steps, and how many graphs were compiled."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = Sharded(replace(CONFIG, n_layers=10), World(ParallelConfig(compile=compiled), torch.device("cpu")), precision, **more)
    model.fill(with_adapters(parity.weights_of(model.shape), model.lora or Lora(1, 1.0, ()), 0))
    optimizer = torch.optim.AdamW([p for _, p in model.trained()], 1e-3)
    losses = []
    for step in range(3):
        batch = parity.batch_of(model.shape, step, 4, 32)
        losses.append(model.gradients(NextToken(), batch, NextToken().counts(batch), 2)["loss_nats"])
        model.step(optimizer)
    return losses, torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be instantiated")  # which it does itself
def test_changed_layers_share_a_compiled_graph():
    """Adapters and FP8 products make one of all ten layers, as plain ones do; inner layers in FP8 and the ends in bf16 make two.

    So do adapters on frozen embeddings: what the first layer is given has no gradient.
    """
    _, one = losses_of(True, "float32")
    assert one == 1
    for graphs, allowed, precision, more in (
        (one, 2e-6, "float32", {"lora": Lora(4, 8.0, ALL, whole=("embeddings",))}),
        (one + 1, 2e-6, "float32", {"lora": Lora(4, 8.0, ALL)}),
        (one, 5e-2, "bfloat16", {"float8": "every_feed_forward"}),
        (one + 1, 5e-2, "bfloat16", {"float8": "feed_forward"}),
    ):
        losses, found = losses_of(True, precision, **more)
        assert found == graphs, more
        assert losses == pytest.approx(losses_of(False, precision, **more)[0], abs=allowed), more

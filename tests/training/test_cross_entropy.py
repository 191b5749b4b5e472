"""Cross-entropy in parts against torch's of all logits: loss, gradients, and what is in memory at once."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from openherd.training import cross_entropy
from openherd.training.cross_entropy import cross_entropy_sum, product

N, D, V = 53, 24, 301


class LargestTensor(TorchDispatchMode):
    """Remembers the elements of the largest tensor that any operation made."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def case(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    return hidden, head, torch.randint(V, (N,), generator=generator)


def found(loss, hidden, head):
    (0.7 * loss).backward()
    return loss.detach(), hidden.grad, head.grad


@pytest.mark.parametrize("most", [1, V, 7 * V, 52 * V + 3])
def test_parts_equal_the_whole(most):
    hidden, head, labels = case(torch.float64)
    ours = found(cross_entropy_sum(hidden, head, labels, most_logits=most), hidden, head)
    hidden, head, labels = case(torch.float64)
    theirs = found(F.cross_entropy(hidden @ head.T, labels, reduction="sum"), hidden, head)
    for mine, its in zip(ours, theirs, strict=True):
        assert (mine - its).abs().max() < 2e-5 * its.abs().max()  # logits are fp32 in both of our ways


def test_a_frozen_head_has_no_gradient():
    hidden, head, labels = case()
    whole = found(cross_entropy_sum(hidden, head, labels, most_logits=7 * V), hidden, head)
    hidden, head, labels = case()
    frozen = found(cross_entropy_sum(hidden, head.detach(), labels, most_logits=7 * V), hidden, head)
    assert torch.equal(frozen[1], whole[1])
    assert frozen[2] is None


def test_in_bf16_it_is_as_near_to_fp32_as_the_whole():
    hidden, head, labels = case()
    exact = found(F.cross_entropy(hidden @ head.T, labels, reduction="sum"), hidden, head)

    def distances(most):
        hidden, head, labels = case()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy_sum(hidden, head, labels, most_logits=most)
        mine = found(loss, hidden, head)
        assert [t.dtype for t in mine] == [torch.float32] * 3
        return [float((a - b).norm() / b.norm()) for a, b in zip(mine, exact, strict=True)]

    for parts, whole in zip(distances(5 * V), distances(N * V), strict=True):
        assert parts < 1.2 * whole + 1e-4


def test_in_fp16_no_small_gradient_vanishes():
    """Of a sure head, most of whose probabilities are below what fp16 has: each row of its gradient is near that in fp32."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = 3 * torch.randn(N, D, generator=generator), torch.randn(4_096, D, generator=generator) / 2
    labels = torch.randint(4_096, (N,), generator=generator)

    def gradients(dtype):
        h, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = cross_entropy_sum(h, w, labels, most_logits=7 * 4_096)
        (loss * 2**10).backward()  # what a loss scale of 65,536 and 64 labels leave
        return h.grad, w.grad

    for mine, exact in zip(gradients(torch.float16), gradients(None), strict=True):
        assert float(((mine - exact).norm(dim=1) / exact.norm(dim=1)).max()) < 0.05


def test_products_in_fp16_by_hand():
    """Sums beyond its end, values below its beginning, nothing."""
    a, b = torch.tensor([[1.0] * 50, [1e-12] * 50, [0.0] * 50]), torch.full((50, 2), 4e3, dtype=torch.float16)
    assert product(a, b)[:, 0].tolist() == pytest.approx([2e5, 2e-7, 0], rel=2e-3)
    assert product(a, b.bfloat16()).dtype == torch.bfloat16


def test_no_table_of_all_logits_is_made():
    hidden, head, labels = case()
    sizes = {}
    for most in (4 * V, N * V):
        with LargestTensor() as seen:
            found(cross_entropy_sum(hidden, head, labels, most_logits=most), hidden, head)
        sizes[most] = seen.largest
    assert sizes[4 * V] == V * D  # the head's gradient
    assert sizes[N * V] == N * V


def test_without_gradients():
    hidden, head, labels = case()
    with torch.no_grad():
        loss = cross_entropy_sum(hidden, head, labels, most_logits=5 * V)
        assert not loss.requires_grad
        assert torch.allclose(loss, F.cross_entropy(hidden @ head.T, labels, reduction="sum"))
    cut = cross_entropy_sum(hidden.detach(), head, labels, most_logits=5 * V)  # a frozen trunk
    cut.backward()
    assert head.grad is not None


def test_few_logits_are_computed_at_once(monkeypatch):
    hidden, head, labels = case()
    monkeypatch.setattr(cross_entropy, "_InParts", None)
    assert torch.equal(cross_entropy_sum(hidden, head, labels), F.cross_entropy(F.linear(hidden, head), labels, reduction="sum"))

"""The hand-written ways back and attention by blocks, against torch's autograd of the plain formulas."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from openherd.model import causal
from openherd.model.attention import SHORT, CausalAttend, attention, attention_by_documents, document_lengths
from openherd.model.rope import rotate, rotation
from openherd.model.transformer import RMSNorm

DTYPES = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_norm_and_its_way_back():
    norm = RMSNorm(24, 1e-3)
    with torch.no_grad():
        norm.weight.copy_(drawn(24, seed=1))
    inputs = [(3 * drawn(2, 5, 24)).requires_grad_(), (3 * drawn(2, 5, 24)).requires_grad_()]
    asked = drawn(2, 5, 24, seed=2)
    found, wanted = norm(inputs[0]), F.rms_norm(inputs[1], (24,), norm.weight, 1e-3)
    assert torch.equal(found, wanted)
    found.backward(asked)
    of_weight, norm.weight.grad = norm.weight.grad, None
    wanted.backward(asked)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of_weight, norm.weight.grad, rtol=1e-5, atol=1e-6)


def test_the_norm_answers_in_the_dtype_of_the_products():
    norm, x_BTD = RMSNorm(24, 1e-5), drawn(2, 5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm(x_BTD), norm(x_BTD).bfloat16())
        assert norm(x_BTD).dtype == torch.bfloat16
    assert norm(x_BTD).dtype == torch.float32


@pytest.mark.parametrize("frozen", [False, True])
def test_the_way_back_of_the_norm_is_fp32_under_autocast(frozen):
    """The sum along a row is a product that autocast would make one of bf16; the weight may be frozen, and bf16 itself."""
    gradients = []
    for autocast in (False, True):
        norm = RMSNorm(512, 1e-5)
        with torch.no_grad():
            norm.weight.copy_(drawn(512, seed=1))
        if frozen:
            norm.weight = torch.nn.Parameter(norm.weight.bfloat16(), requires_grad=False)
        x_BTD = drawn(1, 4, 512).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            # Rounded to bf16 on the way forward in both.
            (norm(x_BTD).bfloat16().float() * x_BTD.detach()).sum().backward()
        gradients.append(x_BTD.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_rotation_and_its_way_back(dtype):
    cos, sin = rotation(torch.tensor([1.0, 0.3, 0.01]), torch.arange(10).view(2, 5))
    inputs = [drawn(2, 5, 3, 6).to(dtype).requires_grad_() for _ in range(2)]
    first, second = inputs[1].float().chunk(2, -1)
    wanted = torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(dtype)
    found = rotate(inputs[0], cos, sin)
    assert found.dtype == dtype
    for out in (found, wanted):
        out.backward(drawn(2, 5, 3, 6, seed=1).to(dtype))
    torch.testing.assert_close(found, wanted, rtol=0, atol=DTYPES[dtype])
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=0, atol=2 * DTYPES[dtype])


LENGTHS = {
    "whole rows": [300, 300],
    "one block": [128],
    "a token": [1, 1, 1],
    "packed": [1, 39, 60, 100, 20, 80, 33, 64, 65],
    "long and short": [2, 200, 1, 129, 31, 257],
}


def slow_attention(q_BTNH, k_BTGH, v_BTGH, lengths):
    """Document by document and head by head, in double precision."""
    q, k, v = (x.double().flatten(0, 1) for x in (q_BTNH, k_BTGH, v_BTGH))
    shared = q.shape[1] // k.shape[1]
    out, begin = torch.empty_like(q), 0
    for n in lengths:
        for head in range(q.shape[1]):
            own = slice(begin, begin + n)
            scores = q[own, head] @ k[own, head // shared].T / q.shape[2] ** 0.5
            out[own, head] = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1) @ v[own, head // shared]
        begin += n
    return out.view(q_BTNH.shape)


@pytest.mark.parametrize("scores", [1, causal.SCORES])  # with so little a document goes alone
@pytest.mark.parametrize("heads", [(4, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_attention_by_blocks_is_attention(monkeypatch, lengths, heads, scores):
    monkeypatch.setattr(causal, "SCORES", scores)
    rows = 2 if lengths[0] == 300 else 1
    shapes = [(rows, sum(lengths) // rows, n, 8) for n in (heads[0], heads[1], heads[1])]
    inputs = [drawn(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    asked = drawn(*shapes[0], seed=9)
    out = causal.causal_attention(*inputs, causal.by_length(lengths))
    wanted = slow_attention(*inputs, lengths)
    assert out.shape == shapes[0]
    torch.testing.assert_close(out, wanted.float(), rtol=0, atol=2e-6)
    found, theirs = (torch.autograd.grad(x, inputs, asked.to(x.dtype)) for x in (out, wanted))
    for mine, its in zip(found, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [256, 4_096])
def test_attention_by_blocks_in_bf16_is_as_exact_as_torch_s(length):
    """Where scores are large, as trained models have them, and where a key's gradient is a sum over many blocks."""
    lengths = [length]
    q, k, v = (drawn(1, length, n, 16, seed=n + i) for i, n in enumerate((2, 1, 1)))
    k[..., 3] += 20
    inputs = [x.bfloat16().requires_grad_() for x in (3 * q, k, v)]
    asked = drawn(1, length, 2, 16, seed=9).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):  # which must change nothing
        blocks = causal.causal_attention(*inputs, causal.by_length(lengths))
    results = [(out, *torch.autograd.grad(out, inputs, asked)) for out in (blocks, attention(*inputs, None))]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out = slow_attention(*exact, lengths)
    wanted = [out.detach(), *torch.autograd.grad(out, exact, asked.double())]
    ours, theirs = ([float((x.detach() - w).norm() / w.norm()) for x, w in zip(got, wanted, strict=True)] for got in results)
    assert all(mine < 1.5 * its for mine, its in zip(ours, theirs, strict=True))


def test_every_token_stands_in_one_table():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        lengths = torch.randint(1, 300, (int(torch.randint(1, 30, (), generator=generator)),), generator=generator).tolist()
        tables, total = causal.by_length(lengths), sum(lengths)
        rows = [row[row < total].tolist() for table in tables for row in table]
        assert all(row == list(range(row[0], row[-1] + 1)) for row in rows)
        assert sorted((row[0], len(row)) for row in rows) == [(sum(lengths[:i]), n) for i, n in enumerate(lengths)]
        assert all(table.shape[1] < int((table < total).sum(1).max()) + causal.UNIT for table in tables)


def test_the_operation_is_one_that_torch_knows():
    inputs = [drawn(1, 40, n, 8, seed=n).requires_grad_() for n in (4, 2)]
    torch.library.opcheck(causal.causal_attention, (*inputs, inputs[1], causal.by_length([7, 33])))


@pytest.mark.parametrize("dtype", DTYPES)
def test_documents_by_length_are_documents_under_a_mask(dtype):
    lengths = [[1, 39, 60], [100], [20, 80]]
    documents = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths])
    attend, masked = CausalAttend(documents), CausalAttend(documents, compiled=True)
    assert [table.shape for table in attend.tables] == [(2, 32), (2, 64), (1, 96), (1, 128)]
    gradients = []
    for way in (attend, masked):
        q, k, v = (drawn(3, 100, heads, 8, seed=heads).to(dtype).requires_grad_() for heads in (4, 2, 2))
        out = way(0, q, k, v)
        assert out.shape == q.shape
        out.backward(drawn(3, 100, 4, 8, seed=9).to(dtype))
        gradients.append([out, q.grad, k.grad, v.grad])
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=5 * DTYPES[dtype])


def slow_varlen(q, k, v, begins, begins_k, longest, longest_k, *, window_size, enable_gqa):
    """What torch's kernel is documented to do, document by document."""
    assert window_size == (-1, 0)
    assert enable_gqa
    assert torch.equal(begins, begins_k)
    assert longest == longest_k >= int(begins.diff().max())
    parts = []
    for first, end in zip(begins.tolist(), begins.tolist()[1:], strict=False):
        scores = torch.einsum("tnh,snh->nts", q[first:end], k[first:end].repeat_interleave(q.shape[1] // k.shape[1], 1))
        scores = (scores / q.shape[-1] ** 0.5).masked_fill(torch.ones(end - first, end - first).triu(1).bool(), float("-inf"))
        parts.append(torch.einsum("nts,snh->tnh", scores.softmax(-1), v[first:end].repeat_interleave(q.shape[1] // v.shape[1], 1)))
    return torch.cat(parts)


def packed_heads(device="cpu", dtype=torch.float32):
    documents_BT = torch.tensor([[0] * 20 + [1] * 44, [3] * 64, [0] * 1 + [2] * 40 + [3] * 23]).to(device)
    q_BTNH, k_BTGH, v_BTGH = (drawn(3, 64, n, 16, seed=n).to(device, dtype).requires_grad_() for n in (4, 2, 2))
    return documents_BT, q_BTNH, k_BTGH, v_BTGH


def test_a_gpus_call_by_documents_is_the_mask(monkeypatch):
    """With the kernel's documented meaning in its place: the kernel itself needs a GPU."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", slow_varlen)
    documents_BT, *heads = packed_heads()
    lengths = document_lengths(documents_BT)
    assert lengths == [20, 44, 64, 1, 40, 23]
    wanted = attention(*heads, CausalAttend(documents_BT, compiled=True).mask)
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    torch.testing.assert_close(attention_by_documents(*heads, ends), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_attends_by_documents():
    documents_BT, *heads = packed_heads("cuda", torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        attend = CausalAttend(documents_BT)
    assert attend.ends is not None
    found = attend(0, *heads)
    asked = torch.randn_like(found)
    gradients = torch.autograd.grad(found, heads, asked)
    wanted = attention(*(h.float() for h in heads), CausalAttend(documents_BT, compiled=True).mask)
    torch.testing.assert_close(found.float(), wanted, rtol=2e-2, atol=2e-2)
    for mine, its in zip(gradients, torch.autograd.grad(wanted, heads, asked.float()), strict=True):
        torch.testing.assert_close(mine.float(), its.float(), rtol=5e-2, atol=5e-2)


def test_which_documents_attend_by_length():
    one_a_row = torch.zeros(2, 64, dtype=torch.int64)
    assert CausalAttend(one_a_row).mask is None
    assert CausalAttend(one_a_row + torch.tensor([[0], [1]])).mask is None
    short = torch.arange(64).expand(2, -1) // (SHORT - 1)
    assert document_lengths(short) == []
    assert document_lengths(torch.arange(64).expand(2, -1) // SHORT) == [SHORT] * (128 // SHORT)
    back_again = torch.tensor([[0] * 30 + [1] * 20 + [0] * 14])  # its two parts see each other, which parts apart would not
    assert document_lengths(back_again) == []
    assert CausalAttend(back_again).mask is not None


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept():
    """In a process of its own: equal blocks cost new pages each time, and afterwards none."""
    code = """
import resource
from openherd.core.machine import keep_freed_memory
def pages_of_five_blocks():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        bytearray(b"x") * 50_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = pages_of_five_blocks()
keep_freed_memory()
pages_of_five_blocks()
print(given_back, pages_of_five_blocks())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 10_000
    assert kept < 1_000


def test_attention_to_nothing():
    q, k = torch.zeros(1, 0, 4, 8), torch.zeros(1, 0, 2, 8)
    assert causal.causal_attention(q, k, k, causal.by_length([])).shape == q.shape
    assert CausalAttend()(0, q, k, k).shape == q.shape

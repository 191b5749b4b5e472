"""The kernel against the model's own layers and against exact sums, as it is compiled here and as it would be elsewhere."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openherd.inference import native as module
from openherd.inference.engine import Engine, EngineConfig, score
from openherd.inference.native import Compiling, Library, NativeLinear, Packed, is_native, library, native
from openherd.inference.reference import generate_greedy
from openherd.inference.repack import Int8Linear, int8
from openherd.inference.sampling import Sampling
from openherd.model.config import ModelConfig
from openherd.model.layers import Linear
from tiny import tiny_model

CONFIG = ModelConfig(
    n_layers=2, d_model=64, n_heads=10, n_kv_heads=2, head_width=32, d_feed_forward=192, vocabulary=50, max_positions=128
)  # five query heads to a group, and a vocabulary of no whole number of panels
EVERYWHERE = {  # each is compiled for some seconds; the second and third are among the slow tests
    "as here": (),
    "no matrix unit": ("-mno-amx-bf16", "-mno-amx-int8"),
    "no bf16 or int8 products": ("-mno-avx512bf16", "-mno-avx512vnni"),
    "no 512 bits": ("-mno-avx512f",),
}

pytestmark = pytest.mark.skipif(not library.load(), reason=f"the kernel cannot be compiled here: {library.error}")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (0 < i < 3)) for i, name in enumerate(EVERYWHERE)])
def elsewhere(request, monkeypatch):
    """The kernel compiled for other processors than this one."""
    other = Library(*EVERYWHERE[request.param])
    if not other.load():
        pytest.skip("a compiler without these flags: another kind of processor")
    monkeypatch.setattr(module, "library", other)


def prompts(lengths):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(50, (n,), generator=generator).tolist() for n in lengths]


def logits(model, texts):
    """Of all positions, by the engine, in parts of texts beside each other."""
    engine = Engine(model, config=EngineConfig(most_tokens=23))
    found = [[] for _ in texts]
    for text, own in zip(texts, found, strict=True):
        engine.read(text, 0, lambda hidden, _, own=own: own.append(model.head(hidden).float()))
    engine.run()
    return torch.cat([torch.cat(own) for own in found])


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_a_layer_computes_what_the_model_computes(kind, elsewhere):
    exact_model = tiny_model(CONFIG, 3)
    model = exact_model if kind == "fp32" else tiny_model(CONFIG, 3).bfloat16()
    if kind == "int8":
        model = int8(model)
        for own, other in zip(exact_model.modules(), model.modules(), strict=True):
            if isinstance(other, Int8Linear):  # what these weights mean, computed in fp32
                own.weight.data = other.rows_FD.float() * other.scale_F[:, None]
    texts = prompts([37, 1, 16, 90])
    compiled = native(model)
    assert is_native(compiled)
    with torch.no_grad():
        exact = torch.cat([exact_model(torch.tensor([text]))[0] for text in texts])
        found = logits(compiled, texts)
        plain = torch.cat([model(torch.tensor([text]))[0].float() for text in texts])
    allowed = 2e-5 if kind == "fp32" else float((plain - exact).abs().max())  # no worse than the model's own layers in bf16
    assert float((found - exact).abs().max()) < allowed


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 16, 17, 40, 60, 133])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
@torch.no_grad()
def test_products_of_any_number_of_rows(kind, rows, elsewhere):
    torch.manual_seed(rows)
    linear = Linear(128, 37)
    linear.weight.data = torch.randn(37, 128)
    linear = {"fp32": lambda: linear, "bf16": linear.bfloat16, "int8": lambda: Int8Linear(linear.weight)}[kind]()
    weight = linear.rows_FD * linear.scale_F[:, None].double() if kind == "int8" else linear.weight.double()
    x = torch.randn(rows, 128)
    x[:, 5] *= 50  # as outliers of real models
    found = NativeLinear(linear)(x[None])[0]
    exact = x.double() @ weight.T
    bound = x.double().abs() @ weight.abs().T  # what rounding is measured by
    assert float(((found - exact).abs() / bound).max()) < {"fp32": 2e-6, "bf16": 2**-8, "int8": 2**-8}[kind]
    alone = torch.cat([NativeLinear(linear)(row[None]) for row in x])
    assert torch.equal(alone, found)


def test_a_row_that_is_no_number_stays_none(elsewhere):
    for linear in (Linear(64, 16), Linear(64, 16).bfloat16(), Int8Linear(torch.randn(16, 64))):
        if isinstance(linear, Linear):
            linear.weight.data.normal_()
        x = torch.ones(2, 64)
        x[1, 3] = torch.nan
        found = NativeLinear(linear)(x)
        assert found[0].isfinite().all()
        assert found[1].isnan().all()


def test_packing_loses_nothing():
    for n in (16, 37, 50):
        weight = torch.randn(n, 128).to(torch.bfloat16)
        linear = Linear(128, n).bfloat16()
        linear.weight.data = weight
        packed = Packed(linear)
        assert torch.equal(packed.rows.count_nonzero(), weight.count_nonzero())  # and what is behind the last row is zero
        assert torch.equal(NativeLinear(linear)(torch.eye(128)), weight.T.float())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no Linux")
def test_weights_lie_in_memory_that_can_have_large_pages():
    """Which shared memory, Python's default, is not given."""
    packed = Packed(Linear(1_024, 16_384))
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        place, access, *_ = line.split()
        begin, end = (int(x, 16) for x in place.split("-"))
        if begin <= packed.rows.data_ptr() < end:
            assert access == "rw-p"
            return
    pytest.fail("not found")


def test_the_engine_writes_and_scores_the_same():
    model = tiny_model(CONFIG, 3)
    given = prompts([3, 17, 1, 40])
    slow = [generate_greedy(model, p, 20, stop={7}) for p in given]
    compiled = native(model)
    engine = Engine(compiled, config=EngineConfig(most_tokens=9, most_texts=3), tokens=80)  # in parts, waiting, preempted
    answers = [engine.add(p, Sampling(max_new_tokens=20), {7}) for p in given]
    engine.run()
    assert [a.tokens for a in answers] == slow
    ours, theirs = (score(m, given, given[::-1]) for m in (compiled, model))
    assert torch.allclose(torch.cat(ours), torch.cat(theirs), atol=1e-5)


def test_an_engine_goes_over_to_the_kernel_between_two_steps(monkeypatch):
    model, prompt = tiny_model(CONFIG, 3), prompts([9])[0]
    compiling = Compiling(model)
    compiled = compiling.wait()
    compiling.model = model  # as if it were not ready
    engine = Engine(compiling)
    answer = engine.add(prompt, Sampling(max_new_tokens=20))
    for _ in range(5):
        engine.step()
    assert not is_native(engine.model)
    compiling.model = compiled
    engine.run()
    assert is_native(engine.model)
    assert answer.tokens == generate_greedy(model, prompt, 20, stop=())


def test_what_the_kernel_does_not_take_is_left_to_the_model(monkeypatch):
    narrow = tiny_model(replace(CONFIG, head_width=8, n_heads=8), 0)
    assert native(narrow) is narrow
    for other in (int8(tiny_model(CONFIG, 0)), tiny_model(CONFIG, 0), tiny_model(CONFIG, 0).bfloat16()):
        if not isinstance(other.head, Int8Linear):  # of two kinds
            other.layers["1"].attention.key = Int8Linear(other.layers["1"].attention.key.weight)
        assert native(other) is other  # int8 beside fp32: keys and values of two types
    biased = tiny_model(CONFIG, 0)
    biased.head.bias = torch.nn.Parameter(torch.ones(50))
    assert native(biased) is biased
    broken = Library("--no-such-flag")
    monkeypatch.setattr(module, "library", broken)
    model = tiny_model(CONFIG, 0)
    assert Compiling(model).wait() is model
    assert broken.error


def test_the_compiler_can_be_stopped_in_the_middle(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mine = Library()
    thread = threading.Thread(target=mine.load)
    thread.start()
    while mine.compiler is None:
        time.sleep(0.01)
    assert os.getpgid(mine.compiler.pid) != os.getpgid(0)  # Ctrl-C in a terminal does not reach it
    mine.stop()
    thread.join(60)
    assert (thread.is_alive(), mine.functions, mine.error) == (False, None, "the compiler was stopped")

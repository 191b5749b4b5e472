"""The search against one layout at a time, and what it says of those that do not fit."""

import itertools
import re
from dataclasses import replace

import pytest

from openherd.core.errors import ConfigError
from openherd.planning.engines import engine
from openherd.planning.hardware import HARDWARE, hardware
from openherd.planning.memory import FILLED
from openherd.planning.search import MICRO_BATCHES, RECOMPUTE, Job, divisors, evaluate, parse_layout, search


def job(model="llama3-8b", gpus=16, **more):
    given = {"hardware": hardware("h100"), "precision": "bf16", "engine": engine("ours"), "batch_tokens": 2**19, **more}
    return Job(model=model, gpus=gpus, **given)


def every_layout(asked):
    """Layouts one by one, with no table and no pruning."""
    for tp, cp, pp, v in itertools.product((1, 2, 4, 8), (1, 2), divisors(asked.gpus), range(1, 11)):
        dp, left_over = divmod(asked.gpus, tp * cp * pp)
        if left_over or not dp:
            continue
        for micro, how, sharding in itertools.product(MICRO_BATCHES, RECOMPUTE, ("gradients", "weights")):
            step = replace(
                asked.step, tp=tp, cp=cp, pp=pp, dp=dp, virtual_stages=v, micro_batch=micro, recompute=how, sharding=sharding
            )  # fmt: skip
            if pp > 1 and sharding == "weights":
                continue
            try:
                yield evaluate(asked, step)
            except ConfigError:
                continue


@pytest.mark.parametrize(
    ("engine_name", "gpus"),
    [("ours", 4), pytest.param("ours", 8, marks=pytest.mark.slow), pytest.param("torchtitan", 8, marks=pytest.mark.slow)],
)
def test_the_best_is_the_best_of_all(engine_name, gpus):
    asked = job(engine=engine(engine_name), gpus=gpus)
    every = list(every_layout(asked))
    fitting = [layout for layout in every if layout.fits(asked)]
    plan = search(asked, 3)
    assert plan.counts["fit"] == len(fitting)
    assert plan.counts["need more memory"] == len(every) - len(fitting)
    # What is less than a hundredth apart is ordered by less parallelism.
    assert plan.best[0].seconds <= 1.01 * min(layout.seconds for layout in fitting)
    assert [layout.seconds for layout in plan.best] == pytest.approx(sorted(layout.seconds for layout in plan.best), rel=0.011)
    for layout in plan.best:
        again = evaluate(asked, parse_layout(layout.name, asked))
        assert (again.seconds, again.peak_gib) == (layout.seconds, layout.peak_gib)
        assert layout.peak_gib <= FILLED * asked.hardware.memory_gib


def test_the_paper_s_layout_is_among_the_best():
    """405B on 16,384 H100: TP8, PP16 in 8 virtual stages, DP128, nothing computed again (Table 4, 3.3.2)."""
    plan = search(job("llama3-405b", 16_384, engine=engine("llama3"), batch_tokens=2**24))
    names = [layout.name for layout in plan.best]
    assert "tp=8,cp=1,pp=16,dp=128,v=8,micro=1,recompute=none,sharding=gradients" in names[:2]
    long = search(job("llama3-405b", 16_384, engine=engine("llama3"), batch_tokens=2**24, sequence_length=131_072))
    assert any(layout.step.cp == 16 and layout.step.pp == 16 for layout in long.best)


def test_it_says_what_is_missing():
    plan = search(job("llama3-405b", 64))
    assert plan.best == ()
    name, why = plan.rejected[0]
    assert re.fullmatch(r"TP\d+ CP\d+ PP\d+ DP\d+", name)
    assert float(re.fullmatch(r"needs ([\d.]+) GiB of 79.2, with recompute = full", why)[1]) > FILLED * 79.2
    needs = [float(re.search(r"needs ([\d.]+)", why)[1]) for _, why in plan.rejected]
    assert needs == sorted(needs)


def test_bad_input_is_one_line():
    for match, make in (
        ("unknown model 'llama3-9b'", lambda: job("llama3-9b")),
        ("--gpus: 0", lambda: job(gpus=0)),
        ("--seq: 200,000 tokens; allowed: 131,072", lambda: job(sequence_length=200_000, batch_tokens=400_000)),
        ("--batch-tokens: 10,000; allowed: a multiple of --seq 8,192", lambda: job(batch_tokens=10_000)),
        ("--tokens: 12; allowed: at least those of one step", lambda: job(tokens=12)),
        ("--hardware: unknown 'h10'; allowed: a100-40g", lambda: hardware("h10")),
        ("--engine: unknown 'megatrn'", lambda: engine("megatrn")),
        ("'mxfp8' on h100; allowed: bf16, fp16, fp8", lambda: job(precision="mxfp8")),
        ("'fp8' on a100-80g; allowed: bf16, fp16", lambda: job(precision="fp8", hardware=hardware("a100-80g"))),
        ("no layout of 131 devices can run", lambda: search(job(gpus=131, batch_tokens=8_192))),
    ):
        with pytest.raises(ConfigError, match=re.escape(match)):
            make()


def test_contradictory_layouts():
    asked = job()
    for text, match in (
        ("tp=8,dp=4", "tp x cp x pp x dp = 32, --gpus 16"),
        ("tp=3", "tp x cp x pp x dp = 15, --gpus 16"),
        ("tp=16", "8 key/value heads are no multiple of tp = 16"),
        ("tp=2,tp=2", "'tp=2'; allowed: name=value, each once"),
        ("fsdp=2", "'fsdp=2'; allowed: name=value"),
        ("tp=x", "tp=x; allowed: a whole number"),
        ("pp=2,layers=16+17", "layers=16+17; allowed: 2 counts (pp), 32 layers in all"),
        ("pp=2,layers=32", "layers=32; allowed: 2 counts (pp)"),
        ("pp=2,layers=40+-8", "layers=40+-1; allowed"),
        ("dp=16,replicas=3", "dp = 16 is no multiple of replicas = 3"),
        ("recompute=some", "recompute=some; allowed: none, selective, full"),
        ("pp=16,v=5", "32 layers for 80 stages"),
        ("pp=4,micro=16", "1 micro-batches for pp = 4; 1F1B asks for as many"),
    ):
        with pytest.raises(ConfigError, match=re.escape(match)):
            evaluate(asked, parse_layout(text, asked))


def test_uneven_places():
    """What is heavier takes longer, and has more memory where it is."""
    asked = job()
    even, uneven = (evaluate(asked, parse_layout(f"pp=4,layers={layers}", asked)) for layers in ("8+8+8+8", "6+8+8+10"))
    assert uneven.seconds > even.seconds
    assert uneven.memory.total[0, 3] > even.memory.total[0, 3]
    assert uneven.memory.total[0, 0] < even.memory.total[0, 0]
    assert evaluate(asked, parse_layout(uneven.name, asked)).seconds == uneven.seconds


def test_replicas_have_their_own_shards():
    """HSDP: four copies of shards over four are four times as much of what is shared."""
    asked = job(gpus=16)
    one, four = (evaluate(asked, parse_layout(f"dp=16,replicas={n},recompute=full", asked)) for n in (1, 4))
    assert float(four.memory.weights[0, 0]) == 4 * float(one.memory.weights[0, 0])
    assert float(four.memory.optimizer[0, 0]) == 4 * float(one.memory.optimizer[0, 0])
    assert evaluate(asked, parse_layout(four.name, asked)).seconds == four.seconds


@pytest.mark.parametrize("name", HARDWARE)
def test_every_device_has_a_plan(name):
    """Bigger memory never fits less."""
    plan = search(job(hardware=hardware(name), gpus=64))
    assert plan.best[0].peak_gib <= hardware(name).memory_gib


def test_profiles_are_the_makers():
    """Peaks of the data sheets, dense."""
    assert hardware("a100-80g").peak("bf16") == 312e12
    assert hardware("h100").peak("fp8") == pytest.approx(1_979e12, rel=1e-3)
    assert hardware("gb200").peak("nvfp4") == 10e15
    assert hardware("gb300").peak("nvfp4") == 15e15
    assert hardware("gb300").peak("mxfp8") == hardware("gb200").peak("fp8") == 5e15

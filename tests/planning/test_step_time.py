"""Step time: against a schedule played event by event, the paper's own runs, and by hand."""

from dataclasses import fields, replace

import numpy as np
import pytest

from openherd.model.config import SIZES, ModelConfig
from openherd.planning.constants import Constants, constants
from openherd.planning.engines import LLAMA, MEGATRON, TORCHTITAN
from openherd.planning.hardware import hardware
from openherd.planning.step_time import Clock, step_time
from openherd.planning.workload import Step, shape_of, table

H100 = hardware("h100")
CLOCK = Clock(H100, "bf16", constants(("h100", "bf16"))[0])
B405 = {**shape_of(SIZES["llama3-405b"]), "sharding": "gradients"}
# (GPUs, CP, DP, length): TFLOP/s and MFU of the paper's Table 4; TP8, PP16.
TABLE_4 = [(8_192, 1, 64, 8_192, 430, 43), (16_384, 1, 128, 8_192, 400, 41), (16_384, 16, 8, 131_072, 380, 38)]


def paper_step(cp, dp, length):
    return Step(
        **B405, sequence_length=length, batch_sequences=16_777_216 // length, tp=8, cp=cp, pp=16, dp=dp, virtual_stages=8
    )  # fmt: skip


@pytest.mark.parametrize(("gpus", "cp", "dp", "length", "tflops", "mfu"), TABLE_4)
def test_the_paper_s_runs_within_three_points(gpus, cp, dp, length, tflops, mfu):
    """Attention counted in full; no constant was fitted on these."""
    step = paper_step(cp, dp, length)
    assert step.gpus == gpus
    seconds = float(step_time(table([step]), CLOCK, LLAMA).step[0, 0])
    reached = float(step.flops(causal=False)) / seconds / gpus
    assert 100 * reached / H100.peak("bf16") == pytest.approx(mfu, abs=3)
    assert reached / 1e12 == pytest.approx(tflops, rel=0.08)


def test_mfu_falls_because_of_the_bubble():
    """With half the micro-batches it doubles, 5.9% to 11.7% of the rest; without it MFU would hardly fall."""
    few, many = (step_time(table([paper_step(1, dp, 8_192)]), CLOCK, LLAMA) for dp in (128, 64))
    shares = [float(t.bubble[0, 0] / (t.step - t.bubble)[0, 0]) for t in (many, few)]
    assert shares[0] == pytest.approx(15 / (8 * 32), abs=0.01)
    assert shares[1] == pytest.approx(15 / (8 * 16), abs=0.015)
    assert shares[1] == pytest.approx(2 * shares[0], rel=0.1)
    mfu = [1 / float(t.step[0, 0]) / gpus for t, gpus in ((many, 8_192), (few, 16_384))]
    without = [1 / float((t.step - t.bubble)[0, 0]) / gpus for t, gpus in ((many, 8_192), (few, 16_384))]
    fall, fall_without = (1 - x[1] / x[0] for x in (mfu, without))
    assert fall > 0.06
    assert fall_without < fall / 2


def played(forward, back, m):
    """Seconds of a 1F1B step, event by event: each place in its fixed order, each action after what it needs."""
    pp = len(forward)
    orders = []
    for place in range(pp):
        warm_up = min(m, pp - place)
        order = [("F", i) for i in range(warm_up)]
        for i in range(m):
            order.append(("B", i))
            if i + warm_up < m:
                order.append(("F", i + warm_up))
        orders.append(order)
    done, at, clock = {}, [0] * pp, [0.0] * pp
    while any(at[p] < len(orders[p]) for p in range(pp)):
        for p in range(pp):
            while at[p] < len(orders[p]):
                what, i = orders[p][at[p]]
                needs = ("F", i, p - 1) if what == "F" else ("B", i, p + 1)
                if 0 <= needs[2] < pp and needs not in done:
                    break
                clock[p] = max(clock[p], done.get(needs, 0.0)) + (forward[p] if what == "F" else back[p])
                done[what, i, p] = clock[p]
                at[p] += 1
    return max(clock)


@pytest.mark.parametrize("m", [4, 9, 32])
@pytest.mark.parametrize("layers", [[4, 4, 4, 4], [3, 4, 4, 3], [2, 4, 4, 6]])
def test_a_pipeline_s_step_against_the_schedule(layers, m):
    """Free communication; places may be unlike."""
    shape = ModelConfig(
        n_layers=16, d_model=4_096, n_heads=32, n_kv_heads=8, head_width=128, d_feed_forward=14_336, vocabulary=1_000
    )
    step = Step(**shape_of(shape), sequence_length=4_096, pp=4, batch_sequences=m, sharding="optimizer")
    clock = Clock(replace(H100, network=1e30, nvlink=1e30), "bf16", Constants(latency_s=0.0, step_s=0.0, host_s=0.0))
    uneven = table([replace(step, layers_by_place=np.array([layers]))])
    time = step_time(uneven, clock, MEGATRON)
    one = [step_time(table([replace(step, n_layers=n, pp=1, batch_sequences=1)]), clock, MEGATRON) for n in range(8)]
    alone = [float((t.compute + t.attention)[0, 0]) for t in one]
    ends = alone[0]  # embedding and head, without layers
    each = [alone[n] - ends for n in layers]
    each[0], each[-1] = each[0] + 0.0, each[-1] + ends
    wanted = played([t / 3 for t in each], [2 * t / 3 for t in each], m)
    assert float((time.step - time.optimizer)[0, 0]) == pytest.approx(wanted, rel=0.05)


def test_a_table_is_its_rows():
    """Steps reckoned together, and each alone, part by part."""
    base = {**shape_of(SIZES["llama3-8b"]), "sequence_length": 4_096, "batch_sequences": 64}
    steps = [
        Step(**base, tp=tp, cp=cp, dp=4, pp=2, micro_batch=micro, recompute=how, sharding=sharding, compiled=compiled)
        for tp, cp, micro, how, sharding, compiled in (
            (1, 1, 1, "none", "weights", True),
            (8, 1, 2, "full", "gradients", False),
            (2, 2, 4, "selective", "optimizer", True),
            (1, 4, 8, "none", "none", True),
        )
    ]
    for engine in (MEGATRON, TORCHTITAN):
        together = step_time(table(steps), CLOCK, engine)
        for i, step in enumerate(steps):
            alone = step_time(table([step]), CLOCK, engine)
            for part in fields(alone):
                many = np.broadcast_to(getattr(together, part.name), (4, 1))
                assert float(many[i, 0]) == pytest.approx(float(np.ravel(getattr(alone, part.name))[0]), rel=1e-12)


def test_products_and_collectives_by_hand():
    clock = Clock(H100, "bf16", Constants(matmul=0.5, pad=0, nvlink=0.5, network=0.5, latency_s=1e-6))
    assert clock.product(1_000, 2_000, 3_000) == pytest.approx(2 * 6e9 / (989.4e12 / 2))
    # Eight in a node by NVLink, 225 GB/s of 450: seven eighths of the bytes; three doublings of latency.
    assert float(clock.gather(1e9, 8, 1)) == pytest.approx(7 / 8 * 1e9 / 225e9 + 3e-6)
    # Sixteen in two nodes: eight adapters of 25 GB/s at half of 50, no more than NVLink's.
    assert float(clock.gather(1e9, 16, 1)) == pytest.approx(15 / 16 * 1e9 / 200e9 + 4e-6)
    # One of each node: its own adapter.
    assert float(clock.gather(1e9, 2, 8)) == pytest.approx(1 / 2 * 1e9 / 25e9 + 1e-6)
    assert float(clock.gather(1e9, 1, 1)) == 0


def test_what_costs_more_takes_longer():
    base = Step(**shape_of(SIZES["llama3-8b"]), sequence_length=8_192, batch_sequences=64, dp=8)

    def seconds(engine=TORCHTITAN, clock=CLOCK, **changes):
        return float(step_time(table([replace(base, **changes)]), clock, engine).step[0, 0])

    assert seconds() < seconds(recompute="selective") < seconds(recompute="full")
    assert seconds(recompute="full") == pytest.approx(seconds() * 4 / 3, rel=0.08)
    assert seconds(recompute="full", recompute_share=0.5) == pytest.approx((seconds() + seconds(recompute="full")) / 2)
    assert seconds() < seconds(compiled=False)
    assert seconds(sharding="gradients") < seconds(sharding="weights")
    fp8 = Clock(H100, "fp8", constants(("h100", "fp8"))[0])
    assert seconds(clock=fp8) < seconds()
    assert seconds(clock=Clock(H100, "bf16", replace(CLOCK.constants, host_s=1.0))) > 32 * 8 * 2

"""The time of a training step by part, from shapes and a device's constants (paper 3.3.2). Seconds; formulas for tables of steps.

A layer's products take their FLOPs over the share of the peak that they reach; a product is `pad` longer in each width than it is,
which is what tiles and waves cost small ones. Attention has a share of its own, and what reads and writes memory the bandwidth. No
layer is faster than the host can issue it. A pipeline's step is its slowest place's micro-batches, then once the other places':
(PP - 1) / (V M) of bubble where all are alike.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from openherd.planning.constants import Constants
from openherd.planning.engines import Engine
from openherd.planning.hardware import Hardware, Precision, is_low
from openherd.planning.memory import product_widths
from openherd.planning.workload import Step

BF16 = 2  # bytes
ADAM_BYTES = 30  # of an element: weights, moments and gradient in fp32 read, the first three written, a bf16 copy
# Bytes of a score that go through memory without fused attention, forward: written, read by softmax, written, read; with dropout
# its mask and outcome too.
SCORE_BYTES, DROPOUT_SCORE_BYTES = 8, 13
LOSS_BYTES = 20  # of a logit, both ways
STREAM_READS = 10  # of the stream, in elements of its width a layer: two norms (2 each) and two sums (3 each)
DROPOUT_READS = 4
LOW_BYTES = 3  # of an input of a product in 8 bits: read in bf16, written
EAGER = 3.0  # times as much through memory where operations are not fused: norms in fp32, rotations as complex numbers
OVERLAPPED_TP = 0.5  # share of tensor parallelism's collectives that pipelined ones leave exposed


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step by part, each (n, 1); `step` is their sum."""

    compute: Any  # products, what goes through memory, and waiting for the host
    attention: Any
    tp: Any  # exposed, as the next three
    cp: Any
    pp: Any
    dp: Any
    bubble: Any
    optimizer: Any
    overlapped: Any  # communication beside computation, not in the sum

    @property
    def step(self) -> Any:
        """All of it."""
        return self.compute + self.attention + self.tp + self.cp + self.pp + self.dp + self.bubble + self.optimizer


@dataclass(frozen=True)
class Clock:
    """A device with its constants."""

    hardware: Hardware
    precision: Precision
    constants: Constants

    def product(self, m: Any, k: Any, n: Any) -> Any:
        """A matrix product (m, k) x (k, n)."""
        pad = self.constants.pad
        return 2 * (m + pad) * (k + pad) * (n + pad) / (self.hardware.peak(self.precision) * self.constants.matmul)

    def through(self, n_bytes: Any) -> Any:
        """Bytes through the device's memory."""
        return n_bytes / (self.hardware.memory_bandwidth * self.constants.memory)

    def links(self, inside: Any, members: Any) -> Any:
        """Bytes a second of a device to its neighbour: inside a node, or by the adapters of a group's `members` on a node."""
        nvlink = self.hardware.nvlink * self.constants.nvlink
        return np.where(inside, nvlink, np.minimum(nvlink, members * self.hardware.network * self.constants.network))

    def gather(self, n_bytes: Any, group: Any, stride: Any, times: Any = 1) -> Any:
        """All-gathers or reduce-scatters, so many, of so many bytes in all, over `group` devices that are `stride` apart."""
        members = np.maximum(np.minimum(self.hardware.node // stride, group), 1)
        seconds = (group - 1) / group * n_bytes / self.links(group <= members, members)
        return seconds + times * np.log2(group) * self.constants.latency_s


@dataclass(frozen=True)
class LayerTime:
    """Seconds of one layer and micro-batch, forward, back and what is computed again, each (n, 1)."""

    compute: Any
    attention: Any
    tp: Any
    cp: Any


def layer_time(step: Step, clock: Clock, engine: Engine) -> LayerTime:
    """Of every step in a table; communication as far as it is exposed."""
    s, t, c = step, step.micro_tokens, clock.constants
    inner = {"o": s.n_heads * s.head_width / s.tp, "d": s.d_feed_forward / s.tp}
    products = {name: clock.product(t, inner.get(name, s.d_model), width) for name, width in product_widths(s).items()}
    attend, attend_back = attention_time(s, clock, engine)

    wide = (2 * (s.n_heads + s.n_kv_heads) * s.head_width + s.feed_forward_matrices * s.d_feed_forward) / s.tp
    reads = (STREAM_READS + DROPOUT_READS * engine.dropout) * s.d_model * s.chunk + wide * t
    low = LOW_BYTES * (3 * s.d_model * s.chunk + s.d_feed_forward / s.tp * t) if is_low(clock.precision) else 0
    memory = clock.through((BF16 * reads + low) * np.where(s.compiled, 1.0, EAGER))
    work = sum(products.values()) + memory

    full = np.where(s.recompute == "full", s.recompute_share, 0.0)
    some = np.where(s.recompute == "selective", s.recompute_share, 0.0)
    if engine.keeps:  # outcomes of some products and of attention; the rest again
        again = full * work + some * (memory + sum(products[name] for name in products if name not in engine.keeps))
        again_attend = full * attend
    else:
        again, again_attend = full * work, (full + some) * attend
    compute, attention = 3 * work + again, attend + attend_back + again_attend

    # Twice a layer and direction all of a sequence is gathered and summed, or reduced to all; keys and values are gathered, and
    # their gradients summed.
    sides = (4 + 2 * full) * np.where(s.overlap_tp, OVERLAPPED_TP, 1.0)
    tp = sides * 2 * clock.gather(BF16 * t * s.d_model, s.tp, 1) * (s.tp > 1)
    keys = BF16 * 2 * s.n_kv_heads * s.head_width / s.tp * t * s.cp
    cp = (2 + full) * clock.gather(keys, s.cp, s.tp) * (s.cp > 1)
    waits = np.maximum(c.host_s * (2 + full) - compute - attention - tp - cp, 0)
    return LayerTime(compute + waits, attention, tp, cp)


def attention_time(step: Step, clock: Clock, engine: Engine) -> tuple[Any, Any]:
    """Scores and weighted values of one layer and micro-batch, forward and back."""
    s, c = step, clock.constants
    rows = s.micro_tokens * s.n_heads / s.tp
    if engine.fused_attention:
        keys, share = (s.sequence_length / 2, c.attention) if engine.skips_mask else (s.sequence_length, c.whole_attention)
        speed = clock.hardware.peak("bf16") * share * engine.attention_speed
        forward = 4 * rows * (keys + c.pad) * s.head_width / speed
        return forward, 2.5 * forward  # five products on the way back, of which one is the scores again
    both = 2 * clock.product(s.sequence_length, s.head_width, s.sequence_length) * rows / s.sequence_length
    forward = both + clock.through(rows * s.sequence_length * (DROPOUT_SCORE_BYTES if engine.dropout else SCORE_BYTES))
    return forward, 2 * forward


def step_time(step: Step, clock: Clock, engine: Engine) -> StepTime:
    """Of every step in a table."""
    s, c, layers = step, clock.constants, step.layers
    layer = layer_time(s, clock, engine)
    place, m = np.arange(s.pp), s.micro_batches
    first, last = place == 0, place == s.pp - 1
    t, in_pipeline = s.micro_tokens, s.pp > 1

    head = 3 * clock.product(t, s.d_model, s.vocabulary / s.tp) + clock.through(LOSS_BYTES * t * s.vocabulary / s.tp)
    compute = layers * layer.compute + first * clock.through(6 * BF16 * t * s.d_model) + last * head
    attention = layers * layer.attention

    # Weights that data-parallel processes gather, and gradients that they sum: FSDP for each micro-batch, the others once a step.
    elements = layers * (s.layer_matrices / s.tp + s.layer_vectors) + (1 * first + 1 * last) * s.vocabulary * s.d_model / s.tp
    stride = s.tp * (1 if engine.pipeline_outermost else s.pp)
    gathered = clock.gather(BF16 * elements, s.shards, stride, layers)
    reduced = clock.gather(engine.reduced * elements, s.shards, stride, layers)
    copies = 2 * clock.gather(engine.reduced * elements / s.shards, s.replicas, stride * s.shards) * (s.replicas > 1)
    resharded = s.sharding == "weights"
    each = np.where(resharded, 2 * gathered + reduced, 0)  # of a micro-batch
    once = np.where(resharded, 0, gathered + reduced) + copies
    beside = compute + attention if engine.overlap_dp else 0 * compute
    each_exposed, once_exposed = (np.maximum(x - beside, 0) + c.contention * np.minimum(x, beside) for x in (each, once))
    first_layer = gathered / np.maximum(layers, 1)  # before it nothing can be computed

    # What goes to the next place and comes back, once for each virtual stage.
    sent = BF16 * (t / s.tp if engine.scatters else s.chunk) * s.d_model
    apart = s.tp * s.cp * (s.dp if engine.pipeline_outermost else 1)
    hop = sent / clock.links(apart < clock.hardware.node, 1) + c.latency_s
    hops = 2 * s.virtual_stages * hop * (c.contention if engine.overlap_pp else 1) * in_pipeline

    each_micro = compute + attention + layers * (layer.tp + layer.cp) + each_exposed + hops
    slowest = np.argmax(each_micro, axis=1)[:, None]

    def at(x: Any) -> Any:
        """Of the slowest place."""
        return np.take_along_axis(np.broadcast_to(x, each_micro.shape), slowest, 1)

    return StepTime(
        compute=m * at(compute),
        attention=m * at(attention),
        tp=m * at(layers * layer.tp),
        cp=m * at(layers * layer.cp),
        pp=m * at(hops),
        dp=at(m * each_exposed + once_exposed + first_layer),
        bubble=(each_micro.sum(1, keepdims=True) - at(each_micro)) / s.virtual_stages,
        optimizer=clock.through(ADAM_BYTES * at(elements) / np.where(s.sharding == "none", 1, s.shards)) + c.step_s,
        overlapped=at(m * (each - each_exposed) + once - once_exposed),
    )

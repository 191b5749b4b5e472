"""The time of a training step by part, from shapes and a device's constants (paper 3.3.2). Seconds; formulas for tables of steps.

A layer's products take their FLOPs over the share of the peak that they reach; a product is `pad` longer in each width than it is,
which is what tiles and waves cost small ones. Attention has a share of its own; what reads and writes memory has the bandwidth.
No layer is faster than the host can issue it. A pipeline's step is its slowest place's micro-batches, then once the others':
(PP - 1) / (V M) of bubble where all are alike.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from openherd.planning.constants import Constants
from openherd.planning.engines import Engine
from openherd.planning.hardware import Hardware, Precision
from openherd.planning.memory import product_widths
from openherd.planning.workload import Step

BF16 = 2  # bytes
ADAM_BYTES = 30  # of an element: weights, moments and gradient in fp32 read, the first three written, a bf16 copy


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step by part, each (n, 1); `step` is their sum."""

    compute: Any  # products, and what goes through memory
    attention: Any
    tp: Any  # exposed
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

    def bandwidth(self, group: Any, stride: Any) -> Any:
        """Of a ring over `group` devices that are `stride` apart: a node's members each have an adapter."""
        inside = np.maximum(np.minimum(self.hardware.node // stride, group), 1)
        links = self.hardware.nvlink * self.constants.nvlink
        return np.where(group <= inside, links, np.minimum(links, inside * self.hardware.network * self.constants.network))

    def gather(self, n_bytes: Any, group: Any, stride: Any) -> Any:
        """An all-gather or reduce-scatter of so many bytes in all."""
        steps = np.maximum(group - 1, 0)
        return steps / group * n_bytes / self.bandwidth(group, stride) + np.minimum(steps, 64) * self.constants.latency_s


def step_time(step: Step, clock: Clock, engine: Engine) -> StepTime:
    """Of every step in a table."""
    s, c = step, clock.constants
    t, again = s.micro_tokens, np.where(s.recompute == "full", s.recompute_share, 0.0)
    fp = BF16

    # One layer, one micro-batch, forward.
    heads = s.n_heads * s.head_width
    from_rows = {"o": heads / s.tp, "d": s.d_feed_forward / s.tp}
    products = {name: clock.product(t, from_rows.get(name, s.d_model), width) for name, width in product_widths(s).items()}
    scores = s.micro_batch * s.sequence_length**2 * s.n_heads / (s.tp * s.cp)
    if engine.fused_attention:
        pairs, share = (scores / 2, c.attention) if engine.skips_mask else (scores, c.whole_attention)
        attend = 4 * pairs * s.head_width / (clock.hardware.peak("bf16") * share * engine.attention_speed)
        attend_back = 2.5 * attend
    else:
        both = 2 * clock.product(s.sequence_length, s.head_width, s.sequence_length) * s.micro_batch * s.n_heads / s.tp
        attend = both + clock.through(scores * (13 if engine.dropout else 8))
        attend_back = 2 * attend
    wide = s.feed_forward_matrices * s.d_feed_forward
    streams = 10 * s.d_model * s.chunk + (2 * (s.n_heads + s.n_kv_heads) * s.head_width + wide) * t / s.tp
    streams = streams + (4 * s.d_model * s.chunk if engine.dropout else 0)
    if clock.precision not in ("bf16", "fp16"):  # what products take is read once more and written in 8 bits
        streams = streams + 1.5 * (3 * s.d_model * s.chunk + s.d_feed_forward * t / s.tp)
    elementwise = clock.through(fp * engine.passes * np.where(s.compiled, 1.0, 2.0) * streams)
    work = sum(products.values()) + elementwise
    forward, back = work + attend, 2 * work + attend_back
    selective = s.recompute == "selective"
    again_attend = np.where(selective, 0.0 if engine.keeps else s.recompute_share, again) * attend
    part = elementwise * bool(engine.keeps) + sum(products[name] for name in "qkvogud" if engine.keeps and name not in engine.keeps)
    again_work = np.where(selective, s.recompute_share * part, again * work)
    # What the host issues; collectives of tensor parallelism wait for it too.
    host = c.host_s
    layer_compute = work + 2 * work + again_work
    layer_attend = attend + attend_back + again_attend

    # Tensor parallelism: twice a layer and direction all is gathered and summed; computed again, twice more.
    sides = 2 + 2 + 2 * again
    one = 2 * clock.gather(fp * t * s.d_model, s.tp, 1)
    layer_tp = np.where(s.tp > 1, sides * one, 0.0) * np.where(s.overlap_tp, 0.5, 1.0)
    # Context parallelism: keys and values gathered, their gradients summed.
    kv = fp * 2 * s.n_kv_heads * s.head_width / s.tp * t * s.cp
    layer_cp = np.where(s.cp > 1, (2 + again) * clock.gather(kv, s.cp, s.tp), 0.0)

    floor = host * (2 + again)
    gpu = layer_compute + layer_attend + layer_tp + layer_cp
    waits = np.maximum(floor - gpu, 0)  # for the host
    layer_compute = layer_compute + waits

    # Data parallelism.
    stride = np.where(engine.pipeline_outermost, s.tp * s.cp, s.tp * s.cp * s.pp)
    stride = np.where(s.cp > 1, stride / s.cp, stride)
    of_layer = s.layer_matrices / s.tp + s.layer_vectors
    gathered = clock.gather(fp * of_layer, s.shards, stride)
    reduced = clock.gather(engine.reduced * of_layer, s.shards, stride)
    m = s.micro_batches
    # of one micro-batch of a layer, FSDP; of a step, otherwise
    each = np.where(s.sharding == "weights", 2 * gathered + reduced, 0.0)
    whole = np.where(s.sharding == "weights", 0.0, gathered + reduced) * np.where(s.shards > 1, 1, 0)
    each = each * np.where(s.shards > 1, 1, 0)
    busy = layer_compute + layer_attend
    if engine.overlap_dp:
        each_exposed = np.maximum(each - busy, 0) + c.contention * np.minimum(each, busy)
        whole_exposed = np.maximum(whole - busy, 0) + c.contention * np.minimum(whole, busy)
    else:
        each_exposed, whole_exposed = each, whole
    overlapped = m * (each - each_exposed) + whole - whole_exposed

    # Ends.
    head = 3 * clock.product(t, s.d_model, s.vocabulary / s.tp) + clock.through(20 * t * s.vocabulary / s.tp)
    embed = clock.through(fp * 6 * t * s.d_model)
    layers = s.layers
    place = np.arange(s.pp)
    first, last = (place == 0) * 1.0, (place == s.pp - 1) * 1.0
    ends = first * embed + last * head

    send = np.where(s.pp > 1, fp * s.chunk * s.d_model, 0.0)
    hop = send / np.where(stride_of_pipeline(s, engine) < clock.hardware.node, clock.hardware.nvlink * c.nvlink, clock.hardware.network * c.network)
    hops = 2 * s.virtual_stages * (hop + c.latency_s) * np.where(s.pp > 1, 1, 0) * (c.contention if engine.overlap_pp else 1)

    compute = layers * layer_compute + ends
    attention = layers * layer_attend
    tp, cp, dp = layers * layer_tp, layers * layer_cp, layers * each_exposed
    per_micro = compute + attention + tp + cp + dp + hops
    slow = np.argmax(per_micro, axis=1)[:, None]

    def at(x: Any) -> Any:
        return np.take_along_axis(np.broadcast_to(x, per_micro.shape), slow, 1)

    most = at(per_micro)
    bubble = (per_micro.sum(1, keepdims=True) - most) / s.virtual_stages
    elements = layers * of_layer + (first + last) * s.vocabulary * s.d_model / s.tp
    shared = np.where(s.sharding == "none", 1, s.shards)
    optimizer = clock.through(ADAM_BYTES * at(elements) / shared) + c.step_s
    return StepTime(
        compute=m * at(compute),
        attention=m * at(attention),
        tp=m * at(tp),
        cp=m * at(cp),
        pp=m * at(hops),
        dp=m * at(dp) + at(layers) * whole_exposed + np.where(s.shards > 1, gathered, 0),
        bubble=bubble,
        optimizer=optimizer,
        overlapped=at(layers) * overlapped,
    )


def stride_of_pipeline(step: Step, engine: Engine) -> Any:
    """How far apart neighbours in a pipeline are."""
    return step.tp * step.cp * (step.dp if engine.pipeline_outermost else 1)

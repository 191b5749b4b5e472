"""Bytes that each place of a pipeline holds at its fullest, by part (paper 3.3.2). Formulas for tables of steps: (n, PP).

Weights, gradients and AdamW's state follow from the layout. Activations are counted tensor by tensor, as autograd keeps them, times
the micro-batches on their way: at place p of 1F1B as many as there are places from there on; interleaved, the chunks of layers that
the schedule has begun. In Korthikanti et al.'s case the sum is their formula (2205.05198, equations 2 to 5), to the byte.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from openherd.planning.engines import Engine
from openherd.planning.workload import Step

GIB = 2**30
FILLED = 0.95  # of a device's memory; the rest has NCCL's buffers and what single operations need
BF16, FP32 = 2, 4
# What the allocator holds and cannot give: blocks of other sizes than asked for. Of what comes and goes, not of what stays. Set,
# not fitted; torchtitan's fitted rows are met within 4% with it.
FRAGMENTATION = 0.03


@dataclass(frozen=True)
class Memory:
    """Bytes by part, each (n, PP)."""

    weights: Any
    gathered: Any  # copies to compute with: whole ones of FSDP, or in bf16
    gradients: Any  # with whole ones that wait to be shared
    optimizer: Any
    activations: Any  # of the layers, all micro-batches on their way
    ends: Any  # of embedding, last norm and head
    recomputed: Any  # of one layer, where activations are computed again
    logits: Any
    buffers: Any  # what a pipeline receives
    fragmentation: Any

    @property
    def total(self) -> Any:
        """All parts."""
        return sum(getattr(self, f.name) for f in fields(Memory))


def memory(step: Step, engine: Engine, low: bool = False) -> Memory:
    """Of every step in a table; `low`: products are of 8 bits or fewer."""
    s, layers = step, step.layers
    place = np.arange(s.pp)
    first, last = place == 0, place == s.pp - 1
    t, d = s.micro_tokens, s.d_model
    of_layer = s.layer_matrices / s.tp + s.layer_vectors
    end = s.vocabulary * d / s.tp
    tied = s.tied_embeddings if s.pp == 1 else np.asarray(False)
    ends = first * (end + s.positions * d) + last * (np.where(tied, 0, end) + d)
    elements = layers * of_layer + ends
    shards = s.shards
    sharded = (s.sharding == "weights") | (s.sharding == "gradients")

    # A copy of everything, or FSDP's share of it and whole layers to compute with: all of them, or one and the next.
    weights = engine.weights * elements / np.where(sharded, shards, 1)
    sums = (s.micro_batches > 1) & {"never": False, "pipeline": s.pp > 1, "always": True}[engine.sums]
    few = (s.sharding == "weights") & ~sums
    held = layers * np.minimum(s.virtual_stages, engine.gathered_stages) / s.virtual_stages
    whole = BF16 * of_layer * np.where(few, np.minimum(layers, 2), held) + engine.ends * ends
    casts = BF16 * layers * s.layer_matrices / s.tp * engine.casts
    gathered = np.where(sharded & (shards > 1), whole, casts)
    gradients = engine.gradients * elements / np.where(sharded, shards, 1)
    gradients = gradients + np.where(sharded & (shards > 1) & sums, FP32 * elements, 0)
    optimizer = engine.optimizer * elements / np.where(s.sharding == "none", 1, shards)

    keeps_all, full, some = (layer_bytes(s, engine, how, low) for how in ("none", "full", "selective"))
    less = np.where(s.recompute == "none", keeps_all, np.where(s.recompute == "full", full, some))
    kept = keeps_all + s.recompute_share * (less - keeps_all)
    chunks = in_flight(s)
    activations = chunks * layers / s.virtual_stages * kept
    again = np.where(s.recompute == "none", 0, keeps_all - (0 if engine.details else less)) * (layers > 0)

    n_logits = t * s.vocabulary / s.tp
    of_logit = engine.logits - engine.compiled_loss * np.where(s.compiled, 1, 0) + engine.loss_parallel * np.where(s.tp > 1, 1, 0)
    logits = last * of_logit * (np.minimum(n_logits, engine.most_logits) if engine.most_logits else n_logits)
    return Memory(
        weights=weights,
        gathered=gathered,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        ends=chunks / s.virtual_stages * ends_bytes(s, engine),
        recomputed=again if engine.details else np.maximum(again - logits, 0),  # the loss is before the way back
        logits=logits,
        buffers=np.where(s.pp > 1, engine.received * s.micro_batches * s.chunk * d * (2 * s.virtual_stages - first - last), 0),
        fragmentation=0 * weights + FRAGMENTATION * (activations + again + logits),
    )


def in_flight(step: Step) -> Any:
    """The most chunks of layers (those of one virtual stage) whose micro-batches wait for their way back, (n, PP)."""
    s, place = step, np.arange(step.pp)
    rounds = np.minimum(s.micro_batches, s.pp)
    one = np.minimum(s.micro_batches, s.pp - place)
    interleaved = 2 * (s.pp - place - 1) + (s.virtual_stages - 1) * rounds + 1
    return np.where(s.virtual_stages > 1, np.minimum(interleaved, s.micro_batches * s.virtual_stages), one)


def layer_bytes(step: Step, engine: Engine, how: str, low: bool = False) -> Any:
    """What a layer keeps of one micro-batch: `none`, `selective` or `full` recomputation; (n, 1)."""
    s, t, d = step, step.micro_tokens, step.d_model
    stream = engine.residual * s.chunk * d
    if how == "full":
        return stream
    heads = s.n_heads * s.head_width / s.tp
    keys = 2 * s.n_kv_heads * s.head_width / s.tp
    wide = s.d_feed_forward / s.tp
    statistic = FP32 * s.n_heads / s.tp * t * engine.fused_attention  # a logarithm for each query and head
    if how == "selective" and engine.keeps:  # outcomes of products and attention
        widths = product_widths(s)
        return stream + BF16 * t * (sum(widths[name] for name in engine.keeps) + heads) + statistic
    inputs = 1 if low and engine.low_inputs else BF16  # of products
    norms = 2 * inputs * d * np.where(engine.gathered_inputs, t, s.chunk)
    dropout = 2 * s.chunk * d * engine.dropout
    products = t * (BF16 * (heads + keys + heads + (engine.products - 1) * wide) + inputs * wide)
    kept = 2 * stream + norms + dropout + products + statistic
    if engine.details:  # a norm's number a row, and its weights in fp32 where FSDP gathers them in bf16
        kept = kept + 2 * FP32 * s.chunk + np.where(s.shards > 1, 2 * FP32 * d, 0) + context_bytes(s)
    if not engine.fused_attention and how == "none":  # scores, and their dropout: 5 a s of Korthikanti et al.
        kept = kept + 5 * s.n_heads / s.tp * s.micro_batch * s.sequence_length**2 / s.cp
    return kept


def context_bytes(step: Step) -> Any:
    """What context parallelism keeps besides in our engine: keys and values of all instead of its own, the mask in the dtype of the
    queries, and the outcome of each of its two chunks."""
    s = step
    keys = 2 * s.n_kv_heads * s.head_width / s.tp * s.micro_tokens
    chunk = s.sequence_length / (2 * s.cp)
    pairs = s.micro_batch * chunk**2 * (2 * s.cp + 1)
    return BF16 * np.where(s.cp > 1, keys * (s.cp - 1) + pairs + s.n_heads * s.head_width / s.tp * s.micro_tokens, 0)


def ends_bytes(step: Step, engine: Engine) -> Any:
    """What is kept of one micro-batch outside the layers, all of a place's stages; (n, PP)."""
    s, t, d, place = step, step.micro_tokens, step.d_model, np.arange(step.pp)
    first, last = place == 0, place == s.pp - 1
    stream = engine.residual * s.chunk * d
    if not engine.details:  # the last norm keeps its input, and gives the head its own
        return last * (stream + BF16 * np.where(engine.gathered_inputs, t, s.chunk) * d)
    # A stage's own outcome is counted with it, the first's input too: others' inputs lie in buffers.
    angles = FP32 * s.head_width * t * np.minimum(s.virtual_stages, s.layers)  # of stages that have layers
    in_parts = (s.tp > 1) | (t * s.vocabulary > engine.most_logits)
    logarithms = FP32 * t * s.vocabulary + np.where(s.shards > 1, BF16 * s.vocabulary * d, 0)
    loss = BF16 * t * d + np.where(in_parts, FP32 * s.vocabulary / s.tp * d + FP32, logarithms + 2 * FP32)
    return first * stream + angles + last * (FP32 * s.chunk + loss)


def product_widths(step: Step) -> dict[str, Any]:
    """The width of each product's outcome on a process, by its letter: query, key, value, output, gate, up, down."""
    s = step
    gate = s.d_feed_forward / s.tp * np.where(s.feed_forward_matrices == 3, 1, 0)
    keys = s.n_kv_heads * s.head_width / s.tp
    heads, wide = s.n_heads * s.head_width / s.tp, s.d_feed_forward / s.tp
    return {"q": heads, "k": keys, "v": keys, "o": s.d_model, "g": gate, "u": wide, "d": s.d_model}

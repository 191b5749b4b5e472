"""Training programs as the planner knows them: what each keeps, in how many bytes, and what it does at once. Facts, none fitted.

Megatron's are of Korthikanti et al. (2205.05198), torchtitan's, llm-foundry's and ours of their code. "ours" is the engine of
`openherd.parallel`: its dry run builds the real thing, and a test holds these formulas against it.
"""

from dataclasses import dataclass, replace
from typing import Literal

from openherd.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a training program does things."""

    name: str

    # Time.
    fused_attention: bool = True  # no table of scores in memory
    skips_mask: bool = True  # of causal attention the half that counts; else all is computed
    attention_speed: float = 1.0  # beside FlashAttention-2; FlashAttention-3 and cuDNN: 1.5 to 2 (2407.08608)
    passes: float = 1.0  # over memory by norms, rotations, activation functions and sums: 1 fused, 2 one by one
    overlap_dp: bool = True  # data-parallel collectives run beside computation
    overlap_pp: bool = True
    scatters: bool = False  # each tensor-parallel process sends its part to the next stage (2104.04473, 4.1)
    pipeline_outermost: bool = False  # rank order TP, CP, DP, PP instead of the paper's TP, CP, PP, DP
    dropout: bool = False

    # Memory: bytes of an element.
    weights: int = 4  # kept; FSDP's share of them is in fp32
    gradients: int = 4
    optimizer: int = 8
    reduced: int = 4  # as data-parallel processes add them up
    residual: int = 2  # of the stream between layers
    ends: int = 2  # embedding and head where they are gathered
    logits: int = 16  # at once: in bf16 and fp32, their logarithms, and gradients
    most_logits: int = 0  # as many at once; 0: all of a micro-batch
    gathered_inputs: bool = True  # what tensor parallelism gathers is kept whole
    low_inputs: bool = False  # of 8-bit products the inputs are kept in 8 bits
    products: int = 3  # tables of the feed-forward's width that are kept: gate, up, their product
    received: int = 0  # bytes of an element in buffers for every micro-batch that a pipeline receives
    compiled_loss: int = 0  # less of `logits` where the loss is compiled
    details: bool = (
        False  # what is known besides: a norm's number a row, the rotation's angles, casts, gathered keys and their mask
    )
    gathered_stages: int = 99  # of a process's virtual stages, those whose weights are gathered at once
    casts: bool = False  # one process keeps weights in bf16 too
    sums: Literal["never", "pipeline", "always"] = "never"  # whole gradients of several micro-batches, before they are shared

    loss_parallel: int = 0  # more of `logits` where the vocabulary is cut

    # "selective" recomputation keeps the outcomes of attention and of these products: query, key, value, output, gate, up, down.
    # Without any named it computes attention alone again, from query, key and value (Korthikanti et al.).
    keeps: str = ""


OURS = Engine(
    name="ours", residual=4, ends=4, logits=12, most_logits=2**26, products=4, received=4, casts=True, sums="always",
    details=True, gathered_stages=3, keeps="qkvogud",
)  # fmt: skip
TORCHTITAN = Engine(
    name="torchtitan", pipeline_outermost=True, sums="pipeline", received=2, loss_parallel=8, compiled_loss=2, keeps="qvgd"
)
MEGATRON = Engine(
    name="megatron", pipeline_outermost=True, weights=2, optimizer=12, gathered_inputs=False, logits=6, attention_speed=1.6,
    low_inputs=True,
)  # fmt: skip
# Before fused attention, without overlap; fp16 gradients are added up as they are.
MEGATRON_DEEPSPEED = replace(
    MEGATRON, name="megatron-deepspeed", attention_speed=1.0, fused_attention=False, overlap_dp=False, overlap_pp=False,
    dropout=True, reduced=2, products=2,
)  # fmt: skip
MEGATRON_2022 = replace(MEGATRON_DEEPSPEED, name="megatron-2022", scatters=True)
MEGATRON_BRIDGE = replace(MEGATRON, name="megatron-bridge", gradients=2, reduced=2)  # as its recipes for speed
FOUNDRY = Engine(name="llm-foundry", skips_mask=False)
FOUNDRY_PURE = replace(FOUNDRY, name="llm-foundry-pure-bf16", weights=2, gradients=2, optimizer=4, reduced=2)
LLAMA = replace(MEGATRON, name="llama3", pipeline_outermost=False, attention_speed=1.0)

ENGINES = {
    engine.name: engine
    for engine in (OURS, TORCHTITAN, MEGATRON, MEGATRON_DEEPSPEED, MEGATRON_2022, MEGATRON_BRIDGE, FOUNDRY, FOUNDRY_PURE, LLAMA)
}


def engine(name: str) -> Engine:
    """One of the table. Raises ConfigError with the names there are."""
    if name not in ENGINES:
        raise ConfigError("--engine", f"unknown {name!r}", allowed=", ".join(ENGINES))
    return ENGINES[name]

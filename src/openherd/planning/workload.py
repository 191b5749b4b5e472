"""One training step to be planned: the model's shape, the batch and the layout (paper 3.3.2, Table 4).

Fields are numbers, or columns of shape (n, 1) that describe n steps at once; formulas are written once for both. Their results have
the shape (n, PP): one column for each place in the pipeline. Steps in one table have the same PP.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal

import numpy as np

from openherd.model.config import ModelConfig
from openherd.model.slices import stage_layers

Recompute = Literal["none", "selective", "full"]
# What data-parallel processes share: nothing; AdamW's state (ZeRO-1); gradients too, weights gathered once a step (FSDP without
# resharding, the paper's); weights too, gathered for each way forward and back (FSDP).
Sharding = Literal["none", "optimizer", "gradients", "weights"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of training; widths in elements, lengths in tokens."""

    n_layers: Any
    d_model: Any
    n_heads: Any
    n_kv_heads: Any
    head_width: Any
    d_feed_forward: Any
    vocabulary: Any
    feed_forward_matrices: Any = 3  # SwiGLU; 2 in GPT's
    tied_embeddings: Any = False
    positions: Any = 0  # of a learned table, as GPT's
    biases: Any = False

    sequence_length: Any = 8_192
    batch_sequences: Any = 1
    micro_batch: Any = 1  # sequences

    tp: Any = 1
    cp: Any = 1
    pp: int = 1
    dp: Any = 1
    replicas: Any = 1  # of the shards, which are dp / replicas
    virtual_stages: Any = 1
    recompute: Any = "none"
    recompute_share: Any = 1.0  # of the layers; the rest keep all
    sharding: Any = "weights"
    sequence_parallel: Any = True
    overlap_tp: Any = False  # asynchronous tensor parallelism
    compiled: Any = True
    layers_by_place: Any = None  # (n, PP); None: as even as can be, first and last lighter

    @property
    def gpus(self) -> Any:
        """All processes."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def micro_batches(self) -> Any:
        """Of a process in a step."""
        return self.batch_sequences / (self.dp * self.micro_batch)

    @property
    def tokens(self) -> Any:
        """Of a step, all processes."""
        return self.batch_sequences * self.sequence_length

    @property
    def micro_tokens(self) -> Any:
        """Of a micro-batch on a process, before tensor parallelism cuts it."""
        return self.micro_batch * self.sequence_length / self.cp

    @property
    def chunk(self) -> Any:
        """Of a micro-batch on a process, where sequences are cut over TP too."""
        return self.micro_tokens / np.where(self.sequence_parallel, self.tp, 1)

    @property
    def shards(self) -> Any:
        """Processes that share one copy of weights: FSDP shards over context-parallel processes too."""
        return self.dp * self.cp / self.replicas

    @property
    def layers(self) -> Any:
        """Layers of each place, (n, PP)."""
        if self.layers_by_place is not None:
            return np.asarray(self.layers_by_place, float)
        layers, virtual = np.broadcast_arrays(np.asarray(self.n_layers), np.asarray(self.virtual_stages))
        rows = [layers_of_places(int(n), self.pp, int(v)) for n, v in zip(layers.ravel(), virtual.ravel(), strict=True)]
        return np.array(rows, float)

    @property
    def layer_matrices(self) -> Any:
        """Weights of one layer's matrices."""
        attention = 2 * self.n_heads + 2 * self.n_kv_heads
        return self.d_model * (attention * self.head_width + self.feed_forward_matrices * self.d_feed_forward)

    @property
    def layer_vectors(self) -> Any:
        """Weights of one layer's norms and biases."""
        biases = (self.n_heads + 2 * self.n_kv_heads) * self.head_width + self.d_feed_forward + 2 * self.d_model
        return np.where(self.biases, 4 * self.d_model + biases, 2 * self.d_model)

    @property
    def parameters(self) -> Any:
        """All weights; tied embeddings count once. `openherd.model.flops.parameters` for Llama's shapes."""
        ends = self.vocabulary * self.d_model * np.where(self.tied_embeddings, 1, 2) + self.positions * self.d_model
        norm = self.d_model * np.where(self.biases, 2, 1)
        return self.n_layers * (self.layer_matrices + self.layer_vectors) + ends + norm

    def flops(self, causal: bool = True) -> Any:
        """The model's own FLOPs of a step: products and attention, forward and backward, nothing that is computed again.

        The convention is `openherd.model.flops`'s: the input embedding is a lookup, and a token attends to half of the sequence
        (`causal`) or is counted as if it attended to all of it.
        """
        attended = (self.sequence_length + 1) / 2 if causal else self.sequence_length
        attention = 4 * self.n_layers * self.n_heads * self.head_width * attended
        return 3 * self.tokens * (2 * (self.n_layers * self.layer_matrices + self.vocabulary * self.d_model) + attention)

    def problems(self) -> list[str]:
        """What keeps one step from being run, in words; empty if nothing."""
        found = []
        for name, n in (("heads", self.n_heads), ("key/value heads", self.n_kv_heads), ("d_feed_forward", self.d_feed_forward)):
            if n % self.tp:
                found.append(f"{n} {name} are no multiple of tp = {self.tp}")
        if self.batch_sequences % (self.dp * self.micro_batch):
            found.append(
                f"{self.batch_sequences} sequences a step are no multiple of dp = {self.dp} x micro-batch {self.micro_batch}"
            )
        if self.dp % self.replicas:
            found.append(f"dp = {self.dp} is no multiple of replicas = {self.replicas}")
        if self.sequence_length % (2 * self.cp * self.tp if self.cp > 1 else self.tp):
            found.append(f"sequences of {self.sequence_length} tokens cannot be cut over cp = {self.cp} and tp = {self.tp}")
        if self.virtual_stages > 1 and self.pp == 1:
            found.append(f"{self.virtual_stages} virtual stages without a pipeline (pp = 1)")
        if self.pp * self.virtual_stages > self.n_layers + 2:
            found.append(f"{self.n_layers} layers for {self.pp * self.virtual_stages} stages (first and last may have none)")
        if self.virtual_stages > 1 and self.micro_batches >= self.pp and self.micro_batches % self.pp:
            found.append(f"{self.micro_batches:g} micro-batches are no multiple of pp = {self.pp}, which virtual stages ask for")
        return found


@cache
def layers_of_places(n_layers: int, pp: int, virtual_stages: int) -> tuple[int, ...]:
    """Layers of each process of a pipeline, whose stages go round in turns."""
    each = [len(stage) for stage in stage_layers(n_layers, pp * virtual_stages)]
    return tuple(sum(each[place::pp]) for place in range(pp))


def shape_of(config: ModelConfig) -> dict[str, Any]:
    """The fields of a step that a model's shape gives."""
    names = ("n_layers", "d_model", "n_heads", "n_kv_heads", "head_width", "d_feed_forward", "vocabulary", "tied_embeddings")
    return {name: getattr(config, name) for name in names}


def table(steps: Sequence[Step]) -> Step:
    """Steps of one PP as a table: every field a column."""
    columns: dict[str, Any] = {
        f.name: np.array([[getattr(step, f.name)] for step in steps]) for f in fields(Step) if f.name not in UNCUT
    }
    return replace(steps[0], **columns, layers_by_place=np.concatenate([step.layers for step in steps]))


UNCUT = ("pp", "layers_by_place")


def by_pipeline(steps: Sequence[Step]) -> list[tuple[list[int], Step]]:
    """Tables of the steps with the same PP, each with the steps' numbers."""
    groups: dict[int, list[int]] = {}
    for number, step in enumerate(steps):
        groups.setdefault(step.pp, []).append(number)
    return [(numbers, table([steps[n] for n in numbers])) for numbers in groups.values()]

"""Objectives: what a training loop minimises.

An objective has three pure parts: `inputs` is what the model is given; `counts` is what each term is divided by, from labels
alone, summed over a whole step's micro-batches before the step; `losses` are sums. So a step's loss does not depend on how it was
cut up.
"""

from torch import Tensor

from openherd.data.batches import IGNORED
from openherd.parallel.stage import Batch
from openherd.parallel.tensor import Head
from openherd.training.cross_entropy import cross_entropy_sum


class NextToken:
    """Cross-entropy of the next token in nats, where the label is not IGNORED; tokens attend within their own document."""

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """tokens_BT, positions_BT, documents_BT."""
        return batch["tokens_BT"], batch["positions_BT"], batch["documents_BT"]

    def counts(self, batch: Batch) -> dict[str, int]:
        """Tokens with a label."""
        return {"loss_nats": int((batch["labels_BT"] != IGNORED).sum())}

    def losses(self, hidden_BTD: Tensor, head: Head, batch: Batch) -> dict[str, Tensor]:
        """Sum of the cross-entropy; positions without a label never reach the head."""
        labelled = batch["labels_BT"] != IGNORED
        return {"loss_nats": cross_entropy_sum(hidden_BTD[labelled], head.weight_VD, batch["labels_BT"][labelled], head.shard)}

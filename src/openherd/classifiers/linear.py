"""Training a linear classifier over hashed n-grams (paper 3.1.1: fastText, which this stands for): logistic regression by AdaGrad.

Texts are hashed once, into a file that is memory-mapped; memory holds the weights and one batch. The order of texts is a seeded
permutation by epoch, so that the same texts, settings and numpy give the same weights. `dense_gradient` is the slow twin of one
step.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from openherd.core.progress import Progress
from openherd.core.seeds import derive_seed
from openherd.data.calibration import Floats, sigmoid, softmax
from openherd.data.linear_model import sums
from openherd.data.ngram_features import Buckets, NgramConfig, features

Integers = npt.NDArray[np.int64]
FIRST_SQUARE = 1e-3  # of AdaGrad: what a weight's sum of squares begins with, so that a rare n-gram's first step is small; ours


@dataclass(frozen=True, kw_only=True)
class LinearTraining:
    """How the weights are learnt; all ours."""

    epochs: Annotated[int, Field(description="most passes over the texts; the best is kept", ge=1)] = 30
    patience: Annotated[int, Field(description="passes without a better one after which it ends", ge=1)] = 4
    batch_texts: Annotated[int, Field(description="texts per step", ge=1)] = 32
    learning_rate: Annotated[float, Field(description="AdaGrad's", gt=0)] = 0.5
    l2: Annotated[float, Field(description="penalty of squared weights, over the number of texts; C = 1 elsewhere", ge=0)] = 1.0
    balance: Annotated[bool, Field(description="weigh each label alike, however many texts it has")] = True


@dataclass(frozen=True)
class FeatureFile:
    """The buckets of texts, one behind the other, in a file."""

    flat: Buckets
    ends: Integers

    def __len__(self) -> int:
        return len(self.ends)

    def of(self, i: int) -> Buckets:
        """The buckets of text `i`."""
        return self.flat[self.ends[i - 1] if i else 0 : self.ends[i]]

    def batch(self, chosen: Integers) -> list[Buckets]:
        """The buckets of some texts."""
        return [self.of(int(i)) for i in chosen]


@contextmanager
def hashed(texts: Iterable[str], config: NgramConfig, file: Path, total: int = 0) -> Iterator[FeatureFile]:
    """The features of texts, in `file` for as long as the block lasts."""
    lengths: list[int] = []
    waiting: list[str] = []
    with file.open("wb") as out, Progress("hashing", total, "texts") as progress:

        def write() -> None:
            for found in features(waiting, config):
                out.write(found.tobytes())
                lengths.append(len(found))
            progress.advance(len(waiting))
            waiting.clear()

        for text in texts:
            waiting.append(text)
            if len(waiting) == 256:
                write()
        write()
    ends = np.cumsum(lengths, dtype=np.int64)
    flat = np.memmap(file, np.uint32, "r") if len(ends) and ends[-1] else np.empty(0, np.uint32)
    try:
        yield FeatureFile(flat, ends)
    finally:
        del flat
        file.unlink(missing_ok=True)


def probabilities(logits: Floats) -> Floats:
    """Of each column of logits: a sigmoid where there is one, else a softmax."""
    return sigmoid(logits) if logits.shape[1] == 1 else softmax(logits)


def targets(labels: Integers, n_columns: int) -> Floats:
    """What probabilities should be."""
    return (labels[:, None] == (1 if n_columns == 1 else np.arange(n_columns)[None, :])).astype(np.float64)


def dense_gradient(found: Sequence[Buckets], errors: Floats, n_buckets: int) -> Floats:
    """The gradient of the weights, one text at a time: the slow twin of `sparse_gradient`."""
    gradient = np.zeros((n_buckets, errors.shape[1]))
    for buckets, error in zip(found, errors, strict=True):
        gradient[buckets] += error / max(len(buckets), 1) ** 0.5
    return gradient


def sparse_gradient(found: Sequence[Buckets], errors: Floats, n_buckets: int) -> tuple[Integers, Floats]:
    """The buckets of a batch, each once, and the gradient of their weights; nothing is sorted."""
    lengths = np.array([len(buckets) for buckets in found])
    flat = np.concatenate(found)
    is_touched = np.zeros(n_buckets, bool)
    is_touched[flat] = True
    touched = np.flatnonzero(is_touched)
    place = np.empty(n_buckets, np.int32)
    place[touched] = np.arange(len(touched), dtype=np.int32)
    inverse = place[flat]
    shares = errors / np.sqrt(np.maximum(lengths, 1))[:, None]
    columns = [np.bincount(inverse, np.repeat(shares[:, k], lengths), len(touched)) for k in range(errors.shape[1])]
    return touched, np.stack(columns, axis=1)


def log_loss(weights: npt.NDArray[np.float32], bias: Floats, data: FeatureFile, labels: Integers, chosen: Integers) -> float:
    """Mean loss in nats of some texts, each label weighing alike."""
    total, weight = 0.0, np.zeros(int(labels.max()) + 1)
    np.add.at(weight, labels[chosen], 1.0)
    for i in range(0, len(chosen), 256):
        part = chosen[i : i + 256]
        p = probabilities(sums(weights, bias, data.batch(part)))
        right = np.where(labels[part] == 1, p[:, 0], 1 - p[:, 0]) if p.shape[1] == 1 else p[np.arange(len(part)), labels[part]]
        total += float((-np.log(np.maximum(right, 1e-12)) / weight[labels[part]]).sum())
    return total / int((weight > 0).sum())


def fit(
    data: FeatureFile,
    labels: Integers,
    n_labels: int,
    n_buckets: int,
    training: Integers,
    watched: Integers,
    config: LinearTraining,
    seed: int,
    log: Callable[[int, float], None] = lambda epoch, loss: None,
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Weights and bias of the epoch after which the loss on the texts `watched` is least (the last, where none is watched)."""
    n_columns = 1 if n_labels == 2 else n_labels
    weights = np.zeros((n_buckets, n_columns), np.float32)
    squares = np.full((n_buckets, n_columns), FIRST_SQUARE, np.float32)
    bias, bias_squares = np.zeros(n_columns), np.full(n_columns, FIRST_SQUARE)
    counts = np.bincount(labels[training], minlength=n_labels)
    share = np.where(counts > 0, len(training) / (np.maximum(counts, 1) * max(int((counts > 0).sum()), 1)), 0.0)
    best_epoch = 0
    best: tuple[float, npt.NDArray[np.float32], Floats] | None = None
    with Progress("training", config.epochs * len(training), "texts") as progress:
        for epoch in range(config.epochs):
            order = np.random.default_rng(derive_seed(seed, "epoch", epoch)).permutation(training)
            for i in range(0, len(order), config.batch_texts):
                chosen = order[i : i + config.batch_texts]
                found = data.batch(chosen)
                errors = probabilities(sums(weights, bias, found)) - targets(labels[chosen], n_columns)
                if config.balance:
                    errors *= share[labels[chosen]][:, None]
                errors /= len(chosen)
                touched, gradient = sparse_gradient(found, errors, n_buckets)
                own = weights[touched]
                gradient += config.l2 / len(training) * own
                squares[touched] += gradient**2
                weights[touched] = own - config.learning_rate * gradient / np.sqrt(squares[touched])
                of_bias = errors.sum(axis=0)
                bias_squares += of_bias**2
                bias -= config.learning_rate * of_bias / np.sqrt(bias_squares)
                progress.advance(len(chosen))
            if len(watched):
                loss = log_loss(weights, bias, data, labels, watched)
                log(epoch, loss)
                if best is None or loss < best[0]:
                    best, best_epoch = (loss, weights.copy(), bias.copy()), epoch
                elif epoch - best_epoch >= config.patience:
                    break
    return (weights, bias) if best is None else best[1:]

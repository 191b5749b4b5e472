"""Any trained classifier: opening it, whatever its kind, and the probability of one label (paper 3.1.1)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from openherd.core.errors import InputError
from openherd.core.rundir import Outside, Run
from openherd.data import linear_model

Floats = npt.NDArray[np.float64]

MODEL = "model"  # the folder of a run that holds the classifier
# Pairs of labels that tell by themselves which one is wanted: the second. The last is that of DCLM's fastText model.
KNOWN_PAIRS = (
    ("random", "reference"), ("no", "yes"), ("0", "1"), ("false", "true"), ("bad", "good"), ("low", "high"),
    ("negative", "positive"), ("cc", "hq"),
)  # fmt: skip


class Classifier(Protocol):
    """What scores texts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels' names."""

    def score(self, texts: Sequence[str]) -> Floats:
        """Of two labels the probability of the second, shape (n,); of more that of each, shape (n, labels)."""


def load(place: Path) -> Classifier:
    """The classifier in a folder (linear, or a Transformer) or a fastText file. Raises InputError."""
    if place.suffix in linear_model.FASTTEXT_ENDINGS:
        return linear_model.load(place)
    try:
        config: dict[str, Any] = json.loads((place / linear_model.CONFIG).read_text(encoding="utf-8"))
        is_transformer = "architectures" in config
    except (OSError, ValueError, TypeError):
        is_transformer = False  # the reader of linear ones says what is wrong
    if is_transformer:
        from openherd.data.transformer_model import TransformerModel  # it brings torch

        return TransformerModel.load(place)
    return linear_model.load(place)


def place_of(source: Run | Outside) -> Path:
    """Where a run's classifier lies, or a user's."""
    if isinstance(source, Run):
        return source.file(f"{MODEL}/{linear_model.CONFIG}").parent
    return Path(source.location).expanduser()


def wanted_of(labels: Iterable[str]) -> str | None:
    """Of two labels the one that is wanted, where they tell by themselves."""
    by_name = {label.strip().casefold(): label for label in labels}
    return next((by_name[second] for first, second in KNOWN_PAIRS if by_name.keys() == {first, second}), None)


def checked_label(classifier: Classifier, label: str, where: object) -> str:
    """The label asked for; without one the second of two, which training put there, and of a fastText model's two the known one.

    Raises InputError.
    """
    if not label and len(classifier.labels) == 2:
        is_ours = not isinstance(classifier, linear_model.FastTextModel)
        label = classifier.labels[1] if is_ours else wanted_of(classifier.labels) or ""
    if label not in classifier.labels:
        raise InputError(where, f"no label {label!r}" if label else "no label chosen", allowed=", ".join(classifier.labels))
    return label


def probability_of(classifier: Classifier, texts: Sequence[str], label: str) -> Floats:
    """The probability of one of the classifier's labels, shape (n,)."""
    scores = classifier.score(texts)
    if scores.ndim == 1:
        return scores if label == classifier.labels[1] else 1 - scores
    return scores[:, classifier.labels.index(label)]


def with_columns(batch: pa.RecordBatch, columns: Mapping[str, pa.Array]) -> pa.RecordBatch:
    """The batch with more columns; one of a name that it has takes its place."""
    for name, values in columns.items():
        if name in batch.schema.names:
            batch = batch.set_column(batch.schema.get_field_index(name), name, values)
        else:
            batch = batch.append_column(name, values)
    return batch


def scores_column(classifier: Classifier, label: str, batch: pa.RecordBatch) -> pa.Array:
    """The probability of a label for each text of a batch, in the 32 bits that stay with the document and decide."""
    return pa.array(probability_of(classifier, batch.column("text").to_pylist(), label).astype(np.float32))

"""The stage that trains a fast linear classifier (paper 3.1.1): quality, toxicity, adult pages, code, mathematics, domains.

What it learns is what it is given: reference documents against random ones (the paper's "would Wikipedia cite this?"), labels of a
language model, or a user's file. It writes `model/`, which `data/` applies, and how it does on held-out texts.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from openherd.classifiers.evaluate import EVALUATION, MODEL, SCORES, evaluation, heldout_rows, summary, write_evaluation
from openherd.classifiers.examples import CALIBRATE, TEST, TRAIN, SplitConfig, divided, origin_of, read_examples, scale_of
from openherd.classifiers.linear import LinearTraining, fit, hashed
from openherd.core.records import write_jsonl
from openherd.core.rundir import Output, Outside, Run
from openherd.data.calibration import Kind, fit_calibration
from openherd.data.linear_model import LinearModel, sums
from openherd.data.ngram_features import NgramConfig


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig:
    """Settings of `train-classifier`; the paper names fastText and no setting of it, all are ours."""

    ngrams: Annotated[NgramConfig, Field(description="which n-grams of words and characters")] = field(default_factory=NgramConfig)
    training: Annotated[LinearTraining, Field(description="how the weights are learnt")] = field(default_factory=LinearTraining)
    split: Annotated[SplitConfig, Field(description="shares of texts that calibrate and that are held out")] = field(
        default_factory=SplitConfig
    )
    calibration: Annotated[Kind, Field(description="of the scores: none, temperature or isotonic (of two labels)")] = "temperature"
    positive: Annotated[
        str, Field(description="of two labels the one that scores high; empty: the language model's last, or of a known pair")
    ] = ""
    most_texts: Annotated[int, Field(description="largest number of texts per label, drawn by seed; 0 = all", ge=0)] = 0
    seed: Annotated[int, Field(description="seed of the split and of the order of training")] = 0


def train_classifier(
    config: TrainClassifierConfig,
    *,
    positives: Run | None = None,
    negatives: Run | None = None,
    labels: Run | Outside | None = None,
    out: Output,
) -> dict[str, Any]:
    """Train on `positives` against `negatives`, or on `labels`; measure on held-out texts."""
    rows: list[tuple[str, str, str]] = []

    def texts() -> Any:
        for example in read_examples(positives, negatives, labels, config.most_texts, config.seed):
            rows.append((example.id, example.label, example.language))
            yield example.text

    where = origin_of(positives, negatives, labels)
    with hashed(texts(), config.ngrams, out.path / ".features.tmp") as data:
        labelled = divided(rows, config.split, config.positive, config.seed, where, scale_of(labels))
        training, watched, test = (labelled.of(part) for part in (TRAIN, CALIBRATE, TEST))

        def log(epoch: int, loss: float) -> None:
            out.log(epoch=epoch, calibration_loss_nats=loss)

        weights, bias = fit(
            data, labelled.labels, len(labelled.names), 1 << config.ngrams.bucket_bits, training, watched, config.training,
            config.seed, log,
        )  # fmt: skip
        calibration = fit_calibration(config.calibration, sums(weights, bias, data.batch(watched)), labelled.labels[watched])
        scores = calibration.probabilities(sums(weights, bias, data.batch(test)))
    model = LinearModel(labelled.names, config.ngrams, weights, bias, calibration)
    found = evaluation(scores, labelled)
    with out.write(MODEL) as folder:
        model.save(folder)
    with out.write(EVALUATION) as path:
        write_evaluation(found, path)
    with out.write(SCORES) as path:
        write_jsonl(path, heldout_rows(scores, labelled))
    return {**summary(found, labelled), "weights_not_zero": int(np.count_nonzero(weights))}

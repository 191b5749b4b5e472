"""What a trained classifier is worth on texts that it never saw: the same for every kind of model (the paper publishes none)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from openherd.classifiers.examples import TEST, Labelled
from openherd.classifiers.measures import binary, several
from openherd.data.calibration import Floats

MODEL = "model"  # the folder of a run that holds the classifier
EVALUATION = "evaluation.json"
SCORES = "heldout_scores.jsonl"
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
BINS = 40
LEAST_OF_LANGUAGE = 20  # texts, of which a language has a row of its own


def histogram(scores: Floats, labelled: Labelled, chosen: np.ndarray) -> dict[str, list[int]]:
    """Texts by score, for each of two labels."""
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    of = labelled.labels[chosen]
    return {name: np.bincount(place[of == i], minlength=BINS).tolist() for i, name in enumerate(labelled.names)}


def evaluation(scores: Floats, labelled: Labelled) -> dict[str, Any]:
    """All measures of the held-out texts, whose scores these are."""
    chosen = labelled.of(TEST)
    of = labelled.labels[chosen]
    languages = np.array([labelled.languages[i] for i in chosen])
    if scores.ndim > 1:
        return several(scores, of, labelled.names)
    found = binary(scores, of == 1, THRESHOLDS) | {"histogram": histogram(scores, labelled, chosen)}
    by_language = {}
    for language in sorted(set(languages.tolist()) - {""}):
        mine = languages == language
        if mine.sum() >= LEAST_OF_LANGUAGE:
            part = binary(scores[mine], of[mine] == 1, ())
            by_language[language] = {
                key: part[key] for key in ("texts", "positive", "auc", "accuracy_at_half", "calibration_error")
            }
    return found | {"by_language": by_language}


def summary(found: dict[str, Any], labelled: Labelled) -> dict[str, Any]:
    """The metrics of a stage that trained a classifier."""
    counts = np.bincount(labelled.labels, minlength=len(labelled.names))
    keys = ("auc", "accuracy", "accuracy_at_half", "log_loss_nats", "calibration_error")
    return {
        "labels": list(labelled.names),
        "texts": len(labelled.labels),
        "texts_by_label": {name: int(n) for name, n in zip(labelled.names, counts, strict=True)},
        "heldout_texts": found["texts"],
        **{f"heldout_{key}": found[key] for key in keys if found.get(key) is not None},
        **({"heldout_auc_by_language": {k: v["auc"] for k, v in found["by_language"].items()}} if found.get("by_language") else {}),
    }


def write_evaluation(found: dict[str, Any], path: Path) -> None:
    """Write `evaluation.json`."""
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def heldout_rows(scores: Floats, labelled: Labelled) -> list[dict[str, Any]]:
    """The held-out texts' ids, labels and scores, so that any other measure can be worked out."""
    rows = []
    for place, score in zip(labelled.of(TEST), scores, strict=True):
        value = [round(float(s), 6) for s in score] if scores.ndim > 1 else round(float(score), 6)
        rows.append({"id": labelled.ids[place], "label": labelled.names[labelled.labels[place]], "score": value})
    return rows

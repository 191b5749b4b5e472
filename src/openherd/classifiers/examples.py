"""Texts with labels to train a classifier on (paper 3.1.1): from runs of documents, from a language model's labels, or from a file.

- reference against random: the documents of `positives` are one label, those of `negatives` the other. The paper's fastText model
  tells whether Wikipedia would cite a text: its positives are pages that Wikipedia refers to, its negatives random pages.
- `labels`: what `label-documents` wrote, or a user's file, JSON Lines or CSV with columns `text`, `label` and perhaps
  `language`.

Which texts are trained on, calibrated on and held out is a hash of seed and id, so that it does not depend on order; equal texts
have one id and so never stand on both sides.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import fsspec
import numpy as np
import numpy.typing as npt
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.records import read_jsonl
from openherd.core.rundir import Outside, Run
from openherd.core.seeds import uniform
from openherd.data.classifier import wanted_of
from openherd.data.documents import check_content, read_documents

Integers = npt.NDArray[np.int64]

LABELS = "labels.jsonl"
NEGATIVE, POSITIVE = "random", "reference"
MOST_LABELS = 1_000  # a column of numbers or texts is no column of labels
TRAIN, CALIBRATE, TEST = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How labelled texts are divided; ours."""

    calibration_share: Annotated[float, Field(description="share of texts that calibrate, and choose the epoch", ge=0, lt=0.5)] = (
        0.1
    )
    heldout_share: Annotated[float, Field(description="share of texts that are held out and measured on", gt=0, lt=0.5)] = 0.2


@dataclass(frozen=True)
class Example:
    """A text with its label."""

    id: str
    text: str
    label: str
    language: str = ""


def text_id(text: str) -> str:
    """32 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def origin_of(positives: Run | None, negatives: Run | None, labels: Run | Outside | None) -> object:
    """Where the labelled texts come from, for errors. Raises InputError where the inputs are neither a pair of runs nor labels."""
    given = labels or positives
    if given is None or (positives is None) != (negatives is None) or (positives is not None and labels is not None):
        raise InputError("classifier", "no pair of inputs", allowed="positives and negatives, or labels alone")
    return given.location if isinstance(given, Outside) else given.path


def read_examples(
    positives: Run | None, negatives: Run | None, labels: Run | Outside | None, most_texts: int, seed: int
) -> Iterator[Example]:
    """All labelled texts of the inputs, in order; of each label at most `most_texts` (0 = all), drawn by id. Raises InputError."""
    origin_of(positives, negatives, labels)

    def found() -> Iterator[Example]:
        if labels is not None:
            return of_run(labels) if isinstance(labels, Run) else of_files(labels)
        assert positives is not None
        assert negatives is not None
        return of_documents(positives, negatives)

    if not most_texts:
        return found()
    drawn: dict[str, list[tuple[float, str]]] = {}
    for example in found():
        drawn.setdefault(example.label, []).append((uniform(seed, "examples", example.id), example.id))
    chosen = {(label, id_) for label, of_label in drawn.items() for _, id_ in sorted(of_label)[:most_texts]}
    return (example for example in found() if (example.label, example.id) in chosen)


def of_documents(positives: Run, negatives: Run) -> Iterator[Example]:
    """Reference against random."""
    for run, label in ((negatives, NEGATIVE), (positives, POSITIVE)):
        check_content(run)
        for row in read_documents(run):
            yield Example(text_id(row["text"]), row["text"], label, row.get("language") or "")


def of_run(labels: Run) -> Iterator[Example]:
    """What a language model labelled."""
    for row in read_jsonl(labels.file(LABELS)):
        yield Example(text_id(row["text"]), row["text"], str(row["label"]), row.get("language") or "")


def of_files(labels: Outside) -> Iterator[Example]:
    """A user's files. Raises InputError that names the file and line."""
    for name in labels.files():
        try:
            with fsspec.open(name, "rt", encoding="utf-8-sig", newline="") as file:
                rows = _csv_rows(name, file) if name.lower().endswith((".csv", ".tsv")) else _json_rows(name, file)
                for number, row in rows:
                    text, label = row.get("text"), row.get("label")
                    if not isinstance(text, str) or label is None or label == "" or isinstance(label, (dict, list)):
                        allowed = 'a text in "text" and a label in "label"'
                        raise InputError(f"{name}, line {number}", f"columns {', '.join(map(str, row))}", allowed=allowed)
                    if isinstance(label, float) and label.is_integer():
                        label = int(label)
                    yield Example(text_id(text), text, str(label), str(row.get("language") or ""))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(name, f"cannot be read ({error})", allowed="JSON Lines or CSV in UTF-8") from None


def _json_rows(name: str, file: io.TextIOBase) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{name}, line {number}", f"not valid JSON ({error.msg})", do="mend or remove the line") from None
            if not isinstance(row, dict):
                raise InputError(f"{name}, line {number}", "no object", allowed='{"text": ..., "label": ...}')
            yield number, row


def _csv_rows(name: str, file: io.TextIOBase) -> Iterator[tuple[int, dict[str, Any]]]:
    table = csv.DictReader(file, delimiter="\t" if name.lower().endswith(".tsv") else ",")
    try:
        for row in table:
            yield table.line_num, {key: value for key, value in row.items() if key is not None}
    except csv.Error as error:
        raise InputError(f"{name}, line {table.line_num}", f"no CSV ({error})") from None


@dataclass(frozen=True)
class Labelled:
    """All that is known of the texts but the texts."""

    ids: list[str]
    labels: Integers
    names: tuple[str, ...]  # of the labels, sorted; of two the positive one second
    languages: list[str]
    parts: npt.NDArray[np.int8]  # TRAIN, CALIBRATE or TEST

    def of(self, part: int) -> Integers:
        """The places of one part."""
        return np.flatnonzero(self.parts == part)


def scale_of(labels: Run | Outside | None) -> tuple[str, ...]:
    """The labels that a language model could give, the good one last; nothing of files, which do not tell."""
    return tuple(labels.metrics.get("documents_by_label", ())) if isinstance(labels, Run) else ()


def ordered(names: set[str], positive: str, scale: Sequence[str], where: object) -> tuple[str, ...]:
    """Labels by name; of two the positive one stands second: the one asked for, else the later of the scale, else the known one.

    Raises InputError where nothing tells which it is.
    """
    found = sorted(names)
    if positive and positive not in names:
        raise InputError("classifier", f"no text has the label {positive!r}", allowed=", ".join(found[:20]))
    if not positive and len(names) == 2:
        on_scale = [label for label in scale if label in names]
        positive = (on_scale[-1] if on_scale else wanted_of(names)) or ""
        if not positive:
            told = f"two labels, {found[0]!r} and {found[1]!r}, and nothing says which is to score high"
            raise InputError(where, told, do=f"say it, for instance positive = {found[1]!r}")
    return (*(name for name in found if name != positive), *([positive] if positive else []))


def divided(
    rows: list[tuple[str, str, str]], config: SplitConfig, positive: str, seed: int, where: object, scale: Sequence[str] = ()
) -> Labelled:
    """(id, label, language) of all texts, divided by id. Raises InputError where a label is missing from a part that needs it."""
    names = ordered({label for _, label, _ in rows}, positive, scale, where) if rows else ()
    if not 2 <= len(names) <= MOST_LABELS:
        found = f"{len(names)} different labels in {len(rows)} texts"
        raise InputError(where, found, allowed=f"2 to {MOST_LABELS} labels")
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[label] for _, label, _ in rows], np.int64)
    drawn = np.array([uniform(seed, "split", id_) for id_, _, _ in rows])
    test, calibrate = config.heldout_share, config.heldout_share + config.calibration_share
    parts = np.where(drawn < test, TEST, np.where(drawn < calibrate, CALIBRATE, TRAIN)).astype(np.int8)
    for part, what in ((TRAIN, "to train on"), (TEST, "held out")):
        missing = sorted(set(range(len(names))) - set(labels[parts == part].tolist()))
        if missing and (part == TRAIN or len(names) == 2):
            raise InputError(where, f"no text {what} has the label {names[missing[0]]!r}", do="give more texts, or another seed")
    return Labelled([id_ for id_, _, _ in rows], labels, names, [language for _, _, language in rows], parts)

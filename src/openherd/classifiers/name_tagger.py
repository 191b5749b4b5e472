"""Training the tagger of names that data/name_tagger.py applies (paper 3.1.1): logistic regression over hashed features.

Examples are texts with the spans of their names. Of every second example the words themselves are hidden, so that the neighbours
are learned and not the list of names alone. AdaGrad on examples in a seeded order; then weights in 255 steps. The paper has no
tagger.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.progress import track
from openherd.core.records import read_jsonl
from openherd.core.rundir import Output, Outside
from openherd.core.seeds import derive_seed
from openherd.data.name_tagger import PARTICLES, NameTagger, bucket, features, is_candidate, tokens_of

Example = tuple[str, Sequence[tuple[int, int]]]  # a text and (start, end) of its names


@dataclass(frozen=True, kw_only=True)
class NameTaggerConfig:
    """Settings of `name-tagger`; ours, since the paper has none."""

    bits: Annotated[int, Field(description="log2 of the number of weights", ge=10, le=24)] = 18
    epochs: Annotated[int, Field(description="times that every example is seen", ge=1)] = 3
    learning_rate: Annotated[float, Field(description="of AdaGrad", gt=0)] = 0.2
    weight_decay: Annotated[float, Field(description="pull of a weight to zero at each of its steps", ge=0)] = 1e-5
    hidden_share: Annotated[
        float, Field(description="share of words that are hidden, so that neighbours are learned", ge=0, le=1)
    ] = 0.15
    held_out_share: Annotated[float, Field(description="share of examples that the score is taken on", gt=0, lt=1)] = 0.1
    seed: Annotated[int, Field(description="seed of the order and of what is hidden")] = 0


WORD_FEATURES = ("w=", "e3=", "e2=", "b3=")


def rows_of(example: Example, bits: int, hide: random.Random | None, hidden_share: float) -> Iterator[tuple[list[int], int]]:
    """(buckets, whether it is of a name) of each candidate of an example."""
    text, spans = example
    tokens = tokens_of(text)
    was_name = -9
    for place, token in enumerate(tokens):
        if not is_candidate(token):
            continue
        label = any(start <= token.start and token.start < end for start, end in spans)
        is_after = was_name == place - 1 or (was_name == place - 2 and tokens[place - 1].text.lower() in PARTICLES)
        is_hidden = hide is not None and hide.random() < hidden_share
        found = features(tokens, place, is_after)
        yield [bucket(f, bits) for f in found if not (is_hidden and f.startswith(WORD_FEATURES))], int(label)
        if label:
            was_name = place


def train(examples: Sequence[Example], config: NameTaggerConfig) -> NameTagger:
    """A tagger of these examples."""
    weights = np.zeros(1 << config.bits)
    squares = np.full(1 << config.bits, 1e-8)
    order = random.Random(derive_seed(config.seed, "names"))
    numbers = list(range(len(examples)))
    for epoch in range(config.epochs):
        order.shuffle(numbers)
        for number in track(numbers, f"names, epoch {epoch + 1}", "examples", len(numbers)):
            for buckets, label in rows_of(examples[number], config.bits, order, config.hidden_share):
                values = weights[buckets]
                error = 1 / (1 + np.exp(-np.clip(values.sum(), -30, 30))) - label
                if abs(error) < 1e-3:
                    continue
                step = error + config.weight_decay * values
                squares[buckets] += step * step
                weights[buckets] = values - config.learning_rate * step / np.sqrt(squares[buckets])
    scale = float(np.abs(weights).max() / 127) or 1.0
    return NameTagger(np.round(weights / scale).astype(np.int8), scale, config.bits)


def scores(tagger: NameTagger, examples: Iterable[Example], threshold: float = 0.5) -> dict[str, float]:
    """Recall and precision of names: found where any character is shared, and strictly, where both ends are right."""
    n_given = n_found = n_met = n_right = n_strict = 0
    for text, spans in examples:
        found = list(tagger.find(text, threshold))
        n_given += len(spans)
        n_found += len(found)
        n_met += sum(any(s < end and start < e for s, e in found) for start, end in spans)
        n_right += sum(any(s < end and start < e for s, e in spans) for start, end in found)
        n_strict += len(set(found) & {(int(start), int(end)) for start, end in spans})
    return {
        "recall": n_met / max(n_given, 1),
        "precision": n_right / max(n_found, 1),
        "strict_recall": n_strict / max(n_given, 1),
        "strict_precision": n_strict / max(n_found, 1),
        "names": n_given,
    }


def read_examples(given: Outside) -> list[Example]:
    """Texts with the spans of names, from JSON Lines. Raises InputError that names the line of a wrong one."""
    from pathlib import Path

    examples: list[Example] = []
    for file in given.files("*.jsonl"):
        for number, row in enumerate(read_jsonl(Path(file)), 1):
            try:
                text, spans = row["text"], [(int(start), int(end)) for start, end in row["names"]]
            except (KeyError, TypeError, ValueError):
                raise InputError(
                    f"{file}, row {number}", "no example", allowed='{"text": ..., "names": [[start, end], ...]}'
                ) from None
            if any(not 0 <= start < end <= len(text) for start, end in spans):
                raise InputError(f"{file}, row {number}", f"a name outside the text: {spans}", allowed=f"0 to {len(text)}")
            examples.append((text, spans))
    return examples


def name_tagger(config: NameTaggerConfig, *, labelled: Outside, out: Output) -> dict[str, Any]:
    """Train a tagger of names on examples of one's own (JSON Lines: `text`, `names`). Returns its score on some held out."""
    examples = read_examples(labelled)
    random.Random(derive_seed(config.seed, "held-out")).shuffle(examples)
    n_held_out = max(1, round(len(examples) * config.held_out_share))
    if len(examples) <= n_held_out:
        raise InputError(labelled.location, f"{len(examples)} examples", allowed="two or more")
    tagger = train(examples[n_held_out:], config)
    with out.write("model") as folder:
        tagger.save(folder)
    return {"examples": len(examples) - n_held_out} | scores(tagger, examples[:n_held_out])

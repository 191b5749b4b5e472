"""The stage that trains a small Transformer classifier (paper 3.1.1: DistilRoBERTa on a language model's labels).

It is our own decoder on the project's training loop: the label stands at a text's last token, and the first rows of the output
projection, as many as there are labels, are the classifier's. Texts are packed into rows, each seeing itself alone. It begins with
random weights and a tokenizer, or with a language model of ours (`base`), whose trunk has read already; the paper's is
bidirectional and pre-trained.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from openherd.classifiers.evaluate import EVALUATION, MODEL, SCORES, evaluation, heldout_rows, summary, write_evaluation
from openherd.classifiers.examples import CALIBRATE, TEST, TRAIN, Labelled, SplitConfig, divided, origin_of, read_examples, scale_of
from openherd.core.config import nearest
from openherd.core.errors import ConfigError, InputError
from openherd.core.records import write_jsonl
from openherd.core.rundir import Output, Outside, Run
from openherd.core.seeds import derive_seed
from openherd.data.batches import IGNORED, permute
from openherd.data.calibration import Calibration, Kind, fit_calibration
from openherd.data.transformer_model import TransformerModel, encode, trunk_of
from openherd.model.config import SIZES, ModelConfig
from openherd.model.flops import parameters
from openherd.model.init import initial_weights
from openherd.parallel.apply import Sharded
from openherd.parallel.layout import check_layout
from openherd.parallel.stage import Batch
from openherd.parallel.tensor import Head
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.training.cross_entropy import cross_entropy_sum
from openherd.training.goodput import close
from openherd.training.loop import train
from openherd.training.objective import NextToken
from openherd.training.phase import Base, Piece
from openherd.training.schedule import warmup_cosine
from openherd.training.settings import TrainingConfig, open_world

NAME = "train-transformer"
HEAD = "head.weight"
FILLING = -1  # the document that fills a row up


@dataclass(frozen=True, kw_only=True)
class TrainTransformerConfig(TrainingConfig):
    """Settings of `train-transformer`; the paper names DistilRoBERTa and no setting, all are ours."""

    size: Annotated[str, Field(description="a model size, without a base: see 'openherd model list'")] = "herd-12m"
    text_tokens: Annotated[int, Field(description="tokens of a text that are read, its first; DistilRoBERTa's", ge=2)] = 512
    batch_tokens: Annotated[int, Field(description="tokens per step, filling included", ge=1)] = 16_384
    epochs: Annotated[int, Field(description="times that each text is seen", ge=1)] = 3
    learning_rate: Annotated[float, Field(description="peak", gt=0)] = 3e-4
    warmup_share: Annotated[float, Field(description="share of the steps that warm up", ge=0, lt=1)] = 0.1
    split: Annotated[SplitConfig, Field(description="shares of texts that calibrate and that are held out")] = field(
        default_factory=SplitConfig
    )
    calibration: Annotated[Kind, Field(description="of scores: none, temperature, or isotonic (of two labels)")] = "temperature"
    positive: Annotated[
        str, Field(description="of two labels the one that scores high; empty: the language model's last, or of a known pair")
    ] = ""
    most_texts: Annotated[int, Field(description="largest number of texts per label, drawn by seed; 0 = all", ge=0)] = 0

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ConfigError(NAME, f"unknown size {self.size!r}", do=nearest(self.size, SIZES))
        if self.batch_tokens % self.text_tokens:
            found = f"batch_tokens = {self.batch_tokens}"
            raise ConfigError(NAME, found, allowed=f"a multiple of text_tokens = {self.text_tokens}")
        if self.parallel.tp > 1:
            raise ConfigError(NAME, f"tp = {self.parallel.tp}", allowed="1: the labels' rows stay together")

    def pieces(self) -> list[Piece]:
        """The shape of a step; how many there are the texts say."""
        dp = self.parallel.dp
        return [Piece(self.text_tokens, -(-self.batch_tokens // self.text_tokens // dp) * dp, 0)]


class Classify(NextToken):
    """Cross-entropy of a text's label at its last token, in nats, under the first rows of the output projection."""

    def __init__(self, n_labels: int) -> None:
        self.n_labels = n_labels

    def losses(self, hidden_BTD: Tensor, head: Head, batch: Batch) -> dict[str, Tensor]:
        """Sum over texts."""
        labelled = batch["labels_BT"] != IGNORED
        rows_LD = head.weight_VD[: self.n_labels]
        return {"loss_nats": cross_entropy_sum(hidden_BTD[labelled], rows_LD, batch["labels_BT"][labelled])}


def packed(lengths: Sequence[int], order: Sequence[int], row_tokens: int) -> list[list[int]]:
    """Texts in `order`, as many to a row as fit."""
    rows: list[list[int]] = []
    room = 0
    for i in order:
        if lengths[i] > room:
            rows.append([])
            room = row_tokens
        rows[-1].append(i)
        room -= lengths[i]
    return rows


def row_of(texts: Sequence[Sequence[int]], labels: Sequence[int], row_tokens: int, filling: int) -> dict[str, list[int]]:
    """Packed texts as one row of tokens, labels (at each text's last token), positions and document numbers."""
    row: dict[str, list[int]] = {"tokens_BT": [], "labels_BT": [], "positions_BT": [], "documents_BT": []}
    for number, (ids, label) in enumerate(zip(texts, labels, strict=True)):
        row["tokens_BT"] += ids
        row["labels_BT"] += [IGNORED] * (len(ids) - 1) + [label]
        row["positions_BT"] += range(len(ids))
        row["documents_BT"] += [number] * len(ids)
    n = row_tokens - len(row["tokens_BT"])
    for name, value in (("tokens_BT", filling), ("labels_BT", IGNORED), ("positions_BT", 0), ("documents_BT", FILLING)):
        row[name] += [value] * n
    return row


def steps_of(lengths: Sequence[int], config: TrainTransformerConfig) -> list[list[list[int]]]:
    """The texts of each row of each step: every epoch visits all in another seeded order."""
    per_step = config.pieces()[0].batch_sequences
    steps: list[list[list[int]]] = []
    for epoch in range(config.epochs):
        key = derive_seed(config.seed, "classifier", epoch)
        rows = packed(lengths, [permute(i, len(lengths), key) for i in range(len(lengths))], config.text_tokens)
        rows += [[] for _ in range(-len(rows) % per_step)]
        steps += [rows[i : i + per_step] for i in range(0, len(rows), per_step)]
    return steps


def begin(config: TrainTransformerConfig, base: Run | None, tokenizer: Run | None, out: Output) -> tuple[Sharded, Tokenizer]:
    """The model before training, with an output projection of its own, whose rows are zero. Raises InputError."""
    if (base is None) == (tokenizer is None):
        raise InputError(NAME, "no beginning", allowed="a base, or a tokenizer, not both")
    rows = [config.pieces()[0].rows]
    if base is not None:
        before = Base.open(base, config, out)
        world, precision, words = before.world, before.precision, before.tokenizer
        shape, read = before.shape, before.tensors.__getitem__
    else:
        assert tokenizer is not None
        words = Tokenizer.load(tokenizer.file("tokenizer/tokenizer.json").parent)
        world, precision = open_world(config, out)
        shape = replace(SIZES[config.size], vocabulary=words.vocabulary, rope_scaling=None, max_positions=config.text_tokens)
        read = initial_weights(replace(shape, tied_embeddings=False), config.seed)
    shape = replace(shape, tied_embeddings=False)
    if config.text_tokens > shape.max_positions:
        raise InputError(NAME, f"text_tokens = {config.text_tokens}", allowed=f"at most {shape.max_positions}")
    check_layout(NAME, world.layout, shape, rows, config.micro_batch_sequences)
    model = Sharded(shape, world, precision, config.float8)
    model.fill(lambda name: torch.zeros(shape.vocabulary, shape.d_model) if name == HEAD else read(name))
    return model, words


def taken(model: Sharded, shape: ModelConfig, words: Tokenizer, labelled: Labelled, text_tokens: int) -> TransformerModel:
    """The classifier as it scores, on the processor; every process takes part."""
    tensors = {name: model.whole(name) for name in model.names()}
    rows_LD = tensors.pop(HEAD)[: len(labelled.names)].clone()
    trunk = trunk_of(shape)
    trunk.load_state_dict(tensors, assign=True)
    return TransformerModel(labelled.names, trunk.eval(), rows_LD, words, text_tokens, Calibration())


def train_transformer(
    config: TrainTransformerConfig,
    *,
    positives: Run | None = None,
    negatives: Run | None = None,
    labels: Run | Outside | None = None,
    base: Run | None = None,
    tokenizer: Run | None = None,
    out: Output,
) -> dict[str, Any]:
    """Train on `positives` against `negatives`, or on `labels`, from `base` or from a `tokenizer`; measure on held-out texts."""
    model, words = begin(config, base, tokenizer, out)
    examples = list(read_examples(positives, negatives, labels, config.most_texts, config.seed))
    where = origin_of(positives, negatives, labels)
    rows = [(e.id, e.label, e.language) for e in examples]
    labelled = divided(rows, config.split, config.positive, config.seed, where, scale_of(labels))
    chosen = labelled.of(TRAIN).tolist()
    encoded = encode(words, [examples[i].text for i in chosen], config.text_tokens)
    of_texts = labelled.labels[chosen].tolist()
    steps = steps_of([len(ids) for ids in encoded], config)

    def part(step: int, place: int, n: int) -> Batch:
        each = len(steps[step]) // n
        rows = [
            row_of([encoded[i] for i in row], [of_texts[i] for i in row], config.text_tokens, words.eos_id)
            for row in steps[step][place * each : (place + 1) * each]
        ]
        return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}

    n, peak = len(steps), config.learning_rate
    warmup_steps = math.ceil(config.warmup_share * n)
    rate = partial(warmup_cosine, peak=peak, floor=0.0, warmup_steps=warmup_steps, decay_steps=n)
    metrics = train(model, Classify(len(labelled.names)), part, rate, n, config, out, what=NAME)
    if not out.leads:
        for name in model.names():
            model.whole(name)
        return {}
    made = taken(model, model.shape, words, labelled, config.text_tokens)
    watched = labelled.of(CALIBRATE)
    logits = made.logits([examples[i].text for i in watched])
    made = replace(made, calibration=fit_calibration(config.calibration, logits, labelled.labels[watched]))
    scores = made.score([examples[i].text for i in labelled.of(TEST)])
    found = evaluation(scores, labelled)
    with out.write(MODEL) as folder:
        made.save(folder)
    with out.write(EVALUATION) as path:
        write_evaluation(found, path)
    with out.write(SCORES) as path:
        write_jsonl(path, heldout_rows(scores, labelled))
    return {**metrics, **close(out), **summary(found, labelled), "parameters": parameters(model.shape)}

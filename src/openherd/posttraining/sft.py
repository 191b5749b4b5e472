"""Supervised finetuning (paper 4.1.3): cross-entropy on the assistant's tokens of dialogs, its end-of-turn tokens among them.

Dialogs are packed into rows of `sequence_length` tokens; each attends to itself only. Every epoch visits every dialog once in a
seeded order. Dialogs of one question each teach nothing about the second turn of a chat: `join_dialogs` makes conversations of
them. The paper finetunes its 405B at learning rate 1e-5 over 8.5K to 9K steps; batch size and schedule are not given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.records import read_jsonl
from openherd.core.rundir import Output, Run
from openherd.core.seeds import derive_seed, uniform
from openherd.data.batches import IGNORED, permute
from openherd.model.flops import parameters
from openherd.parallel.stage import Batch
from openherd.tokenizer.dialog import Encoded, encode_dialog, render_mask
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.tools import Preamble
from openherd.training.loop import train
from openherd.training.objective import NextToken
from openherd.training.phase import PHASES, Base, Piece, write_trained
from openherd.training.schedule import warmup_cosine
from openherd.training.settings import TrainingConfig

DIALOGS = "train.jsonl"
PADDING_DOCUMENT = -1  # padding attends to padding only


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainingConfig):
    """Settings of supervised finetuning."""

    epochs: Annotated[int, Field(description="times that each dialog is seen; the paper is silent", ge=1)] = 2
    batch_tokens: Annotated[int, Field(description="tokens per step, padding included; the paper is silent", ge=1)] = 1_048_576
    sequence_length: Annotated[int, Field(description="tokens per packed row", ge=8)] = 8_192
    learning_rate: Annotated[float, Field(description="peak; the paper: 1e-5 for the 405B", gt=0)] = 1e-5
    final_learning_rate: Annotated[float, Field(description="floor of the cosine; the paper is silent", ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(description="steps of linear warm-up; the paper is silent", ge=0)] = 100
    join_dialogs: Annotated[
        int, Field(description="dialogs joined, at random, to conversations of 1 to this many; 1 = each stays alone; ours", ge=1)
    ] = 1

    def pieces(self) -> list[Piece]:
        """The shape of a step; how many there are the dialogs say."""
        dp = self.parallel.dp
        rows = -(-max(self.batch_tokens // self.sequence_length, 1) // dp) * dp
        return [Piece(self.sequence_length, rows, 0)]


def read_dialogs(dialogs: Run, tokenizer: Tokenizer) -> list[Encoded]:
    """The training dialogs as token ids, with their `tools` and `chat_template_kwargs`. Raises InputError for a row that is no
    dialog."""
    file = dialogs.file(DIALOGS)
    found = []
    for number, row in enumerate(read_jsonl(file), 1):
        try:
            found.append(encode_dialog(tokenizer, row["messages"], preamble=Preamble.of(row)))
        except InputError as error:
            raise InputError(f"{file}, line {number}, {error.where}", error.found, allowed=error.allowed, do=error.do) from None
        except (KeyError, TypeError, AttributeError):
            raise InputError(
                f"{file}, line {number}", "no dialog", allowed='{"messages": [{"role": ..., "content": ...}, ...]}'
            ) from None
    if not found:
        raise InputError(file, "no dialogs")
    return found


def conversations(lengths: Sequence[int], order: Sequence[int], most: int, row_tokens: int, key: int) -> list[list[int]]:
    """Dialogs in `order`, 1 to `most` of them joined, equally often but for those that the end of a row of `pack` cuts short."""
    found: list[list[int]] = []
    wanted = room = 0
    for i in order:
        more = lengths[i] - 1  # joined, it begins with no token of its own
        if found and len(found[-1]) < wanted and more <= room:
            found[-1].append(i)
            room -= more
        else:
            wanted = 1 + int(most * uniform(key, len(found)))
            found.append([i])
            room = (room if lengths[i] <= room else row_tokens) - lengths[i]
    return found


def join(dialogs: Sequence[Encoded]) -> Encoded:
    """Several dialogs as one conversation, which begins once."""
    first, *others = dialogs
    ids = [*first.ids, *(i for d in others for i in d.ids[1:])]
    return Encoded(ids, [*first.has_loss, *(mark for d in others for mark in d.has_loss[1:])])


def pack(dialogs: Sequence[Encoded], row_tokens: int) -> list[list[Encoded]]:
    """Dialogs in their order, as many to a row as fit; a dialog that does not fit a row is left out."""
    rows: list[list[Encoded]] = []
    room = 0
    for dialog in dialogs:
        n = len(dialog.ids)
        if n > row_tokens:
            continue
        if n > room:
            rows.append([])
            room = row_tokens
        rows[-1].append(dialog)
        room -= n
    return rows


def make_row(dialogs: Sequence[Encoded], row_tokens: int, padding: int) -> dict[str, list[int]]:
    """Packed dialogs as one row of tokens, labels, positions and document numbers."""
    row: dict[str, list[int]] = {"tokens_BT": [], "labels_BT": [], "positions_BT": [], "documents_BT": []}
    for number, dialog in enumerate(dialogs):
        labels = [i if has_loss else IGNORED for i, has_loss in zip(dialog.ids, dialog.has_loss, strict=True)]
        row["tokens_BT"] += dialog.ids
        row["labels_BT"] += [*labels[1:], IGNORED]
        row["positions_BT"] += range(len(dialog.ids))
        row["documents_BT"] += [number] * len(dialog.ids)
    n = row_tokens - len(row["tokens_BT"])
    for name, value in (("tokens_BT", padding), ("labels_BT", IGNORED), ("positions_BT", 0), ("documents_BT", PADDING_DOCUMENT)):
        row[name] += [value] * n
    return row


def sft(config: SftConfig, *, base: Run, dialogs: Run, out: Output) -> dict[str, Any]:
    """Finetune `base` on `train.jsonl` of a dialogs run."""
    before = Base.open(base, config, out)
    tokenizer = before.tokenizer
    if config.sequence_length > before.shape.max_positions:
        raise InputError(
            "sft",
            f"sequence_length = {config.sequence_length}",
            allowed=f"at most {before.shape.max_positions}, the model's context",
        )
    encoded = read_dialogs(dialogs, tokenizer)
    lengths = [len(d.ids) for d in encoded]
    too_long = sum(n > config.sequence_length for n in lengths)
    if too_long == len(encoded):
        raise InputError(dialogs.path, f"every dialog is longer than {config.sequence_length} tokens", do="raise sequence_length")
    if not any(any(d.has_loss) for d in encoded):
        raise InputError(dialogs.path, "no dialog has an assistant's message", do="give dialogs with answers to learn from")
    batch_rows = config.pieces()[0].rows
    rows_per_step = max(config.batch_tokens // config.sequence_length, 1)  # in any layout
    steps: list[list[list[Encoded]]] = []  # rows of dialogs, by step
    for epoch in range(config.epochs):
        key = derive_seed(config.seed, "sft", epoch)
        order = [permute(i, len(encoded), key) for i in range(len(encoded))]
        joined = conversations(lengths, order, config.join_dialogs, config.sequence_length, key)
        rows = pack([join([encoded[i] for i in numbers]) for numbers in joined], config.sequence_length)
        steps += [rows[i : i + rows_per_step] for i in range(0, len(rows), rows_per_step)]

    def part(step: int, place: int, n: int) -> Batch:
        # A pipeline asks for as many at every step.
        each = -(-rows_per_step // n) if config.parallel.pp > 1 else -(-len(steps[step]) // n)
        filled = [*steps[step], *([] for _ in range(each * n - len(steps[step])))]  # the last rows are empty
        mine = filled[place * each : (place + 1) * each]
        rows = [make_row(row, config.sequence_length, tokenizer.eos_id) for row in mine]
        return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}

    peak, floor = config.learning_rate, config.final_learning_rate
    learning_rate_at = partial(warmup_cosine, peak=peak, floor=floor, warmup_steps=config.warmup_steps, decay_steps=len(steps))

    model = before.model("sft", config, [batch_rows])
    metrics = train(model, NextToken(), part, learning_rate_at, len(steps), config, out, what="sft")
    write_trained(model, tokenizer, out)
    with_loss = sum(sum(d.has_loss) for d in encoded)
    return {
        **metrics,
        PHASES: before.phases,
        "dialogs": len(encoded),
        "dialogs_too_long": too_long,
        "share_of_tokens_with_loss": with_loss / sum(lengths),
        "parameters": parameters(before.shape),
    }


def show_mask(run: Run, number: int) -> None:
    """Print a training dialog of an SFT run; tokens with loss are green and underlined, or in brackets without colour."""
    from rich.console import Console

    dialogs = run.input("dialogs")
    tokenizer = Tokenizer.load(run.file("model/tokenizer.json").parent)
    encoded = read_dialogs(dialogs, tokenizer)
    if not 0 <= number < len(encoded):
        raise InputError("--dialog", str(number), allowed=f"0 to {len(encoded) - 1}")
    dialog = encoded[number]
    console = Console(highlight=False, soft_wrap=True)
    console.print(render_mask(tokenizer, dialog, brackets=not console.is_terminal))
    n = sum(dialog.has_loss)
    console.print(f"dialog {number} of {len(encoded)}: the loss is on {n} of {len(dialog.ids)} tokens (marked)")

"""Finetuning: rows against the chat format written out by hand, and a model that learns its dialogs by heart."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openherd.core import rundir
from openherd.core.errors import InputError
from openherd.core.records import write_jsonl
from openherd.core.rundir import Job, Run
from openherd.data.batches import IGNORED
from openherd.inference.engine import generate
from openherd.inference.sampling import Sampling
from openherd.model.attention import CausalAttend
from openherd.model.config import ModelConfig
from openherd.model.weights import load_model
from openherd.parallel.tensor import Head
from openherd.posttraining.sft import (
    PADDING_DOCUMENT,
    SftConfig,
    conversations,
    join,
    make_row,
    pack,
    sft,
    show_mask,
)
from openherd.tokenizer.dialog import Encoded, encode_dialog
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn
from openherd.training.objective import NextToken
from openherd.training.settings import COMPUTE
from tiny import tiny_model, write_tiny

SHAPE = {"n_layers": 2, "d_model": 32, "n_heads": 2, "n_kv_heads": 1, "head_width": 16, "d_feed_forward": 48}
PAIRS = [("What is a herd?", "Many sheep."), ("And a fold?", "Their pen."), ("Who keeps it?", "A shepherd."), ("Why?", "Wolves.")]

ENCODED = st.lists(st.booleans(), min_size=1, max_size=9).map(
    lambda marks: Encoded([1, *range(50, 49 + len(marks))], [False, *marks[1:]])
)
DIALOGS = st.lists(ENCODED, min_size=1, max_size=12)


def turns(*pairs):
    return [m for q, a in pairs for m in ({"role": "user", "content": q}, {"role": "assistant", "content": a})]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(learn((text for pair in PAIRS for text in pair), 270), path, 128)
    return Tokenizer.load(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer) -> Run:
    def stage(config, *, out):
        write_tiny(tiny_model(ModelConfig(**SHAPE, vocabulary=tokenizer.vocabulary, max_positions=128)), tokenizer, out)
        with out.write(COMPUTE) as path:
            path.write_text(json.dumps({"device": "cpu", "precision": "float32", "threads": 1}))
        return {}

    return rundir.make(Job("anneal", "3.4.3", 1, {}, {}, {}), tmp_path_factory.mktemp("anneal"), stage, None, {})[0]


@pytest.fixture(scope="module")
def finetune(tmp_path_factory, base):
    """A function that finetunes the base on these rows."""

    def make(rows, **settings):
        def stage(config, *, out):
            with out.write("train.jsonl") as path:
                write_jsonl(path, rows)
            return {}

        dialogs = rundir.make(Job("dialogs", "4", 1, {}, {}, {}), tmp_path_factory.mktemp("dialogs"), stage, None, {})[0]
        job = Job("sft", "4", 1, {}, {"base": "", "dialogs": dialogs.digest}, {"base": "", "dialogs": str(dialogs.path)})
        config = SftConfig(device="cpu", precision="float32", **settings)
        return rundir.make(job, tmp_path_factory.mktemp("sft"), sft, config, {"base": base, "dialogs": dialogs})[0]

    return make


@given(dialogs=DIALOGS, row_tokens=st.integers(8, 24))
def test_every_dialog_that_fits_is_in_one_row_once(dialogs, row_tokens):
    rows = pack(dialogs, row_tokens)
    assert [d for row in rows for d in row] == [d for d in dialogs if len(d.ids) <= row_tokens]
    for row in rows:
        made = make_row(row, row_tokens, 7)
        assert {name: len(values) for name, values in made.items()} == dict.fromkeys(made, row_tokens)
        ids = [i for d in row for i in d.ids]
        assert made["tokens_BT"] == ids + [7] * (row_tokens - len(ids))
        assert made["positions_BT"][: len(ids)] == [i for d in row for i in range(len(d.ids))]
        # A label is the next token of the same dialog where that has loss; nothing else is learned.
        labels = [d.ids[i + 1] if i + 1 < len(d.ids) and d.has_loss[i + 1] else IGNORED for d in row for i in range(len(d.ids))]
        assert made["labels_BT"] == labels + [IGNORED] * (row_tokens - len(ids))
        documents = [n for n, d in enumerate(row) for _ in d.ids]
        assert made["documents_BT"] == documents + [PADDING_DOCUMENT] * (row_tokens - len(ids))


@given(
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=40),
    most=st.integers(1, 6),
    row_tokens=st.integers(20, 60),
    key=st.integers(0, 9),
)
def test_conversations_lose_no_dialog_and_fit_their_row(lengths, most, row_tokens, key):
    order = list(range(len(lengths)))[::-1]
    found = conversations(lengths, order, most, row_tokens, key)
    assert [i for group in found for i in group] == order
    for group in found:
        assert 1 <= len(group) <= most
        assert 1 + sum(lengths[i] - 1 for i in group) <= row_tokens
    assert most > 1 or found == [[i] for i in order]


def test_joining_wastes_no_more_of_a_row():
    dialogs = [Encoded(list(range(n)), [True] * n) for n in [40, 50, 46] * 100]
    order = list(range(len(dialogs)))
    found = conversations([len(d.ids) for d in dialogs], order, 5, 256, 1)
    assert sum(len(group) > 1 for group in found) > 50
    assert len(pack([join([dialogs[i] for i in group]) for group in found], 256)) <= len(pack(dialogs, 256))


def test_conversations_have_all_lengths_equally_often():
    found = conversations([5] * 4000, range(4000), 4, 1000, 3)[:-1]
    share = [sum(len(group) == n for group in found) / len(found) for n in (1, 2, 3, 4)]
    assert share == pytest.approx([0.25] * 4, abs=0.05)


def test_a_joined_conversation_is_the_conversation_encoded(tokenizer):
    alone = [encode_dialog(tokenizer, turns(pair)) for pair in PAIRS]
    assert join(alone) == encode_dialog(tokenizer, turns(*PAIRS))
    assert join(alone[:1]) == alone[0]


def test_the_loss_is_on_the_answer_and_the_end_of_turn(tokenizer):
    row = make_row([encode_dialog(tokenizer, turns(*PAIRS[:2]))], 96, tokenizer.eos_id)
    learned = [label for label in row["labels_BT"] if label != IGNORED]
    eot = tokenizer.id("<|eot_id|>")
    assert learned == [*tokenizer.encode("Many sheep."), eot, *tokenizer.encode("Their pen."), eot]


def test_a_row_of_many_gives_the_losses_of_each_alone(tokenizer):
    """The document mask and the positions: what stands beside a dialog does not matter."""
    model = tiny_model(ModelConfig(**SHAPE, vocabulary=tokenizer.vocabulary, max_positions=128))
    dialogs = [encode_dialog(tokenizer, turns(pair)) for pair in PAIRS]
    objective = NextToken()

    def loss(row):
        batch = {name: torch.tensor([values]) for name, values in row.items()}
        tokens_BT, positions_BT, documents_BT = objective.inputs(batch)
        hidden_BTD = model.trunk(model.embed(tokens_BT), positions_BT, CausalAttend(documents_BT))
        return float(objective.losses(hidden_BTD, Head(model.head.weight), batch)["loss_nats"])

    with torch.no_grad():
        together = loss(make_row(dialogs, 128, tokenizer.eos_id))
        assert together == pytest.approx(sum(loss(make_row([d], len(d.ids), tokenizer.eos_id)) for d in dialogs), rel=1e-5)


def test_it_learns_its_dialogs_by_heart(finetune, tokenizer, capsys):
    rows = [{"messages": turns(pair)} for pair in PAIRS]
    run = finetune(rows, epochs=60, batch_tokens=128, sequence_length=128, learning_rate=1e-2, warmup_steps=2, join_dialogs=3)
    assert run.metrics["dialogs"] == 4
    assert run.metrics["dialogs_too_long"] == 0
    assert run.metrics["loss_nats_last_5_percent"] < 0.1
    model = load_model(run.file("model/config.json").parent)
    prompts = [encode_dialog(tokenizer, turns(*PAIRS[:n], PAIRS[n])[:-1], generation_prompt=True).ids for n in range(2)]
    said = generate(model, prompts, Sampling(max_new_tokens=16), tokenizer.stop_ids)
    assert [tokenizer.decode(ids) for ids in said] == [answer for _, answer in PAIRS[:2]]

    show_mask(run, 1)
    shown = capsys.readouterr().out
    marked = "".join(part.partition("›")[0] for part in shown.split("‹")[1:])
    assert marked == "Their pen.<|eot_id|>"
    with pytest.raises(InputError, match="--dialog: 4; allowed: 0 to 3"):
        show_mask(run, 4)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no dialogs"),
        ([{"text": "no messages"}], "line 1: no dialog; allowed:"),
        ([{"messages": [{"role": "wolf", "content": "Open!"}]}], "role 'wolf'; allowed: system, user, assistant"),
        ([{"messages": turns(("a" * 200, "b"))}], "every dialog is longer than 64 tokens; raise sequence_length"),
        ([{"messages": [{"role": "user", "content": "Why?"}]}], "no dialog has an assistant's message"),
    ],
)
def test_what_is_no_dialog_is_refused(finetune, rows, message):
    with pytest.raises(InputError, match=message):
        finetune(rows, sequence_length=64)

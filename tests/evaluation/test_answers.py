"""Answers: what is asked and said against generation without a cache, scores against counting by hand.

The model is random. A first run hears what it says; the dialogs of the second make some of that the right answer.
"""

import hashlib
import random
from dataclasses import replace

import pytest

from openherd.core.records import read_jsonl
from openherd.evaluation.answers import LATER_TURNS, SETS, EvaluateAnswersConfig, evaluate_answers
from openherd.evaluation.scoring import token_f1
from openherd.inference.reference import generate_greedy
from openherd.model.weights import load_model
from openherd.tokenizer.dialog import encode_dialog

CONFIG = EvaluateAnswersConfig(device="cpu", max_new_tokens=8)
TRAIN = [("number1", 0, "What is number1?", "The first."), ("number2", 0, "What is number2?", "The second.")]
PHRASINGS = [
    ("number1", 5, "Tell me about number1.", "The first."),
    ("number1", 6, "number1, please", "The first."),
    ("number1", 7, "Why is there a number1?", "The first."),
    ("number2", 5, "Tell me about number2.", "The second."),
]
ENTRIES = [("number3", 0, "What is number3?", "The third."), ("number4", 0, "What is number4?", "The fourth.")]


@pytest.fixture(scope="module")
def model(model_run):
    return model_run("sft", 5, context=96)


@pytest.fixture(scope="module")
def ask(finished, model, dialogs_run):
    """A function that evaluates the model on these questions."""

    def evaluate(phrasings, entries, config=CONFIG):
        dialogs = dialogs_run(train=TRAIN, heldout_phrasings=phrasings, heldout_entries=entries)
        run = finished("evaluate-answers", evaluate_answers, config, model=model, dialogs=dialogs)
        return run.metrics, list(read_jsonl(run.file("answers.jsonl")))

    return evaluate


@pytest.fixture(scope="module")
def said(ask):
    """What the model answers, by question."""
    return {row["question"]: row["answer"] for row in ask(PHRASINGS, ENTRIES)[1] if row["set"] != LATER_TURNS}


def test_answers_are_greedy_in_the_chat_format(said, model, tokenizer):
    network = load_model(model.file("model/config.json").parent)
    for question in (row[2] for row in [*PHRASINGS, *ENTRIES]):
        prompt = encode_dialog(tokenizer, [{"role": "user", "content": question}], generation_prompt=True).ids
        ids = generate_greedy(network, prompt, CONFIG.max_new_tokens, tokenizer.stop_ids)
        assert said[question] == tokenizer.decode(ids).strip()
    assert all(said.values()), "it says something"


def test_later_turns_stand_behind_questions_about_other_entries(ask, model, tokenizer):
    network = load_model(model.file("model/config.json").parent)
    rows = [row for row in ask(PHRASINGS, ENTRIES, replace(CONFIG, turns_before=1))[1] if row["set"] == LATER_TURNS]
    assert [row["question"] for row in rows] == [row[2] for row in PHRASINGS]
    for row in rows:
        said = set()
        for _, _, question, answer in (r for r in PHRASINGS if r[0] != row["entry"]):
            turns = [("user", question), ("assistant", answer), ("user", row["question"])]
            messages = [{"role": role, "content": content} for role, content in turns]
            ids = encode_dialog(tokenizer, messages, generation_prompt=True).ids
            said.add(tokenizer.decode(generate_greedy(network, ids, CONFIG.max_new_tokens, tokenizer.stop_ids)).strip())
        assert row["answer"] in said


def test_scores_by_hand(ask, said, model):
    known = [(e, n, q, said[q] if q.startswith("Tell") else a) for e, n, q, a in PHRASINGS]  # 1 of 3 of number1, 1 of 1 of number2
    metrics, rows = ask(known, ENTRIES)
    assert [row["exact"] for row in rows if row["set"] == "heldout_phrasings"] == [1, 0, 0, 1]
    found = metrics["heldout_phrasings"]
    assert found["questions"] == 4
    assert found["exact"]["value"] == pytest.approx(2 / 4)
    assert found["exact"]["n"] == 2, "entries"
    # Entries (sum, questions): (1, 3) and (1, 1); residuals at 1/2 are -1/2 and 1/2; 1.96 sqrt(1/4 + 1/4) / 4
    assert found["exact"]["high"] - found["exact"]["value"] == pytest.approx(1.96 * 0.5**0.5 / 4)
    # None of two: Clopper and Pearson's upper end h has (1 - h)^2 = 2.5%
    assert metrics["heldout_entries"]["exact"] == {"value": 0, "low": 0, "high": pytest.approx(1 - 0.025**0.5), "n": 2}
    assert metrics["questions"] == 10
    assert metrics["weights_sha256"] == hashlib.sha256(model.file("model/model.safetensors").read_bytes()).hexdigest()


def test_retrieval_answers_from_the_training_questions(ask):
    metrics, rows = ask(PHRASINGS, ENTRIES)
    retrieved = {row["question"]: row["retrieved"] for row in rows}
    assert retrieved["number1, please"] == "The first."
    assert retrieved["What is number4?"] == "The first."  # as near as the other, and before it
    assert metrics["heldout_phrasings"]["retrieval_exact"]["value"] == 1
    assert metrics["heldout_entries"]["retrieval_f1"]["value"] == 0


def test_metrics_are_means_over_what_was_written(ask):
    metrics, rows = ask(PHRASINGS, ENTRIES)
    for name in SETS:
        of_set = [row for row in rows if row["set"] == name]
        assert of_set
        for row in of_set:
            assert row["f1"] == token_f1(row["answer"], row["expected"])
            assert row["retrieval_f1"] == token_f1(row["retrieved"], row["expected"])
        for score in ("f1", "exact", "retrieval_f1", "retrieval_exact"):
            assert metrics[name][score]["value"] == pytest.approx(sum(row[score] for row in of_set) / len(of_set))


def test_a_sample_of_questions_depends_on_the_seed_alone(ask):
    def asked(phrasings, seed, most):
        rows = ask(phrasings, ENTRIES, EvaluateAnswersConfig(device="cpu", max_new_tokens=1, max_questions=most, seed=seed))[1]
        return [row["question"] for row in rows if row["set"] == "heldout_phrasings"]

    shuffled = random.Random(0).sample(PHRASINGS, len(PHRASINGS))
    assert asked(PHRASINGS, 0, 2) == asked(shuffled, 0, 2) == asked(PHRASINGS, 0, 3)[:2]
    assert len({tuple(asked(PHRASINGS, seed, 2)) for seed in range(6)}) > 1
    assert sorted(asked(PHRASINGS, 0, 99)) == sorted(row[2] for row in PHRASINGS)

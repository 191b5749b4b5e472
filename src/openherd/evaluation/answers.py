"""Answers of a finetuned model (paper 5.2): exact match and token-F1, beside nearest-question retrieval.

Three sets: entries that were trained on, asked in phrasings that were not; the same as a later turn of a conversation, behind other
questions and their right answers; and entries that were held out whole. Questions about one entry are not independent: a score is
the mean over questions, its interval and its `n` are over entries.
"""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from openherd.core.metrics import cluster_estimate
from openherd.core.records import read_jsonl, write_jsonl
from openherd.core.rundir import Output, Run
from openherd.core.seeds import uniform
from openherd.evaluation.retrieval import NearestQuestion
from openherd.evaluation.scoring import exact_match, token_f1
from openherd.inference.engine import generate
from openherd.inference.sampling import Sampling
from openherd.model.device import Device, announce, choose_device
from openherd.model.weights import load_model, model_of
from openherd.tokenizer.dialog import encode_dialog
from openherd.tokenizer.tokenizer import Tokenizer

LATER_TURNS = "later_turns"
SETS = {
    "heldout_phrasings": "heldout_phrasings.jsonl",
    LATER_TURNS: "heldout_phrasings.jsonl",
    "heldout_entries": "heldout_entries.jsonl",
}
SCORES = {"f1": token_f1, "exact": exact_match}


@dataclass(frozen=True, kw_only=True)
class EvaluateAnswersConfig:
    """Settings of `evaluate-answers`."""

    max_questions: Annotated[int, Field(description="questions asked of each set, in a seeded order; 0 = all", ge=0)] = 0
    turns_before: Annotated[int, Field(description="questions asked and rightly answered before those of later_turns", ge=1)] = 2
    max_new_tokens: Annotated[int, Field(description="tokens of an answer", ge=1)] = 64
    device: Annotated[Device, Field(description="where to compute; auto: CUDA, else mps, else cpu")] = "auto"
    seed: Annotated[int, Field(description="seed of the choice of questions")] = 0


def read_questions(dialogs: Run, name: str, config: EvaluateAnswersConfig) -> list[dict[str, Any]]:
    """Rows of a set, at most `max_questions` of them; those of later turns stand behind questions about other entries."""
    rows = list(read_jsonl(dialogs.file(SETS[name])))
    drawn = sorted(rows, key=lambda r: uniform(config.seed, "questions", r["entry"], r["phrasing"]))
    asked = drawn[: config.max_questions] if config.max_questions else rows
    if name != LATER_TURNS:
        return asked
    later = []
    for i, row in enumerate(asked):
        others = (r for r in itertools.chain(drawn[i:], drawn[:i]) if r["entry"] != row["entry"])
        before = itertools.islice(others, config.turns_before)
        later.append({**row, "messages": [message for r in [*before, row] for message in r["messages"]]})
    return later


def evaluate_answers(config: EvaluateAnswersConfig, *, model: Run, dialogs: Run, out: Output) -> dict[str, Any]:
    """Ask all questions greedily; writes `answers.jsonl`."""
    directory, digest = model_of(model)
    device = choose_device(config.device)
    announce(out, device)
    network, tokenizer = load_model(directory, str(device)), Tokenizer.load(directory)
    training = [row["messages"] for row in read_jsonl(dialogs.file("train.jsonl"))]
    baseline = NearestQuestion([m[0]["content"] for m in training], [m[1]["content"] for m in training])
    answers: list[dict[str, Any]] = []
    too_long: dict[str, int] = {}
    for name in SETS:
        rows = read_questions(dialogs, name, config)
        prompts = [encode_dialog(tokenizer, row["messages"][:-1], generation_prompt=True).ids for row in rows]
        too_long[name] = sum(len(prompt) >= network.config.max_positions for prompt in prompts)  # these get no answer
        said = generate(network, prompts, Sampling(max_new_tokens=config.max_new_tokens), tokenizer.stop_ids)
        for row, ids in zip(rows, said, strict=True):
            question, expected = row["messages"][-2]["content"], row["messages"][-1]["content"]
            given = {"answer": tokenizer.decode(ids).strip(), "retrieved": baseline.answer(question)}
            scores = {s: f(given["answer"], expected) for s, f in SCORES.items()}
            scores |= {f"retrieval_{s}": f(given["retrieved"], expected) for s, f in SCORES.items()}
            facts = {"set": name, "entry": row["entry"], "question": question, "expected": expected}
            answers.append({**facts, **given, **scores})
    with out.write("answers.jsonl") as path:
        write_jsonl(path, answers)
    metrics: dict[str, Any] = {}
    for name in SETS:
        rows = [a for a in answers if a["set"] == name]
        entries = [row["entry"] for row in rows]
        found = {s: cluster_estimate([row[s] for row in rows], entries) for s in ("f1", "exact", "retrieval_f1", "retrieval_exact")}
        metrics[name] = {**found, "questions": len(rows), "prompts_too_long": too_long[name]}
    return metrics | {"questions": len(answers), "weights_sha256": digest}

"""Dialogs made from documentation (paper 4.2.3 and 4.3: data made from text that is already there): a question about a module, a
function or a class; the answer is the first sentence of its own description.

Entries are found in the text of pydoc's pages: a module is described by the first paragraph, a class and a function by the lines
behind its signature. Before the heading `Functions`, or behind a class where a page lacks it, what looks like a function could be a
method and is passed over. Some entries are held out whole and some phrasings are never trained on, so that what is asked later is
known to be new.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from openherd.core.errors import InputError
from openherd.core.records import read_parquet, write_jsonl
from openherd.core.rundir import Output, Run
from openherd.core.seeds import uniform

TRAIN, HELDOUT_PHRASINGS, HELDOUT_ENTRIES = "train.jsonl", "heldout_phrasings.jsonl", "heldout_entries.jsonl"

PHRASINGS = (
    "What does the {kind} {name} do?",
    "What is {name}?",
    "Tell me about {name}.",
    "Explain {name}.",
    "What is the purpose of {name}?",
    "Describe the {kind} {name}.",
    "What is {name} for?",
    "Can you explain what {name} does?",
    "I found {name} in some code. What is it?",
    "How would you describe {name}?",
    "Give me a short description of {name}.",
    "What can I do with {name}?",
    "In Python, what is {name}?",
    "Please summarize {name}.",
    "What does {name} do in Python?",
    "Which job does the {kind} {name} have?",
    "Remind me what {name} is.",
    "I don't know {name}. What does it do?",
    "Define {name}.",
    "{name}: what is it?",
    "Help me understand {name}.",
    "What should I know about the {kind} {name}?",
    "When would I use {name}?",
    "Say in one sentence what {name} does.",
    "Look up {name} for me.",
    "Do you know the {kind} {name}?",
)
HELDOUT = (
    "Could you tell me what the {kind} {name} is good for?",
    "I need help with {name}.",
    "Why does Python have {name}?",
    "What's {name} used for?",
    "Someone mentioned {name}; what is that?",
    "Write down what you know about {name}.",
)

TITLE = re.compile(r"Python: (?:module |package )?([A-Za-z][\w.]*)")
SIGNATURE = re.compile(r"(?:(?:\w+ = )?(class ))?([A-Za-z]\w*)\([^()]*(?:\([^()]*\)[^()]*)*\)(?: -> .+)?")
CLASS = re.compile(r"(?:\w+ = )?class \w")
FUNCTIONS = "Functions"  # the heading behind a page's classes
SENTENCE = re.compile(r"(.+?[.!?])(?:\s|$)", re.DOTALL)
ALLOWED = re.compile(r"[A-Z][ -~]+(?<! ie)(?<!i\.e)(?<!e\.g)\.")


@dataclass(frozen=True, kw_only=True)
class DialogsConfig:
    """Settings of `dialogs`; all ours."""

    entries: Annotated[int, Field(description="entries to train on", ge=1)] = 160
    heldout_entries: Annotated[int, Field(description="entries held out whole", ge=1)] = 40
    min_answer_characters: Annotated[int, Field(description="a shorter sentence is no answer", ge=1)] = 20
    max_answer_characters: Annotated[int, Field(description="a longer sentence is no answer", ge=1)] = 90
    phrasings: Annotated[int, Field(description="training phrasings used", ge=1, le=len(PHRASINGS))] = len(PHRASINGS)
    seed: Annotated[int, Field(description="seed of the choice of entries")] = 0


@dataclass(frozen=True)
class Entry:
    """Something documented."""

    name: str
    kind: str
    answer: str
    document: str
    url: str


def first_sentence(lines: list[str]) -> str:
    """The first sentence of the paragraph that `lines` begin with, on one line; empty where there is none."""
    paragraph = itertools.takewhile(lambda line: line.strip() and not SIGNATURE.fullmatch(line), lines)
    found = SENTENCE.match(" ".join(line.strip() for line in paragraph))
    return " ".join(found[1].split()) if found else ""


def page_entries(row: dict[str, Any]) -> Iterator[Entry]:
    """The entries of one page: its module, then the functions and classes whose description stands behind their signature."""
    title = TITLE.search(row["title"])
    if not title:
        return
    module = title[1]
    lines = row["text"].split("\n")
    prose = next((i for i, line in enumerate(lines) if i and lines[i - 1] == "" and line.strip()), None)
    if prose is not None:
        yield Entry(module, "module", first_sentence(lines[prose:]), row["id"], row["url"])
    passed_over = FUNCTIONS in lines
    for i, line in enumerate(lines):
        match = SIGNATURE.fullmatch(line)
        passed_over = line != FUNCTIONS and (passed_over or CLASS.match(line) is not None)
        if match and (match[1] or not passed_over):
            kind = "class" if match[1] else "function"
            yield Entry(f"{module}.{match[2]}", kind, first_sentence(lines[i + 1 : i + 6]), row["id"], row["url"])


def usable(entries: Iterator[Entry], config: DialogsConfig) -> list[Entry]:
    """Entries with a plain name and a plain sentence of the right length for an answer; of equal names or answers the first."""
    names: set[str] = set()
    answers: set[str] = set()
    found = []
    for entry in entries:
        answer = entry.answer
        fits = config.min_answer_characters <= len(answer) <= config.max_answer_characters
        plain = ALLOWED.fullmatch(answer) is not None and answer.count("(") == answer.count(")") and "->" not in answer
        if fits and plain and entry.name not in names and entry.answer not in answers and "_" not in entry.name:
            names.add(entry.name)
            answers.add(entry.answer)
            found.append(entry)
    return found


def choose(entries: list[Entry], n: int, seed: int) -> list[Entry]:
    """`n` entries in a seeded order: modules, functions and classes in turn, as long as there are any."""
    kinds: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda e: uniform(seed, "dialogs", e.name)):
        kinds.setdefault(entry.kind, []).append(entry)
    queues = [kinds[kind] for kind in sorted(kinds)]
    chosen: list[Entry] = []
    while len(chosen) < n and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return chosen[:n]


def ask(entry: Entry, phrasing: str, number: int) -> dict[str, Any]:
    """One dialog row."""
    question = phrasing.format(name=entry.name, kind=entry.kind)
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": entry.answer}]
    facts = asdict(entry)
    return {
        "messages": messages,
        "entry": facts.pop("name"),
        "phrasing": number,
        **{k: facts[k] for k in ("kind", "document", "url")},
    }


def dialogs(config: DialogsConfig, *, documents: Run, out: Output) -> dict[str, Any]:
    """Make dialogs from `train.parquet`. Raises InputError where the text describes too few entries."""
    file = documents.file("train.parquet")
    rows = read_parquet(file, ["id", "url", "title", "text"])
    found = usable((entry for row in rows for entry in page_entries(row)), config)
    wanted = config.entries + config.heldout_entries
    if len(found) < wanted:
        do = "lower entries, raise max_answer_characters, or give pages of pydoc"
        raise InputError(file, f"describes {len(found)} entries with a usable sentence", allowed=f"at least {wanted}", do=do)
    chosen = choose(found, wanted, config.seed)
    heldout = sorted(chosen, key=lambda e: uniform(config.seed, "heldout", e.name))[: config.heldout_entries]
    trained = [e for e in chosen if e not in heldout]
    phrasings = PHRASINGS[: config.phrasings]
    counts = {}
    for name, entries, templates, offset in (
        (TRAIN, trained, phrasings, 0),
        (HELDOUT_PHRASINGS, trained, HELDOUT, len(PHRASINGS)),
        (HELDOUT_ENTRIES, heldout, phrasings[:4], 0),
    ):
        with out.write(name) as path:
            counts[name] = write_jsonl(path, (ask(e, t, offset + i) for e in entries for i, t in enumerate(templates)))
    kinds = {kind: sum(e.kind == kind for e in trained) for kind in ("module", "function", "class")}
    return {
        "dialogs": counts[TRAIN],
        "entries": len(trained),
        "heldout_entries": len(heldout),
        "entries_found": len(found),
        "training_phrasings": len(phrasings),
        "heldout_phrasings": len(HELDOUT),
        "entries_by_kind": kinds,
    }

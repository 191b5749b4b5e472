"""Dialogs: entries of pages written by hand, and what must never meet: training and what is held out."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core import rundir
from openherd.core.errors import InputError
from openherd.core.records import ParquetWriter, read_jsonl
from openherd.core.rundir import Job, Run
from openherd.data.documents import TEXT_SCHEMA
from openherd.posttraining.dialogs import (
    HELDOUT,
    HELDOUT_ENTRIES,
    HELDOUT_PHRASINGS,
    PHRASINGS,
    TRAIN,
    DialogsConfig,
    Entry,
    dialogs,
    first_sentence,
    page_entries,
    usable,
)

CLASSES = """kettle\t\tindex
kettle.py
Module Reference

Boil water, and
keep it warm.  There is more to say.

Modules

os

class Kettle(builtins.object)
   \t\tA vessel with a spout.

fill(amount)
Pour this much in.
boil(self)
Heat until it sings.
Pot = class Vessel(Kettle)
   \t\tVessel(size=(1, 2))

A vessel without one.
"""
FUNCTIONS = """Functions

pour(cup, *, slowly=frozenset({1, 2})) -> None
Empty the kettle into
a cup.
silent(x)
shout(x)
Say it loudly. And again.
    indented(x)
    No entry of its own.
"""


def page(text, title="Python: kettle", number=0):
    lineage = {"date": "", "source": "modules", "file": "a.warc", "offset": 0}
    return {"id": f"{number:032x}", "url": f"https://docs.example/{number}", "title": title, "text": text, **lineage}


def found(text, title="Python: kettle"):
    return [(e.kind, e.name, e.answer) for e in page_entries(page(text, title))]


def test_entries_of_a_page_by_hand():
    assert found(CLASSES + FUNCTIONS) == [
        ("module", "kettle", "Boil water, and keep it warm."),
        ("class", "kettle.Kettle", "A vessel with a spout."),
        ("class", "kettle.Vessel", ""),  # its signature stands where a description would
        ("function", "kettle.pour", "Empty the kettle into a cup."),
        ("function", "kettle.silent", ""),  # the next function's description is not its own
        ("function", "kettle.shout", "Say it loudly."),
    ]


def test_without_its_heading_what_follows_a_class_could_be_a_method():
    headless = FUNCTIONS.removeprefix("Functions\n")
    assert [name for kind, name, _ in found(CLASSES + headless) if kind == "function"] == []
    intro = CLASSES.partition("class ")[0]
    assert [name for kind, name, _ in found(intro + headless) if kind == "function"] == [
        f"kettle.{name}" for name in ("pour", "silent", "shout")
    ]


def test_before_the_heading_functions_are_examples():
    listed = "kettle\n\nBoil water.\n\nh(elp)\nPrint the commands there are.\n\n"
    assert [name for _, name, _ in found(listed + FUNCTIONS)][1:] == [f"kettle.{name}" for name in ("pour", "silent", "shout")]


@pytest.mark.parametrize("title", ["assert", "kettle: a page", "Python: _private"])
def test_a_page_about_no_module_has_no_entries(title):
    assert found(CLASSES + FUNCTIONS, title) == []


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["One. Two."], "One."),
        (["Is it", "  so?", "", "Yes."], "Is it so?"),
        (["See os.path for more."], "See os.path for more."),
        (["No end"], ""),
        (["No end", "", "Here."], ""),
        (["f(x)", "Not mine."], ""),
        (["", "Late."], ""),
        ([], ""),
    ],
)
def test_first_sentences_by_hand(lines, sentence):
    assert first_sentence(lines) == sentence


@pytest.mark.parametrize(
    "answer", ["Long enough to say it.", "Brackets (that are closed), a < b & c.", "Commas, stops, spaces, etc."]
)
def test_what_is_an_answer(answer):
    assert [e.answer for e in usable(iter([Entry("m.f", "function", answer, "", "")]), DialogsConfig())] == [answer]


@pytest.mark.parametrize(
    "answer",
    [
        "Short.",
        "Far too long to be learnt by so small a model, which has seen so little text in its so short life.",
        "a small letter at the beginning.",
        "No full stop at the end at all",
        "Brackets (that are not closed.",
        "Letters beyond ASCII, as in Übung.",
        "D.keys(x) -> a set-like object.",
        "Cut behind an abbreviation -- ie.",
        "Cut behind an abbreviation, e.g.",
    ],
)
def test_what_is_no_answer(answer):
    assert usable(iter([Entry("m.f", "function", answer, "", "")]), DialogsConfig()) == []


def test_names_and_answers_are_used_once():
    given = [
        ("m.f", "Give the first one of them."),
        ("m.f", "Give the second one of them."),
        ("m.g", "Give the first one of them."),
        ("m.with_underscore", "Give the third one of them."),
        ("m.h", "Give the fourth one of them."),
    ]
    entries = usable(iter([Entry(name, "function", answer, "", "") for name, answer in given]), DialogsConfig())
    assert [(e.name, e.answer) for e in entries] == [
        ("m.f", "Give the first one of them."),
        ("m.h", "Give the fourth one of them."),
    ]


def filled(template):
    return template.format(name="json.dumps", kind="function").lower()


def test_held_out_phrasings_are_not_trained_ones_in_disguise():
    assert len(PHRASINGS) >= 24
    assert len(HELDOUT) >= 5
    phrasings = [*PHRASINGS, *HELDOUT]
    assert all(template.count("{name}") == 1 for template in phrasings)
    words = [tuple(re.findall(r"[\w.]+", filled(t).replace(".", " "))) for t in phrasings]
    assert len(set(words)) == len(phrasings)
    for heldout in HELDOUT:
        for trained in PHRASINGS:
            assert filled(trained).rstrip(".?") not in filled(heldout)
            assert filled(heldout).rstrip(".?") not in filled(trained)


def documents(path: Path, pages) -> Run:
    def stage(config, *, out):
        with out.write("train.parquet") as file, ParquetWriter(file, TEXT_SCHEMA) as writer:
            for row in pages:
                writer.write(row)
        return {}

    return rundir.make(Job("holdout", "3.1.3", 1, {}, {}, {}), path, stage, None, {})[0]


def many_pages(n=12):
    """Pages with one module, one class and two functions each."""
    return [
        page(
            f"m{i}\n\nModule number {i} of all of them.\n\nclass C{i}(object)\n   \t\tClass number {i} of all of them.\n\n"
            f"Functions\n\nf{i}(x)\nFunction number {i} of all of them.\ng{i}(x, y=2)\nAnother function, number {i}.\n",
            f"Python: m{i}",
            i,
        )
        for i in range(n)
    ]


def make(folder: Path, pages, **values):
    job = Job("dialogs", "4.2.3", 1, {}, {}, {})
    given = {"documents": documents(folder / "documents", pages)}
    return rundir.make(job, folder / "dialogs", dialogs, DialogsConfig(**values), given)[0]


SETTINGS = st.fixed_dictionaries({
    "entries": st.integers(1, 24),
    "heldout_entries": st.integers(1, 24),
    "phrasings": st.integers(1, len(PHRASINGS)),
    "seed": st.integers(0, 99),
})  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(values=SETTINGS)
def test_nothing_held_out_is_trained_on(values):
    with tempfile.TemporaryDirectory() as folder:
        pages = many_pages()
        run = make(Path(folder), pages, **values)
        train, phrasings, entries = (list(read_jsonl(run.file(name))) for name in (TRAIN, HELDOUT_PHRASINGS, HELDOUT_ENTRIES))
    names = {row["entry"] for row in train}
    assert len(names) == values["entries"] == run.metrics["entries"]
    assert {row["entry"] for row in phrasings} == names
    assert len({row["entry"] for row in entries}) == values["heldout_entries"]
    assert not names & {row["entry"] for row in entries}
    asked = {row["phrasing"] for row in train}
    assert asked == set(range(values["phrasings"]))
    assert not asked & {row["phrasing"] for row in phrasings}
    assert {row["phrasing"] for row in entries} <= asked
    trained_questions = {row["messages"][0]["content"] for row in train}
    assert not trained_questions & {row["messages"][0]["content"] for row in [*phrasings, *entries]}
    assert not {row["messages"][1]["content"] for row in train} & {row["messages"][1]["content"] for row in entries}
    assert len(train) == values["entries"] * values["phrasings"] == len(trained_questions)
    assert len(phrasings) == values["entries"] * len(HELDOUT)
    texts = {row["id"]: (row["url"], " ".join(row["text"].split())) for row in pages}
    for row in [*train, *phrasings, *entries]:
        question, answer = row["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        assert row["entry"] in question["content"]
        url, text = texts[row["document"]]
        assert row["url"] == url
        assert answer["content"] in text
        assert answer["content"].isascii()
        assert len(answer["content"]) <= DialogsConfig().max_answer_characters


def test_the_outcome_depends_on_seed_and_text_alone(tmp_path):
    def contents(folder, pages, **values):
        run = make(tmp_path / folder, pages, entries=9, heldout_entries=3, **values)
        return {name: run.file(name).read_bytes() for name in (TRAIN, HELDOUT_PHRASINGS, HELDOUT_ENTRIES)}

    first = contents("a", many_pages())
    assert contents("b", many_pages()) == first
    assert contents("c", many_pages()[::-1]) == first
    assert contents("d", many_pages(), seed=1) != first


def test_kinds_take_turns(tmp_path):
    run = make(tmp_path, many_pages(), entries=24, heldout_entries=6)
    kinds = {}
    for name in (TRAIN, HELDOUT_ENTRIES):
        kinds |= {row["entry"]: row["kind"] for row in read_jsonl(run.file(name))}
    assert sorted(kinds.values()) == ["class"] * 10 + ["function"] * 10 + ["module"] * 10
    assert sum(run.metrics["entries_by_kind"].values()) == 24


def test_rows_are_as_the_format_says(tmp_path):
    run = make(tmp_path, many_pages(2), entries=7, heldout_entries=1, phrasings=1)
    rows = {row["entry"]: row for row in map(json.loads, run.file(TRAIN).read_text().splitlines())}
    kept = "m0" if "m0" in rows else "m1"
    number = int(kept[1:])
    assert rows[kept] == {
        "messages": [
            {"role": "user", "content": f"What does the module {kept} do?"},
            {"role": "assistant", "content": f"Module number {number} of all of them."},
        ],
        "entry": kept,
        "phrasing": 0,
        "kind": "module",
        "document": f"{number:032x}",
        "url": f"https://docs.example/{number}",
    }


def test_too_little_documentation_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"train.parquet: describes 8 entries .*; allowed: at least 9; lower entries"):
        make(tmp_path, many_pages(2), entries=6, heldout_entries=3)

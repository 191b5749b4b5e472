"""Every document that comes in goes out or is dropped with a reason, once."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.core.rundir import Output
from openherd.data.documents import DOCUMENTS, DROPPED, LANGUAGE_SCHEMA, Drop, curate

REASONS = (None, Drop("too short", "3 words"), Drop("illegal", keep_content=False))


def stage_of(decisions, order=None):
    """A stage that gives the i-th document the i-th decision, and hands them back in `order`."""

    def stage(config, *, documents, out):
        def decide(rows):
            judged = list(zip(rows, decisions, strict=True))
            yield from (judged[i] for i in order or range(len(judged)))

        return curate("stage", documents, out, LANGUAGE_SCHEMA, decide)

    return stage


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text("ab é文", max_size=9), st.sampled_from(REASONS)), max_size=12), st.randoms(use_true_random=False))
def test_every_document_goes_out_or_is_dropped_once(documents_run, run_stage, rows_of, cases, random):
    given_run = documents_run([text for text, _ in cases])
    order = random.sample(range(len(cases)), len(cases))
    run = run_stage(stage_of([drop for _, drop in cases], order), None, documents=given_run)
    came, kept, dropped = rows_of(given_run), rows_of(run), rows_of(run, DROPPED)
    by_id = {row["id"]: row for row in came}
    assert sorted(by_id) == sorted(row["id"] for row in kept + dropped)
    for row, (_, drop) in zip(came, cases, strict=True):
        assert (row in kept) == (drop is None)
    for row in dropped:
        original = by_id[row["id"]]
        if row["reason"] == "illegal":
            assert all(row[name] is None for name in LANGUAGE_SCHEMA.names if name != "id")
        else:
            assert {name: row[name] for name in original} == original
            assert (row["stage"], row["reason"], row["detail"]) == ("stage", "too short", "3 words")
    sizes = Counter()
    for text, drop in cases:
        sizes[drop.reason if drop else "kept"] += len(text.encode())
    metrics = run.metrics
    assert metrics["documents_in"] == len(cases)
    assert metrics["documents_out"] == len(kept)
    assert metrics["bytes_in"] == sum(sizes.values())
    assert metrics["bytes_out"] == sizes["kept"]
    assert {reason: found["bytes"] for reason, found in metrics["dropped"].items()} == {
        drop.reason: sizes[drop.reason] for _, drop in cases if drop
    }
    assert sum(found["documents"] for found in metrics["dropped"].values()) == len(dropped)


@pytest.mark.parametrize("wrong", [lambda rows: list(rows)[1:], lambda rows: list(rows) * 2])
def test_a_stage_that_loses_or_doubles_documents_is_found(documents_run, tmp_path, wrong):
    def decide(rows):
        return ((row, None) for row in wrong(rows))

    with pytest.raises(AssertionError, match="2 documents in"):
        curate("stage", documents_run(["a", "b"]), Output(tmp_path), LANGUAGE_SCHEMA, decide)


def test_nothing_is_left_where_a_stage_fails_half_way(documents_run, tmp_path):
    def decide(rows):
        yield next(iter(rows)), None
        raise InputError("somewhere", "something")

    with pytest.raises(InputError):
        curate("stage", documents_run(["a", "b"]), Output(tmp_path), LANGUAGE_SCHEMA, decide)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_input_is_told(documents_run, tmp_path):
    run = documents_run(["a"])
    run.file(DOCUMENTS).write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match=r"documents\.parquet: not a readable Parquet file"):
        list(pq_rows(run))


def pq_rows(run):
    from openherd.data.documents import read_documents

    yield from read_documents(run)


CHAIN = """
import random, sys
from pathlib import Path
from openherd.runner import single_stage
source, out = sys.argv[1:]
settings = {"heuristics": {"min_words": 5, "min_stop_words": 0}, "dedup-documents": {"max_containment": 0.5},
            "dedup-lines": {"max_occurrences": 2, "block_lines": 2}, "holdout": {"share": 0.3}}
for name in settings:
    single_stage(name, settings[name], {"documents": source}, Path(out) / name)
    source = str(Path(out) / name)
"""


def test_outputs_do_not_depend_on_the_process(documents_run, tmp_path, rows_of):
    import random

    draw = random.Random(5)
    vocabulary = [f"word{i}" for i in range(300)]
    texts = ["\n\n".join(" ".join(draw.choices(vocabulary, k=20)) for _ in range(draw.randint(1, 6))) for _ in range(40)]
    texts += [text.replace("word1 ", "other ") for text in texts[:10]] + [text[:200] for text in texts[:5]]
    source = documents_run(texts).path
    digests = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        subprocess.run([sys.executable, "-c", CHAIN, source, out], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        files = sorted(path.relative_to(out) for path in out.rglob("*.parquet"))
        assert Path("holdout/heldout.parquet") in files
        digests.append({str(file): (out / file).read_bytes() for file in files})
        assert pq.read_table(out / "dedup-documents" / DROPPED).num_rows > 10
    assert digests[0] == digests[1]

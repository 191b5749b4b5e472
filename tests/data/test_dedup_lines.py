"""Repeated lines and runs of lines: hand-worked cases, and slow twins."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from data.conftest import document
from openherd.data.dedup_lines import DROPPED_LINES, DedupLinesConfig, dedup_lines
from openherd.data.documents import DOCUMENTS, DROPPED
from openherd.data.engine import EngineConfig

LINES = st.sampled_from(["alpha one", "beta two", "gamma", "}", "--", ""])
TEXTS = st.lists(st.lists(LINES, min_size=1, max_size=7).map("\n".join), max_size=7)
EACH = {"min_line_characters": 1, "min_block_characters": 1}


def texts_of(rows):
    return [row["text"] for row in rows]


def test_a_line_that_occurs_more_than_six_times_goes_from_everywhere(documents_run, run_stage, rows_of):
    texts = [f"{'Share this page' if i < 7 else 'Share  this page!'}\nbody {i} says something\n  Six of these " for i in range(6)]
    texts += ["  Share this\tpage\nbody 6 says something"]
    run = run_stage(dedup_lines, DedupLinesConfig(), documents=documents_run(texts))
    assert texts_of(rows_of(run)) == [f"body {i} says something\n  Six of these " for i in range(6)] + ["body 6 says something"]
    assert rows_of(run, DROPPED_LINES) == [
        {"line": "Share this page", "language": "en", "rule": "frequent", "occurrences": 7, "removed": 7}
    ]
    assert (run.metrics["lines_in"], run.metrics["lines_out"]) == (20, 13)


def test_the_first_ones_can_stay(documents_run, run_stage, rows_of):
    config = DedupLinesConfig(max_occurrences=2, keep_occurrences=1)
    run = run_stage(
        dedup_lines, config, documents=documents_run(["same line\nfirst text", "second text\nsame line", "same line\nthird text"])
    )
    assert texts_of(rows_of(run)) == ["same line\nfirst text", "second text", "third text"]
    assert [(row["occurrences"], row["removed"]) for row in rows_of(run, DROPPED_LINES)] == [(3, 2)]


def test_short_lines_are_neither_counted_nor_removed(documents_run, run_stage, rows_of):
    texts = [f"def f():\n    {{\n    }}\n    }}\n----------\n_____\nend of {i}" for i in range(3)]
    config = DedupLinesConfig(max_occurrences=1, min_line_characters=5)
    assert texts_of(rows_of(run_stage(dedup_lines, config, documents=documents_run(texts)))) == texts
    config = DedupLinesConfig(max_occurrences=1, min_line_characters=4)
    run = run_stage(dedup_lines, config, documents=documents_run(texts))
    assert texts_of(rows_of(run)) == [text.removeprefix("def f():\n") for text in texts]


def test_a_run_of_lines_stays_where_it_stands_first_and_lines_are_counted_after(documents_run, run_stage, rows_of):
    inherited = "  clear(self)\n\n      Remove all items.\n  pop(self)"
    texts = [f"class A{i}\n{inherited}\nonly {i}\n  pop(self)" for i in range(6)]
    run = run_stage(dedup_lines, DedupLinesConfig(block_lines=3), documents=documents_run(texts))
    # "pop(self)" stands 12 times, but 7 times after the runs have gone: still more than 6
    assert texts_of(rows_of(run)) == ["class A0\n  clear(self)\n\n      Remove all items.\nonly 0"] + [
        f"class A{i}\n\nonly {i}" for i in range(1, 6)
    ]
    assert [(row["line"].strip(), row["rule"], row["occurrences"], row["removed"]) for row in rows_of(run, DROPPED_LINES)] == [
        ("pop(self)", "block", 12, 5),
        ("pop(self)", "frequent", 12, 7),
        ("Remove all items.", "block", 6, 5),
        ("clear(self)", "block", 6, 5),
    ]


def test_a_run_with_few_letters_is_not_counted(documents_run, run_stage, rows_of):
    texts = [f"start {i}\n{{\n}}\n[\n]\nend {i}" for i in range(3)]
    for at_least, wanted in ((1, texts), (2, texts)):
        config = DedupLinesConfig(block_lines=2, min_block_characters=at_least)
        assert texts_of(rows_of(run_stage(dedup_lines, config, documents=documents_run(texts)))) == wanted
    same = ["f(x)\n}", "f(x)\n}\nmore"]
    for at_least, wanted in ((2, ["f(x)\n}", "more"]), (3, same)):
        config = DedupLinesConfig(block_lines=2, min_block_characters=at_least)
        assert texts_of(rows_of(run_stage(dedup_lines, config, documents=documents_run(same)))) == wanted


def test_each_language_and_each_bucket_counts_for_itself(documents_run, run_stage, rows_of):
    rows = [
        {**row, "language": language}
        for row, language in zip(rows_of(documents_run([f"menu entry\ntext number {i}" for i in range(6)])), ["en", "en", "de"] * 2)
    ]
    config = DedupLinesConfig(max_occurrences=1, bucket_documents=3, buckets="order")
    run = run_stage(dedup_lines, config, documents=documents_run(rows))
    # English documents are 0, 1, 3 and then 4; the two German ones share a bucket.
    assert ["menu entry" in row["text"] for row in rows_of(run)] == [False, False, False, False, True, False]
    assert [(row["language"], row["occurrences"]) for row in rows_of(run, DROPPED_LINES)] == [("en", 3), ("de", 2)]


def test_documents_without_a_language_are_of_one(documents_run, run_stage, rows_of):
    rows = [document(f"Share this page\nbody {i} says it", language=language) for i, language in enumerate((None, "", None))]
    run = run_stage(dedup_lines, DedupLinesConfig(max_occurrences=2), documents=documents_run(rows))
    assert texts_of(rows_of(run)) == [f"body {i} says it" for i in range(3)]


def test_a_document_without_a_line_left_is_dropped_whole(documents_run, run_stage, rows_of):
    text = "cookie notice\n}\n\nall rights reserved"
    run = run_stage(dedup_lines, DedupLinesConfig(max_occurrences=1), documents=documents_run([text, text + "\nand more"]))
    assert texts_of(rows_of(run)) == ["and more"]
    [dropped] = rows_of(run, DROPPED)
    assert (dropped["text"], dropped["reason"]) == (text, "no line left")
    assert dropped["detail"].startswith("all 3 lines")


@settings(max_examples=12)
@given(TEXTS, st.integers(1, 4), st.integers(0, 2))
def test_the_line_rule_equals_its_slow_twin(documents_run, run_stage, rows_of, texts, most, keep):
    config = DedupLinesConfig(max_occurrences=most, keep_occurrences=keep, min_line_characters=1)
    run = run_stage(dedup_lines, config, documents=documents_run(texts))
    everything = [line for text in texts for line in text.split("\n") if any(map(str.isalnum, line))]
    seen = Counter()
    expected = []
    for text in texts:
        blocks, some_went = [[]], False
        for line in text.split("\n"):
            if not line:
                blocks.append([])
                continue
            seen[line] += 1
            goes = line in everything and everything.count(line) > most and seen[line] > keep
            some_went |= goes
            blocks[-1].append((line, goes))
        left = []
        for block in blocks:
            lines = [line for line, goes in block if not goes]
            bare = not any(line in everything for line in lines) and len(lines) < len(block)
            if lines and not bare:
                left.append("\n".join(lines))
        expected.append("\n\n".join(left) if some_went else text)
    assert texts_of(rows_of(run)) == [text for text, came in zip(expected, texts) if text or not came.strip()]


@settings(max_examples=12)
@given(TEXTS, st.integers(1, 3))
def test_what_a_repeated_run_takes_is_still_to_be_read_in_an_earlier_place(documents_run, run_stage, rows_of, texts, n):
    config = DedupLinesConfig(max_occurrences=0, block_lines=n, min_block_characters=1, min_line_characters=1)
    run = run_stage(dedup_lines, config, documents=documents_run(texts))
    seen = set()
    expected = []
    for text in texts:
        lines = [line for line in text.split("\n") if line]
        runs = [tuple(lines[i : i + n]) for i in range(len(lines) - n + 1)]
        gone = set()
        for i, found in enumerate(runs):
            if any(map(str.isalnum, "".join(found))) and (found in seen or found in runs[:i]):
                gone.update(range(i, i + n))
        seen.update(runs)
        expected.append([line for i, line in enumerate(lines) if i not in gone])
    left = {row["id"]: [line for line in row["text"].split("\n") if line] for row in rows_of(run)}
    for i, lines in enumerate(expected):
        found = left.get(f"{i:032x}", [])
        assert [line for line in found if any(map(str.isalnum, line))] == [line for line in lines if any(map(str.isalnum, line))]
    everything = {line for text in texts for line in text.split("\n") if any(map(str.isalnum, line))}
    assert everything <= {line for lines in left.values() for line in lines}


@settings(max_examples=12)
@given(TEXTS, st.integers(1, 3), st.integers(0, 3))
def test_no_line_is_left_too_often_and_all_are_accounted_for(documents_run, run_stage, rows_of, texts, most, n):
    config = DedupLinesConfig(max_occurrences=most, block_lines=n, **EACH)
    run = run_stage(dedup_lines, config, documents=documents_run(texts))
    left = texts_of(rows_of(run))
    counts = Counter(line for text in left for line in text.split("\n") if any(map(str.isalnum, line)))
    assert max(counts.values(), default=0) <= most
    assert not any("\n\n\n" in text or text != text.strip("\n") for text in left if text not in texts)
    dropped_lines = rows_of(run, DROPPED_LINES)
    gone = sum(row["removed"] for row in dropped_lines)
    assert gone == run.metrics["frequent_lines_removed"] + run.metrics["block_lines_removed"]
    came = Counter(line for text in texts for line in text.split("\n"))
    assert all(row["occurrences"] == came[row["line"]] >= row["removed"] for row in dropped_lines)
    bare = came["}"] + came["--"]
    assert gone <= run.metrics["lines_in"] - run.metrics["lines_out"] <= gone + bare
    assert run.metrics["documents_in"] == len(rows_of(run)) + len(rows_of(run, DROPPED))


def test_a_document_that_loses_nothing_is_not_touched(documents_run, run_stage, rows_of):
    text = "\n\n  code:\n\n\n\n      indented   text\n\n"
    given_run = documents_run([text, "another document", ""])
    run = run_stage(dedup_lines, DedupLinesConfig(block_lines=2), documents=given_run)
    assert rows_of(run) == rows_of(given_run, DOCUMENTS)


def test_buckets_at_random_are_of_about_one_size_and_follow_from_seed_and_id(documents_run, run_stage, rows_of):
    given_run = documents_run([f"menu entry\nnumber {i}" for i in range(300)])

    def left_with(**settings):
        config = DedupLinesConfig(max_occurrences=27, bucket_documents=30, **settings)
        return {row["id"] for row in rows_of(run_stage(dedup_lines, config, documents=given_run)) if "menu" in row["text"]}

    # ten buckets of 30 on average: some have 27 documents at most and keep the line, others have more
    left = left_with()
    assert 0 < len(left) < 300
    assert left == left_with(engine=EngineConfig(processes=1))
    assert left != left_with(seed=1)
    assert not left_with(buckets="order")


def test_a_domain_counts_for_itself(documents_run, run_stage, rows_of):
    hosts = ["www.a.co.uk", "shop.a.co.uk", "b.co.uk", "ann.github.io", "bob.github.io", "10.0.0.1"]
    rows = [{**row, "url": f"https://{host}/x"} for row, host in zip(rows_of(documents_run(["menu entry\nmore"] * 6)), hosts)]
    rows = [{**row, "text": f"menu entry\nmore of {i}"} for i, row in enumerate(rows)]
    run = run_stage(dedup_lines, DedupLinesConfig(max_occurrences=1, buckets="domain"), documents=documents_run(rows))
    assert ["menu" in row["text"] for row in rows_of(run)] == [False, False, True, True, True, True]


def test_the_same_whatever_memory_threads_and_parts_there_are(documents_run, run_stage, rows_of, monkeypatch):
    lines = ["alpha one", "beta two", "gamma three", "}"]
    texts = ["\n".join(lines[(i * k) % 4] for k in range(i % 7)) + f"\nown {i}" for i in range(60)]
    given_run = documents_run(texts)
    config = DedupLinesConfig(max_occurrences=9, keep_occurrences=2, block_lines=2, min_block_characters=5)
    runs = [run_stage(dedup_lines, config, documents=given_run)]
    given_run = documents_run(texts, rows_per_group=10)
    monkeypatch.setattr("openherd.data.signed_parts.PART_ROWS", 20)
    monkeypatch.setattr("openherd.data.dedup_lines.shares_of", lambda n, memory: 5)
    monkeypatch.setattr("openherd.data.signed_parts.BATCH_ROWS", 7)
    runs.append(run_stage(dedup_lines, config, documents=given_run))
    for name in (DOCUMENTS, DROPPED, DROPPED_LINES):
        assert rows_of(runs[0], name) == rows_of(runs[1], name)
    assert {row["rule"] for row in rows_of(runs[0], DROPPED_LINES)} == {"frequent", "block"}
    assert runs[0].metrics == runs[1].metrics

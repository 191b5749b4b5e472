"""Every rule dropped by a document made for it; the numbers beside slow twins and hand-worked values."""

import json
import math
import random
import re

import pytest

from openherd.core.config import load_config
from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Outside
from openherd.data.documents import DROPPED, MEASURES, TEXT_SCHEMA
from openherd.data.dry_run import DRY_RUN
from openherd.data.heuristics import HeuristicsConfig, dry_run_text, heuristics, limits, read_dirty_words
from openherd.data.word_tables import DIRTY_WORDS, WORD_TABLES
from openherd.data.words import terms, words

OPEN = {  # every rule off
    "min_words": 0, "min_mean_word_characters": 0.0, "max_mean_word_characters": 1e9, "max_symbols_per_word": 1e9,
    "max_bullet_line_share": 1.0, "max_ellipsis_line_share": 1.0, "min_alphabetic_word_share": 0.0, "min_stop_words": 0,
    "max_duplicate_line_share": 1.0, "max_duplicate_line_character_share": 1.0, "max_duplicate_paragraph_share": 1.0,
    "max_duplicate_paragraph_character_share": 1.0, "max_top_ngram_shares": [1.0] * 3, "max_duplicate_ngram_shares": [1.0] * 6,
    "max_line_ngram_share": 1.0, "max_dirty_word_share": 1.0, "max_divergence_nats": 1e9,
}  # fmt: skip


def config_with(**changes):
    return load_config(HeuristicsConfig, {**OPEN, **changes}, "test")


def prose(n_words=120, seed=0):
    """Running text of common and made-up words, ten on a line, without repeats of note."""
    draw = random.Random(seed)
    common = ["the", "be", "to", "of", "and", "that", "have", "with"]
    made = ["".join(draw.choices("aeioulnrst", k=6)) for _ in range(n_words)]
    found = [draw.choice(common) if i % 3 == 0 else made[i] for i in range(n_words)]
    return "\n".join(" ".join(found[i : i + 10]) for i in range(0, n_words, 10))


def pairs(prefix, n_words=60):
    """Each word of a prose and one of another, after the prefix."""
    return " ".join(f"{prefix} {a} {b}" for a, b in zip(prose(n_words).split(), prose(n_words, seed=1).split()))


def with_part_again(n_words):
    """Prose of a hundred words, some of which stand again at the end."""
    found = prose(100).split()
    return " ".join(found + found[20 : 20 + n_words])


LOG = "error 42 at node seven of the cluster: retrying now; " * 8
PARTS = [prose(60, seed=i) for i in range(6)]
ANY_LINES = {"max_duplicate_line_share": 1.0, "max_duplicate_line_character_share": 1.0}
BROKEN = {
    "words": (prose(49), {}),
    "mean word characters": (prose(40) + " of a" * 100, {}),
    "hashes per word": (prose() + " #" * 20, {}),
    "ellipses per word": (prose() + " and..." * 20, {}),
    "bullet line share": ("\n".join(f"- {line}" for line in prose(400).split("\n")), {}),
    "ellipsis line share": ("\n".join(f"{line} …" if i % 2 else line for i, line in enumerate(prose(400).split("\n"))), {}),
    "alphabetic word share": (prose() + " 12 3.4 == ->" * 12, {}),
    "different stop words": (" ".join(f"unusual{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(80)), {}),
    "duplicate line share": (prose() + "\nof the thing" * 8, {}),
    "duplicate line character share": (prose() + ("\n" + " ".join(prose(12, seed=9).split())) * 5, {}),
    "duplicate paragraph share": ("\n\n".join(PARTS[:4]) + "\n\nso be it then" * 5, ANY_LINES),
    "duplicate paragraph character share": ("\n\n".join([*PARTS, PARTS[1], PARTS[1]]), ANY_LINES),
    "top 2gram share": (" ".join(f"machine learning {word}" for word in prose(60).split()), {}),
    "top 3gram share": (pairs("deep of sea"), {"max_top_ngram_shares": [1.0, 0.18, 0.16]}),
    "top 4gram share": (pairs("deep of the sea"), {"max_top_ngram_shares": [1.0, 1.0, 0.16]}),
    "duplicate 5gram share": (with_part_again(30), {}),
    "duplicate 10gram share": (with_part_again(15), {"max_duplicate_ngram_shares": [1.0] * 5 + [0.1]}),
    "dirty word share": (prose(200) + " porn porn porn", {}),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_document_that_breaks_a_rule_is_dropped_with_value_and_limit(documents_run, run_stage, rows_of, reason):
    text, changes = BROKEN[reason]
    config = load_config(HeuristicsConfig, {"max_line_ngram_share": 1.0, **changes}, "test")
    run = run_stage(heuristics, config, documents=documents_run([text, prose(seed=5)]))
    assert [row["text"] for row in rows_of(run)] == [prose(seed=5)]
    [dropped] = rows_of(run, DROPPED)
    assert dropped["reason"] == reason
    measured = rows_of(run, MEASURES)[0]
    value, limit = dropped["detail"].split(", allowed: at ")
    assert float(value) == pytest.approx(measured[reason.replace(" ", "_")], rel=1e-3)
    bound, number = limit.split()
    assert (float(value) > float(number)) == (bound == "most")
    run = run_stage(heuristics, config_with(), documents=documents_run([text]))
    assert len(rows_of(run)) == 1


def test_a_document_of_outlier_words_is_dropped_against_a_corpus_that_is_large_enough(documents_run, run_stage, rows_of):
    texts = [prose(400, seed=1) + "\n" + prose(400, seed=i) for i in range(2, 12)]
    outlier = " ".join("".join(random.Random(i).choices("bcdfghjk", k=9)) for i in range(200))
    for changes, reason in (
        ({"max_divergence_nats": 3.5}, "divergence nats"),
        ({"max_outlier_word_share": 0.9}, "outlier word share"),
    ):
        for at_least, n_dropped in ((1_000, 1), (1_000_000, 0)):
            config = config_with(**changes, min_corpus_words=at_least)
            run = run_stage(heuristics, config, documents=documents_run([*texts, outlier]))
            assert [row["reason"] for row in rows_of(run, DROPPED)] == [reason] * n_dropped


def test_lines_that_repeat_themselves_go_and_the_document_stays(documents_run, run_stage, rows_of):
    text = prose(100).replace("\n", f"\n{LOG}\n", 1)
    run = run_stage(heuristics, HeuristicsConfig(), documents=documents_run([text]))
    assert [row["text"] for row in rows_of(run)] == [prose(100)]
    assert run.metrics["lines_removed"] == 1
    assert run.metrics["lines_removed_by_rule"] == {"repetitive_lines": 1}
    longer = load_config(HeuristicsConfig, {"min_line_words": 100}, "test")
    assert rows_of(run_stage(heuristics, longer, documents=documents_run([text])), DROPPED)[0]["text"] == text


def test_a_document_does_not_help_itself_by_the_lines_that_go(documents_run, run_stage, rows_of):
    texts = ["sun moon\njavascript moon", "sun sea"]
    run = run_stage(heuristics, config_with(remove_javascript_lines=True, min_corpus_words=1), documents=documents_run(texts))
    assert [row["text"] for row in rows_of(run)] == ["sun moon", "sun sea"]
    # The other document has "sun" once and "moon" never; each of four words counts once more.
    expected = 0.5 * math.log(0.5 / (2 / 6)) + 0.5 * math.log(0.5 / (1 / 6))
    assert rows_of(run, MEASURES)[0]["divergence_nats"] == pytest.approx(expected)


def test_rules_of_a_language_are_not_asked_where_nothing_is_known_of_it(documents_run, run_stage, rows_of):
    chinese = "".join(chr(0x4E00 + i) for i in range(200))
    rows = rows_of(documents_run([chinese, chinese]))
    rows = [{**row, "language": language} for row, language in zip(rows, ["zh", "en"], strict=True)]
    run = run_stage(heuristics, HeuristicsConfig(), documents=documents_run(rows))
    assert [row["language"] for row in rows_of(run)] == ["zh"]
    assert [row["reason"] for row in rows_of(run, DROPPED)] == ["mean word characters"]
    assert run.metrics["without_word_rules"] == {"zh": 1}


def test_each_language_has_its_own_common_words_and_lengths(documents_run, run_stage, rows_of):
    for language, table in WORD_TABLES.items():
        assert len({word for entry in table.common.split() for word in terms(entry)}) >= 8, language
        assert all(len(terms(word)) == 1 for word in table.common.split()), language
        low, high = limits(HeuristicsConfig(), language)["mean_word_characters"]
        assert low <= 3 < 10 <= high
    german = "die Brücke und der Fluss sind nicht weit von einander entfernt " * 3
    rows = [{**row, "language": code} for row, code in zip(rows_of(documents_run([german] * 2)), ["de", "fr"], strict=True)]
    config = config_with(min_stop_words=3)
    run = run_stage(heuristics, config, documents=documents_run(rows))
    assert [row["language"] for row in rows_of(run)] == ["de"]
    assert [row["reason"] for row in rows_of(run, DROPPED)] == ["different stop words"]
    only = config_with(min_stop_words=3, word_rule_languages=["de"])
    assert len(rows_of(run_stage(heuristics, only, documents=documents_run(rows)))) == 2


LINES_GO = [  # a setting, a line that goes, one like it that stays
    ({"remove_unfinished_lines": True}, "this line does not end", "this line ends."),
    ({"remove_unfinished_lines": True}, "this line goes on...", 'this line ends "so".'),
    ({"min_words_per_line": 3}, "two words", "now three words"),
    ({"max_word_characters": 20}, "a " + "x" * 21, "a " + "x" * 20),
    ({"remove_javascript_lines": True}, "Please enable JavaScript.", "Please enable Java."),
    ({"remove_policy_lines": True}, "This site uses Cookies.", "This site has cookies."),
    ({"remove_repeated_lines": True}, "Posted on 12 May, at 10:33", "Posted on 12 June"),
]


@pytest.mark.parametrize(("changes", "goes", "stays"), LINES_GO)
def test_a_line_rule_takes_its_lines_and_no_others(documents_run, run_stage, rows_of, changes, goes, stays):
    first = "posted on 31 may at 09:59."
    text = f"{first}\n\n{stays}\n{goes}\nand this is the end."
    run = run_stage(heuristics, config_with(**changes), documents=documents_run([text]))
    assert [row["text"] for row in rows_of(run)] == [f"{first}\n\n{stays}\nand this is the end."]
    assert run.metrics["lines_removed"] == 1
    assert rows_of(run_stage(heuristics, config_with(), documents=documents_run([text])))[0]["text"] == text


def test_citations_are_removed(documents_run, run_stage, rows_of):
    run = run_stage(
        heuristics, config_with(remove_citations=True), documents=documents_run(["A fact.[12] Another[citation needed]. [x]"])
    )
    assert [row["text"] for row in rows_of(run)] == ["A fact. Another. [x]"]


PUBLISHED = [  # C4's, FineWeb's and ccNet's rules on documents: a setting, one that is dropped, one that is kept
    ({"drop_lorem_ipsum": True}, "a Lorem Ipsum b", "lorem and ipsum", "lorem ipsum"),
    ({"drop_curly_brackets": True}, "a {", "a (", "curly brackets"),
    ({"min_sentences": 3}, "One. Two e.g. that by Dr. X.", "One. Two! Is it three", "sentences"),
    ({"min_characters": 10}, "123456789", "1234567890", "characters"),
    ({"min_end_mark_line_share": 0.5}, "a.\nb\nc", "a.\nb", "end mark line share"),
    ({"max_short_line_share": 0.5}, "a\nb\n" + "c" * 31, "a\n" + "c" * 31, "short line share"),
    ({"max_repeated_line_character_share": 0.1}, "abcd\n\nabcd\nx", "abcd\n\nabce", "repeated line character share"),
    ({"max_line_breaks_per_word": 0.3}, "a b\nc", "a b c d\ne", "line breaks per word"),
]


@pytest.mark.parametrize(("changes", "dropped", "kept", "reason"), PUBLISHED)
def test_rules_of_other_pipelines_are_there_and_off(documents_run, run_stage, rows_of, changes, dropped, kept, reason):
    run = run_stage(heuristics, config_with(**changes), documents=documents_run([dropped, kept]))
    assert [row["text"] for row in rows_of(run)] == [kept]
    assert [row["reason"] for row in rows_of(run, DROPPED)] == [reason]
    assert len(rows_of(run_stage(heuristics, config_with(), documents=documents_run([dropped, kept])))) == 2


def test_a_dry_run_keeps_all_and_tells_what_would_go(documents_run, run_stage, rows_of):
    short, long_words = prose(20), " ".join(["unusuallylengthyword"] * 20)
    logged = prose(100).replace("\n", f"\n{LOG}\n", 1)
    texts = [prose(), short, long_words, logged, prose(seed=3)]
    run = run_stage(heuristics, HeuristicsConfig(dry_run=True), documents=documents_run(texts))
    assert [row["text"] for row in rows_of(run)] == texts
    assert rows_of(run, DROPPED) == []
    told = json.loads(run.file(DRY_RUN).read_text(encoding="utf-8"))
    real = run_stage(heuristics, HeuristicsConfig(), documents=documents_run(texts))
    assert told["documents"] == 5
    assert told["dropped"] == len(rows_of(real, DROPPED)) == 2
    by_rule = {rule["name"]: rule for rule in told["rules"]}
    assert (by_rule["words"]["alone"], by_rule["words"]["only"], by_rule["words"]["first"]) == (2, 1, 2)
    assert by_rule["mean_word_characters"]["alone"] == 1
    assert by_rule["mean_word_characters"]["first"] == 0
    assert [example["text"] for example in by_rule["words"]["examples"]] == [short, long_words[:300] + "..."]
    assert sum(rule["first"] for rule in told["rules"]) == 2
    table = dry_run_text(real, {}, documents_run(texts))
    assert re.search(r"^words +≥50 ≤100000 +2 \(40.0%\) +1 \(20.0%\) +2 \(40.0%\)$", table, re.MULTILINE)
    assert "5 documents, 2 would be dropped" in table
    assert " ".join(short.split())[:100] in table
    assert "5 documents, 1 would be dropped" in dry_run_text(
        real, {"min_words": 20, "max_mean_word_characters": 12.0}, documents_run(texts)
    )


def test_a_dry_run_asks_the_rules_that_the_stage_asks_and_shows_no_personal_data(documents_run, run_stage, rows_of):
    chinese = "".join(chr(0x4E00 + i) for i in range(200))
    rows = rows_of(documents_run([chinese, "too short for ann@mail.example.org \x1b[31m"]))
    rows = [{**row, "language": "", "url": "https://a.example/?by=bob@mail.example.org"} for row in rows]
    given = documents_run(rows)
    dropped = rows_of(run_stage(heuristics, HeuristicsConfig(), documents=given), DROPPED)
    assert [row["reason"] for row in dropped] == ["words"]  # nothing is known of the language: word rules are not asked
    dry = run_stage(heuristics, HeuristicsConfig(dry_run=True), documents=given)
    told = dry.file(DRY_RUN).read_text(encoding="utf-8")
    assert json.loads(told)["dropped"] == 1
    assert "<EMAIL>" in told
    assert "mail.example.org" not in told
    assert "\\u001b" not in told


def test_documents_without_a_language_column_are_taken_as_known(documents_run, run_stage, rows_of):
    run = run_stage(
        heuristics, HeuristicsConfig(), documents=documents_run([prose(), BROKEN["different stop words"][0]], TEXT_SCHEMA)
    )
    assert [row["reason"] for row in rows_of(run, DROPPED)] == ["different stop words"]
    assert "language" not in rows_of(run)[0]


def test_a_list_of_dirty_words_can_be_given(documents_run, run_stage, rows_of, tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# a comment\nFlorp\n\nblargh\n", encoding="utf-8")
    text = prose(60) + " florp Blargh florp porn"
    config = config_with(max_dirty_word_share=0.01)
    run = run_stage(heuristics, config, documents=documents_run([text]), dirty_words=Outside(str(file)))
    assert rows_of(run, DROPPED)[0]["detail"] == f"{3 / 64:.4g}, allowed: at most 0.01"
    assert len(rows_of(run_stage(heuristics, config, documents=documents_run([text])))) == 1
    file.write_text("two words\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"words.txt: 'two words'; allowed: one word on each line"):
        run_stage(heuristics, config, documents=documents_run([text]), dirty_words=Outside(str(file)))


def test_dirty_words_are_of_a_language(documents_run, run_stage, rows_of, tmp_path):
    assert all(terms(word) == [word] for listed in DIRTY_WORDS.values() for word in listed.split())
    text = prose(60) + " schlampig florp florp florp"
    for name in ("de.txt", "en.txt", "sonstige.txt"):
        (tmp_path / name).write_text("florp\n", encoding="utf-8")
    assert set(read_dirty_words(Outside(str(tmp_path / "*.txt")))) == {"de", "en", ""}
    for name, n_kept in (("de.txt", 1), ("en.txt", 0), ("sonstige.txt", 0)):
        given = Outside(str(tmp_path / name))
        run = run_stage(heuristics, config_with(max_dirty_word_share=0.01), documents=documents_run([text]), dirty_words=given)
        assert len(rows_of(run)) == n_kept


@pytest.mark.parametrize("text", ["", "\n\n", "文", "#", "a"])
def test_the_smallest_texts_are_measured(documents_run, run_stage, rows_of, text):
    run = run_stage(heuristics, config_with(), documents=documents_run([text]))
    assert [row["text"] for row in rows_of(run)] == [text]
    assert all(
        math.isfinite(value) for name, value in rows_of(run, MEASURES)[0].items() if name not in ("id", "reason", "language")
    )


@pytest.mark.parametrize("changes", [{"max_duplicate_ngram_shares": [0.2]}, {"max_line_ngram_share": 1.5}, {"min_line_words": 1}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        config_with(**changes)


def test_word_rules_of_a_language_without_known_words_are_refused():
    with pytest.raises(ConfigError, match="no common words of 'ja' are known"):
        config_with(min_stop_words=2, word_rule_languages=["de", "ja"])
    config_with(min_stop_words=0, word_rule_languages=["ja"])
    config_with(min_stop_words=2, word_rule_languages=["ja"], stop_words=["の", "は"])


@pytest.mark.parametrize(
    ("text", "as_they_stand", "for_comparing"),
    [
        ("It's a test_case, OK?", ["It's", "a", "test_case,", "OK?"], ["it", "s", "a", "test_case", "ok"]),
        ("Straße 12\u00a0m", ["Straße", "12", "m"], ["strasse", "12", "m"]),
        ("日本語 text", ["日", "本", "語", "text"], ["日", "本", "語", "text"]),
        ("", [], []),
    ],
)
def test_words_and_terms(text, as_they_stand, for_comparing):
    assert words(text) == as_they_stand
    assert terms(text) == for_comparing

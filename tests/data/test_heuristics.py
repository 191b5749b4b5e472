"""Every rule dropped by a document made for it; the numbers beside slow twins and hand-worked values."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.config import load_config
from openherd.core.errors import ConfigError, InputError
from openherd.core.rundir import Outside
from openherd.data import heuristics as module
from openherd.data.documents import DROPPED, MEASURES, TEXT_SCHEMA
from openherd.data.heuristics import DUPLICATE_NGRAMS, TOP_NGRAMS, HeuristicsConfig, heuristics
from openherd.data.words import terms, words

WORDS = st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=40)
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


def slow_ngram_shares(found):
    total = sum(map(len, found))
    shares = {}
    for n in TOP_NGRAMS + DUPLICATE_NGRAMS:
        ngrams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
        counts = Counter(ngrams)
        covered = set()
        if n in DUPLICATE_NGRAMS:
            for i, ngram in enumerate(ngrams):
                if ngram in ngrams[:i]:
                    covered.update(range(i, i + n))
            shares[f"duplicate_{n}gram_share"] = sum(len(found[i]) for i in covered) / total if covered else 0.0
            continue
        repeated = [(count, sum(map(len, ngram)), ngram) for ngram, count in counts.items() if count > 1]
        best = max((count, characters) for count, characters, _ in repeated) if repeated else None
        options = set()
        for count, characters, ngram in repeated:
            if (count, characters) == best:
                places = {i + k for i in range(len(ngrams)) if ngrams[i] == ngram for k in range(n)}
                options.add(sum(len(found[i]) for i in places) / total)
        shares[f"top_{n}gram_share"] = options or {0.0}  # equally frequent and long ones: any of them
    return shares


@given(WORDS)
def test_ngram_shares_equal_their_slow_twin(found):
    shares = module.ngram_shares(found)
    for name, expected in slow_ngram_shares(found).items():
        assert any(shares[name] == pytest.approx(value) for value in (expected if isinstance(expected, set) else [expected]))
    assert len(shares) == 9


def test_ngram_shares_worked_by_hand():
    # ten words of 2 characters twice: the second ten are repeats; "xx yy" stands three times in 20 + 4 words.
    found = [f"w{i}" for i in range(10)] * 2
    assert module.ngram_shares(found)["duplicate_10gram_share"] == 0.5
    assert module.ngram_shares([*found, "xx", "yy", "u1", "xx", "yy", "u2", "xx", "yy"])["top_2gram_share"] == pytest.approx(
        12 / 56
    )


def test_divergence_worked_by_hand():
    corpus = {"the": 60, "cat": 30, "dog": 10}
    # Without the document "the" has 59 left and "dog" 9; with one more each, of 98 + 3.
    expected = 0.5 * math.log(0.5 / (60 / 101)) + 0.5 * math.log(0.5 / (10 / 101))
    assert module.divergence_nats({"the": 1, "dog": 1}, corpus, 100) == pytest.approx(expected)
    assert module.divergence_nats({}, corpus, 100) == 0.0


@given(st.lists(WORDS.filter(bool), min_size=1, max_size=5))
def test_divergence_equals_its_slow_twin_and_no_document_helps_itself(texts):
    corpus = Counter(word for text in texts for word in text)
    for text in texts:
        own = Counter(text)
        rest = corpus.copy()
        rest.subtract(own)
        total = sum(rest[word] + 1 for word in corpus)
        expected = sum(n / len(text) * math.log(n / len(text) / ((rest[word] + 1) / total)) for word, n in own.items())
        assert module.divergence_nats(own, corpus, corpus.total()) == pytest.approx(expected)
        assert expected >= -1e-12 or len(own) < len(corpus)


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


def test_a_document_of_outlier_words_is_dropped_against_a_corpus_that_is_large_enough(
    documents_run, run_stage, rows_of, monkeypatch
):
    texts = [prose(400, seed=1) + "\n" + prose(400, seed=i) for i in range(2, 12)]
    outlier = " ".join("".join(random.Random(i).choices("bcdfghjk", k=9)) for i in range(200))
    for at_least, n_dropped in ((1_000, 1), (1_000_000, 0)):
        monkeypatch.setattr(module, "CORPUS_WORDS_AT_LEAST", at_least)
        run = run_stage(heuristics, config_with(max_divergence_nats=3.5), documents=documents_run([*texts, outlier]))
        assert [row["reason"] for row in rows_of(run, DROPPED)] == ["divergence nats"] * n_dropped


def test_lines_that_repeat_themselves_go_and_the_document_stays(documents_run, run_stage, rows_of):
    text = prose(100).replace("\n", f"\n{LOG}\n", 1)
    run = run_stage(heuristics, HeuristicsConfig(), documents=documents_run([text]))
    assert [row["text"] for row in rows_of(run)] == [prose(100)]
    assert run.metrics["lines_removed"] == 1
    # nine words eight times, in runs of three: all but the first nine words, as a share of characters
    assert module.line_ngram_share(words(LOG), 3) == pytest.approx(7 / 8)
    longer = load_config(HeuristicsConfig, {"min_line_words": 100}, "test")
    assert rows_of(run_stage(heuristics, longer, documents=documents_run([text])), DROPPED)[0]["text"] == text


def test_rules_of_a_language_are_not_asked_of_others(documents_run, run_stage, rows_of):
    chinese = "".join(chr(0x4E00 + i) for i in range(200))
    rows = rows_of(documents_run([chinese, chinese]))
    rows = [{**row, "language": language} for row, language in zip(rows, ["zh", "en"], strict=True)]
    run = run_stage(heuristics, HeuristicsConfig(), documents=documents_run(rows))
    assert [row["language"] for row in rows_of(run)] == ["zh"]
    assert [row["reason"] for row in rows_of(run, DROPPED)] == ["mean word characters"]


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


@pytest.mark.parametrize("text", ["", "\n\n", "文", "#", "a"])
def test_the_smallest_texts_are_measured(documents_run, run_stage, rows_of, text):
    run = run_stage(heuristics, config_with(), documents=documents_run([text]))
    assert [row["text"] for row in rows_of(run)] == [text]
    assert all(math.isfinite(value) for name, value in rows_of(run, MEASURES)[0].items() if name not in ("id", "reason"))


@pytest.mark.parametrize("changes", [{"max_duplicate_ngram_shares": [0.2]}, {"max_line_ngram_share": 1.5}, {"min_line_words": 1}])
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        config_with(**changes)


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

"""Repetition beside its slow twins, for many texts at once, in both ways of counting."""

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import slow_heuristics as slow
from openherd.data.repetition import NGRAM_MEASURES, duplicate_shares, line_ngram_shares, ngram_shares
from openherd.data.text_batch import TextBatch
from openherd.data.words import paragraphs, words

TEXTS = st.lists(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=40).map(" ".join), max_size=4)
LINES = st.lists(st.lists(st.sampled_from(["a", "bb", " bb", "", " "]), max_size=12).map("\n".join), max_size=4)


def batch_of(texts):
    return TextBatch.of(pa.array(texts, pa.string()))


@given(TEXTS)
def test_ngram_shares_equal_their_slow_twin(texts):
    found = ngram_shares(batch_of(texts), "covered")
    assert set(found) == set(NGRAM_MEASURES)
    for i, text in enumerate(texts):
        for name, options in slow.ngram_shares(words(text)).items():
            assert any(found[name][i] == pytest.approx(value) for value in options), (name, text)


@given(TEXTS)
def test_ngram_shares_equal_datatroves(texts):
    found = ngram_shares(batch_of(texts), "datatrove")
    for i, text in enumerate(texts):
        assert {name: found[name][i] for name in found} == pytest.approx(slow.datatrove_ngram_shares(words(text), text))


@pytest.mark.parametrize("counting", ["covered", "datatrove"])
@example(["c a b", "b b b a c x a c"])  # "b b" and "a c" stand twice, and are as long
@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "dd", "ee"]), max_size=40).map(" ".join), max_size=4))
def test_a_texts_shares_do_not_depend_on_the_others_of_its_batch(counting, texts):
    found = ngram_shares(batch_of(texts), counting)
    for i, text in enumerate(texts):
        assert {name: values[i] for name, values in found.items()} == {
            name: values[0] for name, values in ngram_shares(batch_of([text]), counting).items()
        }


def test_ngram_shares_worked_by_hand():
    # ten words of 2 characters twice: the second ten are repeats; "xx yy" stands three times in 20 + 4 words.
    found = [f"w{i}" for i in range(10)] * 2
    texts = [" ".join(found), "", " ".join([*found, "xx", "yy", "u1", "xx", "yy", "u2", "xx", "yy"])]
    shares = ngram_shares(batch_of(texts), "covered")
    assert shares["duplicate_10gram_share"].tolist()[:2] == [0.5, 0]
    assert shares["top_2gram_share"][2] == pytest.approx(12 / 56)
    assert ngram_shares(batch_of(texts), "datatrove")["top_2gram_share"][2] == pytest.approx(15 / len(texts[2]))


@given(LINES)
def test_duplicate_lines_and_paragraphs_equal_their_slow_twin(texts):
    found = duplicate_shares(batch_of(texts), "covered")
    as_datatrove = duplicate_shares(batch_of(texts), "datatrove")
    for i, text in enumerate(texts):
        lines = [line for line in text.split("\n") if line.strip()]
        blocks = ["\n".join(block) for block in paragraphs(text)]
        expected = slow.duplicate_shares("line", [line.strip() for line in lines]) | slow.duplicate_shares("paragraph", blocks)
        assert {name: found[name][i] for name in expected} == pytest.approx(expected)
        expected = slow.duplicate_shares("line", lines, len(text)) | slow.duplicate_shares("paragraph", blocks, len(text))
        assert {name: as_datatrove[name][i] for name in expected} == pytest.approx(expected)
        fineweb = slow.duplicate_shares("line", lines, len(text.replace("\n", "")))["duplicate_line_character_share"]
        assert found["repeated_line_character_share"][i] == pytest.approx(fineweb)


@given(LINES, st.integers(2, 4))
def test_coverage_of_a_line_by_its_own_repeats_equals_its_slow_twin(texts, n):
    texts = [text.replace("\n\n", "\n").replace("\n", " ", 9) for text in texts]
    batch = batch_of(texts)
    asked = batch.words_per_line() >= n
    expected = [slow.line_ngram_share(words(line), n) for text in texts for line in text.split("\n")]
    assert line_ngram_shares(batch, asked, n).tolist() == pytest.approx(expected)

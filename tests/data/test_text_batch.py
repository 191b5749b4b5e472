"""A batch taken apart is what its texts are, one at a time."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from hypothesis import given
from hypothesis import strategies as st

from openherd.data.text_batch import TextBatch
from openherd.data.words import SPACELESS, terms, words

LETTERS = "ab Ab日本ไทย\n\t\u00a0\u3000ßé_.'9#\u0301\U0001f600"
TEXTS = st.lists(st.text(LETTERS, max_size=40) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=5)


def test_what_splits_a_word_is_the_same_to_both_libraries():
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    by_arrow = pc.match_substring_regex(pa.array(characters), f"[{SPACELESS}]").to_numpy(zero_copy_only=False)
    found = set(regex.findall(f"[{SPACELESS}]", "".join(characters)))
    assert [c for c, is_found in zip(characters, by_arrow) if is_found != (c in found)] == []


def batch_of(texts):
    return TextBatch.of(pa.array(texts, pa.string()))


@given(TEXTS)
def test_words_lines_and_terms_are_those_of_each_text(texts):
    batch = batch_of(texts)
    assert batch.texts() == texts
    distinct = batch.words.to_pylist()
    assert len(set(distinct)) == len(distinct)
    for i, text in enumerate(texts):
        of_text = batch.word_text == i
        assert [distinct[k] for k in batch.word_id[of_text]] == words(text)
        rows = batch.terms.text == i
        found = {batch.terms.vocabulary[k]: n for k, n in zip(batch.terms.term[rows], batch.terms.count[rows])}
        assert found == Counter(terms(text))
        assert batch.text_characters[i] == len(text)
        assert batch.words_per_text(batch.word_characters)[i] == sum(map(len, words(text)))
    by_line = [words(line) for text in texts for line in text.split("\n")]
    assert batch.words_per_line().tolist() == [len(found) for found in by_line]


@given(TEXTS, st.randoms(use_true_random=False))
def test_lines_can_be_taken_away_as_if_they_had_never_been_there(texts, draw):
    batch = batch_of(texts)
    keep = np.array([draw.random() < 0.5 for _ in range(len(batch.lines))], np.bool_)
    left = batch.keeping(keep)
    flags = iter(keep.tolist())
    expected = ["\n".join([line for line in text.split("\n") if next(flags)]) for text in texts]
    assert left.texts() == expected
    again = batch_of(expected)
    assert [left.words[k].as_py() for k in left.word_id] == [again.words[k].as_py() for k in again.word_id]
    assert left.word_text.tolist() == again.word_text.tolist()
    assert left.text_characters.tolist() == again.text_characters.tolist()
    for one, other in ((left, again), (again, left)):
        known = {(t, one.terms.vocabulary[k], n) for t, k, n in zip(one.terms.text, one.terms.term, one.terms.count)}
        assert known == {
            (t, other.terms.vocabulary[k], n) for t, k, n in zip(other.terms.text, other.terms.term, other.terms.count)
        }

"""Nearest-question retrieval: by hand, and against a twin that compares with every question."""

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from openherd.evaluation.retrieval import NearestQuestion

QUESTIONS = ["What is json.dumps?", "What is json.loads?", "Tell me about heapq.", "Tell me about the class Heap."]
ANSWERS = ["dumps", "loads", "heapq", "Heap"]
WORDS = st.lists(st.sampled_from(["what", "is", "json", "json.dumps", "heapq", "tell", "me"]), min_size=1, max_size=5).map(" ".join)


def test_by_hand():
    nearest = NearestQuestion(QUESTIONS, ANSWERS)
    asked = {
        "what's JSON.LOADS for": "loads",  # a name with its dots is one word
        "I need help with heapq": "heapq",
        "Tell me": "heapq",  # of the two, the one with less else in it
        "What is x": "dumps",  # alike to both: the first
        "json": "",  # is not json.dumps
        "?": "",
    }
    assert {question: nearest.answer(question) for question in asked} == asked


def test_a_rare_word_counts_more_than_a_common_one():
    nearest = NearestQuestion(["what is it", "what is that", "what was this zebra"], ["it", "that", "zebra"])
    assert nearest.answer("is zebra") == "zebra"


def twin(questions: list[str], question: str) -> list[float]:
    """The cosine with every question, spelt out over the whole vocabulary."""
    texts = [re.findall(r"[\w.]+", q) for q in questions]
    vocabulary = sorted({w for words in texts for w in words})
    idf = {w: 1 + math.log((1 + len(texts)) / (1 + sum(w in words for words in texts))) for w in vocabulary}
    vectors = [[words.count(w) * idf[w] for w in vocabulary] for words in [*texts, re.findall(r"[\w.]+", question)]]
    asked = vectors.pop()
    norms = [math.hypot(*v) * math.hypot(*asked) for v in vectors]
    return [sum(a * b for a, b in zip(v, asked, strict=True)) / n if n else 0.0 for v, n in zip(vectors, norms, strict=True)]


@given(questions=st.lists(WORDS, min_size=1, max_size=6), question=WORDS)
def test_equals_a_search_through_everything(questions, question):
    answer = NearestQuestion(questions, [str(i) for i in range(len(questions))]).answer(question)
    similarity = twin(questions, question)
    if max(similarity) == 0:
        assert answer == ""
    else:
        assert similarity[int(answer)] >= max(similarity) - 1e-8
        assert all(s < similarity[int(answer)] + 1e-8 for s in similarity[: int(answer)])

"""The baseline of question answering: the answer of the most similar training question, by cosine of TF-IDF over words."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

WORD = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)*")


class NearestQuestion:
    """Training questions with their answers, indexed by word; of equal similarity the first."""

    def __init__(self, questions: Sequence[str], answers: Sequence[str]) -> None:
        self.answers = answers
        counts = [Counter(WORD.findall(q.lower())) for q in questions]
        documents = Counter(word for c in counts for word in c)
        self.rarity = {word: math.log((1 + len(questions)) / (1 + n)) + 1 for word, n in documents.items()}
        self.index: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for i, count in enumerate(counts):
            weights = {word: n * self.rarity[word] for word, n in count.items()}
            norm = math.sqrt(sum(w * w for w in weights.values()))
            for word, weight in weights.items():
                self.index[word].append((i, weight / norm))

    def answer(self, question: str) -> str:
        """The answer of the nearest question; empty where no word is shared."""
        similarity: dict[int, float] = defaultdict(float)
        for word, n in Counter(WORD.findall(question.lower())).items():
            for i, weight in self.index.get(word, ()):
                similarity[i] += n * self.rarity[word] * weight
        if not similarity:
            return ""
        return self.answers[min(similarity, key=lambda i: (-round(similarity[i], 9), i))]

"""Models that tell the language of a text (paper 3.1.1: fastText over 176 languages).

Two are read, and none is redistributed: py3langid's own, inside that package's wheel (naive Bayes over byte n-grams that an
automaton finds), and a fastText model file that the user has, such as lid.176.ftz. py3langid walks each text byte by byte in
Python; `NgramModel` gives its answers for many texts at once: since the automaton forgets what lies further back than its longest
n-gram, all texts are cut into pieces that are walked side by side, each starting a few bytes early. py3langid itself is the test's
oracle.
"""

import itertools
import struct
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from openherd.core.errors import InputError

UNDETERMINED = "und"  # ISO 639-2's code: nothing in a text is known to the model
PIECE_BYTES = 64  # bytes of a text that one lane walks; short ones start more often, long ones make more steps
TEXTS_AT_ONCE = 256


class LanguageModel(Protocol):
    """Tells the language of texts."""

    labels: tuple[str, ...]  # all codes that it can answer

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The most likely language of each text, and its probability."""


class NgramModel:
    """py3langid's model, for many texts at once."""

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self.labels = tuple(model.labels)
        self.encode = model._encode
        first = {code: i for i, code in reversed(list(enumerate(model.nb_classes)))}
        self.columns = np.array([self.labels.index(code) for code in model.nb_classes])
        assert [model.nb_classes[first[code]] for code in self.labels] == list(self.labels)
        self.state_after = np.asarray(model.tk_nextmove)  # by row and byte
        self.row_of = np.asarray(model.tk_row, np.int32) << 8  # by state
        self.ngram_of = np.asarray(model.tk_output, np.int32)  # by state: the n-gram that ends here (-1: none)
        self.memory_bytes = self._depth()
        self.weights = np.asarray(model.nb_ptc, np.float32)
        self.prior = np.asarray(model.nb_pc, np.float32)

    def _depth(self) -> int:
        """How many bytes the automaton remembers: the most steps that its start is away from any state."""
        states_after = self.state_after.reshape(-1, 256)
        seen = np.zeros(len(self.row_of), np.bool_)
        edge = np.zeros(1, np.int64)
        seen[edge] = True
        depth = -1
        while len(edge):
            depth += 1
            reached = np.zeros_like(seen)
            reached[states_after[self.row_of[edge] >> 8]] = True
            edge = np.flatnonzero(reached & ~seen)
            seen |= reached
        return depth

    def _ngrams(self, encoded: Sequence[bytes]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(text, n-gram) of every n-gram that ends somewhere, as two arrays."""
        early = self.memory_bytes
        sizes = np.array([len(text) for text in encoded], np.int64)
        pieces = -(-sizes // PIECE_BYTES)
        text_of = np.repeat(np.arange(len(encoded)), pieces)
        start_of = (np.arange(len(text_of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * PIECE_BYTES
        # All texts one after the other; bytes before a text's first are never walked, those after its last not counted.
        data = np.frombuffer(b"\0" * early + b"".join(encoded) + b"\0" * PIECE_BYTES, np.uint8)
        where = np.repeat(np.cumsum(sizes) - sizes, pieces) + start_of  # in `data` this is `early` bytes before the piece
        state = np.zeros(len(where), self.state_after.dtype)
        found = np.empty((PIECE_BYTES, len(where)), np.int32)
        for step in range(early + PIECE_BYTES):
            state = self.state_after[self.row_of[state] + data[where + step]]
            if step < early:
                state[start_of + step < early] = 0  # the text has not begun
            else:
                found[step - early] = self.ngram_of[state]
        length = np.minimum(sizes[text_of] - start_of, PIECE_BYTES)
        found[np.arange(PIECE_BYTES)[:, None] >= length] = -1
        _, lane = at = np.nonzero(found >= 0)
        return text_of[lane], found[at].astype(np.int64)

    def probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """A row per text and a column per label; zeros in a row where nothing in the text is known."""
        encoded = [self.encode(text) for text in texts]
        text, ngram = self._ngrams(encoded)
        keys, counts = np.unique(text * len(self.weights) + ngram, return_counts=True)
        owner, ngram = keys // len(self.weights), keys % len(self.weights)
        ends = np.searchsorted(owner, np.arange(len(texts) + 1))
        weight = np.log1p(counts.astype(np.float32))
        scores = np.zeros((len(texts), len(self.prior)), np.float32)
        for i, (a, b) in enumerate(itertools.pairwise(ends)):
            if a < b:
                scores[i] = weight[a:b] @ self.weights[ngram[a:b]] + self.prior
        scores /= np.sqrt(np.maximum([len(text) for text in encoded], 1, dtype=np.float32))[:, None]  # py3langid's calibration
        np.exp(scores - scores.max(axis=1, keepdims=True), out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        scores[ends[:-1] == ends[1:]] = 0
        by_label = np.zeros((len(self.labels), len(texts)), np.float32)
        np.add.at(by_label, self.columns, scores.T)  # a language in two scripts is one
        return by_label.T

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The most likely language of each text, and its probability."""
        found: list[tuple[str, float]] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            shares = self.probabilities(texts[start : start + TEXTS_AT_ONCE])
            best = shares.argmax(axis=1)
            found += [(self.labels[i], float(row[i])) if row[i] else (UNDETERMINED, 0.0) for i, row in zip(best, shares)]
        return found


class FasttextModel:
    """A fastText model file of the user's, read by the package fasttext-predict or another that installs `fasttext`."""

    def __init__(self, path: Path) -> None:
        try:
            import fasttext
        except ImportError:
            do = "pip install 'openherd[fasttext]', or leave the input out: py3langid's own model needs nothing"
            raise InputError(path, "a fastText model, and no package that reads one", do=do) from None
        if not path.is_file():
            raise InputError(path, "no such file", allowed="a fastText model such as lid.176.ftz or lid.176.bin")
        try:
            self.model: Any = fasttext.load_model(str(path))
        except (ValueError, RuntimeError) as error:
            raise InputError(path, f"no fastText model ({error})", allowed="a .ftz or .bin file such as lid.176.ftz") from None
        self.labels = tuple(sorted(label.removeprefix("__label__") for label in labels_in(path)))

    def identify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The most likely language of each text, and its probability; ("und", 0) where the model has no answer."""
        found = []
        for text in texts:
            line = " ".join(unicodedata.normalize("NFC", text).split())  # fastText reads one line
            answers = self.model.f.predict(line + "\n", 1, 0.0, "replace") if line else []
            found += [(label.removeprefix("__label__"), min(float(p), 1.0)) for p, label in answers] or [(UNDETERMINED, 0.0)]
        return found


def labels_in(path: Path) -> list[str]:
    """The labels in a fastText file, which its small readers do not tell."""
    with path.open("rb") as file:
        file.read(8)  # magic number and version
        file.read(12 * 4 + 8)  # twelve settings, and the threshold of sampling
        n_entries, *_ = struct.unpack("<iiiqq", file.read(28))
        data = file.read()
    found, start = [], 0
    for _ in range(n_entries):
        end = data.index(b"\0", start)
        word, (_, kind) = data[start:end].decode("utf-8", "replace"), struct.unpack("<qb", data[end + 1 : end + 10])
        found += [word] if kind == 1 else []
        start = end + 10
    return found


@cache
def load_model(path: str = "") -> LanguageModel:
    """The model in a file, or py3langid's, loaded once."""
    return FasttextModel(Path(path)) if path else NgramModel()

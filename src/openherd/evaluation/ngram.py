"""An interpolated token-trigram model, the baseline of language modelling: Kneser-Ney, one discount an order, n1 / (n1 + 2 n2).

The lowest order is interpolated with the uniform distribution, so that every token has a probability.
"""

from collections.abc import Iterable, Sequence

import numpy as np

SMOOTHING = "interpolated Kneser-Ney, one discount per order, uniform at the bottom"

Array = np.ndarray


class Table:
    """Counts of distinct keys, looked up in bulk."""

    def __init__(self, keys: Array, counts: Array | None = None) -> None:
        """Count `keys`, or sum `counts` by key."""
        self.keys, inverse, times = np.unique(keys, return_inverse=True, return_counts=True)
        self.counts = times if counts is None else np.bincount(inverse, weights=counts, minlength=len(self.keys)).astype(np.int64)

    def __call__(self, keys: Array) -> Array:
        """The count of each key; 0 for one that never stood."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.counts[at], 0)

    @property
    def discount(self) -> float:
        """n1 / (n1 + 2 n2), from how many keys stood once and twice."""
        once, twice = int((self.counts == 1).sum()), int((self.counts == 2).sum())
        return once / (once + 2 * twice) if once and twice else 0.5


class Trigram:
    """P(w | u, v) of tokens under `vocabulary`; texts are padded with two `begin` tokens."""

    def __init__(self, texts: Iterable[Sequence[int]], vocabulary: int, begin: int) -> None:
        self.vocabulary, self.begin = vocabulary, begin
        u, v, w = np.concatenate([self._trigrams(text) for text in texts], axis=1)
        self.trigrams = Table((u * vocabulary + v) * vocabulary + w)
        first, last_two = np.divmod(self.trigrams.keys, vocabulary * vocabulary)
        middle, last = np.divmod(last_two, vocabulary)
        self.contexts = Table(first * vocabulary + middle, self.trigrams.counts)
        self.followers = Table(first * vocabulary + middle)
        # Lower orders count in how many contexts a word is new, not how often it stands.
        self.bigrams = Table(last_two)
        before, word = np.divmod(self.bigrams.keys, vocabulary)
        self.bigram_contexts = Table(before, self.bigrams.counts)
        self.bigram_followers = Table(before)
        self.words = Table(word)
        self.n_words = int(self.words.counts.sum())

    def _trigrams(self, text: Sequence[int]) -> Array:
        padded = np.array([self.begin, self.begin, *text], np.int64)
        return np.stack([padded[:-2], padded[1:-1], padded[2:]])

    def probabilities(self, u: Array, v: Array, w: Array) -> Array:
        """P(w | u, v), elementwise over arrays of ids."""
        d = self.words.discount
        unigram = np.maximum(self.words(w) - d, 0) / self.n_words + d * len(self.words.keys) / self.n_words / self.vocabulary
        bigram = self._interpolate(
            self.bigrams, self.bigram_contexts(v), self.bigram_followers(v), v * self.vocabulary + w, unigram
        )
        context = u * self.vocabulary + v
        return self._interpolate(
            self.trigrams, self.contexts(context), self.followers(context), context * self.vocabulary + w, bigram
        )

    @staticmethod
    def _interpolate(table: Table, total: Array, followers: Array, keys: Array, lower: Array) -> Array:
        """The discounted share of the key in its context plus what was discounted, by the lower order; that alone in a new context."""
        known = np.maximum(total, 1)
        share = (np.maximum(table(keys) - table.discount, 0) + table.discount * followers * lower) / known
        return np.where(total > 0, share, lower)

    def log2_probabilities(self, text: Sequence[int]) -> Array:
        """Base-2 logarithm of each token's probability."""
        return np.log2(self.probabilities(*self._trigrams(text)))

"""An interpolated token-trigram model, the baseline of language modelling: modified Kneser-Ney (Chen and Goodman, 1999).

A count is discounted by one of three amounts, for n-grams that stood once, twice, or more often, estimated from the counts of
counts; what is taken goes to the next lower order. Lower orders count in how many contexts a token is new, not how often it stands.
The lowest is interpolated with the uniform distribution, so that every token has a probability.
"""

from collections.abc import Iterable, Sequence

import numpy as np

SMOOTHING = "interpolated modified Kneser-Ney, three discounts per order, uniform at the bottom"

Array = np.ndarray


def discounts(counts: Array) -> Array:
    """What is taken from counts of 0, 1, 2, and 3 or more; never nothing from any of the latter.

    Little text may give estimates that are not positive: then the first is taken from all, or one half.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2):
        return np.array([0, 0.5, 0.5, 0.5])
    y = n1 / (n1 + 2 * n2)
    two, more = 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3 if n3 and n4 else 0
    return np.array([0, y, two, more] if min(two, more) > 0 else [0, y, y, y])


def look_up(keys: Array, values: Array, wanted: Array) -> Array:
    """The value of each wanted key among sorted keys; 0 for one that is not there."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


class Order:
    """P(last token | the tokens before it) of n-grams, each spelt as one number with a digit per token."""

    def __init__(self, grams: Array, counts: Array, vocabulary: int, lower: "Order | None" = None) -> None:
        self.grams, self.vocabulary, self.lower = grams, vocabulary, lower
        self.possible: int = vocabulary * lower.possible if lower else vocabulary
        taken = discounts(counts)[np.minimum(counts, 3)]
        self.left = counts - taken
        self.contexts, context = np.unique(grams // vocabulary, return_inverse=True)
        self.totals, self.taken = np.bincount(context, counts), np.bincount(context, taken)

    def probabilities(self, grams: Array) -> Array:
        """The probability of each; the lower order's in a context that never stood."""
        below = self.lower.probabilities(grams % self.lower.possible) if self.lower else 1 / self.vocabulary
        context = grams // self.vocabulary
        total = look_up(self.contexts, self.totals, context)
        share = look_up(self.grams, self.left, grams) + look_up(self.contexts, self.taken, context) * below
        return np.where(total > 0, share / np.maximum(total, 1), below)


class Trigram:
    """P(w | u, v) of tokens under `vocabulary`; each text, of which there must be one, is padded with two `begin` tokens."""

    def __init__(self, texts: Iterable[Sequence[int]], vocabulary: int, begin: int) -> None:
        self.vocabulary, self.begin = vocabulary, begin
        trigrams, counts = np.unique(np.concatenate([self._spell(text) for text in texts]), return_counts=True)
        bigrams, contexts = np.unique(trigrams % vocabulary**2, return_counts=True)
        words, word_contexts = np.unique(bigrams % vocabulary, return_counts=True)
        bigram = Order(bigrams, contexts, vocabulary, Order(words, word_contexts, vocabulary))
        self.order = Order(trigrams, counts, vocabulary, bigram)

    def _spell(self, text: Sequence[int]) -> Array:
        padded = np.array([self.begin, self.begin, *text], np.int64)
        return (padded[:-2] * self.vocabulary + padded[1:-1]) * self.vocabulary + padded[2:]

    def probabilities(self, u: Array, v: Array, w: Array) -> Array:
        """P(w | u, v), elementwise over arrays of ids."""
        return self.order.probabilities((u * self.vocabulary + v) * self.vocabulary + w)

    def log2_probabilities(self, text: Sequence[int]) -> Array:
        """Base-2 logarithm of each token's probability."""
        return np.log2(self.order.probabilities(self._spell(text)))

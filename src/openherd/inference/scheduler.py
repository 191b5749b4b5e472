"""Which tokens of which texts are computed next: continuous batching with chunked prefill, prefix sharing and preemption.

A step has at most `most_tokens` tokens. Texts that are written take their one token first; what is left goes to those still being
read, the oldest first, in parts, so that a long prompt stalls nobody. Where memory runs out the newest text gives its blocks back
and is read again later: the oldest always goes on, so none starves. A text whose next block another is computing waits for it:
samples of one prompt compute it once. No tensors: see `engine` for what is computed.
"""

import bisect
from dataclasses import dataclass, field

from openherd.core.errors import ConfigError
from openherd.inference.cache import Blocks, next_key


@dataclass(eq=False)
class Text:
    """A text that grows: a prompt and what is written behind it, or what is only read."""

    tokens: list[int]
    most: int  # tokens that it may grow to
    read_from: int  # the first position whose hidden state is wanted; it moves on as they are computed
    arrival: int = -1
    computed: int = 0  # tokens whose keys and values are in the cache
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)  # of its full blocks
    preempted: int = 0  # times

    @property
    def remaining(self) -> int:
        """Tokens to compute."""
        return len(self.tokens) - self.computed


class Scheduler:
    """The texts that wait and those that run."""

    def __init__(self, blocks: Blocks, *, most_tokens: int, most_texts: int) -> None:
        self.blocks, self.most_tokens, self.most_texts = blocks, most_tokens, most_texts
        self.waiting: list[Text] = []  # the oldest first, as in `running`
        self.running: list[Text] = []
        self.making: dict[bytes, Text] = {}  # blocks that running texts are going to fill with their prompt
        self.arrivals = 0

    def add(self, text: Text) -> None:
        """Let a text wait. Raises ConfigError where it could outgrow the cache."""
        capacity = self.blocks.count * self.blocks.size
        if text.most > capacity:
            raise ConfigError(
                "cache", f"{text.most:,} tokens of one text", allowed=f"{capacity:,} with {self.blocks.count:,} blocks"
            )
        text.arrival, self.arrivals = self.arrivals, self.arrivals + 1
        self._add_keys(text)
        self.waiting.append(text)

    def remove(self, text: Text) -> None:
        """Forget a text that is finished or cancelled."""
        if text in self.running:
            self._stop(text)
        else:
            self.waiting.remove(text)

    def schedule(self) -> dict[Text, int]:
        """How many tokens of which texts are computed next."""
        parts: dict[Text, int] = {}
        for text in sorted(self.running, key=lambda text: text.remaining > 1):
            n = min(text.remaining, self.most_tokens - sum(parts.values()))
            while text in self.running and n and not self._grow(text, text.computed + n):
                newest = self.running[-1]
                parts.pop(newest, None)
                self._preempt(newest)
            if text in self.running and n:
                parts[text] = n
        for text in tuple(self.waiting):
            budget = self.most_tokens - sum(parts.values())
            if not budget or len(self.running) == self.most_texts:
                break
            known = self.blocks.match(text.keys[: text.read_from // self.blocks.size])
            if self._is_made(text, len(known)):
                continue
            computed = len(known) * self.blocks.size
            n = min(len(text.tokens) - computed, budget)
            needed = self.blocks.needed(computed + n) - len(known)
            # One block more for each that runs: what is let in should not have to leave at once.
            if needed + len(self.running) > self.blocks.available(known):
                break
            for block in known:
                self.blocks.hold(block)
            text.blocks, text.computed = [*known], computed
            self._grow(text, computed + n)
            self.waiting.remove(text)
            bisect.insort(self.running, text, key=lambda text: text.arrival)
            for key in text.keys[len(known) :]:
                self.making.setdefault(key, text)
            parts[text] = n
        return parts

    def done(self, parts: dict[Text, int]) -> None:
        """The tokens of a step are computed; texts that were removed since are passed over."""
        for text, n in parts.items():
            if text in self.running:
                text.computed += n
                text.read_from = max(text.read_from, text.computed)
                self._add_keys(text)
                for i in range((text.computed - n) // self.blocks.size, text.computed // self.blocks.size):
                    self.blocks.publish(text.blocks[i], text.keys[i])
                    if self.making.get(text.keys[i]) is text:
                        del self.making[text.keys[i]]

    def _add_keys(self, text: Text) -> None:
        size = self.blocks.size
        while (n := len(text.keys)) < len(text.tokens) // size:
            text.keys.append(next_key(text.keys[-1] if text.keys else b"", text.tokens[n * size : (n + 1) * size]))

    def _is_made(self, text: Text, known: int) -> bool:
        """Whether another is computing the next block that the text could share."""
        return known < text.read_from // self.blocks.size and text.keys[known] in self.making

    def _grow(self, text: Text, tokens: int) -> bool:
        """Give a text blocks for so many tokens; False, and nothing given, where there are too few."""
        missing = self.blocks.needed(tokens) - len(text.blocks)
        if missing > self.blocks.available():
            return False
        for _ in range(missing):
            text.blocks.append(self.blocks.take(text.blocks[-1] if text.blocks else None))
        return True

    def _preempt(self, text: Text) -> None:
        self._stop(text)
        text.preempted += 1
        bisect.insort(self.waiting, text, key=lambda text: text.arrival)

    def _stop(self, text: Text) -> None:
        self.running.remove(text)
        self.blocks.release(text.blocks)
        text.blocks, text.computed = [], 0
        for key in [key for key, maker in self.making.items() if maker is text]:
            del self.making[key]

"""Needle in a haystack (paper 3.4.2): a fact hidden in held-out text, asked for at its end, over a grid of lengths and depths.

The question is the needle's own sentence up to its value, so that a base model can be asked. A needle is found where greedy
generation writes its value, and ranked first where that value is likelier than every wrong one of as many digits: the share ranked
first has a known chance level, generation has none worth naming. Lengths are in tokens and hold all: text, needle, question, value.

The key/value cache is branched instead of read again: below a needle it holds the haystack, so needles are placed from the deepest
up, and a place that several lengths share (half of 8K is a quarter of 16K) is read once for all of them. A grid of 8 lengths by 5
depths costs 7.9 passes over its longest text instead of 22.5.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openherd.core.progress import Progress
from openherd.core.seeds import derive_seed
from openherd.model.attention import attention
from openherd.model.transformer import Transformer
from openherd.tokenizer.tokenizer import Tokenizer

NEEDLE = "The secret number of the {key} is {value}."
DIGITS = 7  # of a value
KEYS = (
    ("amber", "bright", "cold", "distant", "early", "forgotten", "gentle", "hollow", "iron", "lonely", "narrow", "old", "quiet"),
    ("bridge", "castle", "engine", "forest", "garden", "harbour", "island", "lantern", "mill", "orchard", "river", "tower"),
)


@dataclass(frozen=True)
class Needle:
    """A fact in tokens: `head` stands before its value and is the question; of `values` the first is right."""

    head: list[int]
    values: list[list[int]]
    tail: list[int]

    @property
    def whole(self) -> list[int]:
        """The sentence as it is hidden."""
        return [*self.head, *self.values[0], *self.tail]


@dataclass(frozen=True)
class Trial:
    """One question: where its needle stood, whether the value was generated, and its rank among the candidates (1 is first)."""

    length: int
    depth: float
    haystack: int
    found: bool
    rank: int


@dataclass(frozen=True)
class Pool:
    """The needles of every haystack, one for each place, and the tokens that the longest of them take."""

    needles: list[list[Needle]]

    @property
    def n_question(self) -> int:
        """Tokens of a question."""
        return max(len(n.head) for row in self.needles for n in row)

    @property
    def n_value(self) -> int:
        """Tokens of a value, right or wrong."""
        return max(len(v) for row in self.needles for n in row for v in n.values)

    @property
    def n_needle(self) -> int:
        """Tokens of a whole needle."""
        return max(len(n.whole) for row in self.needles for n in row)

    @property
    def least(self) -> int:
        """The shortest length that holds a beginning, a needle, a question and its value."""
        return 1 + self.n_needle + self.n_question + self.n_value


def draw_needle(tokenizer: Tokenizer, text: str, candidates: int, seed: int) -> Needle:
    """A needle of the form `text`, on a line of its own, with `candidates` values of equally many digits."""
    drawn = random.Random(seed)
    head, tail = text.replace("{key}", " ".join(map(drawn.choice, KEYS))).split("{value}")
    values = drawn.sample(range(10 ** (DIGITS - 1), 10**DIGITS), candidates)
    return Needle(tokenizer.encode(f"\n{head}"), [tokenizer.encode(str(v)) for v in values], tokenizer.encode(f"{tail}\n"))


def draw_pool(tokenizer: Tokenizer, text: str, candidates: int, haystacks: int, places: int, seed: int) -> Pool:
    """Needles for `haystacks` texts with `places` each."""
    return Pool([
        [draw_needle(tokenizer, text, candidates, derive_seed(seed, "needle", h, p)) for p in range(places)]
        for h in range(haystacks)
    ])  # fmt: skip


def haystack(tokenizer: Tokenizer, texts: Sequence[str], n: int, seed: int) -> list[int]:
    """`n` tokens of texts in a seeded order; where they are fewer, of the same texts in further orders."""
    order = random.Random(seed)

    def tokens() -> Iterator[int]:
        while True:
            for text in order.sample(texts, len(texts)):
                yield from tokenizer.encode(f"{text}\n\n")

    return [tokenizer.bos_id, *itertools.islice(tokens(), n - 1)]


def places(lengths: Sequence[int], depths: Sequence[float], pool: Pool) -> dict[int, list[tuple[int, float]]]:
    """The (length, depth) that each place of a needle serves, from the deepest place to the first, lengths rising."""
    found: dict[int, list[tuple[int, float]]] = {}
    for length, depth in itertools.product(sorted(set(lengths)), sorted(set(depths))):
        latest = length - (pool.least - 1)
        found.setdefault(max(min(int(depth * length), latest), 1), []).append((length, depth))
    return dict(sorted(found.items(), reverse=True))


class CachedAttend:
    """Attends to cached keys and values; `positions_BT` says where the new ones go."""

    def __init__(self, model: Transformer, rows: int, length: int) -> None:
        config, weight = model.config, model.embed.weight
        shape = (config.n_layers, rows, length, config.n_kv_heads, config.head_width)
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)

    def place(self, positions_BT: Tensor) -> None:
        """Where the next call's tokens stand; later positions are overwritten before they are seen."""
        self.positions_BT = positions_BT
        self.length = int(positions_BT.max()) + 1
        self.rows_B1 = torch.arange(positions_BT.shape[0], device=positions_BT.device)[:, None]
        self.mask = torch.arange(self.length, device=positions_BT.device) <= positions_BT[:, None, :, None]

    def __call__(self, layer: int, q_BTNH: Tensor, k_BTGH: Tensor, v_BTGH: Tensor) -> Tensor:
        self.keys[layer][self.rows_B1, self.positions_BT] = k_BTGH.to(self.keys.dtype)
        self.values[layer][self.rows_B1, self.positions_BT] = v_BTGH.to(self.values.dtype)
        return attention(q_BTNH, self.keys[layer, :, : self.length], self.values[layer, :, : self.length], self.mask)


def read(model: Transformer, attend: CachedAttend, tokens_BT: Tensor, first: int, part: int) -> Tensor:
    """Put tokens into the cache from position `first` on, `part` at a time; returns the hidden states of the last part."""
    for start in range(0, tokens_BT.shape[1], part):
        some_BT = tokens_BT[:, start : start + part]
        positions = torch.arange(first + start, first + start + some_BT.shape[1], device=some_BT.device).expand_as(some_BT)
        attend.place(positions)
        hidden_BTD = model.trunk(model.embed(some_BT), positions, attend)
    return hidden_BTD


class Branches(CachedAttend):
    """A cache with several continuations of one text at its end, side by side: none sees another."""

    def branch(self, end: int, n: int, width: int) -> None:
        """The next call's tokens are `n` continuations of `width` tokens each, which follow the `end` cached ones."""
        device = self.keys.device
        self.place(torch.arange(end, end + n * width, device=device).expand(self.keys.shape[1], -1))
        new = torch.arange(n * width, device=device)
        sees = (new[:, None] // width == new // width) & (new[:, None] >= new)
        self.mask = torch.cat([sees.new_ones(n * width, end), sees], 1)


def answers(
    model: Transformer, attend: Branches, asked_BD: Tensor, values: Sequence[Sequence[list[int]]], end: int
) -> tuple[Tensor, Tensor]:
    """Log-probability of each value behind the `end` cached tokens, and whether greedy generation would write it, both (B, C).

    What is generated equals a value just where each of its tokens is the likeliest after those before it.
    """
    n, width = len(values[0]), max(len(v) for row in values for v in row)
    device = asked_BD.device
    tokens_BCT = torch.tensor([[[*v, *[0] * (width - len(v))] for v in row] for row in values], device=device)
    there_BCT = torch.tensor([[[i < len(v) for i in range(width)] for v in row] for row in values], device=device)
    hidden_BCTD = asked_BD[:, None, None].expand(-1, n, 1, -1)
    if width > 1:
        attend.branch(end, n, width - 1)
        before_BT = tokens_BCT[:, :, :-1].flatten(1)
        positions_BT = (end + torch.arange(width - 1, device=device)).repeat(n).expand_as(before_BT)
        rest_BTD = model.trunk(model.embed(before_BT), positions_BT, attend)
        hidden_BCTD = torch.cat([hidden_BCTD, rest_BTD.unflatten(1, (n, width - 1))], 2)
    log_probs_BCTV = torch.log_softmax(model.head(hidden_BCTD).float(), -1)
    of_value_BCT = log_probs_BCTV.gather(-1, tokens_BCT[..., None])[..., 0]
    return (of_value_BCT * there_BCT).sum(-1), ((log_probs_BCTV.argmax(-1) == tokens_BCT) | ~there_BCT).all(-1)


@torch.no_grad()
def find_needles(
    model: Transformer,
    haystacks: Sequence[Sequence[int]],
    pool: Pool,
    lengths: Sequence[int],
    depths: Sequence[float],
    rows_at_once: int,
    part: int,
) -> list[Trial]:
    """Ask for every needle; each haystack has the longest length's tokens. Lengths are at least `pool.least`."""
    served = places(lengths, depths, pool)
    device, longest = model.embed.weight.device, max(lengths)
    trials: list[Trial] = []
    n_batches = -(-len(haystacks) // rows_at_once)
    with Progress("needles", n_batches * len(served), "places") as progress:
        for start in range(0, len(haystacks), rows_at_once):
            rows = range(start, min(start + rows_at_once, len(haystacks)))
            attend = Branches(model, len(rows), longest + len(pool.needles[0][0].values) * pool.n_value)
            plain_BT = torch.tensor([haystacks[row][: max(served)] for row in rows], device=device)
            read(model, attend, plain_BT, 0, part)
            for number, (place, cells) in enumerate(served.items()):
                needles = [pool.needles[row][number] for row in rows]
                # Needles of a batch differ in tokens: the haystack before a shorter one is longer, so that all end together.
                begins = [place + pool.n_needle - len(n.whole) for n in needles]
                texts = [
                    [*haystacks[row][:at], *n.whole, *haystacks[row][at:]] for row, n, at in zip(rows, needles, begins, strict=True)
                ]
                reached = place
                for length, depth in cells:
                    end = length - pool.n_value  # of the question
                    asked = [[*text[reached : end - len(n.head)], *n.head] for text, n in zip(texts, needles, strict=True)]
                    common = end - pool.n_question - reached  # of it, what the next length goes on from
                    asked_BT = torch.tensor(asked, device=device)
                    if common:  # of a short text two depths may be one place
                        read(model, attend, asked_BT[:, :common], reached, part)
                        reached += common
                    asked_BD = read(model, attend, asked_BT[:, common:], reached, part)[:, -1]
                    scores_BC, found_BC = answers(model, attend, asked_BD, [n.values for n in needles], end)
                    over_BC = scores_BC[:, :1] > scores_BC[:, 1:]  # a value that is no number outranks nothing
                    for row, found, wrong in zip(rows, found_BC[:, 0].tolist(), (~over_BC).sum(-1).tolist(), strict=True):
                        trials.append(Trial(length, depth, row, found, 1 + wrong))
                progress.advance()
    return trials

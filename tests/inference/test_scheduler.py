"""The scheduler under random loads: nothing lost, starved, answered twice or read from a wrong block; no block leaked."""

import random
from collections import Counter

import pytest

from openherd.core.errors import ConfigError
from openherd.inference.cache import Blocks, next_key
from openherd.inference.scheduler import Scheduler, Text

CASES = 300


class Memory:
    """What a cache would hold: instead of keys and values, the tokens that they belong to."""

    def __init__(self, blocks):
        self.blocks, self.tokens = blocks, {}

    def write(self, text, n):
        size = self.blocks.size
        for i in range(text.computed, text.computed + n):
            self.tokens[text.blocks[i // size], i % size] = (i, text.tokens[i])
        for i in range(text.computed + n):
            assert self.tokens[text.blocks[i // size], i % size] == (i, text.tokens[i]), "a text reads another's memory"


def check(scheduler, parts):
    blocks = scheduler.blocks
    holders = Counter(block for text in scheduler.running for block in text.blocks)
    assert [holders[block] for block in range(blocks.count)] == blocks.holders
    assert set(blocks.free) == {block for block in range(blocks.count) if not holders[block]}
    assert all(not text.blocks and not text.computed for text in scheduler.waiting)
    assert all(blocks.key_of[block] == key for key, block in blocks.known.items())
    assert sum(parts.values()) <= scheduler.most_tokens
    assert len(scheduler.running) <= scheduler.most_texts
    assert set(scheduler.making.values()) <= set(scheduler.running)
    for text, n in parts.items():
        assert text in scheduler.running
        assert 1 <= n <= text.remaining
        assert len(text.blocks) == blocks.needed(text.computed + n)
    for order in (scheduler.waiting, scheduler.running):
        assert [text.arrival for text in order] == sorted(text.arrival for text in order)


def run(seed):
    """A random load; returns how often texts were preempted, and how many tokens were not computed again."""
    draw = random.Random(seed)
    blocks = Blocks(draw.randint(4, 24), draw.choice([1, 2, 4, 16]))
    scheduler = Scheduler(blocks, most_tokens=draw.randint(1, 40), most_texts=draw.randint(1, 8))
    memory, capacity = Memory(blocks), blocks.count * blocks.size
    openings = [[draw.randrange(3) for _ in range(draw.randint(1, 20))] for _ in range(3)]
    texts, finished, cancelled, computed, shared = [], [], [], 0, 0
    to_come = draw.randint(1, 30)
    steps = 0
    while to_come or scheduler.waiting or scheduler.running:
        for _ in range(draw.randint(0, 3)):
            if to_come:
                to_come -= 1
                prompt = (draw.choice(openings) + [draw.randrange(3) for _ in range(draw.randint(0, 30))])[: capacity - 1]
                wanted = draw.randrange(len(prompt))
                most = min(len(prompt) + draw.randint(0, 25), capacity)
                texts.append(Text(list(prompt), most, wanted if most == len(prompt) else len(prompt) - 1))
                texts[-1].read = []
                scheduler.add(texts[-1])
        parts = scheduler.schedule()
        check(scheduler, parts)
        assert parts or not scheduler.running
        for text, n in parts.items():
            memory.write(text, n)
            computed += n
            text.read += [i for i in range(text.computed, text.computed + n) if i >= text.read_from]
        if texts and draw.random() < 0.05:
            text = draw.choice(texts)
            if text not in finished and text not in cancelled:
                scheduler.remove(text)
                cancelled.append(text)
        scheduler.done(parts)
        for text in parts:
            if text in cancelled or text.remaining:
                continue
            if len(text.tokens) == text.most or draw.random() < 0.05:
                scheduler.remove(text)
                assert text not in finished
                finished.append(text)
            else:
                text.tokens.append(draw.randrange(3))
        steps += 1
        assert steps < 20_000, "starved"
    assert set(finished) | set(cancelled) == set(texts)
    assert blocks.available() == blocks.count
    assert not any(blocks.holders)
    assert not scheduler.making
    for text in finished:  # every wanted position once, in order, however often its text was preempted
        assert text.read == list(range(text.read[0], len(text.tokens)))
    shared = sum(len(text.tokens) for text in finished) - computed
    return sum(text.preempted for text in texts), shared


def test_random_loads():
    outcomes = [run(seed) for seed in range(CASES)]
    assert sum(preempted > 0 for preempted, _ in outcomes) > CASES // 10
    assert sum(shared > 0 for _, shared in outcomes) > CASES // 10


def test_samples_of_one_prompt_share_all_but_its_last_block():
    scheduler = Scheduler(Blocks(40, 4), most_tokens=100, most_texts=32)
    texts = [Text(list(range(18)), 20, 17) for _ in range(16)]
    for text in texts:
        scheduler.add(text)
    first = scheduler.schedule()
    assert first == {texts[0]: 18}
    scheduler.done(first)
    texts[0].tokens.append(7)
    second = scheduler.schedule()
    assert second == {texts[0]: 1, **dict.fromkeys(texts[1:], 2)}
    assert all(text.blocks[:4] == texts[0].blocks[:4] for text in texts)
    assert scheduler.blocks.available() == 40 - 4 - 16


def test_a_long_prompt_stalls_nobody():
    scheduler = Scheduler(Blocks(100, 4), most_tokens=8, most_texts=8)
    short, long = Text([1, 2, 3], 20, 2), Text(list(range(100)), 101, 99)
    scheduler.add(short)
    scheduler.done(scheduler.schedule())
    scheduler.add(long)
    for step in range(10):
        short.tokens.append(step)
        parts = scheduler.schedule()
        assert parts == {short: 1, long: 7}
        scheduler.done(parts)


def test_the_newest_gives_way_and_the_oldest_goes_on():
    scheduler = Scheduler(Blocks(4, 2), most_tokens=8, most_texts=8)
    old, new = Text([1, 2, 3], 8, 2), Text([4, 5, 6], 8, 2)
    scheduler.add(old)
    scheduler.add(new)
    scheduler.done(scheduler.schedule())
    assert scheduler.running == [old]  # a block is kept back for it
    old.tokens.append(1)
    scheduler.done(scheduler.schedule())
    assert scheduler.running == [old]
    old.tokens.append(1)
    for _ in range(4):
        scheduler.done(scheduler.schedule())
        if len(old.tokens) < 8:
            old.tokens.append(1)
    assert (old.computed, old.preempted) == (8, 0)
    scheduler.remove(old)
    assert scheduler.schedule() == {new: 3}


def test_a_text_that_can_never_fit_is_refused():
    scheduler = Scheduler(Blocks(4, 2), most_tokens=8, most_texts=8)
    with pytest.raises(ConfigError, match="9 tokens of one text"):
        scheduler.add(Text([1], 9, 0))


def test_a_key_is_all_that_stands_before_it():
    a, b, c = [1, 2], [3, 4], [5, 6]
    chain = next_key(next_key(b"", a), b)
    assert chain != next_key(next_key(b"", c), b) != next_key(b"", b)
    assert chain == next_key(next_key(b"", [1, 2]), [3, 4])


def test_what_was_free_for_the_longest_is_taken_first():
    blocks = Blocks(3, 2)
    held = [blocks.take() for _ in range(3)]
    assert held == [0, 1, 2]
    for block, key in zip(held, (b"a", b"b", b"c"), strict=True):
        blocks.publish(block, key)
    blocks.release([0, 1])  # 1 is free for longer: what stands before it is worth more
    blocks.release([2])
    assert blocks.match([b"a", b"b"]) == [0, 1]
    assert blocks.take() == 1
    assert blocks.match([b"a", b"b"]) == [0]
    assert blocks.available([0]) == 1
    with pytest.raises(IndexError):
        [blocks.take() for _ in range(3)]

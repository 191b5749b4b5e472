"""Order, labels and masks of batches, against slow twins."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.core.errors import InputError
from openherd.core.rundir import Run
from openherd.data.batches import IGNORED, BatchSource, permute
from openherd.data.token_files import block_sums
from openherd.data.token_shards import TokenShards


def make_shards(path, sources, vocabulary=50):
    """Shards of given documents (lists of ids), without a tokenizer."""
    folder = path / "shards"
    folder.mkdir(parents=True)
    index = {"vocabulary": vocabulary, "tokenizer_sha256": "", "sources": {}}
    for name, documents in sources.items():
        np.concatenate(documents).astype("<u4").tofile(folder / f"{name}.bin")
        np.save(folder / f"{name}.blocks.npy", block_sums(folder / f"{name}.bin"))
        lengths = [len(d) for d in documents]
        np.save(folder / f"{name}.starts.npy", np.cumsum([0, *lengths[:-1]], dtype=np.int64))
        index["sources"][name] = {"file": name, "tokens": sum(lengths), "documents": len(documents)}
    (folder / "index.json").write_text(json.dumps(index))
    return Run(path, {"outputs": {"shards/index.json": {}}, "stage": "token-shards"})


def documents(seed, n, longest=40):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 50, rng.integers(1, longest)) for _ in range(n)]


@given(n=st.integers(1, 3000), key=st.integers(0, 2**63))
@settings(max_examples=60)
def test_permute_is_a_bijection(n, key):
    assert sorted(permute(i, n, key) for i in range(n)) == list(range(n))


def test_permutations_differ_and_look_shuffled():
    one, other = ([permute(i, 1000, key) for i in range(1000)] for key in (1, 2))
    assert one != other
    assert abs(np.corrcoef(one, np.arange(1000))[0, 1]) < 0.15
    assert sum(b - a == 1 for a, b in pairwise(one)) < 20


def test_an_epoch_visits_every_window_once(tmp_path):
    shards = TokenShards.open(make_shards(tmp_path, {"a": documents(0, 90)}))
    n_tokens = shards.tokens["a"]
    for parts in (1, 4):
        source = BatchSource(shards, 3, "p", 16 // parts, {"a": 1.0}, parts=parts, stretch=range(3 * (n_tokens // 16)))
        each = n_tokens // 16
        seen = np.zeros((3, n_tokens), int)
        for part in range(parts):
            for epoch in range(3):
                for i in range(each):
                    start = source.window((3 * part + epoch) * each + i)[1]
                    seen[epoch, np.arange(start, start + 16 // parts) % n_tokens] += 1
        assert seen.max() == 1
        assert (seen == 0).sum(axis=1).tolist() == [n_tokens % 16] * 3
        with pytest.raises(IndexError):
            source.window(parts * 3 * each)
    starts = {source.window(epoch * each)[1] % 16 for epoch in range(3)}
    assert len(starts) > 1


@pytest.mark.parametrize(("n", "length"), [(64, 64), (65, 64), (191, 64), (255, 64), (1000, 64), (7, 1)])
def test_every_token_is_reached_as_often_as_any_other(n, length):
    """Of a small source too, up to its last token: as often as samples times their length over its tokens says."""
    shards = TokenShards(Path(), n, "", {"a": n}, {"a": np.array([0])}, {"a": np.arange(n)})
    source = BatchSource(shards, 0, "p", length, {"a": 1.0})
    samples = 400 * source.windows["a"]
    seen = np.zeros(n, int)
    for start in (source.window(i)[1] for i in range(samples)):
        seen[np.arange(start, start + length) % n] += 1
    due = samples * length / n
    assert seen.sum() == samples * length
    assert np.abs(seen - due).max() <= 6 * (400 * (due / 400) * (1 - due / 400)) ** 0.5 + 1e-6  # each epoch shows it once or not


def test_rows_against_a_slow_twin(tmp_path):
    sources = {"a": documents(1, 60), "b": documents(2, 80, longest=9)}
    shards = TokenShards.open(make_shards(tmp_path, sources))
    source = BatchSource(shards, 0, "p", 24, {"a": 2.0, "b": 1.0})
    batch = source.batch(5, 40)
    # Behind the last document comes the first, as another one.
    streams = {name: [(d, t) for d, document in enumerate(docs + docs) for t in document] for name, docs in sources.items()}
    for row in range(40):
        name, start = source.window(5 + row)
        position, document = -1, None
        seen = []
        for t in range(24):
            number, token = streams[name][start + t]
            position = 0 if number != document else position + 1
            document = number
            next_number, next_token = streams[name][start + t + 1]
            seen.append((token, next_token if next_number == number else IGNORED, position, number))
        tokens, labels, positions, numbers = (list(column) for column in zip(*seen))
        assert batch["tokens_BT"][row].tolist() == tokens
        assert batch["labels_BT"][row].tolist() == labels
        assert batch["positions_BT"][row].tolist() == positions
        assert batch["documents_BT"][row].tolist() == [n - numbers[0] for n in numbers]


def slow_batch(source, first, n):
    """A batch token by token of every document's number, the obvious way."""
    rows = {"tokens_BT": [], "labels_BT": [], "positions_BT": [], "documents_BT": []}
    for index in range(first, first + n):
        name, start = source.window(index)
        places = np.arange(start, start + source.sequence_length + 1)
        tokens = source.shards.read(name, start, start + source.sequence_length + 1)
        once = source.shards.starts[name]
        starts = np.concatenate([once, once + source.shards.tokens[name]])  # behind the last document comes the first
        document = np.searchsorted(starts, places, side="right") - 1
        begun = np.maximum(starts[document], start)
        rows["tokens_BT"].append(tokens[:-1])
        rows["labels_BT"].append(np.where(document[1:] == document[:-1], tokens[1:], IGNORED))
        rows["positions_BT"].append((places - begun)[:-1])
        rows["documents_BT"].append(document[:-1] - document[0])
    return {key: np.stack(value) for key, value in rows.items()}


@given(seed=st.integers(0, 99), longest=st.sampled_from([2, 3, 9, 200]), length=st.integers(1, 24), first=st.integers(0, 50))
@settings(max_examples=60)
def test_a_batch_is_that_of_the_slow_way(seed, longest, length, first, tmp_path_factory):
    sources = {"a": documents(seed, 60, longest), "b": documents(seed + 1, 60, longest)}
    shards = TokenShards.open(make_shards(tmp_path_factory.mktemp("shards"), sources))
    source = BatchSource(shards, seed, "p", length, {"a": 2.0, "b": 1.0})
    fast, slow = source.batch(first, 12), slow_batch(source, first, 12)
    assert list(fast) == list(slow)
    for name, rows in slow.items():
        assert fast[name].dtype == np.int64
        assert np.array_equal(fast[name], rows), name


def test_a_batch_does_not_depend_on_how_it_is_reached(tmp_path):
    run = make_shards(tmp_path, {"a": documents(4, 60), "b": documents(5, 60)})

    def make(seed=1, phase="p"):
        return BatchSource(TokenShards.open(run), seed, phase, 8, {"a": 1.0, "b": 3.0})

    whole = make().batch(0, 30)
    parts = [make().batch(i, 10) for i in (20, 0, 10)]
    for key, rows in whole.items():
        assert np.array_equal(rows, np.concatenate([parts[1][key], parts[2][key], parts[0][key]]))
    assert not np.array_equal(whole["tokens_BT"], make(seed=2).batch(0, 30)["tokens_BT"])
    assert not np.array_equal(whole["tokens_BT"], make(phase="q").batch(0, 30)["tokens_BT"])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return TokenShards.open(make_shards(tmp_path_factory.mktemp("shards"), {"a": documents(6, 200), "b": documents(7, 50)}))


range_of_samples = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda r: (r[0], r[0] + r[1]))


@given(skipped=st.lists(range_of_samples, max_size=5))
@settings(max_examples=40)
def test_skipped_samples_are_left_out_and_the_rest_keeps_its_order(skipped, shards):
    plain = BatchSource(shards, 0, "p", 8, {"a": 2.0, "b": 1.0})
    skipping = BatchSource(shards, 0, "p", 8, {"a": 2.0, "b": 1.0}, skipped)
    expected = [plain.window(i) for i in range(120) if not any(first <= i < end for first, end in skipped)]
    assert [skipping.window(i) for i in range(len(expected))] == expected


def test_a_range_that_ends_before_it_begins_is_refused(shards):
    with pytest.raises(ValueError, match=r"no range of samples: \(5, 3\)"):
        BatchSource(shards, 0, "p", 8, {"a": 1.0}, skipped=[(5, 3)])


def test_corrupt_shards_are_refused(tmp_path):
    run = make_shards(tmp_path, {"a": documents(7, 20)})
    with pytest.raises(InputError, match=r"source 'a' has .* tokens; allowed: at least 1,000"):
        BatchSource(TokenShards.open(run), 0, "p", 1000, {"a": 1.0})
    file = tmp_path / "shards" / "a.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:8] + b"\xff\xff\xff\xff" + whole[12:])
    np.save(file.with_name("a.blocks.npy"), block_sums(file))
    with pytest.raises(InputError, match="a corrupt shard: token 4294967295"):
        TokenShards.open(run).read("a", 0, 5)
    file.write_bytes(whole[:-3])
    with pytest.raises(InputError, match=r"a corrupt shard: .* bytes; allowed: .* tokens of 4 bytes"):
        TokenShards.open(run)


@given(weights=st.dictionaries(st.sampled_from("abc"), st.integers(1, 1000), min_size=1), length=st.sampled_from([4, 8]))
@settings(max_examples=30)
def test_tokens_of_each_source_are_its_share_over_any_prefix(tmp_path_factory, weights, length):
    path = tmp_path_factory.mktemp("shares")
    shards = TokenShards.open(make_shards(path, {"a": documents(1, 9), "b": documents(2, 30), "c": documents(3, 60)}))
    source = BatchSource(shards, 0, "p", length, {name: float(w) for name, w in weights.items()})
    tokens = dict.fromkeys(weights, 0)
    for index in range(300):
        name, _ = source.window(index)
        tokens[name] += length
        total = (index + 1) * length
        assert all(abs(tokens[s] - total * w / sum(weights.values())) < 2 * length for s, w in weights.items())

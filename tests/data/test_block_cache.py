"""The cache of blocks: bounded, the longest unused first, nothing wrong read from it."""

import hashlib
import os
import subprocess
import sys
import threading

import pytest

from openherd.core.errors import InputError
from openherd.data.block_cache import COUNT, BlockCache


def block(i: int, n: int = 100) -> tuple[str, bytes]:
    """A block and its name."""
    data = hashlib.shake_128(bytes([i])).digest(n)
    return hashlib.sha256(data).hexdigest(), data


def put(cache: BlockCache, *numbers: int) -> list[int]:
    """Read blocks; returns those that had to be fetched."""
    fetched = []
    for i in numbers:
        name, data = block(i)

        def fetch(i=i, data=data):
            fetched.append(i)
            return data

        assert cache.read(name, 10, 20, fetch) == data[10:20]
    return fetched


def on_disk(cache: BlockCache) -> int:
    """Bytes of the blocks that are in place."""
    return sum(size for _, size, path in cache._blocks() if not path.name.startswith("."))


def test_what_was_used_last_stays(tmp_path):
    cache = BlockCache(tmp_path, 1000)
    assert put(cache, *range(10)) == list(range(10))
    for i in range(10):
        os.utime(cache._path(block(i)[0]), (i, i))
    assert put(cache, 0, 1, 2) == []  # used again
    assert put(cache, 10) == [10]  # the two longest unused make room
    assert on_disk(cache) == 900 == int((tmp_path / COUNT).read_text())
    assert put(cache, 0, 1, 2, 5, 6, 7, 8, 9, 10) == []
    assert put(BlockCache(tmp_path, 1000), 0, 3) == [3]  # after a restart
    BlockCache(tmp_path, 500)
    assert on_disk(cache) <= 500


def test_a_damaged_block_is_fetched_again(tmp_path):
    put(BlockCache(tmp_path, 1000), 1, 2, 3)
    path = BlockCache(tmp_path, 1000)._path(block(1)[0])
    path.write_bytes(bytes(100))
    BlockCache(tmp_path, 1000)._path(block(2)[0]).write_bytes(b"")
    assert put(BlockCache(tmp_path, 1000), 1, 2, 3) == [1, 2]
    assert path.read_bytes() == block(1)[1]
    (tmp_path / COUNT).write_text("")
    assert put(BlockCache(tmp_path, 1000), 1, 2, 3, 4) == [4]
    assert (tmp_path / COUNT).read_text() == "400"


def test_one_fetch_for_all_who_ask(tmp_path):
    cache, go, fetched = BlockCache(tmp_path, 1000), threading.Event(), []
    name, data = block(1)

    def fetch():
        go.wait(10)
        fetched.append(1)
        return data

    waiting = [cache.want(name, fetch) for _ in range(5)]
    go.set()
    assert [future.result() for future in waiting] == [data] * 5
    assert fetched == [1]


def test_an_error_of_a_fetch_is_the_readers(tmp_path):
    cache, name = BlockCache(tmp_path, 1000), block(1)[0]

    def fetch():
        raise InputError("there", "gone")

    cache.want(name, fetch).exception()  # nobody reads it
    with pytest.raises(InputError, match="there: gone"):
        cache.read(name, 0, 1, fetch)
    assert put(cache, 1) == [1]


def test_a_disk_that_takes_nothing_costs_no_run(tmp_path, monkeypatch):
    cache = BlockCache(tmp_path, 1000)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    assert put(cache, 1, 1) == [1, 1]


def test_processes_share_a_cache(tmp_path):
    """Each reads blocks at random from a cache with room for some; none reads a wrong byte, and the bound holds."""
    program = f"""
import hashlib, random, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_block_cache import BlockCache, on_disk, put
cache = BlockCache(Path({str(tmp_path)!r}), 1000)
for i in random.Random(int(sys.argv[1])).choices(range(30), k=200):
    put(cache, i)
    assert on_disk(cache) <= 1000 + 100 * 3, on_disk(cache)  # a block may be in place before others have gone
"""
    running = [subprocess.Popen([sys.executable, "-c", program, str(i)]) for i in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    cache = BlockCache(tmp_path, 1000)
    assert on_disk(cache) <= 1000
    assert {path.name for path in tmp_path.glob("??/*")} <= {block(i)[0] for i in range(30)}

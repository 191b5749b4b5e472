"""Shards elsewhere: the same run and the same weights as from here, and what a storage does wrong."""

import json
import re
import shutil

import fsspec
import numpy as np
import pytest

from openherd.core import remote
from openherd.core.errors import InputError
from openherd.core.remote import RemoteRun
from openherd.core.rundir import Run, file_sha256
from openherd.data.batches import BatchSource
from openherd.data.block_cache import BlockCache
from openherd.data.token_shards import TokenShards
from range_server import served
from small_training import SMALL, refused, told


@pytest.fixture
def waits(monkeypatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(remote, "OPENING_WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(remote, "READING_WAITS_S", (0.0, 0.0))


@pytest.fixture
def blocks(monkeypatch) -> None:
    """Small blocks, so that little data has many."""
    monkeypatch.setattr("openherd.data.token_files.BLOCK_BYTES", 512)


@pytest.fixture
def small_blocks(made, blocks, tmp_path):
    """The miniature shards again, in blocks of 512 bytes."""
    given = ["--documents", made / "documents", "--tokenizer", made / "tokenizer"]
    assert told("token-shards", *given, "--out", tmp_path / "shards") == 0
    return tmp_path / "shards"


def to_memory(folder, name):
    """A copy in fsspec's memory; its address."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{folder}/", f"/{name}/", recursive=True)
    return f"memory://{name}"


def same_batches(one, other):
    def batches(shards):
        source = BatchSource(shards, 0, "p", 32, {"web": 2.0, "books": 1.0})
        return [source.batch(first, 7) for first in (0, 70, 7)]

    for a, b in zip(batches(one), batches(other), strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)


def test_batches_are_the_same_from_everywhere(small_blocks, tmp_path):
    here = TokenShards.open(Run.open(small_blocks))
    cache = BlockCache(tmp_path / "cache", 1 << 20)
    with served(small_blocks) as server:
        for address in (f"file://{small_blocks}", to_memory(small_blocks, "same"), server.address):
            run = RemoteRun.open(address)
            assert run.digest == Run.open(small_blocks).digest
            same_batches(here, TokenShards.open(run, cache))
        # Blocks of one content are kept once: the last address was asked for its manifest alone.
        assert server.asked == ["/manifest.json "]
        same_batches(here, TokenShards.open(RemoteRun.open(server.address), BlockCache(tmp_path / "other", 1 << 20)))
        n = len(server.asked)
        again = BlockCache(tmp_path / "other", 1 << 20)  # after a restart
        same_batches(here, TokenShards.open(RemoteRun.open(server.address), again))
        assert len(server.asked) == n + 1


STEPS = ["--steps", "14", "--checkpoint-steps", "2"]
RECIPE = """[[stage]]
use = "pretrain"
size = "herd-1m"
precision = "float32"
device = "cpu"
sequence_lengths = [32]
batch_tokens = [128]
ramp_tokens = []
warmup_steps = 0
learning_rate = 1e-3
steps = 14
checkpoint_steps = 2
"""


def test_training_from_elsewhere_is_the_same_run(made, small_blocks, tmp_path, capsys, waits):
    """From here, from a server that stumbles and one that fails for good and comes back, and by a recipe: the same weights."""
    more = ["--tokenizer", made / "tokenizer", *SMALL, *STEPS, "--cache-directory"]
    assert told("pretrain", "--shards", small_blocks, *more, tmp_path / "a", "--out", tmp_path / "here") == 0
    with served(small_blocks) as server:
        there = ["pretrain", "--shards", server.address, *more, tmp_path / "b", "--out", tmp_path / "there"]
        server.fail = [503, 0, 206, 429, *[206] * 40, *[500] * 999]
        assert re.search(r"\.bin: cannot be read \(500.*, tried 3 times; .*; the same command goes on", refused(capsys, *there))
        assert list((tmp_path / "there" / ".checkpoints").glob("step-*")) != []
        server.fail = [0, 206, 0]  # a block that the refused run still asks for takes the first
        assert told(*there) == 0
        assert "again in 0 s" in capsys.readouterr().err
        assert told("pretrain", "--shards", small_blocks, *more, tmp_path / "c", "--out", tmp_path / "there") == 0
        assert "up to date" in capsys.readouterr().out
        inputs = f'inputs = {{ shards = "{server.address}", tokenizer = "{made}/tokenizer" }}\n'
        (tmp_path / "r.toml").write_text(f'{RECIPE}cache_directory = "{tmp_path}/d"\n{inputs}')
        assert told("run", tmp_path / "r.toml", "--out", tmp_path / "run") == 0
    found = [tmp_path / "here", tmp_path / "there", *(tmp_path / "run" / "pretrain").iterdir()]
    assert len({file_sha256(path / "model" / "model.safetensors") for path in found}) == 1
    assert len({json.loads((path / "manifest.json").read_text())["digest"] for path in found}) == 1
    assert told("show", tmp_path / "there") == 0
    assert server.address in capsys.readouterr().out


def test_what_a_storage_does_wrong_is_one_line(made, small_blocks, tmp_path, capsys, waits):
    more = ["--tokenizer", made / "tokenizer", *SMALL, *STEPS, "--cache-directory", tmp_path / "c", "--out", tmp_path / "out"]
    with served(small_blocks) as server:
        there = ["pretrain", "--shards", server.address, *more]
        server.fail = [500] * 9
        assert "/manifest.json: cannot be read (500" in refused(capsys, *there)
        server.fail = [403]
        assert "/manifest.json: cannot be read (403" in refused(capsys, *there)
        assert not (tmp_path / "out").exists()
        server.fail = []
        assert "/none/manifest.json: cannot be read" in refused(capsys, "pretrain", "--shards", f"{server.address}/none", *more)
        file = small_blocks / "shards" / "000-books.bin"
        whole = file.read_bytes()
        file.write_bytes(whole[:1000])
        assert re.search(r"000-books.bin: cut off or changed: [\d,]+ bytes from byte [\d,]+ on instead of", refused(capsys, *there))
        file.write_bytes(bytes(len(whole)))
        said = refused(capsys, *there)
        assert "000-books.bin: changed: bytes" in said
        assert said.endswith("SHA-256 than when it was written, tried 3 times; copy the run again; the same command goes on")
        file.write_bytes(whole)
        assert told(*there) == 0
    with served(small_blocks) as server:
        gone = server.address
    for address, line in (
        (gone, r"/manifest.json: cannot be read \(.*, tried 3 times; check the address and your access to it"),
        ("gs://bucket/run", r"gs://bucket/run/manifest.json: needs more packages \(.*gcsfs.*\); pip install 'openherd\[remote\]'"),
        ("nowhere://x", r"no address \(Protocol not known: nowhere\)"),
    ):
        assert re.search(line, refused(capsys, "pretrain", "--shards", address, *more[:-1], tmp_path / "gone"))
    elsewhere = ["--shards", small_blocks, "--tokenizer", "memory://t", *SMALL, "--out", tmp_path / "gone"]
    assert "'memory://t' is elsewhere; allowed: a run directory on this machine" in refused(capsys, "pretrain", *elsewhere)
    assert not (tmp_path / "gone").exists()


def test_no_cache_directory_is_one_line(made, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    given = ["--shards", f"file://{made}/shards", "--tokenizer", made / "tokenizer", *SMALL, "--cache-directory", tmp_path / "file"]
    assert "file: no cache can be kept here (File exists); give another cache_directory" in refused(
        capsys, "pretrain", *given, "--out", tmp_path / "x"
    )


def test_older_shards_elsewhere_are_refused(made, tmp_path):
    shutil.copytree(made / "shards", tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_text())
    manifest["outputs"] = {name: entry for name, entry in manifest["outputs"].items() if not name.endswith("blocks.npy")}
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"no output 'shards/000-books.blocks.npy' of stage 'token-shards'"):
        TokenShards.open(RemoteRun.open(f"file://{tmp_path}/old"), BlockCache(tmp_path / "cache", 1 << 20))

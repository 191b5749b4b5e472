"""What training can be given wrong, by the command line: one line, exit code 2, and nothing that is finished is lost."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from openherd.core.rundir import file_sha256
from openherd.runner import Recipe, check_layouts
from openherd.training import loop
from small_training import SMALL, refused, told

SHORT = ["--batch-tokens", "128", "--learning-rate", "1e-3", "--device", "cpu"]
STEPS = ["--steps", "6", "--checkpoint-steps", "2"]


@pytest.fixture
def pretrain(made, tmp_path):
    """The beginning of the command; what comes later counts."""
    return ["pretrain", "--shards", made / "shards", "--tokenizer", made / "tokenizer", *SMALL, *STEPS, "--out", tmp_path / "out"]


def instead(command: list[object], name: str, place: Path) -> list[object]:
    """The command with another input."""
    at = command.index(name)
    return [*command[: at + 1], place, *command[at + 2 :]]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (["--steps", 100_000], "training: source 'books' has"),
        (["--steps", 100_000], "times; allowed: most_epochs = 4; give more data, train less, or raise most_epochs"),
        (["--steps", 0], "steps = 0; allowed: greater than or equal to 1"),
        (["--batch-tokens", "[100]"], "pretrain: batch_tokens = 100; allowed: a multiple of the sequence length 32"),
        (
            ["--sequence-lengths", "[65536]", "--batch-tokens", "[65536]", "--most-epochs", "1e6"],
            "allowed: at least 65,536 for seq",
        ),
        (["--source-weights", "{wab = 1.0}"], "source_weights: no source 'wab'; did you mean 'web'?"),
        (["--source-weights", "{web = 0.0}"], "source_weights: {'web': 0.0}; allowed: weights of at least 0, one of them more"),
        (["--source-weights", "{web = nan}"], "source_weights = {'web': nan}; allowed: finite numbers"),
        (["--learning-rate", "nan"], "learning_rate = nan; allowed: finite numbers"),
        (["--device", "abacus"], "device = \"abacus\"; allowed: 'auto', 'cpu', 'cuda' or 'mps'"),
        (["--precision", "int8"], 'precision = "int8"; allowed:'),
        (["--parallel", "{tp = 3}"], "this layout cannot run: 4 heads are no multiple of tp = 3; allowed: "),
        (["--parallel", "{dp_shard = 3}"], "4 sequences a step are no multiple of dp_shard x dp_replicate = 3"),
        (["--parallel", "{ttp = 2}"], "parallel: unknown setting 'ttp'; did you mean 'tp'?"),
        (["--size", "herd-9m"], "pretrain: unknown size 'herd-9m'"),
        (["--cache-gb", "0"], "cache_gb = 0; allowed: greater than 0"),
    ],
)
def test_settings(change, line, pretrain, capsys):
    assert line in refused(capsys, *pretrain, *change)


def test_a_layout_that_a_later_stage_of_a_recipe_cannot_run(capsys, tmp_path):
    """Refused before anything starts."""
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "laptop.toml"
    line = "long-context: this layout cannot run: 3 sequences a step are no multiple of dp_shard x dp_replicate = 2"
    command = [recipe, "--set", "parallel.dp_shard=2"]
    assert line in refused(capsys, "run", *command, "--out", tmp_path / "out")
    assert line in refused(capsys, "sweep", recipe, "--set", "parallel.dp_shard=1,2", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    mended = Recipe.read(recipe, ["parallel.dp_shard=2", "long-context.batch_tokens=3072"])  # as docs/training.md has it
    check_layouts(mended.resolve(tmp_path))


def test_a_device_that_is_not_here(pretrain, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device: 'cuda' is not available; allowed: auto, cpu" in refused(capsys, *pretrain, "--device", "cuda")


def test_more_processes_than_asked(pretrain, capsys, monkeypatch):
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert "2 were started; start as many, or change [parallel]" in refused(capsys, *pretrain)


def test_inputs_that_do_not_fit(made, pretrain, capsys, tmp_path):
    shards, other = ["--shards", made / "shards"], ["--shards", made / "other-shards"]
    after = ["--base", made / "pretrain", *SHORT]
    anneal = ["anneal", *after, "--averaged-checkpoints", "1", "--sequence-length"]
    long_context = ["long-context", *after, "--sequence-lengths", "[64]", "--stage-steps", "[2]"]
    for i, (command, line) in enumerate((
        (instead(pretrain, *other), f"other-shards/shards: not made with the tokenizer {made}/tokenizer/tokenizer/tokenizer.json"),
        ([*anneal, 32, *other], f"other-shards/shards: not made with the tokenizer {made}/pretrain/model/tokenizer.json"),
        ([*long_context, *other], f"other-shards/shards: not made with the tokenizer {made}/pretrain/model/tokenizer.json"),
        ([*anneal, 64, *shards], "anneal: sequence_length = 64; allowed: at most 32, the model's context"),
        (["sft", "--base", made / "pretrain", "--dialogs", made / "shards"], "sequence_length = 8192; allowed: at most 32"),
        (instead(pretrain, "--shards", made / "tokenizer"), "no output 'shards/index.json' of stage 'tokenizer'; allowed: outputs"),
        (instead(pretrain, "--tokenizer", made / "shards"), "no output 'tokenizer/tokenizer.json' of stage 'token-shards'"),
        ([*instead(anneal, "--base", made / "shards"), 32, *shards], "no output 'model/model.safetensors' of stage"),
        ([*instead(anneal, "--base", made / "pretrain" / "model"), 32, *shards], "model: no finished run directory"),
    )):  # fmt: skip
        assert line in refused(capsys, *command, "--out", tmp_path / str(i))
    line = "holds another run: stage 'token-shards' there, 'pretrain' asked; give another --out"
    assert line in refused(capsys, *pretrain, "--out", made / "shards")
    file = made / "shards" / "manifest.json"
    assert "no directory can be made here (File exists)" in refused(capsys, *pretrain, "--out", file)


def as_others(file: Path, dtype: str) -> None:
    """The same numbers in another type."""
    np.fromfile(file, "<u4").astype(dtype).tofile(file)


def other_index(file: Path, **sources: object) -> None:
    """Other entries of the index."""
    index = json.loads(file.read_text())
    file.write_text(json.dumps({**index, "sources": {**index["sources"], **sources} if sources else {}}))


WEB, STARTS, SUMS, INDEX = "001-web.bin", "001-web.starts.npy", "001-web.blocks.npy", "index.json"
EMPTY = {"file": "none", "tokens": 0, "documents": 0}


@pytest.mark.parametrize(
    ("name", "damage", "line"),
    [
        (WEB, lambda file: file.write_bytes(b"\xff" * file.stat().st_size), f"{WEB}: changed: bytes 0 to "),
        (WEB, lambda file: flip(file), f"{WEB}: changed: bytes 0 to "),
        (WEB, lambda file: as_others(file, "<u2"), f"{WEB}: a corrupt shard: "),
        (
            WEB,
            lambda file: as_others(file, ">u4"),
            "SHA-256 than when it was written; remove this run and make it again",
        ),
        (SUMS, lambda file: file.write_bytes(b""), f"{SUMS}: corrupt sums of blocks ("),
        (SUMS, lambda file: np.save(file, np.load(file)[:, :16]), f"{SUMS}: corrupt sums of blocks; allowed: 32 bytes for each of"),
        (STARTS, lambda file: np.save(file, np.load(file).astype("<i4")), f"{STARTS}: a corrupt index of document starts"),
        (STARTS, lambda file: np.save(file, np.int64(0)), f"{STARTS}: a corrupt index of document starts"),
        (STARTS, lambda file: np.save(file, np.array([{}])), f"{STARTS}: a corrupt index of document starts"),
        (INDEX, lambda file: file.write_text("{"), "index.json: a corrupt index ("),
        (INDEX, lambda file: other_index(file, none=EMPTY), "index.json: source 'none' has 0 tokens; remove this run"),
        (INDEX, lambda file: other_index(file), "index.json: no source; remove this run and make it again"),
    ],
)
def test_damaged_shards(name, damage, line, pretrain, made, tmp_path, capsys):
    """Even where the manifest has not noticed."""
    shards = tmp_path / "shards"
    shutil.copytree(made / "shards", shards)
    damage(shards / "shards" / name)
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["outputs"][f"shards/{name}"]["bytes"] = (shards / "shards" / name).stat().st_size
    (shards / "manifest.json").write_text(json.dumps(manifest))
    assert line in refused(capsys, *instead(pretrain, "--shards", shards))


def flip(file: Path) -> None:
    """One bit of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("model/model.safetensors", "model.safetensors: damaged: its SHA-256 is not the manifest's"),
        ("model/config.json", "config.json: damaged: its SHA-256 is not the manifest's"),
        ("model/tokenizer.json", "tokenizer.json: damaged: its SHA-256 is not the manifest's"),
        ("state/__0_0.distcp", "state/__0_0.distcp: damaged: its SHA-256 is not the one written with it"),
        ("state/.metadata", "state/.metadata: damaged: its SHA-256 is not the one written with it"),
    ],
)
def test_a_damaged_phase_before(name, line, made, tmp_path, capsys):
    shutil.copytree(made / "pretrain", tmp_path / "base")
    flip(tmp_path / "base" / name)
    more = ["--sequence-length", "32", "--steps", "2", "--averaged-checkpoints", "1", "--shards", made / "shards"]
    assert line in refused(capsys, "anneal", "--base", tmp_path / "base", *SHORT, *more, "--out", tmp_path / "out")


@pytest.fixture(scope="module")
def stopped(made, tmp_path_factory):
    """A run that was stopped after its second checkpoint, and the weights with which it ends: (directory, SHA-256)."""
    folder = tmp_path_factory.mktemp("stopped")
    command = ["pretrain", "--shards", made / "shards", "--tokenizer", made / "tokenizer", *SMALL, *STEPS]
    assert told(*command, "--out", folder / "whole") == 0

    class Stopping(loop.Checkpointer):
        def save(self, directory, *more):
            super().save(directory, *more)
            self.wait()
            if directory.name.endswith("4"):
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Checkpointer", Stopping)
        assert told(*command, "--out", folder / "stopped") == 130
    return folder / "stopped", file_sha256(folder / "whole" / "model" / "model.safetensors")


@pytest.fixture
def run(stopped, pretrain):
    """A copy of the stopped run, where the command goes on."""
    shutil.copytree(stopped[0], pretrain[-1])
    return pretrain[-1]


@pytest.mark.parametrize("damage", [b"", b'{"step": 0, "los', b'\0\0\0\0\n{"step"\n[1]\n\xff\xfe\n'])
def test_a_damaged_log_stops_no_run(damage, run, stopped, pretrain):
    log = run / "metrics.jsonl"
    log.write_bytes(damage + log.read_bytes()[: -20 if not damage.endswith(b"los") else None])
    assert told(*pretrain) == 0
    assert file_sha256(run / "model" / "model.safetensors") == stopped[1]
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps[-2:] == [4, 5]
    assert steps == sorted(set(steps))


def compute(device: str, threads: int) -> str:
    """A compute.json."""
    return json.dumps({"device": device, "precision": "float32", "threads": threads})


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("compute.json", "{", "compute.json: damaged (Expecting property name"),
        ("compute.json", compute("abacus", 1), "compute.json: damaged ('abacus', 'float32', 1 threads)"),
        ("compute.json", compute("cpu", 0), "compute.json: damaged ('cpu', 'float32', 0 threads)"),
        ("compute.json", compute("cuda", 1), "device: 'cuda' is not available"),
        ("config.toml", "x =", "config.toml: not valid TOML"),
        ("config.toml", "x = 1", "config.toml: damaged: it names no digest"),
    ],
)
def test_a_damaged_unfinished_run(name, text, line, run, stopped, pretrain, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (run / name).write_text(text)
    assert line in refused(capsys, *pretrain)
    shutil.copyfile(stopped[0] / name, run / name)  # what it had reached is still there
    assert told(*pretrain) == 0
    assert file_sha256(run / "model" / "model.safetensors") == stopped[1]


def test_a_checkpoint_of_another_model(run, stopped, pretrain, tmp_path, capsys):
    other = ["--size", "herd-2m", "--steps", "2", "--out", tmp_path / "other"]
    assert told(*pretrain, *other) == 0
    place = run / ".checkpoints" / "step-00000005"
    shutil.copytree(tmp_path / "other" / "state", place)
    line = refused(capsys, *pretrain)
    assert f"{place}: not a checkpoint of this model (" in line
    assert line.endswith("remove it and run again")
    assert (place / "checksums.json").exists()
    shutil.rmtree(place)
    assert told(*pretrain) == 0
    assert file_sha256(run / "model" / "model.safetensors") == stopped[1]


def test_other_settings_in_an_unfinished_run(run, pretrain, capsys):
    said = refused(capsys, *pretrain, "--learning-rate", "2e-3")
    assert said.endswith("holds another run: learning_rate = 0.001 there, 0.002 asked; give another --out")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_disk_that_takes_nothing(code, run, stopped, pretrain, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as disk:
        disk.setattr("os.replace", refuse)
        line = refused(capsys, *pretrain)
        do = "see who may read and write it" if code in (errno.EACCES, errno.EPERM) else "make room"
        assert f"{os.strerror(code)}; {do} or give another --out, then the same command goes on" in line
    assert told(*pretrain) == 0
    assert file_sha256(run / "model" / "model.safetensors") == stopped[1]


def test_a_later_stage_of_a_recipe_that_would_see_its_data_too_often(made, capsys, tmp_path):
    """Refused as soon as there are shards, before the stages between are trained; and again where these were there before."""
    small = {
        "use": "pretrain", "size": "herd-1m", "sequence_lengths": [32], "batch_tokens": [128], "ramp_tokens": [], "warmup_steps": 0,
        "device": "cpu", "inputs": {"shards": "token-shards", "tokenizer": f"{made}/tokenizer"},
    }  # fmt: skip
    inputs = {"documents": f"{made}/documents", "tokenizer": f"{made}/tokenizer"}
    first, second = {**small, "name": "first", "steps": 2}, {**small, "name": "second", "steps": 100_000}
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tomli_w.dumps({"stage": [{"use": "token-shards", "inputs": inputs}, first, second]}), encoding="utf-8")
    for _ in range(2):
        assert told("run", recipe, "--out", tmp_path / "out") == 2
        assert "openherd: stage 'second': source 'books' has 5,753 tokens and would be seen 734.7 times" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["token-shards"]

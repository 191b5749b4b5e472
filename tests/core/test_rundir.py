"""Run directories: digests, manifests and what a broken disk or process leaves. Recipes over them: tests/test_runner.py."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.errors import InputError, StaleError
from openherd.core.rundir import Job, Output, Outside, Run, digest_of, file_sha256, make

JOB = Job("stage", "3.1", 1, {"a": 1}, {"x": "0"}, {"x": "somewhere"})
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
SETTINGS = st.dictionaries(st.text(max_size=4), PLAIN, max_size=4)


def write(out: Output, **files: str) -> None:
    for name, text in files.items():
        with out.write(name.replace("__", "/")) as path:
            path.write_text(text)


def stage(config, *, out):
    write(out, **{"a.jsonl": "1\n2\n", "folder__b": "bb"})
    with out.write("state") as path:
        path.mkdir()
        (path / ".metadata").write_text("m")
    out.log(step=1)
    return {"found": 2}


@given(first=SETTINGS, second=SETTINGS)
def test_equal_jobs_and_only_they_have_equal_digests(first, second):
    one, other = (replace(JOB, settings=settings).digest for settings in (first, second))
    assert (one == other) == (json.dumps(first) == json.dumps(second))
    assert replace(JOB, inputs={"y": "1", "x": "0"}).digest == replace(JOB, inputs={"x": "0", "y": "1"}).digest
    assert replace(JOB, settings=first, sources={"x": "elsewhere"}).digest == one, "where an input lies is no part of it"


@pytest.mark.parametrize("change", [{"stage": "other"}, {"version": 2}, {"inputs": {"x": "1"}}, {"inputs": {"y": "0"}}])
def test_what_else_changes_a_digest(change):
    assert replace(JOB, **change).digest != JOB.digest


def test_a_manifest_says_what_was_made(tmp_path):
    run, before = make(JOB, tmp_path, stage, None, {})
    assert not before
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["stage"], manifest["version"], manifest["digest"]) == ("stage", 1, JOB.digest)
    assert manifest["metrics"] == run.metrics == {"found": 2}
    assert {name: (entry["bytes"], entry["rows"]) for name, entry in manifest["outputs"].items()} == {
        "a.jsonl": (4, 2),
        "folder/b": (2, None),
        "state/.metadata": (1, None),
    }
    assert manifest["outputs"]["folder/b"]["sha256"] == file_sha256(tmp_path / "folder" / "b")
    assert run.records() == [{"step": 1}]
    again, before = make(JOB, tmp_path, None, None, {})
    assert before
    assert again.manifest == manifest
    assert run.files("*.jsonl") == [str(tmp_path / "a.jsonl")]
    with pytest.raises(InputError, match=r"no output 'c' of stage 'stage'; allowed: outputs here: a.jsonl, folder/b"):
        run.file("c")


def test_an_output_of_the_same_size_but_other_content_is_found(tmp_path):
    run, _ = make(JOB, tmp_path, stage, None, {})
    assert run.verified("folder/b") == tmp_path / "folder" / "b"
    (tmp_path / "folder" / "b").write_text("cc")
    assert Run.open(tmp_path).digest == JOB.digest  # sizes alone are looked at when a run is opened
    with pytest.raises(InputError, match=r"its SHA-256 is not the manifest's; remove .* and run again"):
        run.verified("folder/b")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"outputs": []}', "\udcff"])
def test_a_corrupt_manifest_is_one_line(tmp_path, text):
    make(JOB, tmp_path, stage, None, {})
    (tmp_path / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(
        InputError, match=r"manifest.json: a corrupt manifest .*; remove .*manifest.json and run the same command again"
    ):
        Run.open(tmp_path)


@pytest.mark.parametrize("text", ["", "digest = 1\n[", "\udcff"])
def test_a_corrupt_config_is_one_line(tmp_path, text):
    make(JOB, tmp_path, stage, None, {})
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "config.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"config.toml: .*; remove .* and run the same command again"):
        make(JOB, tmp_path, stage, None, {})


def test_another_jobs_directory_is_left_alone(tmp_path):
    make(JOB, tmp_path, stage, None, {})
    other = replace(JOB, settings={"a": 2}, inputs={"x": "1"})
    with pytest.raises(StaleError, match="holds another run: a = 1 there, 2 asked; input 'x' differs; give another --out"):
        make(other, tmp_path, stage, None, {})
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.txt").write_text("years of work")
    with pytest.raises(StaleError, match="not empty, and no run directory"):
        make(JOB, tmp_path / "strange", stage, None, {})
    assert os.listdir(tmp_path / "strange") in (["thesis.txt"], ["thesis.txt", ".lock"], [".lock", "thesis.txt"])


def test_a_job_that_failed_at_once_leaves_the_place_to_another(tmp_path):
    def fails(config, *, out):
        raise InputError("source", "mistyped")

    with pytest.raises(InputError, match="mistyped"):
        make(JOB, tmp_path, fails, None, {})
    other = replace(JOB, settings={"a": 2})
    assert make(other, tmp_path, stage, None, {})[0].digest == other.digest


@pytest.mark.parametrize("where", ["file", "file/below", "/dev/null/x"])
def test_where_no_directory_can_be(tmp_path, where):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"no directory can be made here .*; give another --out"):
        make(JOB, tmp_path / where, stage, None, {})


def _half_write(out: Output, name: str, error: type[BaseException]) -> None:
    with out.write(name) as path:
        path.write_text("half")
        raise error


def test_a_write_that_fails_leaves_the_old_output_and_no_other(tmp_path):
    out = Output(tmp_path)
    write(out, kept="old")
    for name, error in (("kept", ZeroDivisionError), ("new", KeyboardInterrupt)):
        with pytest.raises(error):
            _half_write(out, name, error)
    assert os.listdir(tmp_path) == ["kept"]
    assert (tmp_path / "kept").read_text() == "old"
    write(out, kept="new")
    assert (tmp_path / "kept").read_text() == "new"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_an_unfinished_run_that_goes_on(tmp_path):
    def full(config, *, out):
        write(out, first="1")
        with out.write("second") as path:
            path.symlink_to("/dev/full")
            path.write_text("2")
        return {}

    with pytest.raises(OSError, match="No space left") as error:
        make(JOB, tmp_path, full, None, {})
    assert error.value.errno == errno.ENOSPC
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["config.toml", "first"]
    assert make(JOB, tmp_path, stage, None, {})[0].metrics == {"found": 2}


def test_inputs_are_found_again(tmp_path):
    first, _ = make(JOB, tmp_path / "a" / "1", stage, None, {})
    job = Job("next", "3.2", 1, {}, {"given": first.digest}, {"given": "../../a/1"})
    second, _ = make(job, tmp_path / "b" / "2", stage, None, {})
    (tmp_path / "a").parent.rename(moved := tmp_path.with_name(tmp_path.name + "-moved"))
    second = Run.open(moved / "b" / "2")
    assert second.input("given").path == moved / "a" / "1"
    with pytest.raises(InputError, match="stage 'next' has no input 'taken'; allowed: inputs: given"):
        second.input("taken")
    manifest = moved / "a" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(first.digest, "0" * 64))
    with pytest.raises(InputError, match="no longer the input 'given'"):
        second.input("given")


def test_outside_inputs(tmp_path):
    for name in ("b.txt", "a.txt", "below/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    everything = Outside(str(tmp_path))
    assert [Path(f).name for f in everything.files()] == ["a.txt", "b.txt", "c.txt"]
    assert [Path(f).name for f in Outside(f"{tmp_path}/*.txt").files()] == ["a.txt", "b.txt"]
    before = everything.digest
    assert Outside(str(tmp_path)).digest == before
    os.utime(tmp_path / "below" / "c.txt", ns=(0, 1))
    assert everything.digest != before
    assert Outside("python://stdlib").files() == ["python://stdlib"]
    with pytest.raises(InputError, match="no such file"):
        Outside(str(tmp_path / "none*")).files()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="an empty folder"):
        Outside(str(tmp_path / "empty")).files()


def test_a_remote_input_without_its_packages_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError("no s3fs")

    monkeypatch.setattr("fsspec.url_to_fs", missing)
    with pytest.raises(InputError, match=r"s3://x/y: needs more packages; pip install 'openherd\[remote\]'"):
        _ = Outside("s3://x/y").digest


def test_the_digest_of_a_value_by_hand():
    # printf '{"b":1,"a":[true,null]}' | sha256sum; a setting may say "the first that matches", so order counts
    assert digest_of({"b": 1, "a": [True, None]}) == "37f089b7fdf4e666671765be1ecddc11aec19eab3bd1e2cdbcb704004223f8d8"
    assert digest_of({"a": [True, None], "b": 1}) == "51705a2c9eb3e7e410a58f696a770c3ac3885a0cf43eb7fc88f5e47c11d4d30d"


def test_what_a_stage_keeps_to_go_on_from_is_its_jobs_alone_and_goes_at_the_end(tmp_path):
    job, found = Job("stage", "3.1", 1, {"a": 1}, {}, {}), []

    def stops(config, *, out):
        found.append(sorted(path.name for path in out.work.iterdir()))
        (out.work / str(len(found))).touch()
        if len(found) % 2:
            raise InputError("here", "stopped")
        return {}

    with pytest.raises(InputError):
        make(job, tmp_path, stops, None, {})
    make(job, tmp_path, stops, None, {})
    assert found == [[], ["1"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "manifest.json"]
    other = tmp_path / "other"
    with pytest.raises(InputError):
        make(job, other, stops, None, {})
    make(replace(job, settings={"a": 2}), other, stops, None, {})  # the first had written nothing: the place is free
    assert found[2:] == [[], []]

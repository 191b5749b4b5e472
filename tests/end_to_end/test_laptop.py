"""The main job, at miniature scale through the same command: from pages to a chat; again; changed; killed; read by transformers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miniature import RUN, SETTINGS, environment, openherd
from openherd.core.rundir import Run
from openherd.runner import open_stage, read_run_file

KILLED_AFTER = 15  # steps, of 40, between two checkpoints


def run_again(folder: Path, out: str, *changes: str) -> tuple[str, dict[str, bool]]:
    """Run the recipe once more; returns what was printed, and by stage whether it was up to date."""
    more = [part for change in changes for part in ("--set", change)]
    done = openherd(folder, "run", "recipes/laptop.toml", "--out", out, *SETTINGS, *more)
    assert done.returncode == 0, done.stderr
    stages = read_run_file(folder / out)
    return done.stdout, {name: re.search(rf"/\d+ {name} · up to date", done.stderr) is not None for name in stages}


def test_the_table_names_every_stage_and_says_what_the_model_is(miniature_run):
    printed = (miniature_run / "printed.txt").read_text()
    places = read_run_file(miniature_run / RUN)
    rows = [line.split()[0] for line in printed.splitlines() if line.split()]
    assert rows[1 : 1 + len(places)] == list(places)
    assert f"openherd chat {RUN}" in printed
    assert "This model is a toy" in printed
    named = re.findall(r"recipes/[\w-]+\.toml", printed)
    assert named
    assert all((miniature_run / name).exists() for name in named)


def test_every_stage_is_in_the_report(miniature_run):
    run = open_stage(miniature_run / RUN, "report")
    page = run.file("report.html").read_text(encoding="utf-8")
    places = read_run_file(miniature_run / RUN)
    digests = {name: Run.open(place).digest for name, place in places.items() if name != "report"}
    assert {name for name, digest in digests.items() if digest[:12] not in page} == set()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?https?:", page)


def test_scores_name_the_weights_they_read(miniature_run):
    run = miniature_run / RUN
    answers = open_stage(run, "evaluate-answers").metrics
    assert answers["weights_sha256"] == weights_of(open_stage(run, "sft"))
    text = open_stage(run, "evaluate-text").metrics
    for phase in ("pretrain", "long-context", "anneal"):
        assert text[phase]["weights_sha256"] == weights_of(open_stage(run, phase))


def test_again_nothing_runs_and_a_changed_setting_runs_what_follows(miniature_run):
    out = "runs/again"
    shutil.copytree(miniature_run / RUN, miniature_run / out)
    before = read_run_file(miniature_run / out)
    _, up_to_date = run_again(miniature_run, out)
    assert set(up_to_date.values()) == {True}
    assert read_run_file(miniature_run / out) == before

    _, up_to_date = run_again(miniature_run, out, "sft.epochs=2")
    assert {name for name, same in up_to_date.items() if not same} == {"sft", "evaluate-answers", "report"}
    after = read_run_file(miniature_run / out)
    assert {name for name in before if before[name] != after[name]} == {"sft", "evaluate-answers", "report"}
    assert before["sft"].exists()


def weights_of(run: Run) -> str:
    return run.manifest["outputs"]["model/model.safetensors"]["sha256"]


def test_a_killed_run_ends_as_an_undisturbed_one(miniature_run):
    undisturbed = open_stage(miniature_run / RUN, "pretrain")
    out = miniature_run / "runs" / "killed"
    recipe = miniature_run / "recipes" / "laptop.toml"
    text = recipe.read_text(encoding="utf-8")
    cut = text.index("[[stage]]", text.index('use = "pretrain"'))
    (miniature_run / "recipes" / "until-pretrain.toml").write_text(text[:cut], encoding="utf-8")
    known = set(re.findall(r'use = "([\w-]+)"', text[:cut]))
    changes = [p for key in SETTINGS[1::2] if key.partition(".")[0] in known for p in ("--set", key)]
    arguments = ["run", "recipes/until-pretrain.toml", "--out", "runs/killed", *changes]
    for name, place in read_run_file(miniature_run / RUN).items():
        if name in known - {"pretrain"}:
            shutil.copytree(place, out / name / place.name)

    place = out / "pretrain" / undisturbed.path.name
    with subprocess.Popen(
        [sys.executable, "-m", "openherd", *arguments],
        cwd=miniature_run, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        give_up = time.monotonic() + 120
        while n_lines(place / "metrics.jsonl") < KILLED_AFTER and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert n_lines(place / "metrics.jsonl") >= KILLED_AFTER
    assert not (place / "manifest.json").exists()
    assert list((place / ".checkpoints").glob("step-*"))

    done = openherd(miniature_run, *arguments)
    assert done.returncode == 0, done.stderr
    resumed = Run.open(place)
    assert resumed.digest == undisturbed.digest
    assert weights_of(resumed) == weights_of(undisturbed)
    assert resumed.metrics["final_loss_nats"] == undisturbed.metrics["final_loss_nats"]
    assert losses(resumed) == losses(undisturbed)


def n_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def losses(run: Run) -> list[tuple[int, float]]:
    return [(record["step"], record["loss_nats"]) for record in run.records()]


def test_chat_answers_each_line(miniature_run):
    done = openherd(miniature_run, "chat", RUN, "--max-new-tokens", "8", given="What is difflib?\n/new\nWhat is glob?\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert done.stdout.count("\n") >= 2


def test_transformers_reads_the_model_and_continues_alike(miniature_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = open_stage(miniature_run / RUN, "sft")
    directory = run.file("model/config.json").parent
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompt = "Return the "
    asked = tokenizer(prompt, return_tensors="pt")
    said = model.generate(**asked, max_new_tokens=24, do_sample=False)[0, asked["input_ids"].shape[1] :].tolist()
    theirs = tokenizer.decode(said, skip_special_tokens=True)

    ours = openherd(miniature_run, "generate", RUN, prompt, "--text", "--max-new-tokens", "24")
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout == theirs + "\n"
    assert len(theirs) > 8

    dialog = json.loads(open_stage(miniature_run / RUN, "dialogs").file("train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    ids = tokenizer.apply_chat_template(dialog["messages"][:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
    answer = openherd(miniature_run, "generate", RUN, dialog["messages"][0]["content"], "--max-new-tokens", "24")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == tokenizer.decode(said, skip_special_tokens=True) + "\n"


@pytest.mark.parametrize("name", ["sft", "anneal"])
def test_show_traces_a_run_to_its_pages(miniature_run, name):
    done = openherd(miniature_run, "show", str(open_stage(miniature_run / RUN, name).path))
    assert done.returncode == 0, done.stderr
    assert "python://stdlib" in done.stdout
    assert "CHANGED" not in done.stdout

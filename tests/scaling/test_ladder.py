"""The ladder: the paper's settings, the committed recipe, and a real one, tiny, beside the scores of another stage."""

import csv
import json
import math
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from known_laws import made
from openherd.cli import main
from openherd.core.errors import ConfigError
from openherd.scaling.fit import fit_parametric
from openherd.scaling.ladder import foretold
from openherd.scaling.rungs import PAPER_BATCH, PAPER_RATES, between, ladder_recipe, rungs, value_of
from openherd.scaling.runs import find_columns

ROOT = Path(__file__).resolve().parents[2]
SIZES = ["herd-30m", "herd-60m", "herd-125m", "herd-350m", "herd-760m", "llama3.2-1b", "llama3.2-3b", "llama3-8b"]


def test_the_papers_ends():
    found = rungs([6e18, 1e20, 1e22], [1e23], SIZES, 8_192)
    batches = {run.flops: run.batch_tokens for run in found}
    assert batches[6e18] == pytest.approx(PAPER_BATCH[0], rel=0.02)
    assert batches[1e22] == pytest.approx(PAPER_BATCH[1], rel=0.01)
    assert between(16e9, (40e6, 16e9), PAPER_RATES) == pytest.approx(2e-4)
    assert [run.flops for run in found].count(1e20) == 4
    assert [run.flops for run in found].count(1e23) == 1
    rates = {run.size: run.learning_rate for run in found}
    assert rates["herd-125m"] > rates["herd-350m"] > 2e-4


def test_each_run_has_its_budget():
    from openherd.model.config import SIZES as SHAPES
    from openherd.model.flops import parameters

    for run in rungs([1e19, 1e20], [], SIZES, 4_096):
        spent = 6 * parameters(SHAPES[run.size]) * run.steps * run.batch_tokens
        assert spent == pytest.approx(run.flops, rel=0.5 / run.steps + 1e-9)
    sizes = {run.size for run in rungs([1e20], [], SIZES, 4_096, tokens_per_parameter=20)}
    assert "herd-760m" in sizes  # sqrt(1e20 / 120) is 913M


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": ["herd-2n", *SIZES]}, "did you mean 'herd-2m'"),
        ({"sizes": SIZES[:3]}, "4 different sizes"),
        ({"batch_tokens": (1e9, 2e9)}, "50 or more"),
    ],
)
def test_ladders_that_cannot_be(arguments, message):
    with pytest.raises(ConfigError, match=message):
        rungs(**{"flops": [1e20], "held_out": [], "sizes": SIZES, "sequence_length": 8_192, **arguments})


def test_settings():
    assert value_of("embedding_std=0.4") == ("", "embedding_std", 0.4)
    assert value_of("tokenizer.merges_base=256") == ("tokenizer", "merges_base", 256)
    assert value_of("precision=float32") == ("", "precision", "float32")
    for wrong in ("steps=3", "x", "=3"):
        with pytest.raises(ConfigError, match="--set"):
            value_of(wrong)
    with pytest.raises(ConfigError, match=r"no data stage 'tokenizr'.*did you mean 'tokenizer'"):
        ladder_recipe(ROOT / "recipes" / "laptop.toml", [], [], 128, ["tokenizr.merges_base=3"], "x")


def test_the_committed_recipe_is_what_its_command_writes(tmp_path, monkeypatch):
    text = (ROOT / "recipes" / "ladder.toml").read_text(encoding="utf-8")
    comment = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    command = shlex.split(" ".join(comment[comment.index("Written by:") + 1 :]))
    monkeypatch.chdir(ROOT)
    assert command[:3] == ["openherd", "scaling", "ladder"]
    assert command[-2:] == ["--out", "recipes/ladder.toml"]
    assert main([*command[1:-1], str(tmp_path / "ladder.toml")]) == 0
    assert tomllib.loads((tmp_path / "ladder.toml").read_text(encoding="utf-8")) == tomllib.loads(text)


def test_a_run_is_foretold_within_the_laws_interval():
    runs = made(0.004)
    fit = fit_parametric(runs, draws=200)
    n, d = 5e10, 2e12
    true = 1.7 + 420 / n**0.34 + 900 / d**0.31
    found = foretold(fit, runs, {"parameters": n, "tokens": d, "loss": true}, seed=0)
    assert found["within_interval"]
    assert found["foretold"]["high"] - found["foretold"]["low"] < 0.1
    assert not foretold(fit, runs, {"parameters": n, "tokens": d, "loss": true + 0.2}, seed=0)["within_interval"]


def test_a_law_that_is_no_number_at_a_run_foretells_none():
    runs = made(0.004)
    fit = fit_parametric(runs, draws=200)
    lost = replace(fit, values={**fit.values, "alpha": -1e3})
    found = foretold(lost, runs, {"parameters": 5e10, "tokens": 2e12, "loss": 2.0}, seed=0)
    assert found == {"not_foretold": "the fitted law gives no number for it", "loss": 2.0, "within_interval": False}


@pytest.mark.slow
def test_a_tiny_ladder(tmp_path):
    recipe = tmp_path / "tiny.toml"
    arguments = [
        "scaling", "ladder", str(ROOT / "recipes" / "laptop.toml"), "--flops", "2e10,4e10", "--held-out", "8e10", "--sizes",
        "herd-31k,herd-60k,herd-110k,herd-230k", "--sequence-length", "16", "--batch-tokens", "64,64",
        "--tokens-per-parameter", "1",
        "--learning-rates", "1e-2,5e-3", "--rate-sizes", "30K,230K", "--set", "tokenizer.merges_base=256", "--set",
        "python-docs.pages=60", "--set", "embedding_std=0.4", "--set", "holdout.share=0.2", "--out", str(recipe),
    ]  # fmt: skip
    assert main(arguments) == 0
    document = tomllib.loads(recipe.read_text(encoding="utf-8"))
    for stage in document["stage"]:
        if stage["use"] == "pretrain":
            stage |= {"steps": stage["steps"] // 40, "decay_steps": stage["steps"] // 40, "warmup_steps": 1, "batch_tokens": [64]}
    recipe.write_text(tomli_w.dumps(document), encoding="utf-8")
    assert main(["run", str(recipe), "--out", str(tmp_path / "runs")]) == 0
    (folder,) = (tmp_path / "runs" / "scaling-ladder").iterdir()
    metrics = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["held_out"] for row in rows] == ["0"] * 8 + ["1"]
    assert set(metrics["foretold"]) == {rows[-1]["run"]}
    assert (metrics["parametric"]["runs_used"], metrics["isoflop"]["law"]) == (8, "isoflop")
    assert "within_interval" in metrics["foretold"][rows[-1]["run"]]

    # The loss is what evaluate-text finds, in other units.
    from openherd.core.rundir import Run
    from openherd.evaluation.text import choose_texts
    from openherd.runner import single_stage
    from openherd.tokenizer.tokenizer import Tokenizer

    model, documents = (next((tmp_path / "runs" / name).iterdir()) for name in (rows[0]["run"], "holdout"))
    run, _ = single_stage(
        "evaluate-text", {"sample_tokens": 1}, {"models": [str(model)], "documents": str(documents)}, tmp_path / "scored"
    )
    tokenizer = Tokenizer.load(model / "model")
    texts = choose_texts(Run.open(documents).file("heldout.parquet"), 0, 0)
    tokens, size = sum(map(len, tokenizer.encode_batch(texts))), sum(len(text.encode()) for text in texts)
    bits = run.metrics["pretrain"]["bits_per_byte"]["value"]
    assert float(rows[0]["loss"]) == pytest.approx(bits * size / tokens * math.log(2), rel=1e-4)
    page = next((tmp_path / "runs" / "report").iterdir()) / "report.html"
    assert "Scaling laws" in page.read_text(encoding="utf-8")
    assert set(find_columns(folder / "runs.csv", list(rows[0]), "")) == {"parameters", "tokens", "flops", "loss"}


def test_what_is_held_out_is_larger_than_all_that_is_fitted(capsys):
    """The stage leaves out the last runs: with a smaller budget held out it would have fitted that one, and foretold another."""
    command = ["scaling", "ladder", "recipes/laptop.toml", "--sizes", "herd-31k,herd-60k,herd-110k,herd-230k", "--out", "none.toml"]
    for held in ("3e10", "5e10", "2e11,1e10"):
        assert main([*command, "--flops", "2e10,5e10", "--held-out", held]) == 2
        assert "allowed: budgets that are larger than all of --flops" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more", ["--flops=-2e10,5e10", "--flops=nan,5e10", "--batch-tokens=0,128", "--tokens-per-parameter=0", "--learning-rates=0,1"]
)
def test_numbers_of_a_ladder_that_cannot_be(more, capsys):
    command = ["scaling", "ladder", "recipes/laptop.toml", "--sizes", "herd-31k,herd-60k,herd-110k,herd-230k", "--out", "none.toml"]
    assert main([*command, "--flops", "2e10,5e10", "--held-out", "2e11", more]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"openherd: {more.partition('=')[0]}: ")
    assert error.count("\n") == 1

"""`openherd plan` as a person types it."""

import json
import subprocess
import sys
import tomllib

import pytest

from miniature import environment
from openherd.cli import main
from openherd.planning.measured import OWN_COLUMNS

BIG = ["plan", "llama3-405b", "--gpus", "16384"]


def test_the_text_has_every_part(capsys):
    assert main(BIG) == 0
    text = capsys.readouterr().out
    for part in ("attention", "tensor parallel, exposed", "pipeline bubble", "activations", "optimizer", "tokens/s/GPU", "GWh"):
        assert part in text
    assert "errors on measured runs that nothing was fitted on" in text
    assert "Llama 3, Table 4, 3 rows" in text
    assert "needs 99.8 GiB of 79.2" in text


def test_json_and_one_layout(capsys):
    assert main([*BIG, "--layout", "tp=8,cp=1,pp=16,dp=128,v=8", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    (found,) = plan["layouts"]
    assert found["layout"]["dp"] == 128
    assert sum(v for k, v in found["memory_bytes"].items() if k != "total") == pytest.approx(found["memory_bytes"]["total"])
    parts = found["step_s_parts"]
    assert sum(v for k, v in parts.items() if k != "overlapped") == pytest.approx(found["step_s"])
    assert found["tokens_per_s_per_gpu"] == pytest.approx(16_777_216 / found["step_s"] / 16_384)
    assert found["tflops_per_gpu"] == pytest.approx(found["mfu"] * 989.4)
    assert 100 * found["mfu_attention_in_full"] == pytest.approx(41, abs=3)
    assert len(found["memory_bytes_by_place"]) == len(found["layers_by_place"]) == 16
    assert found["gpu_hours"] == pytest.approx(found["days"] * 24 * 16_384)
    assert found["validation"]["time"]["name"] == "Llama 3, Table 4"
    errors = found["validation"]["errors"]
    assert errors["days"] == errors["energy_gwh"] == errors["mfu"] == found["validation"]["time"]["time"]
    assert errors["memory_bytes"] == found["validation"]["memory"]["memory"]
    assert errors["goodput"] is None


def test_what_does_not_fit_has_exit_code_1(capsys):
    assert main(["plan", "llama3-405b", "--gpus", "64"]) == 1
    assert "no layout fits" in capsys.readouterr().out
    assert main(["plan", "llama3-8b", "--gpus", "8", "--layout", "dp=8,micro=8", "--batch-tokens", "524288"]) == 1
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_bad_words_have_exit_code_2(capsys):
    for more, found in (
        (["--hardware", "h20"], "--hardware: unknown 'h20'; allowed: a100-40g"),
        (["--precision", "fp4"], "--precision: unknown 'fp4'"),
        (["--layout", "tp=7"], "--layout: tp x cp x pp x dp ="),
        (["--pue", "0.5"], "--pue: 0.5; allowed: 1 or more"),
        (["--best", "0"], "--best: 0; allowed: 1 or more"),
    ):
        assert main([*BIG, *more]) == 2
        error = capsys.readouterr().err
        assert found in error
        assert error.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["plan", "llama3-8b"])
    assert "--gpus" in capsys.readouterr().err


def test_check_calibrate_and_plan_with_own_constants(tmp_path, capsys):
    """A user's own file, the constants of it, and a plan that is slower by them."""
    runs = tmp_path / "runs.csv"
    row = "llama3-8b,h100,bf16,{tp},1,1,{dp},1,{micro},64,8192,full,{seconds},70"
    rows = [row.format(tp=tp, dp=8 // tp, micro=micro, seconds=30) for tp in (1, 2, 4, 8) for micro in (1, 2, 4, 8)]
    runs.write_text("\n".join([OWN_COLUMNS, *rows]) + "\n", encoding="utf-8")
    assert main(["plan", "check", str(runs), str(runs), "--rows", "2"]) == 0
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert first == second
    assert set(first) == {"file", "rows_used", "rows_skipped", "time", "memory"}
    assert first["rows_used"] == 16
    assert "row " in err
    constants = tmp_path / "constants.toml"
    assert main(["plan", "calibrate", str(runs), "--out", str(constants)]) == 0
    assert "8 rows held out" in capsys.readouterr().out
    assert "matmul" in tomllib.loads(constants.read_text(encoding="utf-8"))["h100"]["bf16"]
    command = ["plan", "llama3-8b", "--gpus", "8", "--batch-tokens", "524288", "--json"]
    seconds = []
    for more in ([], ["--constants", str(constants)]):
        assert main([*command, *more]) == 0
        seconds.append(json.loads(capsys.readouterr().out)["layouts"][0]["step_s"])
    assert seconds[1] > 2 * seconds[0]
    for content, found in (("x = 1", "has no constants"), ("[h100.bf16]\nmatmul = 3", "0.1 to 0.95"), ("[", "cannot be read")):
        constants.write_text(content, encoding="utf-8")
        assert main([*command, "--constants", str(constants)]) == 2
        assert found in capsys.readouterr().err
    runs.write_text("\n".join([OWN_COLUMNS, rows[0]]) + "\n", encoding="utf-8")
    assert main(["plan", "calibrate", str(runs)]) == 2
    assert "1 rows with a time in the half that is fitted; allowed: 2 or more" in capsys.readouterr().err


def test_pages_and_exports(tmp_path, capsys):
    page = tmp_path / "plan.html"
    assert main(["plan", "llama3-70b", "--gpus", "256", "--page", str(page)]) == 0
    assert "Memory by part" in page.read_text(encoding="utf-8")
    capsys.readouterr()
    assert main(["plan", "llama3-8b", "--gpus", "64", "--engine", "ours", "--export", "recipe"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["stage"][-1]["size"] == "llama3-8b"
    assert main(["plan", "tutorial"]) == 0
    assert "30 GWh" in capsys.readouterr().out


def test_no_torch_is_imported():
    """Planning is instant, and needs no torch: a plan in a process of its own that could not import it."""
    program = "import sys; sys.modules['torch'] = None; from openherd.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *BIG], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TP" in done.stdout


def test_whose_errors_and_constants_these_are(tmp_path, capsys):
    """A device of the same kind is not the measured one, and errors of the planner's constants are not those of a user's."""
    small = ["plan", "llama3-8b", "--gpus", "8", "--batch-tokens", "524288", "--layout", "tp=8,recompute=full"]
    constants = tmp_path / "mine.toml"
    constants.write_text("[h100.bf16]\nmatmul = 0.5\n", encoding="utf-8")
    for more, lines in (
        ([], 0),
        (["--hardware", "h200"], "no measured run of h200 bf16: constants of h100 bf16"),
        (["--hardware", "b200"], "no measured run of b200 bf16: constants of h100 bf16"),
        (["--constants", str(constants)], "these are of the planner's own constants"),
    ):
        assert main([*small, *more]) == 0
        text = capsys.readouterr().out
        assert lines in text if lines else "no measured run" not in text and "planner's own" not in text
        assert main([*small, *more, "--json"]) == 0
        (found,) = json.loads(capsys.readouterr().out)["layouts"]
        assert found["validation"]["own_constants"] == ("--constants" in more)
        assert found["validation"]["device_measured"] == ("--hardware" not in more)


def test_numbers_that_cannot_be_and_files_that_cannot_be_written(tmp_path, capsys):
    small = ["plan", "llama3-8b", "--gpus", "8", "--batch-tokens", "524288", "--layout", "tp=8,recompute=full"]
    for tokens in ("nan", "inf", "12"):
        assert main([*small, "--tokens", tokens]) == 2
        assert "--tokens: " in capsys.readouterr().err
    assert main([*small, "--tokens", "15T", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 15e12
    nowhere = str(tmp_path / "none" / "page.html")
    for command in (
        [*small, "--page", nowhere],
        ["plan", "failures", "--page", nowhere],
        ["plan", "calibrate", "x", "--out", nowhere],
    ):
        with pytest.raises(SystemExit) as left:
            main([*command, nowhere])
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert "none' is no folder" in error
        assert error.count("\n") == 1
    for more in (["--days", "5", "--work-days", "5"], ["--log-nodes", "4"]):
        assert main(["plan", "failures", *more]) == 2
        assert capsys.readouterr().err.count("\n") == 1

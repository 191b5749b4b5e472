"""Measured runs: schemas by header, reasons for skipped rows, the targets on held-out rows, and constants fitted again."""

import csv
import json
import re

import numpy as np
import pytest

from openherd.core.errors import InputError
from openherd.planning.calibrate import calibrate, fit_key, least_absolute
from openherd.planning.check import check, errors, half, predict, summary
from openherd.planning.constants import FITTED, constants
from openherd.planning.measured import OWN_COLUMNS, mpt_shape, read
from openherd.planning.validation import SETS, VALIDATION, validations

VTRAIN = (
    "# GPUs,global batch,micro batch,hidden size,attention heads,# layers,sequence length,tensor parallelism,data parallelism,"
    "pipeline parallelism,iteration time (ms)"
)
BRIDGE = (
    "release,task,Model,System,#-GPUs,Precision,GBS,MBS,Sequence Length,FSDP,TP,PP,CP,VP,EP,GA,Tokens / sec / GPU,"
    "Model TFLOP / sec / GPU"
)
TITAN = (
    "model,hardware,gpus,fsdp,tp,pp,cp,schedule,seq_len,local_batch_seqs,global_batch_seqs,precision,compile,async_tp,recompute,"
    "tokens_per_s_per_gpu,peak_memory_gib,source"
)
# Data set: the most that medians of time and of memory may be off, on rows that nothing was fitted on.
TARGETS = {
    "vtrain_single_node_a100.csv": (0.10, None),
    "vtrain_multi_node_a100.csv": (0.12, None),
    "llm_foundry_fsdp.csv": (0.10, None),
    "megatron_bridge_llama.csv": (0.15, None),
    "torchtitan.csv": (0.15, 0.08),
    "published_tables.csv": (0.08, 0.03),
}


def write(folder, header, *rows):
    path = folder / "runs.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_skipped_rows_have_their_reasons(tmp_path):
    row = "26.04,Pre-Training Performance,{model},DGX-{system},64,{dtype},256,1,8192,0,4,8,1,5,n/a,,1633,734"
    good = {"model": "LLAMA3_70B", "system": "H100", "dtype": "FP8"}
    rows = [
        row.format(**good),
        row.format(**good).replace("1633", "1,633 (1500)"),
        row.format(**{**good, "dtype": ""}),
        row.format(**{**good, "system": "X1"}),
        row.format(**{**good, "model": "QWEN3_70B"}),
        row.format(**{**good, "dtype": "NVFP4"}),
        row.format(**good).replace("Pre-Training", "LoRA"),
        row.format(**good).replace("Pre-Training", "SFT"),
        row.format(**good).replace("1633", ""),
        row.format(**good).replace(",64,", ",65,"),
    ]
    path = write(tmp_path, BRIDGE, *[r if "1,633" not in r else r.replace("1,633 (1500)", '"1,633 (1500)"') for r in rows])
    found = check(path)
    assert found["rows_used"] == 2
    assert found["rows_skipped"] == {
        "LoRA: frozen weights": 1,
        "SFT: lengths of its packed documents are not given": 1,
        "TP x CP x PP do not divide its GPUs": 1,
        "Tokens / sec / GPU: no number": 1,
        "a device that is not modelled": 1,
        "a dtype that the device does not have": 1,
        "a model that is no Llama 3": 1,
        "blank precision": 1,
    }
    assert found["memory"] is None
    first, second = read(path).rows
    assert first.seconds == second.seconds == pytest.approx(256 * 8_192 / (1_633 * 64))
    assert (first.number, first.fitted, second.fitted) == (0, True, False)


def test_errors_are_absolute_and_relative(tmp_path):
    """Two rows of the same run, one measured at half, one at twice what is predicted."""
    row = "8,16,1,1024,16,16,1024,1,4,2,{:.6f}"
    (run,) = read(write(tmp_path, VTRAIN, row.format(100))).rows
    seconds = float(predict([run])[0][0])
    found = check(write(tmp_path, VTRAIN, row.format(2_000 * seconds), row.format(500 * seconds)))
    assert found["time"]["mean"] == pytest.approx((0.5 + 1.0) / 2, abs=1e-4)
    assert found["time"]["median"] == pytest.approx(0.75, abs=1e-4)
    assert found["time"]["p90"] == pytest.approx(0.95, abs=1e-4)


def test_a_pipeline_of_torchtitan_and_its_memory(tmp_path):
    row = "llama3.1-405b,H100-96G-500W,512,8,8,8,1,{},8192,32,256,fp8,yes,yes,full,100,80,x"
    one, two = read(write(tmp_path, TITAN, row.format("1F1B"), row.format("Interleaved1F1B"))).rows
    assert (one.step.micro_batches, one.step.micro_batch, one.step.virtual_stages) == (8, 4, 1)
    assert (two.step.micro_batches, two.step.micro_batch, two.step.virtual_stages) == (16, 2, 2)
    found = check(write(tmp_path, TITAN, row.format("1F1B").replace("100,80", ",80")))
    assert found["time"] is None
    assert found["memory"]["median"] < 0.3
    cp = "llama3.1-8b,H100-96G-500W,8,8,1,1,8,,262144,1,1,fp8,yes,no,full,548,84.5,x"
    assert check(write(tmp_path, TITAN, cp))["rows_used"] == 1
    assert check(write(tmp_path, TITAN, cp.replace(",8,8,1,1,8,", ",8,4,1,1,8,")))["rows_used"] == 0


def test_shapes_of_unseen_sizes():
    """An MPT that is not in the table is found by its parameters; vocabulary 50,368, 13 d biases a layer."""
    d, layers = 3_584, 20
    parameters = layers * (12 * d * d + 13 * d) + 50_368 * d + 2_048 * d + 2 * d
    assert mpt_shape("3.5b", parameters, 2_048) == (d, layers, d // 128)
    assert mpt_shape("7b", 1, 2_048) == (4_096, 32, 32)


def test_bad_files_are_one_line(tmp_path):
    for content, match in (
        ("a,b\n1,2\n", "its header is of no known set; nearest is .*; allowed: vtrain, llm-foundry"),
        (VTRAIN + "\n", "has a header and no rows"),
        (VTRAIN.replace("micro batch", "micro") + "\n1\n", "nearest is vtrain, which has micro batch too"),
        ("", "its header is of no known set"),
    ):
        path = tmp_path / "bad.csv"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=match):
            read(path)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "binary.csv")


def test_units_that_cannot_be(tmp_path):
    rows = ["8,16,1,1024,16,16,1024,1,4,2,-3", "8,16,1,1024,16,16,1024,1,4,2,nan", "8,16,1,1000,16,16,1024,1,4,2,3"]
    rows += ["8,16.5,1,1024,16,16,1024,1,4,2,3", "9,16,1,1024,16,16,1024,1,4,2,3"]
    found = check(write(tmp_path, VTRAIN, *rows))
    assert found["rows_used"] == 0
    assert found["rows_skipped"] == {
        "TP x DP x PP are not its GPUs": 1,
        "global batch: no count": 1,
        "hidden size is no multiple of the heads": 1,
        "iteration time (ms): not above 0": 2,
    }
    assert found["time"] is None


def test_least_absolute_finds_the_median_line():
    """A straight line through points of which a fifth are wild."""
    x = np.linspace(0, 1, 50)
    y = 2 * x + 1 + np.where(np.arange(50) % 5 == 0, 3.0, 0.0)
    found = least_absolute(lambda p: p[0] * x + p[1] - y, [0.5, 0.5], [-9, -9], [9, 9])
    assert found == pytest.approx([2, 1], abs=0.01)


def own_rows(tmp_path, table):
    """Made-up measurements that are exactly what constants `table` predict, and what they are."""
    rows = []
    for tp, dp, micro, how in ((1, 8, 1, "none"), (2, 4, 2, "full"), (4, 2, 4, "full"), (8, 1, 1, "selective")) * 4:
        length = 2_048 * (1 + len(rows) // 4)
        rows.append(["llama3-8b", "h100", "bf16", tp, 1, 1, dp, 1, micro, 64, length, how, 1.0, ""])
    path = tmp_path / "own.csv"
    for _ in range(2):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([OWN_COLUMNS.split(","), *rows])
        seconds, _ = predict(read(path).rows, table)
        rows = [[*row[:12], repr(float(s)), ""] for row, s in zip(rows, seconds, strict=True)]
    return path


def test_calibration_finds_what_made_the_runs(tmp_path):
    truth = {**FITTED, ("h100", "bf16"): {**FITTED["h100", "bf16"], "matmul": 0.55, "pad": 150.0}}
    runs = read(own_rows(tmp_path, truth)).rows
    found = calibrate(half(runs, "fitted"), FITTED)
    assert list(found) == [("h100", "bf16")]
    changed = [name for name, value in found["h100", "bf16"].items() if value != FITTED["h100", "bf16"].get(name)]
    assert changed == ["matmul", "pad"]  # eight rows: two constants
    assert found["h100", "bf16"]["matmul"] == pytest.approx(0.55, rel=0.01)
    assert found["h100", "bf16"]["pad"] == pytest.approx(150, rel=0.05)
    after = summary(errors(half(runs, "held out"), {**FITTED, **found})[0])
    assert after["p90"] < 0.005 < summary(errors(half(runs, "held out"))[0])["median"]


def test_constants_of_what_was_not_fitted():
    assert constants(("b200", "fp8"))[1] == ("gb200", "fp8")
    assert constants(("gb300", "bf16"))[1] == ("h100", "bf16")
    assert constants(("gb200", "nvfp4"))[0].attention == constants(("h100", "bf16"))[0].attention
    assert constants(("a100", "fp16"), {})[1] is None


@pytest.mark.parametrize("name", TARGETS)
def test_targets_on_rows_that_nothing_was_fitted_on(data, name):
    rows = half(read(data / name).rows, "held out")
    time, held = (summary(e) for e in errors(rows))
    most_time, most_memory = TARGETS[name]
    assert time["median"] <= most_time
    if most_memory is None:
        assert held is None
    else:
        assert held["median"] <= most_memory


def test_korthikanti_row_by_row(data):
    rows = [run for run in read(data / "published_tables.csv").rows if run.engine.name == "megatron-2022"]
    time, held = errors(rows)
    assert np.nanmax(np.abs(time)) <= 0.08
    assert np.nanmax(np.abs(held)) <= 0.001
    assert (int((~np.isnan(time)).sum()), int((~np.isnan(held)).sum())) == (4, 6)


def test_every_row_is_used_or_has_a_reason(data):
    for name in TARGETS:
        with (data / name).open(encoding="utf-8") as file:
            n = len(list(csv.DictReader(file)))
        found = check(data / name)
        assert found["rows_used"] + sum(found["rows_skipped"].values()) == n
        json.dumps(found)
        assert re.search(name, found["file"])


def test_the_table_of_errors_is_what_is_measured(data):
    """What `openherd plan` prints beside its figures."""
    assert validations({file: read(data / file).rows for _, file, _ in SETS}) == VALIDATION


@pytest.mark.slow
def test_constants_are_those_of_the_fitted_half(data):
    files = [name for name in TARGETS if name != "published_tables.csv"]
    found = calibrate([run for name in files for run in half(read(data / name).rows, "fitted")], {})
    assert found.keys() == FITTED.keys()
    for key, values in found.items():
        assert values == pytest.approx(FITTED[key], rel=2e-3)


def test_one_kind_fitted_again(data):
    """H100 in FP8, from what is below it."""
    names = ("llm_foundry_fsdp.csv", "megatron_bridge_llama.csv", "torchtitan.csv")
    runs = [run for name in names for run in half(read(data / name).rows, "fitted") if run.key == ("h100", "fp8")]
    below = {key: values for key, values in FITTED.items() if key != ("h100", "fp8")}
    assert fit_key(runs, ("h100", "fp8"), below) == pytest.approx(FITTED["h100", "fp8"], rel=2e-3)

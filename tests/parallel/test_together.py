"""Layouts against one process: losses, gradients, weights, and going on in another layout. One launch of eight for all cases."""

import json
from pathlib import Path

import pytest

from openherd.parallel.launch import launch

SCRIPT = Path(__file__).with_name("together.py")
UNTIED, TIED = {}, {"tied_embeddings": True}
INTERLEAVED = {"pp": 2, "pipeline_schedule": "interleaved", "virtual_stages": 2}
ZBV = {"pp": 2, "pipeline_schedule": "ZBV", "virtual_stages": 2, "micro_batches": 4}
PARITY = {
    "one process": (UNTIED, {}),
    "dp": (UNTIED, {"dp_shard": 2}),
    "replicas": (UNTIED, {"dp_replicate": 2}),
    "hsdp": (TIED, {"dp_shard": 2, "dp_replicate": 2}),
    "reshard": (UNTIED, {"dp_shard": 2, "reshard_after_forward": True, "recompute": "full"}),
    "cp": (UNTIED, {"cp": 2}),
    "tp": (UNTIED, {"tp": 2}),
    "tp tied, uneven vocabulary": ({**TIED, "vocabulary": 97}, {"tp": 2}),
    "pp": (UNTIED, {"pp": 2}),
    "pp tied": (TIED, {"pp": 2}),
    "pp 4, lighter ends": ({"n_layers": 6}, {"pp": 4, "micro_batches": 4}),
    "pp interleaved": (UNTIED, INTERLEAVED),
    "pp zbv tied": (TIED, ZBV),
    "tp cp": (UNTIED, {"tp": 2, "cp": 2}),
    "tp pp": (TIED, {"tp": 2, "pp": 2}),
    "tp dp": (UNTIED, {"tp": 2, "dp_shard": 2, "recompute": "full"}),
    "cp pp": (UNTIED, {"cp": 2, "pp": 2}),
    "cp dp": (UNTIED, {"cp": 2, "dp_shard": 2}),
    "cp replicas": (TIED, {"cp": 2, "dp_replicate": 2}),
    "pp dp": (TIED, {"dp_shard": 2, "pp": 2}),
    "pp replicas": (UNTIED, {"dp_replicate": 2, **INTERLEAVED}),
    "tp pp dp": (TIED, {"tp": 2, "pp": 2, "dp_shard": 2}),
    "cp pp dp": (UNTIED, {"cp": 2, "pp": 2, "dp_shard": 2, "reshard_after_forward": True}),
}
LONGER = {
    "tp pp dp zbv": (TIED, {"tp": 2, "dp_shard": 2, **ZBV}),
    "tp cp pp": (UNTIED, {"tp": 2, "cp": 2, **INTERLEAVED}),
    "tp cp dp": (UNTIED, {"tp": 2, "cp": 2, "dp_shard": 2}),
    "tp cp replicas": (TIED, {"tp": 2, "cp": 2, "dp_replicate": 2}),
    "tp pp replicas": (UNTIED, {"tp": 2, "dp_replicate": 2, **ZBV}),
    "cp 4": (TIED, {"cp": 4, "recompute": "selective"}),
    "tp 4": ({"n_heads": 8, "n_kv_heads": 4}, {"tp": 4}),
}
TWICE = {"cp dp": {"cp": 2, "dp_shard": 2}}
BF16 = {"cp dp": {"cp": 2, "dp_shard": 2}, "pp": {"pp": 2}}
RESUME = {
    "4 to 2": ({"dp_shard": 4}, {"dp_shard": 2}),
    "2 to 8": ({"dp_replicate": 2}, {"dp_shard": 4, "dp_replicate": 2}),
    "fsdp to tp x pp": ({"dp_shard": 2}, {"tp": 2, "pp": 2}),
    "zbv to one": (ZBV, {}),
    "one to cp x pp": ({}, {"cp": 2, **INTERLEAVED}),
}


def parity_cases(named):
    """Micro-batches of two rows, but for tensor parallelism, which is slow here."""
    for name, (shape, layout) in named.items():
        most_rows = 2 if layout.get("tp", 1) == 1 or layout.get("pp", 1) > 1 else 8
        yield {"kind": "parity", "name": f"parity {name}", "shape": shape, "layout": layout, "most_rows": most_rows}


def cases():
    """All cases, by kind and name."""
    yield from parity_cases(PARITY)
    yield {"kind": "fault", "name": "fault", "layout": {"dp_shard": 2}}
    for name, layout in TWICE.items():
        yield {"kind": "twice", "name": f"twice {name}", "layout": layout}
    for name, layout in BF16.items():
        yield {"kind": "bf16", "name": f"bf16 {name}", "layout": layout}
    for name, layouts in RESUME.items():
        tied = TIED if name == "zbv to one" else UNTIED
        yield {"kind": "resume", "name": f"resume {name}", "layouts": layouts, "shape": tied}


def outcomes_of(found, folder, n):
    (folder / "cases.json").write_text(json.dumps(list(found)))
    launch([str(SCRIPT), str(folder / "cases.json"), str(folder / "out.json")], n, 0, folder / "error.json", "tests")
    return json.loads((folder / "out.json").read_text())


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return outcomes_of(cases(), tmp_path_factory.mktemp("together"), 8)


@pytest.mark.parametrize("name", PARITY)
def test_a_layout_trains_as_one_process_does(name, outcomes):
    found = outcomes[f"parity {name}"]
    assert found["agrees"], found


def test_a_fault_shows(outcomes):
    """Dividing by a process's own count of labels, and not by all: the comparison must see it."""
    found = outcomes["fault"]
    assert found["gradient"] > 1e-4
    assert not found["agrees"]


@pytest.mark.parametrize("name", TWICE)
def test_the_same_layout_gives_the_same_bits(name, outcomes):
    assert outcomes[f"twice {name}"]["same"]


@pytest.mark.parametrize("name", BF16)
def test_bf16_in_a_layout(name, outcomes):
    """The same products in the same dtype as on one process; sums are fp32 in both."""
    found = outcomes[f"bf16 {name}"]
    assert found["layout"] == pytest.approx(found["alone"], abs=2e-3)


@pytest.mark.parametrize("name", RESUME)
def test_going_on_in_another_layout(name, outcomes):
    found = outcomes[f"resume {name}"]
    assert found["same_data"]
    assert found["steps"] == 6
    assert found["loss"] < 2e-6, found
    assert found["weight"] < 2e-6, found


@pytest.mark.slow
def test_more_layouts_of_eight_processes(tmp_path):
    found = outcomes_of(parity_cases(LONGER), tmp_path, 8)
    assert all(outcome["agrees"] for outcome in found.values()), found


@pytest.mark.slow
def test_all_four_dimensions_on_sixteen_processes(tmp_path):
    layout = {"tp": 2, "cp": 2, "pp": 2, "dp_shard": 2}
    found = outcomes_of(parity_cases({"untied": (UNTIED, layout), "tied": (TIED, layout)}), tmp_path, 16)
    assert all(outcome["agrees"] for outcome in found.values()), found


@pytest.mark.slow
def test_compiled_layers_in_a_layout(tmp_path):
    found = outcomes_of(parity_cases({"dp compiled": (UNTIED, {"dp_shard": 2, "compile": True})}), tmp_path, 2)
    assert all(outcome["agrees"] for outcome in found.values()), found

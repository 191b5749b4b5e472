"""Layouts against one process: losses, gradients, weights, and going on in another layout. One launch of eight for all cases."""

import json
from pathlib import Path

import pytest

from openherd.model.config import ModelConfig
from openherd.parallel.launch import launch
from openherd.parallel.layout import ParallelConfig
from openherd.training.anneal import AnnealConfig
from openherd.training.dry_run import dry_runs

SCRIPT = Path(__file__).with_name("together.py")
SHAPE = ModelConfig(n_layers=3, d_model=32, n_heads=4, n_kv_heads=2, head_width=8, d_feed_forward=64, vocabulary=96)  # together's
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
    "pp 4 interleaved, fewer micro-batches": ({"n_layers": 6}, {**INTERLEAVED, "pp": 4, "micro_batches": 2}),
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
    "tp replicas": (UNTIED, {"tp": 2, "dp_replicate": 2}),
    "cp 4": (TIED, {"cp": 4, "recompute": "selective"}),
    "tp 4": ({"n_heads": 8, "n_kv_heads": 4}, {"tp": 4}),
}
ALL = ["query", "key", "value", "output", "gate", "up", "down"]
LORA = {
    "one process": (UNTIED, {}, {"projections": ALL}),
    "one process, tied, embeddings and norms": (TIED, {}, {"projections": ["query"], "whole": ["embeddings", "norms"]}),
    "dp": (UNTIED, {"dp_shard": 2, "recompute": "full"}, {"projections": ALL}),
    "dp, norms": (TIED, {"dp_shard": 2, "dp_replicate": 2}, {"projections": ["gate", "value"], "whole": ["norms"]}),
    "tp": (TIED, {"tp": 2}, {"projections": ALL}),
    "tp dp, embeddings": (UNTIED, {"tp": 2, "dp_shard": 2}, {"projections": ALL, "whole": ["embeddings"]}),
    "cp": (UNTIED, {"cp": 2}, {"projections": ALL}),
    "pp": (TIED, {"pp": 2}, {"projections": ALL}),
    "pp, embeddings": (TIED, {"pp": 2}, {"projections": ALL, "whole": ["embeddings"]}),
    "bf16, dp": (TIED, {"dp_shard": 2}, {"projections": ALL, "bf16": True}),
    "bf16, dp, embeddings": (TIED, {"dp_shard": 2}, {"projections": ["query"], "whole": ["embeddings"], "bf16": True}),
    "bf16, tp pp": (UNTIED, {"tp": 2, "pp": 2}, {"projections": ALL, "bf16": True}),
    "tp pp interleaved": (UNTIED, {"tp": 2, **INTERLEAVED}, {"projections": ALL}),
}
TWICE = {"cp dp": {"cp": 2, "dp_shard": 2}}
LOW = {
    "bf16 dp": ({"dp_shard": 2}, "bfloat16", "none"),
    "bf16 hsdp": ({"dp_shard": 2, "dp_replicate": 2}, "bfloat16", "none"),
    "bf16 cp dp": ({"cp": 2, "dp_shard": 2}, "bfloat16", "none"),
    "bf16 pp dp": ({"pp": 2, "dp_shard": 2}, "bfloat16", "none"),
    "fp16 pp dp": ({"pp": 2, "dp_shard": 2}, "float16", "none"),
    "fp8 pp dp": ({"pp": 2, "dp_shard": 2}, "bfloat16", "feed_forward"),
    "fp8 tp dp": ({"tp": 2, "dp_shard": 2}, "bfloat16", "every_feed_forward"),
}
MEMORY = {  # layout and precision
    "tp dp": ({"tp": 2, "dp_shard": 2}, "float32"),
    "tp dp in bf16": ({"tp": 2, "dp_shard": 2}, "bfloat16"),
    "cp dp in bf16": ({"cp": 2, "dp_shard": 2}, "bfloat16"),
    "tp dp, full recomputation": ({"tp": 2, "dp_shard": 2, "recompute": "full"}, "float32"),
    "tp pp dp": ({"tp": 2, "pp": 2, "dp_shard": 2}, "bfloat16"),
    "interleaved": (INTERLEAVED, "float32"),
    "zbv": (ZBV, "float32"),
}
RESUME = {
    "4 to 2": ({"dp_shard": 4}, {"dp_shard": 2}),
    "2 to 8": ({"dp_replicate": 2}, {"dp_shard": 4, "dp_replicate": 2}),
    "fsdp to tp x pp": ({"dp_shard": 2}, {"tp": 2, "pp": 2}),
    "zbv to one": (ZBV, {}),
    "one to cp x pp": ({}, {"cp": 2, **INTERLEAVED}),
    "offloaded, 2 to 4": ({"dp_shard": 2}, {"dp_shard": 4}),
    "moments in bf16, fsdp to tp": ({"dp_shard": 2}, {"tp": 2}),
    "moments in bf16, tied ends": ({"dp_shard": 2}, {"pp": 2}),
}


SLOW = {  # by the names of their outcomes; of the layouts those that a larger one holds within it
    "parity replicas", "parity pp tied", "parity pp 4 interleaved, fewer micro-batches", "parity tp cp", "parity tp dp",
    "parity cp pp", "parity cp dp", "parity cp replicas", "parity pp dp", "parity pp replicas", "parity tp pp",
    "lora bf16, tp pp", "lora tp dp, embeddings", "lora tp pp interleaved", "lora bf16, dp, embeddings", "lora dp, norms",
    "lora cp",
    "fp8 tp dp", "bf16 cp dp", "bf16 hsdp",
    "memory tp pp dp", "memory tp dp, full recomputation", "memory tp dp",
    "resume offloaded, 2 to 4", "resume moments in bf16, fsdp to tp",
    "lora tp", "resume 2 to 8", "resume moments in bf16, tied ends", "resume one to cp x pp",
}  # fmt: skip


def outcomes_named(prefix, names):
    """Parameters of a test, the slow ones marked."""
    return [pytest.param(name, marks=pytest.mark.slow if f"{prefix}{name}" in SLOW else ()) for name in names]


def parity_cases(named):
    """Micro-batches of two rows, but for tensor parallelism, which is slow here."""
    for name, (shape, layout) in named.items():
        most_rows = 2 if layout.get("tp", 1) == 1 or layout.get("pp", 1) > 1 else 8
        yield {"kind": "parity", "name": f"parity {name}", "shape": shape, "layout": layout, "most_rows": most_rows}


def cases():
    """All cases, by kind and name."""
    yield from parity_cases(PARITY)
    for name, (shape, layout, lora) in LORA.items():
        settings = {"rank": 3, "alpha": 6.0, **lora}
        yield {"kind": "lora", "name": f"lora {name}", "shape": shape, "layout": layout, "lora": settings}
    yield {"kind": "fault", "name": "fault", "layout": {"dp_shard": 2}}
    for name, layout in TWICE.items():
        yield {"kind": "twice", "name": f"twice {name}", "layout": layout}
    for name, (layout, precision, float8) in LOW.items():
        yield {"kind": "low", "name": name, "layout": layout, "shape": UNTIED, "precision": precision, "float8": float8}
    for name, (layout, precision) in MEMORY.items():
        yield {"kind": "memory", "name": f"memory {name}", "layout": layout, "precision": precision}
    for name, layouts in RESUME.items():
        tied = TIED if name in ("zbv to one", "moments in bf16, tied ends") else UNTIED
        training = {"optimizer_offload": "offload" in name, "moments_dtype": "bfloat16" if "bf16" in name else "float32"}
        yield {"kind": "resume", "name": f"resume {name}", "layouts": layouts, "shape": tied, "training": training}


def outcomes_of(found, folder, n):
    (folder / "cases.json").write_text(json.dumps(list(found)))
    launch([str(SCRIPT), str(folder / "cases.json"), str(folder / "out.json")], n, 0, folder / "error.json", "tests")
    return json.loads((folder / "out.json").read_text())


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    return outcomes_of([case for case in cases() if case["name"] not in SLOW], tmp_path_factory.mktemp("together"), 8)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return outcomes_of([case for case in cases() if case["name"] in SLOW], tmp_path_factory.mktemp("together"), 8)


@pytest.fixture
def outcomes(request):
    marked = request.node.get_closest_marker("slow") is not None
    return request.getfixturevalue("slow" if marked else "ordinary")


def test_slow_cases_exist():
    assert {case["name"] for case in cases()} > SLOW


@pytest.mark.parametrize("name", outcomes_named("parity ", PARITY))
def test_a_layout_trains_as_one_process_does(name, outcomes):
    found = outcomes[f"parity {name}"]
    assert found["agrees"], found


@pytest.mark.parametrize("name", outcomes_named("lora ", LORA))
def test_adapters_train_as_summed_matrices_do(name, outcomes):
    """In plain torch, over six steps; what is written is the sum."""
    found = outcomes[f"lora {name}"]
    if "bf16" in name:
        assert found["loss"] < 2e-2, found
    else:
        assert max(found["loss"], found["norm"], found["gradient"]) < 2e-6, found
        assert found["weight"] < 1e-5, found  # AdamW divides what the smallest gradients' rounding leaves by itself


def test_a_fault_shows(outcomes):
    """Dividing by a process's own count of labels, and not by all: the comparison must see it."""
    found = outcomes["fault"]
    assert found["gradient"] > 1e-4
    assert not found["agrees"]


@pytest.mark.parametrize("name", TWICE)
def test_the_same_layout_gives_the_same_bits(name, outcomes):
    assert outcomes[f"twice {name}"]["same"]


@pytest.mark.parametrize("name", outcomes_named("", LOW))
def test_low_precision_in_a_layout(name, outcomes):
    """The same products in the same dtype as on one process; gradients are summed in fp32 over micro-batches and processes."""
    found = outcomes[name]
    if "cp" in name or "tp" in name:  # other products, and with FP8 other scales
        assert found["layout"] == pytest.approx(found["alone"], abs=2e-3)
        assert found["sums"] < (0.35 if "fp8" in name else 0.05), found  # CP attends under a mask, by another kernel
    else:
        assert found["layout"] == pytest.approx(found["alone"], abs=1e-5)
        assert found["sums"] < 1e-5, found
        assert found["sums_in_bf16"] > 1e-3, found
    assert found["finite_norms"] == 0


@pytest.mark.parametrize("name", outcomes_named("memory ", MEMORY))
def test_a_dry_run_reckons_what_processes_hold(name, outcomes):
    """Eight rows of 32 tokens in micro-batches of two; every process of every place, to the byte but for activations."""
    layout, precision = MEMORY[name]
    shapes = {"sequence_length": 32, "batch_tokens": 256, "micro_batch_sequences": 2}
    config = AnnealConfig(**shapes, steps=5, averaged_checkpoints=1, precision=precision, parallel=ParallelConfig(**layout))
    (dry,) = dry_runs([("test", config, SHAPE)])
    for found in outcomes[f"memory {name}"]:
        process = dry.processes[found["place"]]
        shards = found["weights"], found["gradients"], found["moments"]
        assert shards == (process.weights, process.gradients, process.moments)
        if "zbv" not in name:
            # Autograd's own, looked at after each way forward; the pipeline holds what it hands on besides.
            assert 0 <= process.activations - found["activations"] <= 0.07 * process.activations
        else:  # between the halves of a way back it holds gradients too
            assert found["activations"] <= 1.25 * process.activations
        if layout.get("dp_shard", 1) > 1:
            assert process.gathered == found["gathered"]


@pytest.mark.parametrize("name", outcomes_named("resume ", RESUME))
def test_going_on_in_another_layout(name, outcomes):
    found = outcomes[f"resume {name}"]
    assert found["same_data"]
    assert found["steps"] == 6
    assert found["resumed_at"] in (2, 4)
    allowed = 5e-4 if "bf16" in name else 2e-6  # rounded by chance, and otherwise in other parts; of six steps of 1e-3
    assert found["twins_apart"] == 0
    assert found["loss"] < allowed, found
    assert found["weight"] < allowed, found


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

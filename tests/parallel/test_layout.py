"""Layouts: what is refused, what is named instead, and which layers a stage has."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openherd.core.errors import ConfigError
from openherd.model.config import SIZES, ModelConfig
from openherd.model.slices import stage_layers
from openherd.parallel.context import chunk_indices
from openherd.parallel.layout import ParallelConfig, Rows, check_layout, micro_batches, nearest_layouts, problems
from openherd.parallel.pipeline import own_stages, stage_process

SHAPE = ModelConfig(n_layers=12, d_model=64, n_heads=8, n_kv_heads=4, head_width=8, d_feed_forward=128, vocabulary=96)
INTERLEAVED = {"pipeline_schedule": "interleaved", "virtual_stages": 8}


def test_the_papers_layouts_run_and_its_ends_are_lighter():
    """Table 4, with a micro-batch of one sequence; first and last of 128 stages have no layer (3.3.2)."""
    llama = SIZES["llama3-405b"]
    for sizes, rows in (
        ({"tp": 8, "pp": 16, "dp_shard": 64}, Rows(2_048, 8_192)),
        ({"tp": 8, "pp": 16, "dp_shard": 128}, Rows(2_048, 8_192)),
        ({"tp": 8, "cp": 16, "pp": 16, "dp_shard": 8}, Rows(128, 131_072)),
    ):
        layout = ParallelConfig(**sizes, **INTERLEAVED)
        check_layout("test", layout, llama, [rows], 1)
        assert layout.world == 8_192 * (1 if sizes["dp_shard"] == 64 else 2)
    assert [len(layers) for layers in stage_layers(126, 128)] == [0, *[1] * 126, 0]
    assert [len(layers) for layers in stage_layers(126, 16)] == [7, *[8] * 14, 7]
    assert [len(layers) for layers in stage_layers(10, 4)] == [2, 3, 3, 2]


@given(st.integers(1, 200), st.integers(1, 64))
def test_every_layer_is_in_one_stage(n_layers, n_stages):
    stages = stage_layers(n_layers, n_stages)
    assert len(stages) == n_stages
    if n_layers >= n_stages - 2:
        assert [i for layers in stages for i in layers] == list(range(n_layers))
        assert max(map(len, stages)) == -(-n_layers // n_stages)
        assert all(len(layers) >= 0 for layers in stages)


@pytest.mark.parametrize("schedule", ["1F1B", "interleaved", "ZBV"])
@pytest.mark.parametrize("pp", [2, 3, 4])
def test_every_stage_has_a_process(schedule, pp):
    layout = ParallelConfig(pp=pp, pipeline_schedule=schedule, virtual_stages={"1F1B": 1, "interleaved": 3, "ZBV": 2}[schedule])
    owned = [own_stages(layout, place) for place in range(pp)]
    assert sorted(stage for stages in owned for stage in stages) == list(range(layout.stages))
    assert all(stage in owned[stage_process(layout, stage)] for stage in range(layout.stages))
    if schedule == "ZBV":
        assert owned[0] == [0, 2 * pp - 1]


@given(st.integers(1, 8), st.integers(1, 9))
def test_chunks_of_a_sequence(cp, times):
    """Each token once; a process's causal work is the same as another's."""
    tokens = 2 * cp * times
    parts = [chunk_indices(tokens, cp, place).tolist() for place in range(cp)]
    assert sorted(i for part in parts for i in part) == list(range(tokens))
    assert len({sum(part) for part in parts}) == 1


REFUSED = {
    "heads": ({"tp": 16}, "8 heads are no multiple of tp = 16"),
    "key/value heads": ({"tp": 8}, "4 key/value heads are no multiple of tp = 8"),
    "layers": ({"pp": 16, "micro_batches": 16}, r"12 layers, 16 stages"),
    "batch": ({"dp_shard": 3}, "32 sequences a step are no multiple of dp_shard x dp_replicate = 3"),
    "sequence": ({"cp": 3}, "sequences of 64 tokens are no multiple of 6"),
    "micro-batches": ({"pp": 4, "dp_shard": 16}, "2 micro-batches of 2 sequences a process, pp = 4 asks for 4"),
    "more micro-batches than sequences": ({"dp_shard": 16, "micro_batches": 3}, "micro_batches = 3 of 2 sequences a process"),
    "schedule": ({"pp": 1, "pipeline_schedule": "ZBV", "virtual_stages": 2}, "pipeline_schedule = 'ZBV' with pp = 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_that_cannot_run_is_refused_with_the_nearest_that_can(name):
    sizes, message = REFUSED[name]
    layout = ParallelConfig(**sizes)
    with pytest.raises(ConfigError, match=f"this layout cannot run: {message}") as error:
        check_layout("test", layout, SHAPE, [Rows(32, 64)], 1)
    assert "\n" not in str(error.value)
    near = nearest_layouts(layout, SHAPE, [Rows(32, 64)], 1, layout.world)
    assert near
    for other in near:
        assert next(problems(other, SHAPE, [Rows(32, 64)], 1), None) is None
        assert other.world <= layout.world


def test_the_nearest_number_of_micro_batches_is_named():
    for layout, allowed in (
        (ParallelConfig(dp_shard=16, micro_batches=3), "dp_shard = 16, micro_batches = 2"),
        (ParallelConfig(pp=2, dp_shard=8, micro_batches=5), "pp = 2, dp_shard = 8, micro_batches = 4"),
        (ParallelConfig(dp_shard=32, micro_batches=2), "dp_shard = 32, micro_batches = 1"),
    ):
        with pytest.raises(ConfigError, match=f"; allowed: {allowed}"):
            check_layout("test", layout, SHAPE, [Rows(32, 64)], 32)
    check_layout("test", ParallelConfig(dp_shard=8, micro_batches=3), SHAPE, [Rows(32, 64)], 32)  # at least 3: 4 of one sequence
    check_layout("test", ParallelConfig(dp_shard=16, micro_batches=3, elastic=True), SHAPE, [Rows(32, 64)], 32)  # as many as it can


def test_adapters_need_a_layer_on_every_process():
    shape, layout = replace(SHAPE, n_layers=3), ParallelConfig(pp=4)
    check_layout("test", layout, shape, [Rows(32, 64)], 1)
    with pytest.raises(ConfigError, match=r"3 layers, pp = 4: with adapters each process needs a layer; allowed: pp = 2"):
        check_layout("test", layout, shape, [Rows(32, 64)], 1, in_layers_alone=True)
    interleaved = replace(layout, pipeline_schedule="interleaved", virtual_stages=2)  # two stages each, of which one may be empty
    check_layout("test", interleaved, replace(SHAPE, n_layers=6), [Rows(32, 64)], 1, in_layers_alone=True)


def test_more_processes_than_asked_are_refused():
    with pytest.raises(ConfigError, match=r"TP2 x DP2 is 4 processes, 8 were started; allowed: tp = 2, dp_shard = 4"):
        check_layout("test", ParallelConfig(tp=2, dp_shard=2), SHAPE, [Rows(32, 64)], 1, world=8)


def test_a_schedule_and_its_stages():
    for wrong in ({"virtual_stages": 2}, {"pipeline_schedule": "interleaved"}, {"pipeline_schedule": "ZBV"}):
        with pytest.raises(ConfigError, match=re.escape("parallel: virtual_stages = ")):
            ParallelConfig(pp=2, **wrong)


@given(st.integers(1, 12), st.integers(1, 64), st.integers(1, 64))
def test_micro_batches_are_equal(least, rows, most_rows):
    n = micro_batches(replace(ParallelConfig(), micro_batches=least), rows, most_rows)
    assert rows % n == 0
    assert rows // n <= most_rows
    assert n >= min(least, rows)


@pytest.mark.parametrize(
    ("asked", "world", "found"),
    [
        ({"dp_shard": 4}, 2, {"dp_shard": 2}),
        ({"dp_shard": 4}, 3, {"dp_shard": 3}),
        ({"dp_shard": 4}, 1, {}),
        ({"dp_shard": 2}, 8, {"dp_shard": 8}),
        ({"tp": 2, "pp": 2, "dp_shard": 4}, 8, {"tp": 2, "pp": 2, "dp_shard": 2}),
        ({"dp_shard": 4, "dp_replicate": 2}, 4, {"dp_shard": 2, "dp_replicate": 2}),
        ({"dp_shard": 4, "dp_replicate": 2}, 3, {"dp_shard": 3}),  # replicas that do not divide them are given up
        ({"tp": 2, "dp_shard": 4}, 5, None),  # TP does not divide them
        ({"tp": 4, "dp_shard": 2}, 2, None),  # fewer than TP has
    ],
)
def test_an_elastic_layout_takes_the_processes_that_are_there(asked, world, found):
    """Of its data-parallel dimension alone; it stays as it is, to be refused, where that cannot be."""
    layout = ParallelConfig(elastic=True, **asked)
    fitted = layout.fitted(world)
    assert fitted == (layout if found is None else ParallelConfig(elastic=True, **found))
    assert (fitted.world == world) == (found is not None)
    rigid = ParallelConfig(**asked)
    assert rigid.fitted(world) == rigid
    assert layout.fitted(layout.world) == layout

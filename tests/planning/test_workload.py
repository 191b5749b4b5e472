"""Shapes and layouts: against the project's own counts of parameters and FLOPs, and by hand."""

import pytest

from openherd.model.config import SIZES
from openherd.model.flops import flops_per_token, paper_flops_per_token, parameters
from openherd.planning.workload import Step, layers_of_places, shape_of, table


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_flops_are_the_models(name):
    step = Step(**shape_of(SIZES[name]), sequence_length=1_024, batch_sequences=4)
    assert int(step.parameters) == parameters(SIZES[name])
    for causal in (True, False):
        assert step.flops(causal) == pytest.approx(4 * 1_024 * flops_per_token(SIZES[name], 1_024, causal), rel=1e-9)


def test_llama_3_s_step_times_by_both_conventions():
    """430, 400 and 380 TFLOP/s a GPU are 12.1, 6.5 and 10.9 s counted causally, 12.6, 6.8 and 15.3 s in full."""
    for gpus, length, rate, causal_s, full_s in (
        (8_192, 8_192, 430, 12.1, 12.6),
        (16_384, 8_192, 400, 6.5, 6.8),
        (16_384, 131_072, 380, 10.9, 15.3),
    ):
        step = Step(**shape_of(SIZES["llama3-405b"]), sequence_length=length, batch_sequences=16_777_216 // length)
        assert step.flops(True) / (gpus * rate * 1e12) == pytest.approx(causal_s, abs=0.1)
        assert step.flops(False) / (gpus * rate * 1e12) == pytest.approx(full_s, abs=0.15)
        # The paper's own accounting has the input embedding too, half a percent.
        assert step.flops(False) == pytest.approx(16_777_216 * paper_flops_per_token(SIZES["llama3-405b"], length), rel=0.01)


def test_a_gpt_by_hand():
    """Two layers of 8: 12 d^2 and 13 d each, the vocabulary and positions once, a last norm with a bias."""
    step = Step(
        n_layers=2, d_model=8, n_heads=2, n_kv_heads=2, head_width=4, d_feed_forward=32, vocabulary=10, feed_forward_matrices=2,
        tied_embeddings=True, positions=5, biases=True,
    )  # fmt: skip
    assert int(step.parameters) == 2 * (12 * 64 + 13 * 8) + 10 * 8 + 5 * 8 + 2 * 8


def test_layers_of_places():
    assert layers_of_places(126, 16, 8) == (7, *[8] * 14, 7)  # the paper's: 128 stages, none in the first and the last
    assert layers_of_places(80, 4, 5) == (20, 20, 20, 20)
    assert layers_of_places(10, 4, 1) == (2, 3, 3, 2)


def test_problems_name_numbers():
    base = Step(**shape_of(SIZES["llama3-8b"]), sequence_length=8_192, batch_sequences=512)

    def problems(**layout):
        return Step(**{**{f: getattr(base, f) for f in base.__dataclass_fields__}, **layout}).problems()

    assert problems(tp=8, pp=2, dp=4) == []
    assert "32 heads are no multiple of tp = 3" in problems(tp=3)[0]
    assert "512 sequences a step are no multiple of dp = 3 x micro-batch 1" in problems(dp=3)
    assert "32 layers for 40 stages (first and last may have none)" in problems(pp=8, virtual_stages=5)
    assert "4 virtual stages without a pipeline (pp = 1)" in problems(virtual_stages=4)
    assert "10 micro-batches are no multiple of pp = 8, which virtual stages ask for" in problems(
        pp=8, virtual_stages=2, batch_sequences=10
    )
    assert problems(cp=3)[0].startswith("sequences of 8192 tokens cannot be cut")


def test_a_table_is_its_rows():
    steps = [Step(**shape_of(SIZES[n]), sequence_length=1_024, pp=2, tp=tp) for n, tp in (("llama3-8b", 1), ("llama3-70b", 8))]
    many = table(steps)
    assert many.layers.tolist() == [[16, 16], [40, 40]]
    assert many.tp.tolist() == [[1], [8]]
    assert [int(n) for n in many.parameters.ravel()] == [parameters(SIZES[n]) for n in ("llama3-8b", "llama3-70b")]

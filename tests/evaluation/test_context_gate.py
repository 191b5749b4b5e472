"""The two gates of a longer context: against the slow generation; on models made to find, to guess, and to see only so far."""

import math
from dataclasses import replace

import pytest
import torch

from openherd.core.errors import ConfigError, InputError
from openherd.core.records import ParquetWriter, read_jsonl, read_parquet
from openherd.data.documents import TEXT_SCHEMA
from openherd.evaluation.context_gate import ContextGateConfig, context_gate
from openherd.evaluation.needle import draw_pool, find_needles, haystack, places
from openherd.evaluation.text import bits_of
from openherd.inference.engine import log_probabilities
from openherd.inference.reference import generate_greedy
from openherd.model.config import ModelConfig
from openherd.model.rope import inverse_frequencies
from openherd.model.transformer import Transformer
from openherd.model.weights import load_model
from openherd.report.terminal import told
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn
from tiny import tiny_model, write_tiny

NEEDLE = "The {key} is #{value}."  # few bytes: this tokenizer hardly merges any
WORDS = "the herd goes up the hill and down to the water where it rests until evening falls over all of them"
LENGTHS = (96, 160, 320)
SIGHT = 169  # tokens back that the short-sighted model attends to, see `induction_model`
CONFIG = ContextGateConfig(device="cpu", lengths=LENGTHS, needle=NEEDLE, haystacks=2, rows_at_once=2, part_tokens=50)
CODE, REACH, PAIRS = 64, 3, 128


@torch.no_grad()
def induction_model(vocabulary: int, context: int, short_sighted: bool = False) -> Transformer:
    """Weights made by hand: the next token is the one that stood behind the last earlier place with the same three tokens.

    The residual stream holds the token's code, the codes of the three before it, an answer and a constant. Head h of layer 0
    looks h + 1 tokens back by RoPE's fast pairs. Head 0 of layer 1 compares three codes with the three before each place, in pairs
    too slow to turn. The short-sighted one prefers near places: a pair whose quarter wave is 169 tokens outweighs the comparison
    beyond that.
    """
    shape = ModelConfig(
        n_layers=2, d_model=CODE * (REACH + 2) + 2, n_heads=REACH, n_kv_heads=REACH, head_width=2 * PAIRS, d_feed_forward=2,
        vocabulary=vocabulary, rope_theta=1e20, max_positions=context,
    )  # fmt: skip
    model = Transformer(shape)
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "norm" in name else 0.0)
    codes = torch.nn.functional.normalize(torch.randn(vocabulary, CODE, generator=torch.Generator().manual_seed(0)), dim=-1)
    model.embed.weight[:, :CODE] = codes
    model.embed.weight[:, -1] = 1.0
    model.head.weight[:, (REACH + 1) * CODE : (REACH + 2) * CODE] = 50 * codes
    eye, constant = torch.eye(CODE), shape.d_model - 1
    fast = inverse_frequencies(shape)[:24]
    first, second = (model.layers[i].attention for i in "01")
    for h in range(REACH):
        at = h * 2 * PAIRS
        first.key.weight[at : at + 24, constant] = 3.0
        first.query.weight[at : at + 24, constant] = 3.0 * torch.cos(fast * (h + 1))
        first.query.weight[at + PAIRS : at + PAIRS + 24, constant] = -3.0 * torch.sin(fast * (h + 1))
        first.value.weight[at : at + CODE, :CODE] = eye
        first.output.weight[(h + 1) * CODE : (h + 2) * CODE, at : at + CODE] = eye / math.sqrt(shape.d_model / 2)  # RMSNorm's
        pairs = [slice(32 + h * 32, 64 + h * 32), slice(PAIRS + 32 + h * 32, PAIRS + 64 + h * 32)]
        for rows, part in zip(pairs, (slice(0, 32), slice(32, 64)), strict=True):
            second.query.weight[rows, h * CODE : (h + 1) * CODE] = 5 * eye[part]
            second.key.weight[rows, (h + 1) * CODE : (h + 2) * CODE] = 5 * eye[part]
    second.value.weight[:CODE, :CODE] = eye
    second.output.weight[(REACH + 1) * CODE : (REACH + 2) * CODE, :CODE] = eye
    if short_sighted:
        second.query.weight[13, constant] = second.key.weight[13, constant] = 7.0
    return model


@pytest.fixture(scope="module")
def heldout(finished):
    """Held-out documents without a digit or a '#'."""
    lineage = {"url": "", "date": "", "source": "", "file": "", "offset": 0, "title": ""}
    words = WORDS.split()

    def stage(config, *, out):
        with out.write("heldout.parquet") as path, ParquetWriter(path, TEXT_SCHEMA) as writer:
            for i in range(6):
                text = " ".join(words[(i * 5 + 3 * j * j) % len(words)] for j in range(60))
                writer.write({**lineage, "id": f"{i:032x}", "text": text})
        return {}

    return finished("holdout", stage)


@pytest.fixture(scope="module")
def gate(finished, tokenizer, heldout):
    """A function that runs the stage on a model."""

    def run(model, config=CONFIG, before=None):
        def stage(settings, *, out):
            write_tiny(model, tokenizer, out)
            return {}

        after = finished("long-context", stage)
        return finished("context-gate", context_gate, config, model=after, before=before or after, documents=heldout)

    return run


def random_model(tokenizer, context=320):
    shape = {"n_layers": 2, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "head_width": 8, "d_feed_forward": 24}
    return tiny_model(ModelConfig(**shape, vocabulary=tokenizer.vocabulary, max_positions=context), 1)


def test_a_model_made_to_find_finds_all(gate, tokenizer):
    found = gate(induction_model(tokenizer.vocabulary, 320))
    assert found.metrics["needle_accuracy"]["value"] == found.metrics["needle_ranked_first"]["value"] == 1.0
    assert {v for row in found.metrics["accuracy"].values() for v in row.values()} == {1.0}
    assert list(found.metrics["accuracy"]) == ["96", "160", "320"]
    assert list(found.metrics["accuracy"]["320"]) == ["0", "25", "50", "75", "100"]
    assert found.metrics["needles"] == len(list(read_jsonl(found.file("needles.jsonl")))) == 2 * 3 * 5
    assert found.metrics["needle_longest_tokens"] == 320
    assert found.metrics["both_met"] is True, "it is also the model before"
    assert "bits/byte; found 1.00; of the longest 1.00" in told(found)


def test_a_model_that_sees_so_far_fails_only_beyond(gate, tokenizer):
    metrics = gate(induction_model(tokenizer.vocabulary, 320, short_sighted=True)).metrics
    assert (metrics["both_met"], metrics["short_context_recovered"]) == (False, True)
    found = metrics["accuracy"]
    assert set(found["96"].values()) == {1.0}
    for length in (160, 320):
        for depth, share in found[str(length)].items():
            back = length * (1 - int(depth) / 100)
            assert share == 1.0 if back < 0.9 * SIGHT else share == 0.0 if back > 1.5 * SIGHT else True, (length, depth)
    assert 0.0 in found["320"].values()


def test_a_random_model_ranks_by_chance_and_finds_none(gate, tokenizer):
    config = replace(CONFIG, haystacks=16, rows_at_once=8, candidates=4, lengths=(96, 128))
    found = gate(random_model(tokenizer), config).metrics
    ranked = found["needle_ranked_first"]
    assert found["needle_ranked_first_by_chance"] == 0.25
    assert abs(ranked["value"] - 0.25) < 3 * math.sqrt(0.25 * 0.75 / found["needles"])
    assert found["needle_accuracy"]["value"] == 0.0


@pytest.mark.parametrize(
    ("model_of", "rows"), [(random_model, 3), (lambda tokenizer: induction_model(tokenizer.vocabulary, 320, True), 1)]
)
def test_the_cache_reads_what_one_whole_text_says(tokenizer, model_of, rows):
    """Each trial again as one plain text: greedy generation without a cache, and each value's log-probability."""
    model = model_of(tokenizer)
    texts = ["the herd goes up the hill", "and down to the water, where it rests. " * 3]
    lengths, depths, n_rows = (100, 200), (0.0, 0.25, 0.5, 1.0), rows
    pool = draw_pool(tokenizer, NEEDLE, 3, n_rows, len(lengths) * len(depths), 5)
    haystacks = [haystack(tokenizer, texts, 200, seed) for seed in range(n_rows)]
    served = places(lengths, depths, pool)
    assert len(served) < len(lengths) * len(depths), "a needle serves two lengths"
    got = {(t.length, t.depth, t.haystack): (t.found, t.rank) for t in find_needles(model, haystacks, pool, lengths, depths, 2, 30)}
    assert len(got) == n_rows * len(lengths) * len(depths)
    for number, (place, cells) in enumerate(served.items()):
        for (length, depth), row in ((cell, row) for cell in cells for row in range(n_rows)):
            needle = pool.needles[row][number]
            at = place + pool.n_needle - len(needle.whole)
            text = [*haystacks[row][:at], *needle.whole, *haystacks[row][at:]]
            prompt = [*text[: length - pool.n_value - len(needle.head)], *needle.head]
            assert len(prompt) + pool.n_value == length
            assert abs(at / length - depth) <= (pool.least + 1) / length
            scores = []
            for value in needle.values:
                log_probs = log_probabilities(model, [[*prompt, *value]], 320)[0]
                scores.append(float(log_probs[-len(value) :].sum()))
            assert got[length, depth, row] == (
                generate_greedy(model, prompt, len(needle.values[0]), ()) == needle.values[0],
                1 + sum(score >= scores[0] for score in scores[1:]),
            )


def test_short_text_is_as_long_as_the_old_context(gate, model_run, heldout, tokenizer):
    before = model_run("pretrain", 3)  # of 32 tokens
    model = random_model(tokenizer)
    found = gate(model, before=before).metrics
    texts = [row["text"] for row in read_parquet(heldout.file("heldout.parquet"))]
    beginnings = [tokenizer.decode(tokenizer.encode(text)[:32]) for text in texts]
    n_bytes = sum(map(len, beginnings))
    assert found["short_context_tokens"] == 32
    ours, theirs = (sum(bits_of(m, tokenizer, beginnings, "test")) / n_bytes for m in (model, load_model(before.path / "model")))
    loss = found["short_context_loss_bits_per_byte"]
    assert (loss["value"], loss["n"]) == (pytest.approx(ours - theirs), 6)
    assert (found["bits_per_byte_after"]["value"], found["bits_per_byte_before"]["value"]) == pytest.approx((ours, theirs))
    assert found["short_context_recovered"] == (loss["high"] <= 0.005)
    assert gate(model, replace(CONFIG, short_documents=3), before).metrics["bits_per_byte_after"]["n"] == 3


def test_models_of_two_tokenizers_are_not_compared(finished, gate, tokenizer, tmp_path):
    write_tokenizer(learn(iter(["other words than those"]), 300), tmp_path, 32)
    shape = ModelConfig(n_layers=1, d_model=8, n_heads=1, n_kv_heads=1, head_width=8, d_feed_forward=8, vocabulary=600)

    def stage(settings, *, out):
        write_tiny(tiny_model(shape), Tokenizer.load(tmp_path), out)
        return {}

    with pytest.raises(InputError, match="another tokenizer than that of"):
        gate(random_model(tokenizer), before=finished("pretrain", stage))


def test_recovery_needs_the_whole_interval(gate, model_run, tokenizer):
    before = model_run("pretrain", 3, context=96)
    same = gate(load_model(before.path / "model"), replace(CONFIG, lengths=(96,)), before)
    loss = same.metrics["short_context_loss_bits_per_byte"]
    assert same.metrics["short_context_recovered"]
    assert loss["value"] == loss["low"] == loss["high"] == 0.0


@pytest.mark.parametrize("needle", ["no fields", "{value} of {key}", "{key} {value} {value}", "{key} {value} {key}"])
def test_a_needle_without_its_fields_is_refused(needle):
    with pytest.raises(ConfigError, match=r"allowed: a text with \{key\}, and one \{value\} behind it"):
        ContextGateConfig(needle=needle)


def test_depths_are_shares():
    with pytest.raises(ConfigError, match=r"depths = \[0.5, 50.0\]; allowed: shares from 0"):
        ContextGateConfig(depths=(0.5, 50.0))


def test_lengths_that_do_not_fit_are_refused(gate, tokenizer):
    for lengths in ((320, 321), (20, 320)):
        allowed = r"allowed: \d+, which needle, question and value take, to 320"
        with pytest.raises(ConfigError, match=rf"a length of (321|20) tokens; {allowed}"):
            gate(random_model(tokenizer), replace(CONFIG, lengths=lengths))


def test_by_default_the_eighths_that_fit(gate, tokenizer):
    found = gate(random_model(tokenizer), replace(CONFIG, lengths=(), haystacks=1, depths=(0.5,)))
    assert list(found.metrics["by_length"])[-3:] == ["240", "280", "320"]
    assert 3 <= len(found.metrics["by_length"]) < 8, "the shortest hold no needle"


def test_one_document_is_refused(gate, tokenizer):
    with pytest.raises(InputError, match="one held-out document"):
        gate(random_model(tokenizer), replace(CONFIG, short_documents=1))

"""The value of data sets: what must be alike is checked, values are those of the scores, and the recipe runs."""

import pytest

from miniature import ROOT, openherd
from openherd.core.errors import ConfigError, InputError
from openherd.core.records import ParquetWriter
from openherd.core.rundir import Run
from openherd.data.documents import TEXT_SCHEMA
from openherd.evaluation.data_value import DataValueConfig, check_alike, data_value
from openherd.evaluation.text import choose_texts
from openherd.inference.engine import bits_of
from openherd.model.config import ModelConfig
from openherd.model.weights import load_model, model_of
from openherd.report.experiments import experiments
from openherd.runner import open_runs
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn
from tiny import tiny_model, write_tiny

SHAPE = {"n_layers": 1, "d_model": 16, "n_heads": 1, "n_kv_heads": 1, "head_width": 16, "d_feed_forward": 16}
TEXTS = {"code": ["def f(x): return x", "import this"], "web": ["The herd sleeps.", "A dog is awake.", "Wolves."]}


def settings(**more):
    return {"steps": 9, "sequence_length": 8, "batch_tokens": 8, "learning_rate": 1.0, "averaged_checkpoints": 1, "seed": 0, **more}


@pytest.fixture(scope="module")
def annealed(finished, tmp_path_factory):
    """Runs as annealing leaves them, of models that nobody trained."""
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(learn([t for of in TEXTS.values() for t in of], 270), path, 32)
    words = Tokenizer.load(path)
    shape = ModelConfig(**SHAPE, vocabulary=words.vocabulary, max_positions=32)

    def make(seed, **more):
        def stage(config, *, out):
            write_tiny(tiny_model(shape, seed), words, out)
            return {"epochs": {"web": 1.0}}

        run = finished(f"anneal-{seed}", stage)
        manifest = {**run.manifest, "settings": settings(**more), "inputs": {"base": {"digest": "b"}}, "digest": f"{seed}{more}"}
        return Run(run.path, manifest)

    return make


@pytest.fixture(scope="module")
def held_out(finished):
    def stage(config, *, out):
        with out.write("heldout.parquet") as path, ParquetWriter(path, TEXT_SCHEMA) as writer:
            for source, texts in TEXTS.items():
                for i, text in enumerate(texts):
                    writer.write({"id": f"{source}{i}", "source": source, "text": text})
        return {}

    return finished("holdout", stage)


def test_a_value_is_the_difference_of_bits(finished, annealed, held_out):
    default, other = annealed(0), annealed(1, source_weights={"web": 0.7, "code": 0.3})
    run = finished(
        "data-value", data_value, DataValueConfig(target_sources=("code",)), default=default, models=(other,), documents=held_out
    )
    (name,) = run.metrics["values"]
    found = run.metrics["values"][name]
    texts = choose_texts(held_out.file("heldout.parquet"), 0, 0, ["code"])
    bits = []
    for one in (default, other):
        directory, _ = model_of(one)
        bits.append(sum(bits_of(load_model(directory), Tokenizer.load(directory), texts, "test")))
    size = sum(len(text.encode()) for text in texts)
    assert found["value_bits_per_byte"]["value"] == pytest.approx((bits[0] - bits[1]) / size)
    assert found["value_bits_per_byte"]["low"] <= found["value_bits_per_byte"]["value"] <= found["value_bits_per_byte"]["high"]
    assert found["change_by_source"]["code"]["value"] == pytest.approx(-found["value_bits_per_byte"]["value"])
    assert found["is_better"] == (found["value_bits_per_byte"]["low"] > 0)
    assert run.metrics["best"] == name
    assert "value, bits per byte" in str(experiments([run]))


def test_annealings_that_differ_in_more_than_their_data_are_refused(annealed):
    default = annealed(0)
    with pytest.raises(InputError, match="steps = 5, the default's is 9"):
        check_alike(default, (annealed(1, steps=5),))
    with pytest.raises(InputError, match="the same run twice"):
        check_alike(default, (default,))
    other = annealed(2)
    other.manifest["inputs"]["base"]["digest"] = "c"
    with pytest.raises(InputError, match="annealed from another model"):
        check_alike(default, (other,))


def test_an_unknown_source_is_refused(finished, annealed, held_out):
    config = DataValueConfig(target_sources=("books",))
    with pytest.raises(ConfigError, match="no held-out text of source 'books'; allowed: code, web"):
        finished("data-value", data_value, config, default=annealed(0), models=(annealed(1),), documents=held_out)


@pytest.mark.slow
def test_the_recipe_runs(tmp_path):
    """As it stands, but for shorter runs."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    changes = {"python-docs.pages": 200, "holdout.share": 0.2, "pretrain.steps": 60, "pretrain.warmup_steps": 5}
    changes |= {f"{name}.{key}": n for name in ("default", "with-topics", "with-late-modules") for key, n in (("steps", 20),)}
    sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    done = openherd(tmp_path, "run", "recipes/annealing-experiment.toml", "--out", "runs/value", *sets)
    assert done.returncode == 0, done.stderr
    found = open_runs(tmp_path / "runs" / "value")["data-value"].metrics
    assert set(found["values"]) == {"with-topics", "with-late-modules"}

"""Every recipe resolves: known stages, inputs and settings, and training shapes that fit together."""

from dataclasses import replace
from pathlib import Path

import pytest

from openherd.core.errors import ConfigError
from openherd.runner import Recipe, Step
from openherd.training.pretrain import ramp

RECIPES = sorted((Path(__file__).resolve().parent.parent / "recipes").glob("*.toml"))


@pytest.fixture(params=RECIPES, ids=lambda path: path.name)
def steps(request, tmp_path, monkeypatch) -> dict[str, Step]:
    """A recipe's stages by name, with a file in place for each of its outside inputs."""
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.read(request.param)
    for entry in recipe.stages:
        for place in entry.get("inputs", {}).values():
            if isinstance(place, str) and place.startswith("./"):
                Path(place.replace("*", "a")).parent.mkdir(parents=True, exist_ok=True)
                Path(place.replace("*", "a")).write_bytes(b"")
    return {step.name: step for step in recipe.resolve(tmp_path / "runs")}


def test_a_recipe_resolves(steps):
    assert len({step.job.digest for step in steps.values()}) == len(steps)
    assert list(steps)[-1] == "report"
    reported = {step.name for step in steps["report"].inputs["runs"]}
    assert reported == set(steps) - {"report"}


def sources_of(config):
    """The sources of pages that no pattern names: the one given, or those that readers give by the kind of file."""
    return [config.source] if config.source else ["web", "code", "academic", "books", "wikipedia", "stackexchange"]


def test_training_shapes_fit_together(steps):
    if "anneal" not in steps:
        pytest.skip("no three phases")
    pretrain, anneal = (steps[name].config for name in ("pretrain", "anneal"))
    long_context = [step.config for step in steps.values() if step.stage.stage.name == "long-context"]
    lengths = [length for config in long_context for length in config.sequence_lengths]
    pieces = ramp(pretrain)
    assert sum(p.steps for p in pieces) == pretrain.steps
    assert len(pieces) == len(pretrain.batch_tokens), "a piece of the ramp is never reached"
    assert pretrain.warmup_steps < pretrain.steps
    for config in long_context:
        assert all(p.sequence_length >= pieces[-1].sequence_length for p in config.pieces())
    assert lengths == sorted(lengths)
    assert [p.sequence_length for p in anneal.pieces()] <= [max(lengths)]
    patterns = steps["sources"].config.source_patterns
    assert set(anneal.source_weights) <= {*sources_of(steps["sources"].config), *patterns}
    if "sft" in steps:
        assert steps["sft"].config.sequence_length <= max(lengths)


def test_an_input_is_changed_like_a_setting(tmp_path):
    path = next(path for path in RECIPES if path.name == "web.toml")
    for given, place in (("https://example.org/a.gz?b=c", "https://example.org/a.gz?b=c"), ('["./a", "./b"]', ["./a", "./b"])):
        stages = Recipe.read(path, [f"sources.inputs.pages={given}"]).stages
        pages = [entry["inputs"]["pages"] for entry in stages if entry["use"] == "sources"]
        assert pages == [place, "./reference/*.warc.gz"]
    with pytest.raises(ConfigError, match=r"sources\.inputs\.pages: not TOML"):
        Recipe.read(path, ["sources.inputs.pages=[./a"])
    with pytest.raises(ConfigError, match=r"no input 'page'.*'pages'"):
        Recipe.read(path, ["sources.inputs.page=./a"]).resolve(tmp_path)


def test_continued_training_fits(steps):
    continued = [step.config for step in steps.values() if step.stage.stage.name == "continue-pretrain"]
    checks = [step.config for step in steps.values() if step.stage.stage.name == "evaluate-forgetting"]
    if not continued:
        pytest.skip("nothing is continued")
    sources = {*sources_of(steps["sources"].config), *steps["sources"].config.source_patterns}
    for config in continued:
        assert {*config.replay, *config.source_weights} <= sources
    assert len(checks) == len(continued)
    assert all(set(check.general_sources) < sources for check in checks)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_misspelt_setting_is_refused(path, tmp_path):
    recipe = Recipe.read(path)
    wrong = next(({**entry, "stepz": 1} for entry in recipe.stages if entry["use"] in ("pretrain", "continue-pretrain")), None)
    if wrong is None:
        pytest.skip("nothing is trained")
    with pytest.raises(ConfigError, match=r"stepz.*did you mean 'steps'"):
        replace(recipe, stages=(wrong,)).resolve(tmp_path)

"""Settings: what is taken, what is refused, and what the one line says."""

from dataclasses import MISSING, dataclass, field
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from openherd.core.config import load_config, nearest, parse_value, read_toml, settings_of, to_plain
from openherd.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of nothing."""

    steps: Annotated[int, Field(description="steps of it", ge=1)]
    rate: Annotated[float, Field(description="how fast", gt=0)] = 0.5
    kind: Annotated[Literal["a", "b"], Field(description="which")] = "a"
    lengths: Annotated[tuple[int, ...], Field(description="in tokens", min_length=1)] = (1, 2)
    weights: Annotated[dict[str, float], Field(description="by name")] = field(default_factory=dict)
    on: Annotated[bool, Field(description="whether")] = True
    label: Annotated[str, Field(description="a name")] = ""
    pair: Annotated[tuple[float, float], Field(description="two")] = (1.0, 2.0)


def test_settings_are_described_in_order():
    found = {s.name: s for s in settings_of(Config)}
    assert list(found) == ["steps", "rate", "kind", "lengths", "weights", "on", "label", "pair"]
    assert found["steps"].default is MISSING
    assert (found["rate"].type_text, found["rate"].default, found["rate"].description) == ("float", 0.5, "how fast")
    assert (found["kind"].type_text, found["weights"].default) == ("a|b", {})
    assert [s.name for s in found.values() if s.is_text] == ["kind", "label"]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"stepz": 1}, "here: unknown setting 'stepz'; did you mean 'steps'?"),
        ({"zzz": 1}, "here: unknown setting 'zzz'; known: kind, label, lengths, on, pair, rate, steps, weights"),
        ({}, "here: missing setting 'steps'; allowed: steps of it"),
        ({"steps": 0}, "here: steps = 0; allowed: greater than or equal to 1; (steps of it)"),
        ({"steps": 0.5}, "here: steps = 0.5; allowed: a valid integer; (steps of it)"),
        ({"steps": True}, "here: steps = true; allowed: a valid integer; (steps of it)"),
        ({"steps": "1"}, 'here: steps = "1"; allowed: a valid integer; (steps of it)'),
        ({"steps": 1, "kind": "c"}, "here: kind = \"c\"; allowed: 'a' or 'b'; (which)"),
        ({"steps": 1, "lengths": [1, "x"]}, 'here: lengths.1 = "x"; allowed: a valid integer; (in tokens)'),
        ({"steps": 1, "lengths": []}, "here: lengths = []; allowed: at least 1 item; (in tokens)"),
        ({"steps": 1, "weights": {"w": "x"}}, 'here: weights.w = "x"; allowed: a valid number; (by name)'),
        ({"steps": 1, "weights": 3}, "here: weights = 3; allowed: a table; (by name)"),
        ({"steps": 1, "pair": [1]}, "here: pair = [1]; allowed: tuple[float,float]; (two)"),
        ({"steps": 1, "pair": [1, 2, 3]}, "here: pair = [1, 2, 3]; allowed: at most 2 items; (two)"),
        ({"steps": 1, "on": 1}, "here: on = 1; allowed: a valid boolean; (whether)"),
    ],
)
def test_what_is_wrong_is_one_line(values, line):
    with pytest.raises(ConfigError) as refused:
        load_config(Config, values, "here")
    assert str(refused.value) == line


def test_numbers_that_toml_cannot_keep_are_refused():
    with pytest.raises(ConfigError, match=r"here: .* = .*; allowed: finite numbers, text"):
        load_config(Config, {"steps": 1, "rate": float("nan")}, "here")


@given(
    st.builds(
        Config,
        steps=st.integers(1, 10**12),
        rate=st.floats(1e-300, 1e300),
        lengths=st.lists(st.integers(-5, 5), min_size=1).map(tuple),
        weights=st.dictionaries(st.text(max_size=5), st.floats(-10, 10)),
        on=st.booleans(),
        label=st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_plain_values_make_the_same_settings_again(config):
    assert load_config(Config, to_plain(config), "here") == config


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "3", 3),
        ("rate", "2e-3", 2e-3),
        ("lengths", "[3, 4]", [3, 4]),
        ("weights", "{ a = 1.0 }", {"a": 1.0}),
        ("on", "false", False),
        ("label", "3", "3"),
        ("kind", "b", "b"),
        ("steps", "three", "three"),  # refused when it is loaded
    ],
)
def test_a_value_from_the_command_line_is_toml_unless_the_field_is_text(name, text, value):
    setting = next(s for s in settings_of(Config) if s.name == name)
    assert parse_value(setting, text) == value


def test_the_nearest_name():
    assert nearest("sfd", ["sft", "anneal"]) == "did you mean 'sft'?"
    assert nearest("zzzzz", ["sft", "anneal"]) == "known: anneal, sft"


def test_files_that_are_no_toml(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a directory"):
        read_toml(tmp_path)
    (tmp_path / "bad.toml").write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_text("a = [1")
    with pytest.raises(ConfigError, match=r"not valid TOML .*; mend the file"):
        read_toml(tmp_path / "bad.toml")

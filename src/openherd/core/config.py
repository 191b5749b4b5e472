"""Settings: one frozen dataclass per stage, checked by pydantic, written and read as TOML.

A setting is a field `name: Annotated[type, Field(description=..., ge=...)] = default`. Unknown keys are refused with the nearest
name; types are strict (0.5 is no integer); a value from the command line is read as a TOML value unless its field is text.
"""

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from openherd.core.errors import ConfigError

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a settings dataclass, for help pages and parsing."""

    name: str
    type_text: str
    default: Any  # dataclasses.MISSING where the setting must be given
    description: str
    is_text: bool


def settings_of(cls: type) -> list[Setting]:
    """The settings of a dataclass, in order."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        description = " ".join(getattr(m, "description", None) or "" for m in getattr(hint, "__metadata__", ())).strip()
        bare = hint.__origin__ if hasattr(hint, "__metadata__") else hint
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        found.append(Setting(field.name, _type_text(bare), default, description, _is_text(bare)))
    return found


def _is_text(hint: Any) -> bool:
    return hint is str or (typing.get_origin(hint) is typing.Literal and all(isinstance(a, str) for a in typing.get_args(hint)))


def _type_text(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "|".join(str(a) for a in typing.get_args(hint))
    if typing.get_origin(hint) in (tuple, dict, types.UnionType, typing.Union):
        return str(hint).replace("typing.", "").replace(" ", "")
    if dataclasses.is_dataclass(hint):
        return f"table of {', '.join(field.name for field in dataclasses.fields(hint))}"
    return getattr(hint, "__name__", str(hint))


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """'did you mean x?' for a misspelt name, or the whole list where nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def load_config(cls: type[Config], values: Mapping[str, Any], where: object) -> Config:
    """Build `cls` from plain values, as TOML gives them.

    Raises ConfigError that names the place, the key, what was found and what is allowed.
    """
    from pydantic import TypeAdapter, ValidationError

    settings = {s.name: s for s in settings_of(cls)}
    for key in values:
        if key not in settings:
            raise ConfigError(where, f"unknown setting {key!r}", do=nearest(key, settings))
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]) and isinstance(hints[key], type) and isinstance(value, Mapping):
            load_config(hints[key], value, f"{where}, {key}")  # pydantic would pass over an unknown key in there
    missing = [s.name for s in settings.values() if s.default is dataclasses.MISSING and s.name not in values]
    if missing:
        raise ConfigError(where, f"missing setting {missing[0]!r}", allowed=settings[missing[0]].description)
    try:
        # Through JSON, because strict mode takes a list for a tuple only there.
        return TypeAdapter(cls).validate_json(json.dumps(dict(values), allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(p) for p in first["loc"])
        message = re.sub(" after validation, not [0-9]+", "", first["msg"].removeprefix("Value error, "))
        found = f"{path} = {json.dumps(first['input'])}" if path else "settings"
        allowed = re.sub("^(Input should be|(Tuple|List|Dictionary|String) should have) ", "", message)
        allowed = {"an object": "a table", "a valid array": "a list"}.get(allowed, allowed)  # JSON's words for TOML's
        setting = settings.get(str(first["loc"][0])) if first["loc"] else None
        if setting and first["type"] == "missing":  # a list that is too short for its type
            found, allowed = f"{setting.name} = {json.dumps(first['input'])}", setting.type_text
        raise ConfigError(where, found, allowed=allowed, do=f"({setting.description})" if setting else "") from None
    except (TypeError, ValueError):
        key = next(key for key, value in values.items() if not _is_plain(value))
        allowed = "finite numbers, text, booleans, lists and tables of them"
        raise ConfigError(where, f"{key} = {values[key]}", allowed=allowed, do=f"({settings[key].description})") from None


def _is_plain(value: Any) -> bool:
    """Whether JSON holds a value: no NaN, no date."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def parse_value(setting: Setting, text: str) -> Any:
    """A value given as text, on the command line or by `--set`."""
    if setting.is_text:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def to_plain(config: Any) -> dict[str, Any]:
    """A settings dataclass as plain values; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file. Raises ConfigError for a missing or unreadable one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(path, "no such file", do="give the path of a TOML file") from None
    except IsADirectoryError:
        raise ConfigError(path, "is a directory", do="give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"not valid TOML ({error})", do="mend the file") from None

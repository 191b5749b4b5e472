"""The rules of the house that ruff, mypy and import-linter cannot see."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openherd.core.config import settings_of
from openherd.runner import StageFunction
from openherd.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "openherd"
TORCH_FREE = ("core", "report", "planning", "stages.py", "model/config.py", "model/flops.py", "model/peaks.py")
NOT_OURS = {".git", ".venv", "runs", "build", "dist"}
SUFFIXES = {"", ".cfg", ".css", ".html", ".js", ".json", ".md", ".py", ".toml", ".txt", ".yaml"}
# Spelt with a class each, so that this file does not hold what it looks for.
HOMES = re.compile(r"/[h]ome/\w|/[U]sers/\w|/[r]oot/|/[w]ork/(main|shared)|/[t]mp/w/")
REGISTRIES = re.compile(r"py[p]i\.org|python[h]osted\.org|download\.py[t]orch\.org|registry\.npm[j]s|[a]naconda\.org|deb\.[d]ebian")


def our_files() -> list[Path]:
    """Every text file of the project."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(
            p in NOT_OURS or p.startswith(".venv") or p.endswith((".egg-info", "_cache", "__pycache__")) or p == ".hypothesis"
            for p in parts
        )
        if path.is_file() and not hidden and path.suffix in SUFFIXES:
            found.append(path)
    return found


def module_name(path: Path) -> str:
    """`src/openherd/core/errors.py` as `openherd.core.errors`."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_after(code: str) -> set[str]:
    """Names of the modules that this code has loaded, in a Python of its own."""
    program = f"import sys\nbefore = set(sys.modules)\n{code}\nprint()\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_no_path_of_a_machine_and_no_registrys_host() -> None:
    files = our_files()
    assert SOURCE / "stages.py" in files
    found = []
    for path in files:
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if HOMES.search(line) or REGISTRIES.search(line):
                found.append(f"{path.relative_to(ROOT)}:{n}: {line.strip()[:80]}")
    assert found == []


def test_the_search_for_paths_finds_them() -> None:
    for text in ("/ho" + "me/ann/x", "/Us" + "ers/ann", "/ro" + "ot/.cache"):
        assert HOMES.search(text)
    assert REGISTRIES.search("https://py" + "pi.org/simple")


def test_torch_free_modules() -> None:
    paths = [p for name in TORCH_FREE for p in ([SOURCE / name] if name.endswith(".py") else (SOURCE / name).rglob("*.py"))]
    names = [module_name(p) for p in paths if p.parent.exists()]
    assert "openherd.core.rundir" in names
    loaded = modules_after("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names))
    assert set(names) <= loaded
    assert "torch" not in loaded


@pytest.mark.parametrize("arguments", [["--help"], ["stages"], ["where", "3.4.2"], ["where", "annealing"]])
def test_quick_commands_need_the_standard_library_alone(arguments: list[str]) -> None:
    loaded = modules_after(f"from openherd.cli import main\nassert main({arguments!r}) == 0")
    assert "openherd.cli" in loaded
    assert {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) == {"openherd"}


@pytest.mark.parametrize("name", [stage.name for stage in STAGES])
def test_a_stages_flags(name: str) -> None:
    stage = StageFunction.load(name, "test")
    settings = settings_of(stage.config_class)
    flags = [s.name for s in settings] + list(stage.inputs) + ["out", "help"]
    assert len(flags) == len(set(flags)), "a setting and an input share a name"
    assert [s.name for s in settings if not s.description] == []
    assert stage.function.__doc__
    assert (sys.modules[stage.function.__module__].__doc__ or "").strip()
    assert {p.kind for p in inspect.signature(stage.config_class).parameters.values()} <= {inspect.Parameter.KEYWORD_ONLY}
    assert stage.config_class.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_stages_are_named_once() -> None:
    assert len({stage.name for stage in STAGES}) == len(STAGES)
    assert len({stage.target for stage in STAGES}) == len(STAGES)


def test_every_module_says_what_it_is() -> None:
    bare = []
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8").strip()
        if text and not text.startswith(('"""', 'r"""')):
            bare.append(str(path.relative_to(ROOT)))
    assert bare == []

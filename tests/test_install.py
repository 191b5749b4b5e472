"""What `make install` decides, with a stand-in for `nvidia-smi`, uv and pip; nothing is fetched."""

import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent

CPU_NAMES = ["torch", "numpy", "sympy", "openherd"]
CUDA_NAMES = [*CPU_NAMES, "nvidia-cublas", "nvidia-cudnn-cu13", "cuda-toolkit", "triton"]


def load(name: str) -> ModuleType:
    """A script of scripts/ as a module."""
    loader = importlib.machinery.SourceFileLoader(f"script_{name}", str(ROOT / "scripts" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


install = load("install")


def executable(path: Path, text: str) -> None:
    """Write a shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ('echo "GPU 0: NVIDIA Something (UUID: GPU-1)"', True),
        ('echo "No devices were found"', False),
        ('echo "GPU 0: half"; exit 9', False),
        ('echo "NVIDIA-SMI has failed because it could not communicate with the driver" >&2; exit 9', False),
    ],
)
def test_a_gpu_is_what_nvidia_smi_lists(script: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.has_nvidia_gpu() is found


def test_no_nvidia_smi_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.has_nvidia_gpu() is False


@pytest.mark.parametrize(
    ("asked", "before", "system", "gpu", "build", "options"),
    [
        ("", "", "Linux", False, "cpu", ["--torch-backend=cpu"]),
        ("", "", "Linux", True, "cuda", ["--torch-backend=auto"]),
        ("cpu", "", "Linux", True, "cpu", ["--torch-backend=cpu"]),
        ("cuda", "cpu", "Linux", True, "cuda", ["--torch-backend=auto"]),
        # Without a driver uv's `auto` would take the CPU build; the index's own wheel is the CUDA build.
        ("cuda", "", "Linux", False, "cuda", []),
        ("", "cpu", "Linux", True, "cpu", ["--torch-backend=cpu"]),
        ("", "", "Darwin", False, "cpu", []),
        ("cpu", "", "Darwin", False, "cpu", []),
    ],
)
def test_the_build_and_uvs_option(asked: str, before: str, system: str, gpu: bool, build: str, options: list[str]) -> None:
    assert install.choose_build(asked, before, system, "arm64", gpu)[0] == build
    assert install.uv_backend(build, system, gpu) == options


@pytest.mark.parametrize(
    ("asked", "system", "machine", "says"),
    [
        ("gpu", "Linux", "x86_64", "TORCH=gpu"),
        ("cuda", "Darwin", "arm64", "macOS has no CUDA"),
        ("", "Darwin", "x86_64", "Intel"),
    ],
)
def test_builds_that_there_are_not(asked: str, system: str, machine: str, says: str) -> None:
    with pytest.raises(install.InstallError, match=says):
        install.choose_build(asked, "", system, machine, False)


def test_a_plan_with_the_wrong_build_is_refused() -> None:
    assert "2.9 GB" in install.objection(CUDA_NAMES, "cpu")
    assert install.objection(CPU_NAMES, "cpu") == ""
    assert "CPU build" in install.objection(CPU_NAMES, "cuda")
    assert install.objection(CUDA_NAMES, "cuda") == ""
    assert install.objection(["pytest"], "cuda", held=["nvidia_cublas", "torch"]) == ""


@given(st.sampled_from(["nvidia", "cuda", "triton"]), st.from_regex(r"([-_][a-z0-9]+)?", fullmatch=True))
def test_every_spelling_of_a_gpu_package_is_seen(word: str, rest: str) -> None:
    assert install.is_gpu_package(word + rest)
    assert install.is_gpu_package((word + rest).upper())
    assert not install.is_gpu_package(f"py{word}{rest}")


def test_names_are_read_from_both_plans() -> None:
    text = "Resolved 3 packages in 9ms\nWould uninstall 1 package\n - torch==2.13.0+cpu\n + torch==2.13.0\n + nvidia-cublas==13.1\n"
    assert install.names_in_uv_plan(text + " + openherd @ file:///somewhere") == ["torch", "nvidia-cublas", "openherd"]
    report = {"version": "1", "install": [{"metadata": {"name": name, "version": "1"}} for name in CUDA_NAMES]}
    assert install.names_in_pip_report(json.dumps(report)) == CUDA_NAMES


def test_the_stamp_covers_what_it_holds() -> None:
    stamp = {"digest": "a", "python": "3.11", "dev": False, "build": "cpu", "done": True}
    now = {"digest": "a", "python": "3.11", "dev": False}
    assert install.is_current(stamp, now, "")
    assert install.is_current(stamp, now, "cpu")
    assert install.is_current(stamp | {"dev": True}, now, "")
    assert install.is_current(stamp | {"dev": True}, now | {"dev": True}, "")
    assert not install.is_current(stamp, now | {"dev": True}, "")
    assert not install.is_current(stamp, now, "cuda")
    assert not install.is_current(stamp, now | {"digest": "b"}, "")
    assert not install.is_current(stamp, now | {"python": "3.12"}, "")
    assert not install.is_current(stamp | {"done": False}, now, "")
    assert not install.is_current({}, now, "")


@pytest.mark.parametrize("text", [None, "", "{", "[]", "\x00"])
def test_a_damaged_stamp_is_none(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "stamp").write_text(text, encoding="utf-8")
    assert install.read_stamp(tmp_path / "stamp") == {}


def test_the_digest_follows_both_files(tmp_path: Path) -> None:
    seen = set()
    for project, constraints in [("a", "b"), ("a", "c"), ("d", "b"), ("ab", "")]:
        (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
        (tmp_path / "constraints.txt").write_text(constraints, encoding="utf-8")
        seen.add(install.digest(tmp_path))
    assert len(seen) == 4


def test_make_run_installs_no_test_tools() -> None:
    assert install.wanted(dev=False) == ["--editable", "."]
    assert any(requirement.startswith("pytest") for requirement in install.wanted(dev=True))


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A .venv whose Python writes down how it was called and answers as uv and pip would, from files in the folder returned."""
    venv = tmp_path / ".venv"
    executable(
        venv / "bin" / "python",
        f"""echo "$*" >> {tmp_path}/calls
        case "$*" in
            *"uv pip"*"--dry-run"*) cat {tmp_path}/uv_plan >&2 || exit 2 ;;
            *"--dry-run"*) cat {tmp_path}/pip_plan || exit 1 ;;
        esac""",
    )
    for name, value in {"ROOT": tmp_path, "VENV": venv, "STAMP": venv / "stamp.json", "LOG": venv / "log"}.items():
        monkeypatch.setattr(install, name, value)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(install, "wanted", lambda dev: ["--editable", "."])
    return tmp_path


def uv_says(folder: Path, names: list[str]) -> None:
    (folder / "uv_plan").write_text("".join(f" + {name}==1\n" for name in names), encoding="utf-8")


def pip_says(folder: Path, names: list[str]) -> None:
    report = {"install": [{"metadata": {"name": name}} for name in names]}
    (folder / "pip_plan").write_text(json.dumps(report), encoding="utf-8")


def calls(folder: Path) -> list[str]:
    """How uv and pip were called, without the options."""
    lines = (folder / "calls").read_text(encoding="utf-8").splitlines()
    return [("uv" if "-m uv" in line else "pip") + (" plan" if "--dry-run" in line else "") for line in lines]


def test_uv_installs_where_its_plan_is_right(stand_in: Path) -> None:
    uv_says(stand_in, CPU_NAMES)
    install.install("cpu", gpu=False, dev=False)
    assert calls(stand_in) == ["pip", "uv plan", "uv"]  # the first call fetches uv itself
    assert "--torch-backend=cpu" in (stand_in / "calls").read_text(encoding="utf-8")


@pytest.mark.parametrize("uv_reaches_the_wrong_build", [False, True])
def test_pip_takes_over_where_uv_cannot(
    stand_in: Path, uv_reaches_the_wrong_build: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if uv_reaches_the_wrong_build:
        uv_says(stand_in, CUDA_NAMES)
    pip_says(stand_in, CPU_NAMES)
    install.install("cpu", gpu=False, dev=False)
    assert calls(stand_in) == ["pip", "uv plan", "pip plan", "pip"]
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_cuda_is_never_fetched_unasked(stand_in: Path) -> None:
    pip_says(stand_in, CUDA_NAMES)
    with pytest.raises(install.InstallError, match="TORCH=cuda"):
        install.install("cpu", gpu=False, dev=False)
    assert calls(stand_in) == ["pip", "uv plan", "pip plan"]
    install.install("cuda", gpu=False, dev=False)
    assert calls(stand_in)[-1] == "pip"


def test_cuda_asked_for_is_not_replaced_by_the_cpu_build(stand_in: Path) -> None:
    uv_says(stand_in, CPU_NAMES)
    pip_says(stand_in, CPU_NAMES)
    with pytest.raises(install.InstallError, match="TORCH=cpu"):
        install.install("cuda", gpu=True, dev=False)
    assert calls(stand_in) == ["pip", "uv plan", "pip plan"]


def test_an_unreachable_index_is_one_line(stand_in: Path) -> None:
    with pytest.raises(install.InstallError, match="pip cannot find the packages") as caught:
        install.install("cpu", gpu=False, dev=False)
    assert "\n" not in str(caught.value)


def run_make(folder: Path, *arguments: str, path: str = os.defpath) -> subprocess.CompletedProcess[str]:
    """`make` in a folder that holds the Makefile and a script that says which Python runs it."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "scripts").mkdir(exist_ok=True)
    (folder / "scripts" / "install").write_text("import sys; print('ran', sys.executable, sys.argv[1:])", encoding="utf-8")
    return subprocess.run(
        ["make", "--silent", *arguments], cwd=folder, env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False
    )


def test_make_takes_the_first_python_that_will_do(tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "python3.13", "echo 'python3.13: command not found' >&2; exit 127")
    executable(tmp_path / "bin" / "python3.12", "exit 1")
    executable(tmp_path / "bin" / "python3.11", f'exec "{sys.executable}" "$@"')
    done = run_make(tmp_path, "install-dev", path=f"{tmp_path / 'bin'}:{os.defpath}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ran ")
    assert "['--dev']" in done.stdout


def test_make_without_a_python_says_what_is_needed(tmp_path: Path) -> None:
    done = run_make(tmp_path, "install", "PYTHON=no-such-python")
    assert done.returncode == 2
    first = done.stderr.splitlines()[0]
    assert "3.11, 3.12 or 3.13" in first
    assert "no-such-python" in first
    assert "PYTHON=" in first


def test_every_package_is_pinned() -> None:
    lines = [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    pins = dict(line.split("==") for line in lines)
    assert pins["torch"] == "2.13.0"
    # Exact versions, without a marker or a build such as +cpu.
    assert all(version.replace(".", "").isalnum() for version in pins.values())
    wanted = [r for r in install.wanted(dev=True) if not r.startswith(("--", "."))]
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = install.tomllib.loads(text)["project"]
    groups = project.get("optional-dependencies", {})
    extras = [r for group in groups.values() for r in group]
    named = {r.split(">")[0].split("[")[0].lower() for r in (*wanted, *project["dependencies"], *extras)}
    assert named - {name.lower() for name in pins} == set()

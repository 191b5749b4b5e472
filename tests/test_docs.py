"""Every example in docs/ runs: fenced sh and python blocks, in order, on the miniature run of the laptop recipe."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from miniature import ROOT, environment
from openherd.cli import COMMANDS
from openherd.stages import BY_NAME

PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
WITH_EXAMPLES = {
    "chat-page.md",
    "continued-pretraining.md",
    "data-classifiers.md",
    "data-dedup.md",
    "data-engine.md",
    "data-extraction.md",
    "data-mix.md",
    "data-pages.md",
    "data-privacy.md",
    "data-sources.md",
    "data-urls.md",
    "dialogs.md",
    "errors.md",
    "failures.md",
    "inference.md",
    "interchange.md",
    "planning.md",
    "recipes.md",
    "run-directories.md",
    "scaling.md",
    "serving.md",
    "tokenizer.md",
    "tour.md",
}


def blocks_of(text: str) -> list[tuple[str, str]]:
    """(language, code) of a page's fenced blocks."""
    return BLOCK.findall(text)


def program_of(blocks: list[tuple[str, str]], folder: Path) -> str:
    """One Python program that runs a page's blocks in order, and says which one it is at."""
    parts = ["import subprocess as _subprocess"]
    for number, (language, code) in enumerate(blocks, 1):
        parts.append(f"print('--- block {number} ({language})', flush=True)")
        if language == "python":
            parts.append(code)
        elif language == "sh":
            script = folder / f"block-{number}.sh"
            script.write_text(code, encoding="utf-8")
            parts.append(f"_subprocess.run(['bash', '-euo', 'pipefail', {str(script)!r}], check=True)")
    return "\n".join(parts)


LONG = {  # examples that take ten seconds and more; CI runs them after the test command
    "continued-pretraining.md", "data-classifiers.md", "errors.md", "failures.md", "inference.md", "interchange.md", "recipes.md",
    "scaling.md", "serving.md", "tour.md",
}  # fmt: skip
PARAMETERS = [pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in LONG else []) for page in PAGES]


@pytest.mark.parametrize("page", PARAMETERS)
def test_examples_run(page, miniature_run, tmp_path):
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    assert {language for language, _ in blocks} <= {"python", "sh", "toml", "text"}
    assert (page.name in WITH_EXAMPLES) == any(language in ("python", "sh") for language, _ in blocks)
    folder = tmp_path / "project"
    shutil.copytree(miniature_run, folder, ignore=shutil.ignore_patterns("again", "killed"))
    program = tmp_path / "program.py"
    program.write_text(program_of(blocks, tmp_path), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)], cwd=folder, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_a_failing_example_is_seen(tmp_path):
    for code in ("assert False", "```\n```sh\nfalse"):
        program = program_of(blocks_of(f"```python\n{code}\n```\n"), tmp_path)
        assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_links_and_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []
    scripts = "".join(f"\n{code}" for language, code in blocks_of(text) if language == "sh")
    named = set(re.findall(r"(?:`|^    )openherd ([a-z][\w-]*)", text, re.MULTILINE))
    named |= set(re.findall(r"^(?:refused )?openherd ([a-z][\w-]*)", scripts, re.MULTILINE))
    assert named or "openherd" not in scripts
    assert named - {command.split()[0] for command in COMMANDS} - set(BY_NAME) == set()


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = set(LINK.findall(index))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert pages <= linked

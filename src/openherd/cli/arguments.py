"""What the commands' parsers share: errors in one line, numbers as people write them, what a model directory is."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from openherd.core.errors import ConfigError

EXIT_ERROR = 2
EXIT_DIFFERS = 1
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(EXIT_ERROR, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def new_file(text: str) -> Path:
    """A file to be written: its folder is there, so that nothing is computed for a page that cannot be."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder" if path.is_dir() else f"{str(path.parent)!r} is no folder")
    return path


def count(text: str) -> float:
    """A number as a person writes it: 3.8e25, 8B, 15T."""
    scale = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:].upper(), 1.0)
    return float(text[:-1] if scale > 1 else text) * scale


def counts(text: str) -> tuple[float, ...]:
    """Numbers with commas between."""
    return tuple(count(part) for part in text.split(","))


def check_least(limits: dict[str, tuple[int, int]]) -> None:
    """Raise ConfigError where an option is under the least that it may be."""
    for option, (value, least) in limits.items():
        if value < least:
            raise ConfigError(option, f"{value:g}", allowed=f"{least:g} or more")


def columns() -> int:
    """The terminal's width; 0 where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def model_directory(path: Path) -> Path:
    """The model directory behind a run, a stage's run, or a path to one."""
    if (path / "config.json").exists():
        return path
    from openherd.model.weights import model_of
    from openherd.runner import open_stage

    return model_of(open_stage(path, "sft"))[0]

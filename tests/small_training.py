"""Miniature runs of what training is given, by the command line, and the line of a command that is refused."""

import random
from pathlib import Path

from openherd.cli import main
from openherd.core import rundir
from openherd.core.records import ParquetWriter
from openherd.core.rundir import Job
from openherd.data.documents import LANGUAGE_SCHEMA

WORDS = ("the", "herd", "of", "sheep", "that", "a", "shepherd", "keeps", "in", "fold", "and", "field", "by", "day", "wolves")
SMALL = ["--size", "herd-1m", "--precision", "float32", "--device", "cpu", "--sequence-lengths", "[32]", "--ramp-tokens", "[]"]
SMALL += ["--batch-tokens", "[128]", "--warmup-steps", "0", "--learning-rate", "1e-3"]


def told(*arguments: object) -> int:
    """The exit code of a command."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as left:  # argparse's own
        return int(left.code or 0)


def refused(capsys, *arguments: object) -> str:
    """The line of a command that ends with exit code 2."""
    capsys.readouterr()
    code = told(*arguments)
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not line.startswith("  ")]
    assert (code, said.out, len(lines)) == (2, "", 1), said
    assert lines[0].startswith("openherd")
    return lines[0]


def write_documents(folder: Path, seed: int, n: int) -> None:
    """A finished run of documents of two sources."""
    draw = random.Random(seed)

    def stage(config, *, out):
        with out.write("train.parquet") as path, ParquetWriter(path, LANGUAGE_SCHEMA) as writer:
            for i in range(n):
                text = " ".join(draw.choices(WORDS, k=draw.randint(5, 60)))
                writer.write({"id": f"{i:032x}", "source": "web" if i % 3 else "books", "text": text})
        return {}

    rundir.make(Job("holdout", "3.1.3", 1, {}, {"seed": str(seed)}, {"seed": "none"}), folder, stage, None, {})

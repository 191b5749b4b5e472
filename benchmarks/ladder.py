"""A real ladder on this machine: `recipes/ladder.toml`, 12 runs that two laws are fitted to, and a larger one that they foretell.

Its peer is the truth: the loss of the larger run, which no law has seen. The table of runs is among the figures.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = (
    "E",
    "A",
    "B",
    "alpha",
    "beta",
    "exponent",
    "coefficient",
    "tokens_exponent",
    "tokens_coefficient",
    "intervals",
    "budgets",
    "warnings",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        command = [sys.executable, "-m", "openherd", "run", str(ROOT / "recipes" / "ladder.toml"), "--out", folder]
        subprocess.run(command, check=True, stdout=sys.stderr)
        wall = time.monotonic() - start
        (fitted,) = (Path(folder) / "scaling-ladder").iterdir()
        metrics = json.loads((fitted / "manifest.json").read_text(encoding="utf-8"))["metrics"]
        with (fitted / "runs.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    figures = {
        "wall_s": round(wall, 1),
        "runs": rows,
        "foretold": metrics["foretold"],
        **{law: {name: metrics[law][name] for name in KEPT if name in metrics[law]} for law in ("parametric", "isoflop")},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""The laptop recipe from nothing to its scores: seconds, and bits per byte beside xz and the trigram model on the same text.

It runs on two threads, as `make run` is promised on two cores; the peers (xz, trigram, retrieval) are measured by the run itself.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RSS_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss
ROOT = Path(__file__).resolve().parent.parent


def measure(recipe: str) -> None:
    """Run a recipe once into a temporary directory and print its figures."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "laptop"
        command = [sys.executable, "-m", "openherd", "run", str(ROOT / "recipes" / recipe), "--out", str(out)]
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "2"})
        seconds = time.monotonic() - start
        stages = json.loads((out / "run.json").read_text())["stages"]
        manifests = {name: json.loads((out / place / "manifest.json").read_text()) for name, place in stages.items()}
    text, answers = manifests["evaluate-text"]["metrics"], manifests["evaluate-answers"]["metrics"]
    figures = {
        "wall_s": round(seconds, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * RSS_BYTES / 1e9, 2),
        "stage_s": {name: m["wall_s"] for name, m in manifests.items()},
        "tokens_per_s": manifests["pretrain"]["metrics"]["tokens_per_s"],
        "precision": manifests["pretrain"]["metrics"]["precision"],
        "bits_per_byte": {n: text[n]["bits_per_byte"] for n in ("pretrain", "long-context", "anneal")},
        "trigram_bits_per_byte": text["trigram"],
        "xz_bits_per_byte": text["xz"],
        "xz_primed_bits_per_byte": text["xz_primed"],
        "model_over_trigram": text["anneal"]["bits_per_byte"]["value"] / text["trigram"]["value"],
        "answers": {name: answers[name] for name in ("heldout_phrasings", "later_turns", "heldout_entries")},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    measure("laptop.toml")

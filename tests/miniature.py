"""The laptop recipe at miniature scale, and the command line as a newcomer types it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = "runs/laptop"
# Every stage on little: 120 pages, a small vocabulary, a minute's training made seconds. What the recipe says of the rest stays.
MINIATURE = {
    "python-docs.pages": "120",
    "holdout.share": "0.15",
    "tokenizer.merges_base": "256",
    "pretrain.steps": "40",
    "pretrain.sequence_lengths": "[64, 128]",
    "pretrain.batch_tokens": "[256, 256]",
    "pretrain.ramp_tokens": "[2560]",
    "pretrain.warmup_steps": "4",
    "pretrain.decay_steps": "40",
    "pretrain.precision": "float32",
    "pretrain.checkpoint_steps": "10",
    "long-context.sequence_lengths": "[192, 256]",
    "long-context.stage_steps": "[2, 2]",
    "long-context.batch_tokens": "768",
    "context-gate.haystacks": "1",
    "context-gate.lengths": "[128, 256]",
    "anneal.steps": "8",
    "anneal.average_over": "0.5",
    "anneal.sequence_length": "256",
    "anneal.batch_tokens": "512",
    "dialogs.entries": "16",
    "dialogs.heldout_entries": "4",
    "dialogs.phrasings": "3",
    "sft.epochs": "1",
    "sft.sequence_length": "128",
    "sft.batch_tokens": "256",
    "evaluate-text.max_heldout_bytes": "4000",
    "evaluate-text.sample_tokens": "8",
    "evaluate-answers.max_new_tokens": "16",
    "evaluate-answers.max_questions": "20",
}
SETTINGS = [part for key, value in MINIATURE.items() for part in ("--set", f"{key}={value}")]


def environment() -> dict[str, str]:
    """Ours, with this Python's `openherd` first, wide plain output, and one thread: two on busy cores would wait for each other."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def openherd(folder: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run `openherd` in a folder."""
    command = [sys.executable, "-m", "openherd", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), input=given, capture_output=True, text=True, timeout=300, check=False
    )

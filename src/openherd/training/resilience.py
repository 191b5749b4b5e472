"""What a run does when a step goes wrong (paper 3.3.4): which steps are bad, which checkpoint to go back to, and leaving in time.

A step is bad where its loss or gradient is not finite, or where its loss is a spike: above the median of the last accepted steps by
many robust standard deviations (from the median of the steps' differences to the step before, which a falling loss does not
widen). Only accepted steps enter that window, so neither a
NaN nor a spike shifts it. A bad step is computed a second time on the same data: where that differs, a device failed and the second
outcome counts. A bad step is not applied; its data are passed over, and so they are on every later way through that step. A spike,
or several steps in a row that are not finite, send the run back to its last good checkpoint: one that was followed by enough steps
without any of this. The norm of AdamW's update doubles before a loss spikes (Marin 32B): where it grows the step is suspicious, no
checkpoint becomes good, and data are passed over from there on if a spike follows.

The paper's run was restarted by hand three times in 54 days and had no divergence that needed it; the thresholds are ours.
"""

import itertools
import json
import math
import signal
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from openherd.core.rundir import Output

SKIPS = "skips.json"  # ranges of steps whose data are passed over, for a run that stops before its next checkpoint
LEAST = 32  # accepted steps before a spike is judged
TO_SIGMA = 1.4826 / math.sqrt(2)  # median absolute difference of two normal values to their standard deviation
SMALLEST_RISE = 0.5  # nats over the median: where losses hardly scatter, any change would be many deviations

Range = tuple[int, int]  # first, end


class Thresholds(Protocol):
    """The settings that a watch reads; see `TrainingConfig`."""

    @property
    def spike_deviations(self) -> float:
        """Of a loss, over the median."""

    @property
    def spike_window(self) -> int:
        """Accepted steps looked at."""

    @property
    def update_norm_factor(self) -> float:
        """Of an update's norm, over the median."""

    @property
    def good_after_steps(self) -> int:
        """Steps after which a checkpoint is good."""


class Watch:
    """What the last steps were like, and what to make of the next. The same on every process, since its inputs are."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.losses: deque[float] = deque(maxlen=thresholds.spike_window)
        self.updates: deque[float] = deque(maxlen=thresholds.spike_window)
        self.suspicious_since: int | None = None  # the first of the last steps in a row that gave cause for concern
        self.bad_in_a_row = 0
        self.clean_since = 0  # the step behind the last one that was bad or suspicious
        self.accepted: deque[int] = deque(maxlen=thresholds.good_after_steps)  # the last steps that were applied
        self.rollbacks = 0  # since enough steps were clean
        self.shape: list[int] = []  # of the batches

    def verdict(self, loss: float, gradient_norm: float) -> str:
        """What is wrong with a step: 'not finite', 'spike', or nothing ('')."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return "not finite"
        limit = self.limit()
        return "spike" if limit is not None and loss > limit else ""

    def limit(self) -> float | None:
        """The loss above which a step is a spike; None before there are enough steps to tell."""
        if not self.thresholds.spike_deviations or len(self.losses) < min(LEAST, self.thresholds.spike_window):
            return None
        middle, spread = robust(self.losses)
        return middle + max(self.thresholds.spike_deviations * spread, SMALLEST_RISE)

    def reject(self, step: int) -> None:
        """A bad step: not applied, and in no window."""
        self.bad_in_a_row += 1
        self.clean_since = step + 1
        if self.suspicious_since is None:
            self.suspicious_since = step

    def accept(self, step: int, loss: float, update_norm: float) -> bool:
        """An applied step; whether its update was suspiciously large."""
        self.bad_in_a_row = 0
        factor = self.thresholds.update_norm_factor
        enough = len(self.updates) >= min(LEAST, self.thresholds.spike_window)
        large = bool(factor) and enough and update_norm > factor * statistics.median(self.updates)
        self.losses.append(loss)
        self.accepted.append(step)
        if self.is_good(0):
            self.rollbacks = 0
        if large:
            self.clean_since = step + 1
            if self.suspicious_since is None:
                self.suspicious_since = step
        else:
            self.suspicious_since = None
        self.updates.append(update_norm)  # a median bears some odd ones, and a new level must become the usual one
        return large

    def meet(self, shape: list[int]) -> None:
        """A step's batch comes, of so many sequences and tokens: where its shape is another, so are losses and updates."""
        if shape != self.shape:
            self.losses.clear()
            self.updates.clear()
            self.shape = shape

    def is_good(self, checkpoint_step: int) -> bool:
        """Whether enough steps were applied since a checkpoint, all of them clean."""
        enough = len(self.accepted) == self.accepted.maxlen
        return enough and self.accepted[0] >= max(checkpoint_step, self.clean_since)

    def text(self) -> str:
        """All of it as JSON, for a checkpoint."""
        state = {name: list(v) if isinstance(v, deque) else v for name, v in vars(self).items() if name != "thresholds"}
        return json.dumps(state)

    def read(self, text: str) -> None:
        """Take up what `text` gave."""
        for name, value in json.loads(text).items() if text else ():
            kept = getattr(self, name)
            setattr(self, name, deque(value, maxlen=kept.maxlen) if isinstance(kept, deque) else value)


def robust(values: Sequence[float] | deque[float]) -> tuple[float, float]:
    """Median, and a standard deviation from differences of neighbours; both blind to a few values however large."""
    return statistics.median(values), TO_SIGMA * statistics.median(abs(b - a) for a, b in itertools.pairwise(values))


@torch.no_grad()
def update_norms(optimizer: torch.optim.Optimizer, parameters: Sequence[tuple[str, torch.nn.Parameter]]) -> list[float]:
    """Squared norm of AdamW's last update of each parameter, without learning rate and decay: of m / (sqrt(v) + epsilon)."""
    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    squares = []
    for _, parameter in parameters:
        found = optimizer.state[parameter]
        n = float(found["step"])
        scale = found["exp_avg_sq"].sqrt().div_(math.sqrt(1 - beta2**n)).add_(group["eps"])
        update = found["exp_avg"] / scale
        squares.append(update.norm(dtype=None if update.device.type == "mps" else torch.float64) / (1 - beta1**n))
    return [v * v for v in torch.stack(squares).tolist()]


def add_range(ranges: Sequence[Range], first: int, end: int) -> list[Range]:
    """Ranges of steps with one more, in order; those that touch are made one."""
    merged: list[Range] = []
    for low, high in sorted([*ranges, (first, end)]):
        if merged and low <= merged[-1][1]:
            low, high = merged[-1][0], max(merged.pop()[1], high)
        merged.append((low, high))
    return merged


def is_in(ranges: Sequence[Range], step: int) -> bool:
    """Whether a step's data are passed over."""
    return any(first <= step < end for first, end in ranges)


def read_skips(out: Output) -> list[Range]:
    """The ranges that were passed over so far."""
    file = out.path / SKIPS
    return [(int(first), int(end)) for first, end in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []


def write_skips(out: Output, ranges: Sequence[Range]) -> None:
    """Keep them at once: the next checkpoint may be far."""
    with out.write(SKIPS) as path:
        path.write_text(json.dumps(ranges) + "\n", encoding="utf-8")


class Leaving:
    """Whether a scheduler has asked this process to leave (SIGTERM)."""

    asked = False


@contextmanager
def leaving() -> Iterator[Leaving]:
    """Catch SIGTERM, which a scheduler sends some time before it kills: the step at hand is finished first."""
    found = Leaving()

    def note(number: int, frame: FrameType | None) -> None:
        found.asked = True

    try:
        before: Any = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not the main thread
        yield found
        return
    try:
        yield found
    finally:
        signal.signal(signal.SIGTERM, before)


def mark_good(checkpoint: Path) -> None:
    """Say of a checkpoint that the steps after it were clean."""
    (checkpoint / "good").touch()


def is_marked_good(checkpoint: Path) -> bool:
    """Whether the steps after a checkpoint were clean."""
    return (checkpoint / "good").exists()

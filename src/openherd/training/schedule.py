"""Learning rates by step (paper 3.4). Pure functions; step 0 is the first."""

import math


def warmup_cosine(step: int, *, peak: float, floor: float, warmup_steps: int, decay_steps: int) -> float:
    """Linear warm-up from 0 to `peak`, then a cosine that reaches `floor` at `decay_steps` (paper 3.4.1)."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = min((step - warmup_steps) / max(decay_steps - warmup_steps, 1), 1.0)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))


def linear_to_zero(step: int, *, peak: float, steps: int) -> float:
    """From `peak` at step 0 down to peak / steps at the last step: zero would waste it (paper 3.4.3)."""
    return peak * (1 - step / steps)

"""Loss scaling for fp16, where a device has no bf16 (the tutorial's; the paper computes in bf16, which needs none).

fp16 ends at 6e-8 below and 65,504 above: the loss is multiplied before the way back, so that small gradients do not vanish, and the
gradients are divided again, in fp32, when they are clipped. Every scale is a power of two, so that this alone changes no bit of a
gradient in fp32. An overflow, which is a finite loss with a gradient that is not, halves the scale; many good steps double it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# First scale and the steps to its doubling are those of torch's GradScaler, the lowest scale is Megatron's, the highest ours.
FIRST, LOWEST, HIGHEST = 2.0**16, 1.0, 2.0**32
DOUBLED_AFTER = 2_000


@dataclass
class LossScale:
    """The scale of the next step; it follows from the gradient norms before it, which all processes know alike."""

    value: float = 1.0
    good_steps: int = 0  # since the scale last changed
    moves: bool = False  # False stays at its value

    @classmethod
    def of(cls, precision: str) -> "LossScale":
        """The one that a precision begins with."""
        return cls(FIRST, moves=True) if precision == "float16" else cls()

    def after(self, loss_is_finite: bool, gradient_norm: float) -> bool:
        """Take in how a step came out; returns whether it was an overflow that a lower scale may mend."""
        if not self.moves or not loss_is_finite:
            return False
        if not math.isfinite(gradient_norm):
            may_fall = self.value > LOWEST
            self.value, self.good_steps = max(self.value / 2, LOWEST), 0
            return may_fall
        self.good_steps += 1
        if self.good_steps == DOUBLED_AFTER:
            self.value, self.good_steps = min(self.value * 2, HIGHEST), 0
        return False

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: nothing where the scale does not move."""
        return {"loss_scale": self.value, "good_steps": self.good_steps} if self.moves else {}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's values."""
        if self.moves:
            self.value, self.good_steps = float(state["loss_scale"]), int(state["good_steps"])

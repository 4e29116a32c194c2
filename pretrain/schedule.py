"""The learning rate of every step: a pure function of the step, counted in full batches."""

import math
from dataclasses import dataclass

_SHAPES = ("cosine", "wsd", "constant")


@dataclass(frozen=True)
class ScheduleConfig:
    """A warm-up, a shape and a floor."""

    shape: str = "cosine"
    peak: float = 6e-4
    warmup_steps: int = 700
    final_fraction: float = 0.1  # of the peak, reached at the last step
    # wsd: length of the decay at the end; None is a fifth of the run. cosine: the step that reaches the
    # floor, as GPT-3 does before its end; None is the last.
    decay_steps: int | None = None

    def __post_init__(self) -> None:
        if self.shape not in _SHAPES:
            raise ValueError(f"schedule.shape {self.shape!r} is not one of: {', '.join(_SHAPES)}")
        if not 0 < self.peak < 1:
            raise ValueError(f"schedule.peak {self.peak} is not between 0 and 1; GPT-2 124M uses 6e-4")
        if self.warmup_steps < 0:
            raise ValueError(f"schedule.warmup_steps {self.warmup_steps} is negative")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"schedule.final_fraction {self.final_fraction} is not between 0 and 1")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ValueError(f"schedule.decay_steps {self.decay_steps} must be at least 1, or null")


def learning_rate(step: float, total_steps: float, schedule: ScheduleConfig) -> float:
    """Return the learning rate with which step `step` (from 0) of `total_steps` updates the weights.

    Where the batch grows, both are fractions: full steps of as many tokens (BatchSizes.in_full).

    cosine: Loshchilov & Hutter, SGDR, 2017, as in nanoGPT. wsd: constant, then a linear decay
    (Hu et al., MiniCPM, 2024, section 4; linear as in Hägele et al., 2024).
    """
    if step < schedule.warmup_steps:
        return schedule.peak * (step + 1) / schedule.warmup_steps
    floor = schedule.peak * schedule.final_fraction
    if schedule.shape == "constant":
        return schedule.peak
    if schedule.shape == "wsd":
        decay = schedule.decay_steps or max(1, total_steps // 5)
        left = min(1.0, (total_steps - step) / decay)
        return floor + (schedule.peak - floor) * left
    end = schedule.decay_steps or total_steps
    done = (step - schedule.warmup_steps) / max(1, end - schedule.warmup_steps)
    return floor + (schedule.peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

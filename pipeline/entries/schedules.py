"""Schedules of the learning rate: one entry each, a factor on every learning rate."""

import math
from collections.abc import Callable
from typing import Any

Schedule = Callable[[Any, int], float]
"""Of a `RunConfig`: the factor at the update after so many updates. The first update already moves."""


def cosine(c: Any, step: int) -> float:
    """Linear warm-up, then cosine to `lr_min_ratio`: 1 / warmup_steps of the peak at first, `lr_min_ratio` of it at
    last."""
    if step < c.warmup_steps:
        return float((step + 1) / c.warmup_steps)
    progress = min(1.0, (step - c.warmup_steps) / max(1, c.steps - 1 - c.warmup_steps))
    return float(c.lr_min_ratio + (1 - c.lr_min_ratio) * (1 + math.cos(math.pi * progress)) / 2)


SCHEDULES: dict[str, Schedule] = {"cosine": cosine}

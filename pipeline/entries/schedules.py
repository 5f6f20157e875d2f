"""Schedules of the learning rate: one entry each, a factor on every learning rate, after a linear warm-up."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DECAY_SHAPES: dict[str, Callable[[float], float]] = {"linear": lambda x: 1 - x, "sqrt": lambda x: 1 - math.sqrt(x)}
"""How the decay of wsd goes from 1 to 0 over x from 0 to 1, by their `--decay_shape` names."""


@dataclass(frozen=True)
class Schedule:
    """A schedule, by its `--schedule` name. Its functions take a `RunConfig`."""

    name: str
    settings: frozenset[str]
    """Beside `warmup_steps`."""
    first: Callable[[Any, int], int]
    """Of a run of so many steps the update, counted from 0, before which nothing decays."""
    shape: Callable[[Any, float], float]
    """From 1 to 0 over a progress from 0 to 1: what of the way to `lr_min_ratio` is left."""
    whole: bool = True
    """Whether progress is 0 at the update `first`; else it is still one step away there."""

    def factor(self, c: Any, step: int) -> float:
        """At the update after so many updates: the first one moves already, by 1 / warmup_steps of the peak, and the
        last one by `lr_min_ratio` of it."""
        if step < c.warmup_steps:
            return float((step + 1) / c.warmup_steps)
        start = max(self.first(c, c.steps), c.warmup_steps)
        if step < start:
            return 1.0
        done, steps = (step - start, c.steps - 1 - start) if self.whole else (step + 1 - start, c.steps - start)
        return float(c.lr_min_ratio + (1 - c.lr_min_ratio) * self.shape(c, min(1.0, done / max(1, steps))))


_TO_THE_END = frozenset({"lr_min_ratio"})

SCHEDULES: dict[str, Schedule] = {
    entry.name: entry
    for entry in (
        Schedule("cosine", _TO_THE_END, lambda c, _: int(c.warmup_steps), lambda c, x: (1 + math.cos(math.pi * x)) / 2),
        Schedule("linear", _TO_THE_END, lambda c, _: int(c.warmup_steps), lambda c, x: 1 - x),
        Schedule(
            "wsd",  # warm-up, constant, decay over the last share of the steps (Hagele et al. 2024)
            _TO_THE_END | {"decay_fraction", "decay_shape"},
            lambda c, steps: steps - int(c.decay_fraction * steps),
            lambda c, x: DECAY_SHAPES[c.decay_shape](x),
            whole=False,
        ),
        Schedule("constant", frozenset(), lambda c, steps: steps, lambda c, x: 1.0),
    )
}

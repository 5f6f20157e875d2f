"""Stop-and-branch: how far runs that differ in their number of steps alone are one and the same."""

from typing import Any

from pipeline.entries.schedules import SCHEDULES


def shared_steps(c: Any, steps: int) -> int:
    """The steps, warm-up and constant learning rate, with which a `RunConfig` and the same run of fewer `steps` begin;
    0 where there are none beyond warm-up, or where what they do depends on how many will follow.

    The shorter run's last step, which is always validated, is not among them.
    """
    of_horizon = c.steps_scaling != "none" or c.weight_decay_scaling == "timescale" or c.stop_after is not None
    if of_horizon or steps >= c.steps:
        return 0
    shared = min(SCHEDULES[c.schedule].first(c, steps), steps - 1)
    return shared if shared > c.warmup_steps else 0

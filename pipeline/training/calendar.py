"""The calendar of a run, after which steps it is validated, recorded and saved, and the clock of its training."""

import time

from pipeline.config import RunConfig


class Calendar:
    """What follows step 1, 2, ... of a run. Checkpoints also follow every so many minutes."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.saved()

    def validates(self, step: int) -> bool:
        return step == self.config.last_step or step % self.config.val_interval == 0

    def records(self, step: int) -> bool:
        """Whether there is a record of this step whatever is measured inside the model."""
        return step == 1 or step % self.config.log_interval == 0 or self.validates(step)

    def saves(self, step: int) -> bool:
        if step == self.config.last_step:
            return self.config.keep_checkpoint  # the result follows at once
        return step % self.config.checkpoint_interval == 0

    def saved(self) -> None:
        """There is a checkpoint now, or no need of one: the minutes count from here."""
        self._saved_at = time.monotonic()

    def minutes_are_up(self) -> bool:
        minutes = self.config.checkpoint_minutes
        return minutes is not None and time.monotonic() - self._saved_at > 60 * minutes


class Clock:
    """Training time of a run, over all its processes in turn."""

    before = 0.0
    """Seconds trained before this process."""
    _start: float | None = None

    def start(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + (time.monotonic() - self._start if self._start is not None else 0.0)

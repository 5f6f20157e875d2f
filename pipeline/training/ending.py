"""The ending of a run: how it came to it, and the departure from the stable region that may bring it about early."""

import math
from dataclasses import dataclass

from pipeline.config import RunConfig
from pipeline.entries.losses import LOSSES
from pipeline.run.result import Record, Status
from pipeline.training.calendar import Calendar

ABOVE = 1.1  # times the first loss, or that of guessing: above lies what left the stable region


@dataclass
class Ending:
    """What ended a run before its last step, if anything has."""

    diverged_at: int | None = None
    """The first step whose loss is not finite."""
    aborted: bool = False
    """It had left the stable region."""
    interrupted: bool = False
    """Somebody asked it to stop; it is to be continued."""

    @property
    def status(self) -> Status:
        """Of a run that is not interrupted."""
        return "diverged" if self.diverged_at is not None else "aborted" if self.aborted else "completed"

    @property
    def early(self) -> bool:
        return self.interrupted or self.status != "completed"


class Departure:
    """Counts the regular records in a row, after warm-up, with a loss that only what has left the stable region has.

    What learns too slowly hovers about its first loss, or about that of guessing; what has left lies well above.
    """

    def __init__(self, config: RunConfig, calendar: Calendar) -> None:
        self.config, self.calendar = config, calendar
        self._bound: float | None = None
        self._above = 0

    def see(self, record: Record) -> None:
        """The next record of the run, from its first on."""
        if not self.calendar.records(record.step):
            return
        loss, c = record.loss, self.config
        if self._bound is None:
            guessing = LOSSES[c.loss].of_guessing(c.d_out)
            self._bound = ABOVE * max(loss if loss is not None else math.inf, guessing)
        above = record.step > c.warmup_steps and not (loss is not None and loss <= self._bound)
        self._above = self._above + 1 if above else 0

    @property
    def certain(self) -> bool:
        """Whether there were as many as `--abort_after` says."""
        return self.config.abort_after is not None and self._above >= self.config.abort_after

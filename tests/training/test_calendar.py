"""The calendar of a run: what follows which step, and checkpoints by the clock."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.training.calendar import Calendar, Clock
from pipeline.training.checkpoint import state
from pipeline.training.recorder import Recorder
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.runs import at_step


def test_the_clock_makes_checkpoints_too(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = state.files.publish

    def publish(scratch: Path, step: int, *args: Any) -> Path:
        made.append(step)
        return original(scratch, step, *args)

    monkeypatch.setattr(state.files, "publish", publish)
    train(changed(tiny, checkpoint_interval=1000, checkpoint_minutes=1e-9, study="often"))
    assert made == list(range(1, 13))
    for minutes in (60.0, None):
        made.clear()
        train(changed(tiny, checkpoint_interval=5, checkpoint_minutes=minutes, study=f"clock-{minutes}"))
        assert made == [5, 10, 12]
    made.clear()

    def two_minutes_later(recorder: Recorder, trainer: Any) -> None:
        recorder.calendar._saved_at -= 120

    at_step(3, two_minutes_later, monkeypatch)
    train(changed(tiny, checkpoint_interval=1000, checkpoint_minutes=1.5, study="late"))
    assert made == [4, 12], "the clock starts anew with every checkpoint"


def test_what_follows_which_step(tiny: RunConfig) -> None:
    calendar = Calendar(changed(tiny, steps=11, val_interval=4, log_interval=3, checkpoint_interval=5))
    steps = range(1, 12)
    assert [step for step in steps if calendar.validates(step)] == [4, 8, 11]
    assert [step for step in steps if calendar.records(step)] == [1, 3, 4, 6, 8, 9, 11]
    assert [step for step in steps if calendar.saves(step)] == [5, 10, 11]
    unkept = Calendar(changed(tiny, steps=10, checkpoint_interval=5, keep_checkpoint=False))
    assert [step for step in range(1, 11) if unkept.saves(step)] == [5], "the last would be deleted at once"


def test_the_minutes_count_from_the_last_checkpoint(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.training.calendar.time.monotonic", lambda: now[0])
    calendar, never = Calendar(changed(tiny, checkpoint_minutes=2.0)), Calendar(tiny)
    for seconds, up in ((120.0, False), (0.5, True), (0.5, True)):
        now[0] += seconds
        assert (calendar.minutes_are_up(), never.minutes_are_up()) == (up, False)
    calendar.saved()
    now[0] += 120
    assert not calendar.minutes_are_up()


def test_the_clock_goes_on_from_what_was_trained_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("pipeline.training.calendar.time.monotonic", lambda: now[0])
    clock = Clock()
    clock.before = 7.5
    now[0] += 10
    assert clock.seconds == 7.5, "before it is started it stands"
    clock.start()
    now[0] += 2
    assert clock.seconds == 9.5

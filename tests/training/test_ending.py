"""Runs that have left the stable region may be ended early; those that only learn slowly never."""

import dataclasses
import math
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.run.directory import RunDir
from pipeline.run.result import Record
from pipeline.training.calendar import Calendar
from pipeline.training.ending import Departure, Ending
from pipeline.training.recorder import Recorder
from pipeline.training.trainer import train
from tests.conftest import changed

FAR = {"lr": 3.0, "warmup_steps": 1}  # leaves, and stays finite


def test_a_run_that_left_is_aborted(tiny: RunConfig) -> None:
    gone = changed(tiny, **FAR, steps=60, abort_after=10)
    result = train(gone)
    records = RunDir(gone.run_dir).records()
    assert result.status == "aborted"
    assert all(r["loss"] > 1.1 * records[0]["loss"] for r in records[-10:])
    assert result.steps == records[-1]["step"] < 40
    assert (result.final["final_train_loss"], result.diverged_at) == (None, None)
    assert str(result) == f"aborted at step {result.steps}: the training loss stayed well above its first value"
    assert train(gone) == result, "it counts as finished"
    patient = dataclasses.replace(gone, abort_after=None, study="patient")
    assert train(patient).status == "completed"
    assert patient.run_name == gone.run_name


def test_resuming_remembers_how_long_it_has_been_gone(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = changed(tiny, **FAR, steps=60, abort_after=20, checkpoint_interval=4)
    undisturbed = dataclasses.replace(gone, study="undisturbed")
    train(undisturbed)
    original = Recorder.on_train_batch_end

    def crash(self: Recorder, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == 14:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "on_train_batch_end", crash)
        with pytest.raises(KeyboardInterrupt):
            train(gone)
    result, expected = train(gone), RunDir(undisturbed.run_dir).result()
    assert (result.status, result.steps) == (expected.status, expected.steps) == ("aborted", result.steps)


def test_slow_learning_is_no_departure(tiny: RunConfig) -> None:
    """At a learning rate that changes nothing the loss stays where it began, above the first batch's half of the
    time."""
    slow = changed(tiny, lr=1e-9, steps=100, abort_after=3)
    result = train(slow)
    losses = [r["loss"] for r in RunDir(slow.run_dir).records()]
    assert result.status == "completed"
    assert any(min(losses[i : i + 3]) > losses[0] for i in range(90)), "or the test says nothing"
    assert math.isclose(sum(losses) / 100, math.log(300), rel_tol=0.05)


# ---------------------------------------------------------------------------------------------------------------------
# One record after the other


def departed_at(config: RunConfig, losses: list[float | None]) -> int | None:
    """The step whose record made it certain."""
    departure = Departure(config, Calendar(config))
    for step, loss in enumerate(losses, 1):
        departure.see(Record(step=step, loss=loss))
        if departure.certain:
            return step
    return None


def test_the_bound_is_that_of_the_first_loss_or_of_guessing(tiny: RunConfig) -> None:
    config, guessing = changed(tiny, steps=100, warmup_steps=2, abort_after=3), math.log(300)
    for first, bound in ((guessing - 1, 1.1 * guessing), (guessing + 1, 1.1 * (guessing + 1))):
        assert departed_at(config, [first, *[bound + 1e-6] * 9]) == 5, "three records after the second step"
        assert departed_at(config, [first, *[bound - 1e-6] * 9]) is None
    squared = changed(config, loss="mse", z_loss=0.0)
    assert departed_at(squared, [1.0, *[1.2] * 9]) == 5, "guessing has no loss of its own there"


def test_it_has_to_stay_above(tiny: RunConfig) -> None:
    config = changed(tiny, steps=100, warmup_steps=0, abort_after=3)
    assert departed_at(config, [5.7, 9.0, 9.0, 5.0, 9.0, None, 9.0]) == 7, "a loss that is not finite is above"
    assert departed_at(config, [5.7, 9.0, 9.0, 5.0, 9.0, 9.0, 5.0]) is None
    assert departed_at(changed(config, abort_after=None), [5.7, *[9.0] * 50]) is None


def test_records_made_for_a_measurement_do_not_count(tiny: RunConfig) -> None:
    """Else the same run, diagnosed more often, would end earlier."""
    config = changed(tiny, steps=100, warmup_steps=0, log_interval=10, val_interval=50, abort_after=3)
    assert departed_at(config, [5.7, *[9.0] * 60]) == 30


def test_what_ended_a_run() -> None:
    assert (Ending().status, Ending().early) == ("completed", False)
    assert (Ending(diverged_at=3).status, Ending(diverged_at=3).early) == ("diverged", True)
    assert (Ending(aborted=True).status, Ending(aborted=True).early) == ("aborted", True)
    assert Ending(interrupted=True).early

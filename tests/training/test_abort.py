"""Runs that have left the stable region may be ended early; those that only learn slowly never."""

import dataclasses
import math
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.run.directory import RunDir
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
    result, expected = train(gone), RunDir(undisturbed.run_dir).result() or {}
    assert (result.status, result.steps) == (expected.status, expected.steps) == ("aborted", result.steps)


def test_slow_learning_is_no_departure(tiny: RunConfig) -> None:
    """At a learning rate that changes nothing the loss stays where it began, above the first batch's half of the time."""
    slow = changed(tiny, lr=1e-9, steps=100, abort_after=3)
    result = train(slow)
    losses = [r["loss"] for r in RunDir(slow.run_dir).records()]
    assert result.status == "completed"
    assert any(min(losses[i : i + 3]) > losses[0] for i in range(90)), "or the test says nothing"
    assert math.isclose(sum(losses) / 100, math.log(300), rel_tol=0.05)

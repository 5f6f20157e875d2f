"""What a sweep says while it goes, where there is no terminal."""

import time
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.processes import Task
from pipeline.run.directory import RunDir
from pipeline.sweep.grid import grid
from pipeline.sweep.launch import shown
from pipeline.sweep.launch.shown import Shown, expected
from tests.support.studies import finish, study


def test_running_runs_are_spoken_of_when_nothing_was_said_for_long(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid(study(tiny))
    pending = {Task(print, run): run for run in runs}
    for task, run in list(pending.items())[:2]:
        task.started = time.monotonic()
        RunDir(run.run_dir).create(run, "text")
    RunDir(runs[0].run_dir).metrics_file.write_text('{"step": 7, "loss": 2.0}\n{"step": 8, "lo')
    said = Shown(study(tiny), 4, 2)
    said.refresh(pending)
    assert capsys.readouterr().out == "", "too early"
    monkeypatch.setattr(said, "pause", 0.0)
    said.refresh(pending)
    names = [f"sp width {run.width} lr {run.lr:.3g} seed 0 step" for run in runs[:2]]
    assert capsys.readouterr().out == f"[0/4] running: {names[0]} 7/12, {names[1]} 0/12\n"
    said.close()


def test_what_a_sweep_is_to_take_is_said_first(tiny: RunConfig, tmp_path: Path) -> None:
    config = study(tiny)
    runs = grid(config)
    tokens = sum(run.total_tokens for run in runs)
    (line,) = expected(config, runs, runs)
    assert line.startswith(f"to train: 4 runs, {tokens:,} tokens; how long is said when the first has ended")
    for run in runs[:3]:
        finish(run, seconds=600.0)
    (line,) = expected(config, runs, runs[3:])
    assert line.startswith(f"to train: 1 run, {tokens // 4:,} tokens; about ")
    assert time.strftime(", until %Y-") in line
    assert not list(expected(config, runs, []))
    assert shown.FIRST_PAUSE < shown.LONGEST_PAUSE

"""What a study takes, before it runs and while it does."""

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.config import RunConfig
from pipeline.models.build import build, parameter_count
from pipeline.run.directory import RunDir
from pipeline.sweep.grid import cost, grid
from pipeline.sweep.launch import forecast
from pipeline.sweep.launch.local import narrow_first, run_study
from pipeline.sweep.status import PLANNED, look, remember
from pipeline.sweep.throughput import measured
from pipeline.training.describe import size
from tests.conftest import changed
from tests.support.studies import finish, study


def test_cheap_runs_come_first_and_then_the_expensive_ones(tiny: RunConfig) -> None:
    runs = grid(study(tiny, widths=(32, 64, 128), lrs=(1e-3, 3e-3, 1e-2)))
    ordered = narrow_first(runs, workers=2)
    assert sorted(map(repr, ordered)) == sorted(map(repr, runs)), "each once"
    assert [run.width for run in ordered] == [32, 32, 128, 128, 128, 64, 64, 64, 32]
    assert ordered[0].lr == 3e-3, "the middle"
    assert [run.width for run in narrow_first(runs, workers=9)] == [128] * 3 + [64] * 3 + [32] * 3
    assert narrow_first([], workers=2) == []


def test_the_pace_is_that_of_finished_runs(tiny: RunConfig) -> None:
    config = study(tiny)
    runs = grid(config)
    assert measured(runs) is None
    other = changed(tiny, study="other", width=64, devices=1)
    finish(other, seconds=50.0)
    beside = measured(runs)
    assert beside is not None
    assert beside.source == f"by 1 finished run of other studies in {tiny.out}"
    wide, narrow = runs[0], runs[-1]
    assert beside.seconds(wide) == pytest.approx(50.0)
    assert beside.seconds(narrow) == pytest.approx(50.0 * cost(narrow) / cost(wide))
    finish(narrow, seconds=7.0)
    own = measured(runs)
    assert own is not None
    assert (own.source, own.seconds(narrow)) == ("by 1 finished run of this study", pytest.approx(7.0))
    finish(wide, status="diverged", seconds=1.0)
    assert measured(runs) == own, "a run that ended early says nothing"
    mlp = dataclasses.replace(other, study="mlps")
    assert measured([dataclasses.replace(mlp, precision="bf16-mixed")]) is None, "another kind of run"


def test_the_table_adds_up(tiny: RunConfig) -> None:
    config = study(tiny)
    runs = grid(config)
    finish(runs[-1], seconds=36.0)
    head, narrow, wide, total, *notes = forecast.lines(runs, workers=2)
    names = head.split("  ")
    assert "device-hours" in names[-1]
    assert narrow.split()[:3] == ["32", "2", "1"]
    assert wide.split()[:4] == ["64", "2", "2", f"{parameter_count(build(runs[0])[0]):,}"]
    assert total.split()[:3] == ["all", "4", "3"]
    pace = measured(runs)
    assert pace is not None
    hours = [float(line.split()[-1]) for line in (narrow, wide, total)]
    assert hours[0] == pytest.approx(36 / 3600, rel=1e-2)
    assert sum(hours[:2]) == pytest.approx(hours[2], rel=1e-2)
    assert "by 1 finished run of this study" in notes[-1]
    assert "--calibrate" in list(forecast.lines([changed(run, study="new", out="none") for run in runs], 2))[-1]


@pytest.mark.slow
def test_a_run_leaves_about_what_was_said(tiny: RunConfig) -> None:
    run_study(study(tiny, widths=(64,), lrs=(1e-2,), workers=1), [run := changed(tiny, width=64)])
    assert RunDir(run.run_dir).result() is not None
    left = sum(path.stat().st_size for path in Path(run.run_dir).rglob("*") if path.is_file() and not path.is_symlink())
    assert size(run).disk == pytest.approx(left, rel=0.25)
    result = RunDir(run.run_dir).result()
    assert result is not None
    assert result.parameters == size(run).parameters


def test_a_calibration_measures_and_leaves_nothing(tiny: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = study(tiny, widths=(32,))
    *_, note = forecast.lines(grid(config), 1, calibrated=True)
    assert "measured now" in note
    assert not Path(tiny.out).exists()
    assert capsys.readouterr() == ("", "")


def test_status_knows_the_plan(tiny: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = study(tiny, grid={"model.n_layer": (1, 2)})
    runs = grid(config)
    config.study_dir.mkdir(parents=True)
    remember(config, runs, 2, {})
    finish(runs[0], seconds=10.0)
    status = look(config.study_dir)
    assert [run.state for run in status.runs].count("planned") == 7
    text = str(status)
    assert "planned" in text
    assert [line.split()[:3] for line in text.splitlines()[2:6]] == [
        ["model.n_layer", "1", "32"], ["model.n_layer", "1", "64"], ["model.n_layer", "2", "32"], ["model.n_layer", "2", "64"],
    ]  # fmt: skip
    assert status.seconds_left is None, "nothing is running"
    RunDir(runs[1].run_dir).create(runs[1], "text")
    with RunDir(runs[1].run_dir).lock():
        left = look(config.study_dir).seconds_left
    units = sum(map(cost, runs[1:]))
    assert left == pytest.approx(10.0 / cost(runs[0]) * units / 2)
    (config.study_dir / PLANNED).write_text("{")
    assert main(["sweep", "status", str(config.study_dir)]) == 2
    assert f"{PLANNED} is damaged" in capsys.readouterr().err


def test_ls_lists_studies(tiny: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    for name, loss in (("a", 2.0), ("b", 3.0)):
        for width in (32, 64):
            finish(
                run := changed(tiny, study=name, width=width),
                final={"final_train_loss": loss + width / 64, "final_val_loss": 1.0},
            )
    RunDir(changed(tiny, study="b", width=96).run_dir).create(changed(tiny, study="b", width=96), "text")
    assert main(["ls", tiny.out, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["runs"], first["states"], first["widths"]) == (2, {"finished": 2}, [32, 64])
    assert (first["best_run"], first["best_loss"]) == (changed(tiny, study="a").run_name, 2.5)
    assert (second["runs"], second["states"]) == (3, {"finished": 2, "lost": 1})
    assert first["bytes"] == sum(path.stat().st_size for path in (Path(tiny.out) / "a").rglob("*") if path.is_file())
    assert main(["ls", str(Path(tiny.out) / "b")]) == 0
    assert "2 finished, 1 lost" in capsys.readouterr().out
    assert run.run_name

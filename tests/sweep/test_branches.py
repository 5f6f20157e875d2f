"""Studies whose runs share their constant phase: who leaves what, what it saves, and real workers that do it."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.run.directory import RunDir
from pipeline.sweep.branches import branches, own, shared
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import cost, grid
from pipeline.sweep.launch import forecast, local
from pipeline.sweep.launch.shown import expected
from pipeline.sweep.launch.slurm import launch as slurm
from pipeline.sweep.status import look, remember
from pipeline.sweep.study import Planned
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.studies import finish, study
from tests.sweep.launch.test_local import start_sweep, wait_for
from tests.training.test_branches import alone, starts
from tests.training.test_trainer import curve, start_cli


@pytest.fixture
def horizons(tiny: RunConfig) -> SweepConfig:
    """Two widths, two learning rates, three horizons; a quarter decays."""
    return study(changed(tiny, schedule="wsd", decay_fraction=0.25), grid={"steps": (8, 20, 40)})


def of_steps(runs: list[RunConfig], steps: int) -> list[RunConfig]:
    return [run for run in runs if run.steps == steps]


def test_the_longest_of_runs_that_differ_in_steps_leaves_the_others(horizons: SweepConfig) -> None:
    asked = grid(horizons)
    runs, known = branches(asked)
    assert sorted(run.run_name for run in runs) == sorted(run.run_name for run in asked)
    assert [run.branch_steps for run in of_steps(runs, 40)] == [(8, 20)] * 4
    assert all(run.branch_steps == () for run in runs if run.steps < 40)
    assert {run.steps: branch.step for run, branch in known.items()} == {8: 6, 20: 15}
    for run, branch in known.items():
        assert dataclasses.replace(branch.of, steps=run.steps, branch_steps=()) == run
        assert branch.of in runs
    assert own(of_steps(runs, 20)[0], known) == 0.25
    assert own(of_steps(runs, 40)[0], known) == 1


def test_a_run_that_is_further_leaves_nothing_and_what_has_begun_goes_on(horizons: SweepConfig) -> None:
    runs = [run for run in grid(horizons) if run.width == 32 and run.lr == 1e-2]
    long, middle, short = (of_steps(runs, steps)[0] for steps in (40, 20, 8))
    (RunDir(long.run_dir).checkpoints / "step-00000010.ckpt").mkdir(parents=True)
    _, known = branches(runs)
    assert {run.steps: branch.of.steps for run, branch in known.items()} == {20: 40}, "8 steps are over at 10"
    (RunDir(middle.run_dir).checkpoints / "step-00000002.ckpt").mkdir(parents=True)
    runs, known = branches([long, middle, short])
    assert {run.steps: branch.of.steps for run, branch in known.items()} == {8: 20}, "the next longer one does"
    assert of_steps(runs, 20)[0].branch_steps == (8,)
    assert branches([middle, short])[1].keys() == {short}, "of those that are to be trained"


@pytest.mark.parametrize(
    "change",
    [
        {"schedule": "cosine", "decay_fraction": 0.1},
        {"steps_scaling": "power", "base_steps": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_studies_are_as_they_were(horizons: SweepConfig, change: dict[str, object]) -> None:
    runs, known = branches(grid(dataclasses.replace(horizons, **change)))
    assert not known
    assert not list(shared(runs, known))
    assert not any(run.branch_steps for run in runs)


def test_what_is_saved_is_said_and_counted(horizons: SweepConfig, capsys: pytest.CaptureFixture[str]) -> None:
    asked = grid(horizons)
    whole = sum(map(cost, asked))
    saved = sum(cost(run) * part for steps, part in ((8, 6 / 8), (20, 15 / 20)) for run in of_steps(asked, steps))
    said = (
        "8 runs branch off longer ones where the decay begins, the same bit for bit: "
        f"{100 * saved / whole:.0f} % of the compute is shared"
    )
    local.dry_run(horizons, Planned(tuple(asked)))
    assert capsys.readouterr().out == f"{said}\n"
    lines = list(expected(horizons, asked, asked))
    assert lines[0] == said
    assert lines[1].startswith(f"to train: 12 runs, {4 * 64 * (40 + 2 + 5):,} tokens")
    for run in of_steps(asked, 40):
        finish(run, seconds=40.0 * cost(run) / cost(of_steps(asked, 40)[0]))
    rest = [line.split() for line in forecast.lines(asked, 1)]
    hours = [float(next(row for row in rest if row[0] == name)[-1]) for name in ("32", "64")]
    alone = [
        float(next(row for row in map(str.split, forecast.lines(asked, None)) if row[0] == n)[-1]) for n in ("32", "64")
    ]
    # the 20 steps leave the 8 now, and are whole themselves
    assert [one / other for one, other in zip(hours, alone, strict=True)] == pytest.approx([22 / 28] * 2, rel=0.02)


def test_through_slurm_each_trains_alone_and_that_is_said(horizons: SweepConfig, tmp_path: Path) -> None:
    from pipeline.sweep.launch.slurm.arrays import Survey

    said = slurm._summary(tmp_path, grid(horizons), Survey({}, {}, ()))
    assert said.endswith("12 to submit; each trains all of its steps: through SLURM none branches off a longer one")
    said = slurm._summary(tmp_path, grid(dataclasses.replace(horizons, grid={})), Survey({}, {}, ()))
    assert said.endswith("to submit")


def test_the_status_of_a_branch(horizons: SweepConfig) -> None:
    """Planned until somebody trains it; the other run's hours are not its own."""
    long = next(run for run in grid(horizons) if run.steps == 40)
    runs, known = branches([long, long.branch(20), long.branch(8)])
    branch = long.branch(8)
    train(dataclasses.replace(long, branch_steps=(8,)))
    remember(horizons, runs, 1, known)
    found = {run.steps: run for run in look(horizons.study_dir).runs}
    assert (found[8].state, found[8].step) == ("planned", 6)
    assert (found[20].state, found[20].step) == ("planned", 15)
    assert found[40].state == "finished"
    train(branch)
    (ended,) = (run for run in look(horizons.study_dir).runs if run.steps == 8)
    result, recorded = RunDir(branch.run_dir).result(), RunDir(branch.run_dir).recorded()["branched"]
    assert result is not None
    assert ended.state == "finished"
    assert 0 < ended.device_seconds == result.seconds - recorded["seconds"] < result.seconds


@pytest.mark.slow
def test_a_study_of_horizons_equals_its_runs_alone(horizons: SweepConfig, tmp_path: Path) -> None:
    """Two workers, one learning rate that diverges at once, a sweep that is killed where branches lie ready, and one
    branch that was lost."""
    config = dataclasses.replace(
        horizons, widths=(32,), lrs=(1e-2, 1e9), seeds=(0, 1), grid={"steps": (20, 40, 120)}, checkpoint_interval=50
    )
    process = start_sweep(config, tmp_path / "study.yaml")
    runs = grid(config)
    longest = [run for run in of_steps(runs, 120) if run.lr == 1e-2]
    wait_for(lambda: all(RunDir(run.run_dir).checkpoint_step() >= 50 for run in longest), process)
    process.kill()
    process.communicate()
    lost = longest[0].branch(20)
    shutil.rmtree(lost.run_dir)
    process = start_sweep(config, tmp_path / "study.yaml")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    for run in runs:
        there = alone(run)
        result = RunDir(run.run_dir).result()
        assert result is not None
        assert result.status == ("diverged" if run.lr == 1e9 else "completed")
        assert curve(run) == curve(there)
        if run.lr == 1e-2 and run.steps < 120 and run != lost:
            assert starts(run)[0] == {20: 15, 40: 30}[run.steps]
    assert starts(lost)[0] == 0


@pytest.mark.slow
def test_runs_of_two_processes_leave_branches_too(horizons: SweepConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(
        horizons, widths=(32,), lrs=(1e-2,), devices=2, strategy="ddp", micro_batch=1, grid={"steps": (8, 40)}
    )
    process = start_sweep(config, tmp_path / "study.yaml")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "1 run branches off longer ones" in output
    short = of_steps(grid(config), 8)[0]
    assert starts(short) == [6]
    there = changed(short, study="alone")
    process = start_cli(there, tmp_path / "alone.yaml")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert curve(short) == curve(there)

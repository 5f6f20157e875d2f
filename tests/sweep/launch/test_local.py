"""Studies on this machine: real workers, deaths, Ctrl-C, resuming."""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.config import RunConfig, run_settings
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import grid
from pipeline.sweep.launch import local
from pipeline.sweep.study import Planned, study_lock
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.studies import study
from tests.support.worker_processes import workers_of
from tests.training.test_trainer import curve


def start_sweep(config: SweepConfig, path: Path) -> subprocess.Popen[str]:
    axes = {"widths": config.widths, "lrs": config.lrs, "seeds": config.seeds, "params": config.params}
    settings = run_settings(config) | {name: list(values) for name, values in axes.items()}
    grid = {name: list(values) for name, values in config.grid.items()}
    path.write_text(yaml.safe_dump(settings | {"grid": grid, "workers": config.workers or 2}))
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "sweep", "--config", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition: object, process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_a_study_survives_a_workers_death_and_equals_its_runs_alone(tiny: RunConfig, tmp_path: Path) -> None:
    config = study(tiny, lrs=(1e-2, 1e9), steps=60, checkpoint_interval=10)
    process = start_sweep(config, tmp_path / "study.yaml")
    wide = next(run for run in grid(config) if run.width == 64 and run.lr == 1e-2)
    wait_for(lambda: len(RunDir(wide.run_dir).records()) > 15, process)
    killed = workers_of(process.pid)
    assert len(killed) == 2
    for worker in killed:
        os.kill(worker, signal.SIGKILL)
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert "a worker died (exit code -9); resuming sp-adamw-w64-lr1e-2" in output
    assert output.count("diverged: the training loss was not finite at step") == 2
    for run in grid(config):
        assert getattr(RunDir(run.run_dir).result(), "status", None) == ("diverged" if run.lr == 1e9 else "completed")
        alone = changed(run, study="alone")
        train(alone)
        assert curve(run) == curve(alone)
    again = start_sweep(config, tmp_path / "study.yaml")
    assert "4 runs, 4 finished already" in again.communicate(timeout=60)[0]


@pytest.mark.slow
def test_ctrl_c_and_a_killed_sweep_leave_everything_resumable(tiny: RunConfig, tmp_path: Path) -> None:
    config = study(tiny, steps=200, checkpoint_interval=10)
    runs = grid(config)

    def progressed(records: int) -> bool:
        return sum(len(RunDir(run.run_dir).records()) for run in runs) > records

    process = start_sweep(config, tmp_path / "study.yaml")
    wait_for(lambda: progressed(50), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.rstrip().endswith("pipeline: error: interrupted; the same command continues")
    assert "Traceback" not in output

    process = start_sweep(config, tmp_path / "study.yaml")
    wait_for(lambda: progressed(150), process)
    process.kill()
    process.communicate()

    process = start_sweep(config, tmp_path / "study.yaml")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    for run in runs:
        assert [r["step"] for r in RunDir(run.run_dir).records()] == list(range(1, 201))
    alone = changed(runs[0], study="alone")
    train(alone)
    assert curve(runs[0]) == curve(alone)


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(signal.SIGINT,) * 3, (signal.SIGTERM, signal.SIGINT), (signal.SIGHUP,) * 2])
def test_whoever_asks_a_sweep_to_stop_gets_checkpoints(
    tiny: RunConfig, tmp_path: Path, numbers: tuple[signal.Signals, ...]
) -> None:
    """Ctrl-C by the impatient, the end of a job, a terminal that is closed."""
    config = study(tiny, steps=1_000_000, checkpoint_interval=1_000_000, lrs=(1e-2,))
    process = start_sweep(config, tmp_path / "study.yaml")
    wait_for(lambda: all(len(RunDir(run.run_dir).records()) > 20 for run in grid(config)), process)
    for number in numbers:
        os.killpg(process.pid, number) if number != signal.SIGTERM else process.send_signal(number)
        time.sleep(0.02)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert output.rstrip().endswith("pipeline: error: interrupted; the same command continues")
    assert "Traceback" not in output
    for run in grid(config):
        assert Checkpoint(RunDir(run.run_dir).checkpoint).step == len(RunDir(run.run_dir).records())


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_sweep(tiny: RunConfig, tmp_path: Path) -> None:
    config = study(tiny, steps=1_000_000)
    process = start_sweep(config, tmp_path / "study.yaml")
    wait_for(lambda: any(RunDir(run.run_dir).records() for run in grid(config)), process)
    workers = workers_of(process.pid)
    assert workers
    process.kill()
    process.wait()  # not communicate: workers that live on would hold its output open
    deadline = time.monotonic() + 10
    try:
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "workers train on"
            time.sleep(0.05)
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_a_run_that_keeps_failing_does_not_stop_the_others(tiny: RunConfig, tmp_path: Path) -> None:
    config = study(tiny, lrs=(1e-2,))
    broken, fine = grid(config)
    run = RunDir(broken.run_dir)
    run.checkpoint.parent.mkdir(parents=True)
    run.checkpoint.write_bytes(b"not a checkpoint")
    process = start_sweep(config, tmp_path / "study.yaml")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"failed: {broken.run_name}: checkpoint" in output
    assert "1 of 2 runs failed; the same command tries them again" in output
    assert getattr(RunDir(fine.run_dir).result(), "status", None) == "completed"
    run.checkpoint.unlink()
    process = start_sweep(config, tmp_path / "study.yaml")
    assert "2 runs, 1 finished already" in process.communicate(timeout=120)[0]
    assert process.returncode == 0


@pytest.mark.slow
def test_a_run_that_loses_its_files_fails_and_the_others_go_on(tiny: RunConfig, tmp_path: Path) -> None:
    config = study(tiny, lrs=(1e-2,), steps=300, checkpoint_interval=50)
    lost, fine = grid(config)
    process = start_sweep(config, tmp_path / "study.yaml")
    wait_for(lambda: len(RunDir(lost.run_dir).records()) > 10, process)
    shutil.rmtree(lost.run_dir)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    why = f"the run has lost its files, deleted or moved while it trained: {lost.run_dir}"
    assert f"failed: {lost.run_name}: {why}" in output
    assert not lost.run_dir.exists()
    assert getattr(RunDir(fine.run_dir).result(), "status", None) == "completed"


@pytest.mark.slow
def test_workers_stay_from_round_to_round(tiny: RunConfig) -> None:
    config = study(tiny, lrs=(1e-2, 2e-2), workers=2)
    runs = grid(config)
    assert len(runs) == 4

    def workers() -> set[int | None]:
        return {child.pid for child in multiprocessing.active_children()}

    with local.opened(config) as submit:
        assert submit(Planned(tuple(runs[:2]))) == 0
        first = workers()
        assert len(first) == 2
        assert submit(Planned(tuple(runs[2:]))) == 0
        assert workers() == first
        with pytest.raises(RequestError, match="another sweep"), study_lock(config.study_dir):
            submit(Planned((dataclasses.replace(runs[0], seed=99),)))
    assert not workers() & first
    assert all(getattr(RunDir(run.run_dir).result(), "status", None) == "completed" for run in runs)


@pytest.mark.slow
def test_runs_of_two_processes_each(tiny: RunConfig, tmp_path: Path) -> None:
    """The same curves as one process; no process outlives the sweep, also when it is killed."""
    config = study(changed(tiny, steps=200, devices=2, strategy="ddp", micro_batch=1), lrs=(1e-2,), widths=(32,))
    process = start_sweep(config, tmp_path / "study.yaml")
    wait_for(lambda: any(len(RunDir(r.run_dir).records()) > 20 for r in grid(config)), process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while training := [c for c in map(_command_line, Path("/proc").glob("[0-9]*")) if str(tmp_path / "runs") in c]:
        assert time.monotonic() < deadline, training
        time.sleep(0.1)
    process = start_sweep(config, tmp_path / "study.yaml")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for run in grid(config):
        alone = changed(run, devices=1, strategy="auto", micro_batch=4, study="alone")
        train(alone)
        assert len(curve(run)) == 200
        for two, one in zip(curve(run), curve(alone), strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


def _command_line(process: Path) -> str:
    """Of a live process that trains a run, with the run's folder."""
    with contextlib.suppress(OSError):
        words = (process / "cmdline").read_bytes().split(b"\0")
        for word in words if b"train" in words else []:
            if word.endswith(b"run.yaml"):
                return Path(word.decode()).read_text() if Path(word.decode()).exists() else word.decode()
    return ""


def test_a_sweep_here_has_one_node(tiny: RunConfig) -> None:
    from pipeline.sweep.launch.local import run_study

    with pytest.raises(RequestError, match="--num_nodes 2: a sweep on this machine has one; use --launcher slurm"):
        run_study(study(changed(tiny, num_nodes=2, global_batch=4, micro_batch=1)), [])

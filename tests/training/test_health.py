"""What befalls real runs: signals, and stalls."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.main import main
from pipeline.config import RunConfig, run_settings
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.health import StopSignals, Watchdog
from pipeline.training.module import TrainingModule
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.runs import INTERRUPTED, at_step, start_driver, steps
from tests.training.test_trainer import curve, start_cli

# ---------------------------------------------------------------------------------------------------------------------
# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_a_wish(number: signal.Signals) -> None:
    stop = StopSignals()
    stop.listen()
    assert signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN)
    assert not stop.asked
    os.kill(os.getpid(), number)
    time.sleep(0.01)
    assert stop.asked
    os.kill(os.getpid(), number)  # again: still no more than a wish


def test_signals_in_another_thread_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    errors = []

    def listen() -> None:
        try:
            StopSignals().listen()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert not errors
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_stop_signals_leave_a_checkpoint_where_the_run_stopped(tiny: RunConfig, tmp_path: Path) -> None:
    """One after the other, then to the end: the curve of an undisturbed run, and no step trained twice."""
    config = changed(tiny, steps=400, checkpoint_interval=100_000, val_interval=150, log_interval=1)
    undisturbed = changed(config, study="undisturbed")
    train(undisturbed)
    run, reached = RunDir(config.run_dir), 0
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        process = start_cli(config, tmp_path / "run.yaml")
        deadline = time.monotonic() + 120
        while len(run.records()) < reached + 20:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1, output
        assert output.rstrip().endswith(INTERRUPTED)
        assert "Traceback" not in output
        assert not run.result_file.exists()
        reached, before = run.records()[-1]["step"], reached
        assert before + 20 <= reached < 400
        assert Checkpoint(run.checkpoint).step == reached == len(run.records())
    process = start_cli(config, tmp_path / "run.yaml")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert curve(config) == curve(undisturbed)

    starts = [json.loads(line) for line in run.starts_file.read_text().splitlines()]
    assert [start["step"] for start in starts][0::4] == [0, reached]
    for start in starts:
        assert set(start) == {"time", "host", "step", "processes", "strategy", "job", "arithmetic"}
        assert (start["host"], start["processes"], start["strategy"]) == (socket.gethostname(), 1, "auto")
        assert start["job"] == os.environ.get("SLURM_JOB_ID")
        assert timedelta() < datetime.now(UTC) - datetime.fromisoformat(start["time"]) < timedelta(minutes=10)
    assert len(starts) == 5
    assert sorted(start["time"] for start in starts) == [start["time"] for start in starts]
    seconds = run.result().seconds
    assert seconds > Checkpoint(run.checkpoint).state["seconds"] - 1
    assert Checkpoint(run.checkpoint).state["seconds"] > 0


@pytest.mark.slow
def test_ctrl_c_again_and_again_ends_as_one_does(tiny: RunConfig, tmp_path: Path) -> None:
    process = started(changed(tiny, steps=100_000), tmp_path)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert output.rstrip().endswith(INTERRUPTED)
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_run_under_nohup_outlives_its_terminal(tiny: RunConfig, tmp_path: Path) -> None:
    process = started(changed(tiny, steps=300), tmp_path, ("nohup",))
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


def started(config: RunConfig, folder: Path, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    """`pipeline train` that has begun to train."""
    (folder / "run.yaml").write_text(yaml.safe_dump(run_settings(config)))
    command = [*before, sys.executable, "-m", "pipeline", "train", "--config", str(folder / "run.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not RunDir(config.run_dir).records():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_a_signal_at_the_last_step_is_too_late(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(11, lambda recorder, trainer: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    try:
        assert train(tiny).status == "completed"
    except KeyboardInterrupt:
        pytest.fail("interrupted when all was done")


def test_a_wish_to_stop_while_gradients_accumulate_waits_for_the_step(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, passes, original = changed(tiny, micro_batch=1), [], TrainingModule.training_step

    def training_step(self: TrainingModule, *args: Any) -> Any:
        passes.append(self.trainer.global_step)
        if len(passes) == 4 * 5 + 2:  # the second of four passes of step 6
            os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert len(passes) == 24
    assert steps(config) == ["step-00000006.ckpt", "step-00000004.ckpt"]
    assert not RunDir(config.run_dir).result_file.exists()
    train(config)
    undisturbed = changed(config, study="undisturbed")
    train(undisturbed)
    assert curve(config) == curve(undisturbed)


# ---------------------------------------------------------------------------------------------------------------------
# Files that go


@pytest.mark.parametrize("gone", ["", "metrics.jsonl"])
@pytest.mark.parametrize("step", [5, 12])
def test_a_run_that_lost_its_files_fails_and_can_be_run_again(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, step: int
) -> None:
    run = RunDir(tiny.run_dir)

    def lose(*_: object) -> None:
        path = run.path / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    argv = ["train", "--config", str(tmp_path / "run.yaml")]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run_settings(tiny)))
    with monkeypatch.context() as patched:
        at_step(step, lose, patched)
        with pytest.raises(FileNotFoundError) as error:
            train(tiny)
    assert error.value.filename == str(run.path)
    assert "the run has lost its files" in str(error.value)
    assert run.path.exists() == bool(gone)
    assert run.result() is None
    if gone:
        assert main(argv) == 2, "without its records it cannot go on"
        shutil.rmtree(run.path)
    assert main(argv) == 0
    assert len(run.records()) == 12


# ---------------------------------------------------------------------------------------------------------------------
# Stalls

HANG = """
import json, sys, time
from pathlib import Path
from pipeline.training.health import Watchdog

def somewhere_that_hangs():
    time.sleep(300)

def ending(reason):
    Path(sys.argv[2]).write_text(json.dumps(reason))

with Watchdog(float(sys.argv[3]) / 60, Path(sys.argv[1]), ending) as watchdog:
    for _ in range(12):
        time.sleep(0.25)
        watchdog.beat()
    print("beaten", flush=True)
    somewhere_that_hangs()
"""


def hang(*arguments: object) -> tuple["subprocess.CompletedProcess[str]", float]:
    began = time.monotonic()
    command = [sys.executable, "-c", HANG, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return ended, time.monotonic() - began


@pytest.mark.slow
def test_a_process_that_hangs_ends_itself_and_says_where(tmp_path: Path) -> None:
    stacks = tmp_path / "stalled.txt"
    ended, _ = hang(stacks, tmp_path / "reason", 2.0)
    assert (ended.returncode, ended.stdout) == (1, "beaten\n"), "it lives as long as it beats"
    for text in (stacks.read_text(), ended.stderr):
        assert "in somewhere_that_hangs" in text
        assert text.count("hread 0x") == 2, "every thread"
    reason = f"no step for 0.0333333 minutes (--stall_minutes); {stacks} says where it stood"
    assert json.loads((tmp_path / "reason").read_text()) == reason
    assert ended.stderr.splitlines()[0] == f"pipeline: error: {reason}"


@pytest.mark.slow
def test_a_disk_that_hangs_or_refuses_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # whoever opens it to write waits for a reader
    for stacks in (tmp_path / "fifo", tmp_path / "no" / "folder"):
        ended, seconds = hang(stacks, tmp_path / "reason", 2.0)
        assert ended.returncode == 1
        assert "in somewhere_that_hangs" in ended.stderr
        assert seconds < 60


def test_a_watchdog_that_nobody_needs() -> None:
    threads = threading.active_count()
    with Watchdog(None, Path("never"), pytest.fail) as watchdog:
        assert threading.active_count() == threads
        watchdog.beat()
    with Watchdog(0.002, Path("never"), pytest.fail):
        pass
    time.sleep(0.3)  # it would have fired by now


DRIVER = """
import os, sys, threading, time
from pipeline.cli.main import main
from pipeline.training.module import TrainingModule
from pipeline.data.windows import TokenWindows

def stuck_for_good():
    time.sleep(300)

where, rank = sys.argv[1], os.environ.get("LOCAL_RANK", "0")
if where == "step":
    original = TrainingModule.training_step
    def training_step(self, *args):
        time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
        if self.trainer.global_step == 5 and rank == os.environ.get("HANGING_RANK", "0"):
            stuck_for_good()
        return original(self, *args)
    TrainingModule.training_step = training_step
else:
    read = TokenWindows.__getitem__
    reads = []
    def __getitem__(self, indices):
        reads.append(1)
        if len(reads) > 6:
            stuck_for_good()
        return read(self, indices)
    TokenWindows.__getitem__ = __getitem__
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["step", "data"])
def test_a_run_that_stalls_ends_and_may_be_tried_again(tiny: RunConfig, tmp_path: Path, where: str) -> None:
    config = changed(tiny, stall_minutes=0.1)
    process = start_driver(config, tmp_path, DRIVER, where, STEP_SECONDS="2")  # 5 of them are longer than a stall
    _, error = process.communicate(timeout=150)
    run = RunDir(config.run_dir)
    assert process.returncode == 1
    reason = f"no step for 0.1 minutes (--stall_minutes); {run.path / 'stalled.txt'} says where it stood"
    assert f"pipeline: error: {reason}" in error
    assert "in stuck_for_good" in (run.path / "stalled.txt").read_text()
    assert json.loads(run.result_file.read_text()) == {"status": "failed", "error": reason}
    assert run.result() is None
    assert Checkpoint(run.checkpoint).step == 4
    train(config)
    undisturbed = changed(config, study="undisturbed")
    train(undisturbed)
    assert curve(config) == curve(undisturbed)


@pytest.mark.slow
def test_when_one_process_hangs_all_end(tiny: RunConfig, tmp_path: Path) -> None:
    """The second process hangs, so that the first waits for its gradients: both say where they stood."""
    config = changed(tiny, stall_minutes=0.5, devices=2, strategy="ddp", micro_batch=2)
    process = start_driver(config, tmp_path, DRIVER, "step", HANGING_RANK="1")
    _, error = process.communicate(timeout=200)
    run = RunDir(config.run_dir)
    assert process.returncode == 1
    assert error.count("pipeline: error: no step for 0.5 minutes") == 2
    (other,) = run.path.glob("stalled-*.txt")
    assert "in stuck_for_good" in other.read_text()
    assert "in stuck_for_good" not in (run.path / "stalled.txt").read_text()
    assert json.loads(run.result_file.read_text())["status"] == "failed"

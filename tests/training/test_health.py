"""What befalls real runs: signals, stalls, full disks, places that cannot be written, damage, other configs."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import RunConfig, run_settings
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint import state
from pipeline.training.checkpoint.files import Checkpoint, newest_first
from pipeline.training.health import STOP_SIGNALS, StopSignals, Watchdog
from pipeline.training.module import TrainingModule
from pipeline.training.recorder import Recorder
from pipeline.training.trainer import train
from tests.conftest import changed, rewrite_manifest
from tests.training.test_trainer import curve, start_cli

INTERRUPTED = "pipeline: error: interrupted; the same command continues"


def steps(config: RunConfig) -> list[str]:
    return [path.name for path in newest_first(RunDir(config.run_dir).checkpoints)]


def at_step(step: int, then: Callable[[Recorder, Any], None], patched: pytest.MonkeyPatch) -> None:
    """Let something happen when a step of training is over."""
    original = Recorder.on_train_batch_end

    def end(self: Recorder, trainer: Any, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == step:
            then(self, trainer)

    patched.setattr(Recorder, "on_train_batch_end", end)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Runs in this process set handlers of their own."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# ---------------------------------------------------------------------------------------------------------------------
# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
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
    """SIGTERM, then SIGUSR1, then to the end: the curve of an undisturbed run, and no step trained twice."""
    config = changed(tiny, steps=400, checkpoint_interval=100_000, val_interval=150, log_interval=1)
    undisturbed = changed(config, study="undisturbed")
    train(undisturbed)
    run, reached = RunDir(config.run_dir), 0
    for number in (signal.SIGTERM, signal.SIGUSR1):
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
    assert [start["step"] for start in starts][0::2] == [0, reached]
    for start in starts:
        assert set(start) == {"time", "host", "step", "processes", "strategy", "job"}
        assert (start["host"], start["processes"], start["strategy"]) == (socket.gethostname(), 1, "auto")
        assert start["job"] == os.environ.get("SLURM_JOB_ID")
        assert timedelta() < datetime.now(UTC) - datetime.fromisoformat(start["time"]) < timedelta(minutes=10)
    assert starts[0]["time"] < starts[1]["time"] < starts[2]["time"]
    seconds = (run.result() or {})["seconds"]
    assert seconds > Checkpoint(run.checkpoint).state["seconds"] - 1
    assert Checkpoint(run.checkpoint).state["seconds"] > 0


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


def start_driver(
    config: RunConfig, folder: Path, code: str, *arguments: str, prefix: tuple[str, ...] = (), **environment: str
) -> "subprocess.Popen[str]":
    """`pipeline train` of this config behind some code."""
    (folder / "run.yaml").write_text(yaml.safe_dump(run_settings(config)))
    (folder / "driver.py").write_text(textwrap.dedent(code))
    command = [
        *prefix,
        sys.executable,
        str(folder / "driver.py"),
        *arguments,
        "train",
        "--config",
        str(folder / "run.yaml"),
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


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


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints by the clock, and how many


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
    late = lambda recorder, trainer: setattr(recorder.calendar, "_saved_at", recorder.calendar._saved_at - 120)  # noqa: E731
    at_step(3, late, monkeypatch)
    train(changed(tiny, checkpoint_interval=1000, checkpoint_minutes=1.5, study="late"))
    assert made == [4, 12], "the clock starts anew with every checkpoint"


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_few_are_kept_while_a_run_goes(tiny: RunConfig, keep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(tiny, keep_last=keep, checkpoint_interval=2)
    seen: dict[int, list[str]] = {}
    for step in (2, 7, 11):
        at_step(step, lambda recorder, trainer: seen.update({trainer.global_step: steps(config)}), monkeypatch)
    train(config)
    expected = {step: [f"step-{s:08d}.ckpt" for s in range(step - step % 2, 0, -2)][:keep] for step in (2, 7, 11)}
    assert seen == expected
    assert steps(config) == ["step-00000012.ckpt"]


# ---------------------------------------------------------------------------------------------------------------------
# Disks

FULL_LATER = """
import resource, signal, sys
from pipeline.cli.main import main
from pipeline.training.recorder import Recorder

original = Recorder.on_train_batch_end
def end(self, trainer, *args):
    if trainer.global_step == 6 and trainer.global_rank == trainer.world_size - 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    original(self, trainer, *args)
Recorder.on_train_batch_end = end
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(tiny: RunConfig, tmp_path: Path) -> None:
    process = start_driver(tiny, tmp_path, FULL_LATER)
    _, error = process.communicate(timeout=120)
    run = RunDir(tiny.run_dir)
    assert process.returncode == 1, error
    assert error.splitlines()[-1].startswith(f"pipeline: error: File too large: {run.checkpoints}")
    assert json.loads(run.result_file.read_text())["error"].startswith("OSError: [Errno 27] File too large")
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last.ckpt", "step-00000004.ckpt"]
    assert train(tiny).status == "completed"
    assert [json.loads(line)["step"] for line in run.starts_file.read_text().splitlines()] == [0, 4]
    undisturbed = changed(tiny, study="undisturbed")
    train(undisturbed)
    assert curve(tiny) == curve(undisturbed)


@pytest.mark.slow
def test_a_disk_that_is_full_for_one_process_ends_all(tiny: RunConfig, tmp_path: Path) -> None:
    """The second process writes half of every checkpoint; the first does not wait for it."""
    config = changed(tiny, devices=2, strategy="fsdp", micro_batch=2)
    process = start_driver(config, tmp_path, FULL_LATER)
    _, error = process.communicate(timeout=150)
    run = RunDir(tiny.run_dir)
    assert process.returncode == 1, error
    assert f"pipeline: error: File too large: {run.checkpoints}" in error
    assert json.loads(run.result_file.read_text())["error"].startswith("OSError: [Errno 27] File too large")
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last.ckpt", "step-00000004.ckpt"]
    assert Checkpoint(run.checkpoint).step == 4
    assert train(tiny).status == "completed"
    assert [json.loads(line)["step"] for line in run.starts_file.read_text().splitlines()] == [0, 4]


READ_ONLY_LATER = """
import sys
from pathlib import Path
from pipeline.cli.main import main
from pipeline.training.recorder import Recorder

original = Recorder.on_train_batch_end
def end(self, trainer, *args):
    if trainer.global_step == 6:
        self.run.checkpoints.chmod(0o500)
    original(self, trainer, *args)
Recorder.on_train_batch_end = end
sys.exit(main(sys.argv[1:]))
"""


def powerless() -> tuple[str, ...]:
    """How to start a process that modes of files bind, which they do not bind root."""
    if os.geteuid():
        return ()
    prefix = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    if not shutil.which("setpriv") or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root here may write everywhere")
    return prefix


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_any_more(tiny: RunConfig, tmp_path: Path) -> None:
    process = start_driver(tiny, tmp_path, READ_ONLY_LATER, prefix=powerless())
    _, error = process.communicate(timeout=120)
    run = RunDir(tiny.run_dir)
    assert process.returncode == 1, error
    assert error.splitlines()[-1].startswith(f"pipeline: error: Permission denied: {run.checkpoints}/")
    assert "Traceback" not in error
    assert "Permission denied" in json.loads(run.result_file.read_text())["error"]
    assert steps(tiny) == ["step-00000004.ckpt"]
    run.checkpoints.chmod(0o755)
    assert train(tiny).status == "completed"
    undisturbed = changed(tiny, study="undisturbed")
    train(undisturbed)
    assert curve(tiny) == curve(undisturbed)


# ---------------------------------------------------------------------------------------------------------------------
# Damage


def cut_short(config: RunConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run that crashed after this step."""

    def crash(*_: Any) -> None:
        raise MemoryError("crash")

    with monkeypatch.context() as patched:
        at_step(step, crash, patched)
        with pytest.raises(MemoryError):
            train(config)
    return RunDir(config.run_dir)


def flip(checkpoint: Path) -> None:
    shard = checkpoint / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)


@pytest.mark.parametrize("keep", [1, 2])
def test_where_the_newest_is_damaged_the_one_before_is_used(
    tiny: RunConfig, keep: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And again after a second stop, before the step of the damaged one is reached."""
    undisturbed = changed(tiny, study="undisturbed")
    train(undisturbed)
    run = cut_short(tiny, 9, monkeypatch)
    assert steps(tiny) == ["step-00000008.ckpt", "step-00000004.ckpt"]
    flip(run.checkpoint)
    config = changed(tiny, keep_last=keep)
    with monkeypatch.context() as patched:
        at_step(4 + 1, lambda recorder, trainer: os.kill(os.getpid(), signal.SIGUSR1), patched)
        capsys.readouterr()
        with pytest.raises(KeyboardInterrupt):
            train(config)
    line = next(line for line in capsys.readouterr().err.splitlines() if "damaged" in line)
    assert line == (
        f"checkpoint {run.checkpoints}/step-00000008.ckpt is damaged (wrong checksum of shard-00000.safetensors); going on "
        "from step 4"
    )
    assert steps(tiny) == ["step-00000006.ckpt", "step-00000004.ckpt"][:keep]
    assert train(config).status == "completed"
    assert "damaged" not in capsys.readouterr().err
    assert curve(tiny) == curve(undisturbed)
    assert [json.loads(line)["step"] for line in run.starts_file.read_text().splitlines()] == [0, 4, 6]


def test_a_checkpoint_of_another_config_is_named(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    other = changed(tiny, lr=2e-2)
    run, theirs = cut_short(tiny, 9, monkeypatch), cut_short(other, 9, monkeypatch)
    hashes = [config.run_name.rpartition("-")[2] for config in (other, tiny)]
    shutil.rmtree(run.checkpoints)
    shutil.copytree(theirs.checkpoints, run.checkpoints, symlinks=True)
    with pytest.raises(RequestError) as error:
        train(tiny)
    assert str(error.value) == (
        f"checkpoint {run.checkpoints}/step-00000008.ckpt is of another config ({hashes[0]}, not {hashes[1]}): delete it "
        "to start the run over"
    )
    assert steps(tiny) == ["step-00000008.ckpt", "step-00000004.ckpt"], "nothing is lost"


def test_a_checkpoint_of_another_model_is_not_trained(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its config says it is of this one: only somebody who wrote it so can do that."""
    wide = changed(tiny, width=64)
    run, theirs = cut_short(tiny, 5, monkeypatch), cut_short(wide, 5, monkeypatch)
    ours = Checkpoint(run.checkpoint).state
    shutil.rmtree(run.checkpoints)
    shutil.copytree(theirs.checkpoints, run.checkpoints, symlinks=True)
    rewrite_manifest(run.checkpoint, state=ours)
    with pytest.raises(ValueError, match=r"it is of another model: lm_head\.weight differs"):
        train(tiny)


def test_a_failure_is_recorded_and_tried_again(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cut_short(tiny, 2, monkeypatch)
    assert json.loads(run.result_file.read_text()) == {"status": "failed", "error": "MemoryError: crash"}
    assert run.result() is None
    assert train(tiny).status == "completed"
    assert json.loads(run.result_file.read_text())["status"] == "completed"


def test_a_run_that_diverges_leaves_its_last_good_checkpoint(tiny: RunConfig) -> None:
    """A loss that is not finite ends the run, and its weights are not saved."""
    config = changed(tiny, optimizer="sgd", lr=1e4, grad_clip=None, weight_decay=0.0, checkpoint_interval=1)
    result = train(config)
    assert result.status == "diverged"
    last = Checkpoint(RunDir(config.run_dir).checkpoint)
    assert last.step < result.diverged_at

"""Writing checkpoints of running models: disks that fill up, folders that cannot be written any more."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.run.directory import RunDir
from pipeline.training.checkpoint.files import Checkpoint
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.runs import start_driver, steps
from tests.training.test_trainer import curve

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
    assert json.loads(run.result_file.read_text())["error"].startswith("File too large")
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
    assert json.loads(run.result_file.read_text())["error"].startswith("File too large")
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

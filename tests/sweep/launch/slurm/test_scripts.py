"""The job scripts, with a stand-in for srun."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipes import shipped_folder

SCRIPTS = shipped_folder("slurm")

SRUN = """
signal.signal(signal.SIGUSR1, lambda *_: (time.sleep(0.3), os._exit(int(os.environ.get("AFTER_SIGNAL", "1")))))
signal.signal(signal.SIGTERM, lambda *_: os._exit(99))
names = ("SPACED", "FROM_SETUP", "SLURM_CPUS_PER_TASK")
pathlib.Path("argv").write_text(json.dumps([sys.argv[1:], {k: os.environ.get(k) for k in names}]))
if not pathlib.Path("wait").exists(): sys.exit(int(os.environ.get("CODE", "0")))
time.sleep(20)
"""
SCONTROL = """
with open("scontrol.calls", "a") as stream: stream.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "show":
    print("JobId=12 JobState=" + os.environ.get("STATE", "RUNNING"))
    print("PreemptEligibleTime=now PreemptTime=" + os.environ.get("PREEMPTED", "None"))
"""


class Script:
    """train_array.sbatch with a stand-in for srun, in a folder with a space."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "my study"
        self.folder.mkdir()
        for name, body in (("srun", SRUN), ("scontrol", SCONTROL)):
            head = f"#!{sys.executable} -S\nimport json, os, pathlib, signal, sys, time\n"
            (self.folder / name).write_text(head + body)
            (self.folder / name).chmod(0o755)
        self.configs = [self.folder / f"$(touch owned) {i}.yaml" for i in range(3)]
        for path in self.configs:
            path.touch()
        self.manifest = self.folder / "manifest of mine.txt"
        self.manifest.write_text("".join(f"{path}\n" for path in self.configs))
        self.setup = self.folder / "set up.sh"
        self.setup.write_text('export FROM_SETUP="$# arguments"\n')
        self.arguments = ["--python", "/opt/my python", "--max_requeues", "2", "--setup", str(self.setup)]

    def start(self, index: int = 1, script: str = "train_array.sbatch", **environment: str) -> subprocess.Popen[str]:
        slurm_says = {
            "SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_JOB_ID": "12", "SLURM_JOB_ID": "13",
            "SLURM_JOB_NODELIST": "n1", "SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "3",
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", str(SCRIPTS / script), str(SCRIPTS / "environment.sh"), *self.arguments, "--env",
             "SPACED=a  'b' $(touch owned) \"c\"", "--", str(self.manifest)],
            cwd=self.folder,
            env=os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}"} | slurm_says | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, **environment: Any) -> tuple[int, str]:
        process = self.start(**environment)
        output = process.communicate(timeout=30)[0]
        return process.returncode, output

    def interrupt(self, *signals: signal.Signals, **environment: str) -> tuple[int, str]:
        """Start, and send these signals to the script once srun runs."""
        (self.folder / "wait").touch()
        process = self.start(**environment)
        deadline = time.monotonic() + 20
        while not (self.folder / "argv").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)
        for number in signals:
            process.send_signal(number)
            time.sleep(0.05)
        output = process.communicate(timeout=30)[0]
        return process.returncode, output

    def scontrol(self) -> list[str]:
        path = self.folder / "scontrol.calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def test_a_task_trains_its_line_of_the_manifest(script: Script) -> None:
    code, output = script.run(index=1)
    assert code == 0, output
    argv, environment = json.loads((script.folder / "argv").read_text())
    assert argv == [
        "--ntasks-per-node=2", "--cpus-per-task=3", "--kill-on-bad-exit=1",
        "/opt/my python", "-m", "pipeline", "train", "--config", str(script.configs[1]),
    ]  # fmt: skip
    assert environment["SPACED"] == "a  'b' $(touch owned) \"c\""
    assert environment["FROM_SETUP"] == "0 arguments"
    assert not (script.folder / "owned").exists()
    assert script.scontrol() == []
    assert "job 12_1 (13), start 1, on n1" in output


def test_a_site_cannot_reach_into_the_job_script(script: Script) -> None:
    """Neither its setup nor the profile's environment: what they set is the run's alone."""
    names = ("python", "max_requeues", "arguments", "manifest", "config", "restarts", "task", "caught", "step", "code")
    mine = "".join(f"{name}=mine\n" for name in names)
    script.setup.write_text(
        f"set -eu\nset -- a b\ncd /\ntrap 'exit 3' USR1\nsay() {{ exit 4; }}\n{mine}export FROM_SETUP=1\n"
    )
    script.arguments += [word for name in names for word in ("--env", f"{name}=theirs")]
    code, output = script.interrupt(signal.SIGUSR1)
    assert code == 1, output
    argv, environment = json.loads((script.folder / "argv").read_text())
    assert argv[-6:] == ["/opt/my python", "-m", "pipeline", "train", "--config", str(script.configs[1])]
    assert environment["FROM_SETUP"] == "1"
    assert script.scontrol() == ["show job 12_1", "requeue 12_1"]


def test_an_index_past_the_manifest_is_said(script: Script) -> None:
    code, output = script.run(index=3)
    assert code == 2
    assert "line 4 of" in output
    assert "names no config" in output
    assert not (script.folder / "argv").exists()


@pytest.mark.parametrize(
    ("code", "words"), [(1, "the run failed (exit code 1)"), (137, "exit code 137"), (2, "the request is wrong")]
)
def test_a_run_that_fails_by_itself_is_not_requeued(script: Script, code: int, words: str) -> None:
    returned, output = script.run(CODE=str(code))
    assert returned == code
    assert words in output
    assert not any(call.startswith("requeue") for call in script.scontrol())


@pytest.mark.parametrize("after", ["1", "138"])
def test_before_the_limit_a_task_goes_back_into_the_queue(script: Script, after: str) -> None:
    code, output = script.interrupt(signal.SIGUSR1, AFTER_SIGNAL=after)
    assert code == int(after), output
    assert script.scontrol() == ["show job 12_1", "requeue 12_1"]  # 13 may be the id of the whole array
    assert f"interrupted (exit code {after}): back in the queue" in output


def test_a_run_that_ends_on_the_signal_is_done(script: Script) -> None:
    code, output = script.interrupt(signal.SIGUSR1, AFTER_SIGNAL="0")
    assert code == 0, output
    assert script.scontrol() == []


def test_a_wrong_request_is_not_requeued_even_after_a_signal(script: Script) -> None:
    code, _ = script.interrupt(signal.SIGUSR1, AFTER_SIGNAL="2")
    assert code == 2
    assert script.scontrol() == []


def test_requeues_are_counted(script: Script) -> None:
    code, output = script.interrupt(signal.SIGUSR1, SLURM_RESTART_COUNT="2")
    assert code == 1
    assert "interrupted after 2 restarts, the most that the profile allows (max_requeues)" in output
    assert not any(call.startswith("requeue") for call in script.scontrol())


def test_a_task_that_is_cancelled_while_it_writes_its_checkpoint_stays_away(script: Script) -> None:
    code, output = script.interrupt(signal.SIGUSR1, signal.SIGTERM, STATE="CANCELLED")
    assert code == 1
    assert "cancelled (exit code 1)" in output
    assert script.scontrol() == ["show job 12_1"]


def test_when_slurm_stops_a_task_slurm_decides_what_follows(script: Script) -> None:
    code, output = script.interrupt(signal.SIGTERM)
    assert code == 1  # srun was sent USR1, not TERM, which would have made it kill the run
    assert "SIGTERM: asking the run for a checkpoint" in output
    assert not any(call.startswith("requeue") for call in script.scontrol())


def test_preemption_that_signals_the_tasks_alone_is_noticed(script: Script) -> None:
    code, _ = script.run(CODE="1", PREEMPTED="2026-01-01T00:00:00")
    assert code == 1
    assert script.scontrol() == ["show job 12_1", "requeue 12_1"]


def test_an_unknown_argument_of_a_script_is_an_error(script: Script) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPTS / "report.sbatch"), str(SCRIPTS / "environment.sh"), "--pyhton", "x", "--", "y"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "unknown argument --pyhton" in done.stderr


def test_a_missing_module_ends_the_job(script: Script) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPTS / "report.sbatch"), str(SCRIPTS / "environment.sh"), "--module", "no such", "--", "y"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot load the module no such" in done.stderr


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_the_scripts_pass_shellcheck() -> None:
    files = [str(path) for path in sorted(SCRIPTS.iterdir()) if path.suffix in (".sbatch", ".sh")]
    done = subprocess.run(["shellcheck", "-x", *files], cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

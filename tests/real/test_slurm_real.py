"""Studies through a real SLURM: submitted by the CLI, disturbed in every way that SLURM knows, and the same in the
end."""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import RunConfig, run_settings
from pipeline.run.directory import RunDir
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import grid
from pipeline.sweep.launch.slurm.submissions import Ledger
from pipeline.training.trainer import train
from tests.conftest import changed
from tests.support.slurm_cluster import Cluster, cluster
from tests.support.studies import study
from tests.training.test_trainer import curve

__all__ = ["cluster"]
pytestmark = pytest.mark.slow


class Study:
    """A study's files, and the CLI on them."""

    def __init__(self, config: SweepConfig, cluster: Cluster, folder: Path, **profile: Any) -> None:
        self.cluster, self.runs = cluster, grid(config)
        self.folder = Path(config.out) / config.study
        self.config, self.profile = folder / "study of mine.yaml", folder / "my site.yaml"
        axes = {"widths": config.widths, "lrs": config.lrs, "seeds": config.seeds}
        self.config.write_text(yaml.safe_dump(run_settings(config) | {k: list(v) for k, v in axes.items()}))
        base = {
            "environment": {"OMP_NUM_THREADS": 1, "SPACED": "a  'b' $HOME"},
            "max_time": "10min",
            "signal_seconds": 45,
        }
        self.profile.write_text(yaml.safe_dump(base | profile))

    def cli(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            env=self.cluster.environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def sweep(self, *flags: str, code: int = 0) -> str:
        return self.cli(
            "sweep",
            "--config",
            str(self.config),
            "--launcher",
            "slurm",
            "--profile",
            str(self.profile),
            *flags,
            code=code,
        )

    def status(self) -> dict[str, dict[str, Any]]:
        page = json.loads(self.cli("sweep", "status", str(self.folder), "--json"))
        return {run["run"]: run for run in page["runs"]}

    def ledger(self) -> Ledger:
        return Ledger(self.folder / "slurm" / "submissions.jsonl")

    def task(self, run: RunConfig) -> str:
        """``JOB_INDEX`` that a run was last submitted as."""
        last = [s for s in self.ledger().read() if run.run_name in s.runs][-1]
        return f"{last.job}_{last.runs.index(run.run_name)}"

    def log(self, run: RunConfig) -> str:
        return (self.folder / "slurm" / "logs" / f"{self.task(run)}.log").read_text()

    def process(self, run: RunConfig) -> int | None:
        """The process that trains a run."""
        for pid in self.cluster.processes():
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if command[0] == sys.executable.encode() and any(run.run_name.encode() in word for word in command):
                    return pid
        return None

    def freeze(self, *runs: RunConfig, after: int) -> dict[str, int]:
        """Stop the training processes of these runs in mid-flight; their ids by run."""
        frozen: dict[str, int] = {}
        deadline = time.monotonic() + 120
        while len(frozen) < len(runs):
            assert time.monotonic() < deadline, f"{self.cluster.queue()} {[self.log(run) for run in runs]}"
            for run in runs:
                if run.run_name not in frozen and len(RunDir(run.run_dir).records()) >= after:
                    pid = self.process(run)
                    assert pid is not None
                    os.kill(pid, signal.SIGSTOP)
                    assert RunDir(run.run_dir).result() is None
                    frozen[run.run_name] = pid
            time.sleep(0.01)
        return frozen

    def wait_until_idle(self, seconds: float = 180) -> None:
        self.cluster.wait(lambda: not self.cluster.queue(), seconds, "the study to end")


def jobs(output: str) -> list[str]:
    return re.findall(r"^(?:width \d+|report): job (\d+)", output, re.MULTILINE)


def test_a_disturbed_study_equals_an_undisturbed_one(tiny: RunConfig, tmp_path: Path, cluster: Cluster) -> None:
    long = changed(tiny, steps=400, checkpoint_interval=50, val_interval=200, out=str(tmp_path / "my runs"))
    config = study(long, lrs=(1e-3, 1e-2), seeds=(0, 1))
    s = Study(config, cluster, tmp_path)
    assert len(s.runs) == 8
    promised = [shlex.split(line) for line in s.sweep("--dry_run").splitlines() if line.startswith("sbatch ")]
    assert not s.folder.exists()

    # submitted once, as promised
    submitted = s.sweep()
    assert "8 runs, 0 finished already, 0 in the queue, 8 to submit" in submitted
    entries = s.ledger().read()
    assert jobs(submitted) == [e.job for e in entries]
    ids = {e.name: e.job for e in entries}
    assert [[re.sub(r"<id of ([\w-]+)>", lambda m: str(ids[m[1]]), word) for word in argv] for argv in promised] == [
        list(e.argv) for e in entries
    ]

    # nothing is submitted twice; two runs stand still, so that nothing moves meanwhile
    requeued, late, killed = s.runs[0], s.runs[1], s.runs[2]
    frozen = s.freeze(requeued, late, after=60)
    during = s.status()
    assert {name for name, run in during.items() if run["state"] == "running"} == {requeued.run_name, late.run_name}
    assert sum(run["state"] == "queued" for run in during.values()) == 6
    assert (during[late.run_name]["job"], during[late.run_name]["steps"]) == (s.task(late), 400)
    assert 60 <= during[late.run_name]["step"] < 400
    again = s.sweep()
    assert "8 in the queue, 0 to submit" in again
    assert f"report: job {entries[-1].job} waits for" in again
    assert s.ledger().read() == entries

    # one is requeued, one reaches its time limit, one is killed
    cluster.call("scontrol", "requeue", s.task(requeued))
    cluster.call("scontrol", "update", f"JobId={s.task(late)}", "TimeLimit=1")
    victim = s.freeze(killed, after=60)[killed.run_name]
    os.kill(victim, signal.SIGKILL)
    cluster.wait(lambda: "SIGUSR1: asking the run for a checkpoint" in s.log(late), 100, "SIGUSR1 before the limit")
    os.kill(frozen[late.run_name], signal.SIGCONT)
    cluster.wait(lambda: "back in the queue" in s.log(late), 60, "the requeue before the limit")
    cluster.call("scontrol", "update", f"JobId={s.task(late)}", "TimeLimit=10")
    s.wait_until_idle()
    assert cluster.job_field(s.task(late), "Restarts") == "1"
    assert cluster.job_field(s.task(requeued), "Restarts") == "1"

    # all but the killed one are finished, and nobody tried that again
    after = s.status()
    failed = after.pop(killed.run_name)
    assert {run["state"] for run in after.values()} == {"finished"}
    assert failed["state"] == "failed"
    assert "the run failed (exit code 137)" in s.log(killed)
    table = s.cli("sweep", "status", str(s.folder))
    assert re.search(r"^ +64 +4 +3 +0 +0 +0 +1 +0$", table, re.MULTILINE), table
    assert re.search(
        rf"^failed: {re.escape(killed.run_name)}: job failed .*task 0: Killed \(log ", table, re.MULTILINE
    ), table
    assert failed["log"] in table
    assert len((s.folder / "runs.csv").read_text().splitlines()) == 1 + 7  # the report job has run

    # the same command does what is left, and then nothing
    resubmitted = s.sweep()
    assert "7 finished already, 0 in the queue, 1 to submit" in resubmitted
    assert "of 3 finished runs of this width" in resubmitted
    assert s.ledger().read()[-2].runs == (killed.run_name,)
    s.wait_until_idle()
    assert {run["state"] for run in s.status().values()} == {"finished"}
    assert len((s.folder / "runs.csv").read_text().splitlines()) == 1 + 8
    assert "<html" in (s.folder / "report.html").read_text()
    before = s.ledger().read()
    assert "8 finished already, 0 in the queue, 0 to submit" in s.sweep()
    assert s.ledger().read() == before
    assert not cluster.queue()

    # every run ended once, with the records of a run that nothing happened to
    logs = "".join(path.read_text() for path in (s.folder / "slurm" / "logs").iterdir())
    assert len(re.findall(r"^training loss .*\(400 steps", logs, re.MULTILINE)) == 8
    assert logs.count("start 2, on") == 2
    alone = dataclasses.replace(config, study="alone")
    local = s.config.with_name("alone.yaml")
    local.write_text(s.config.read_text().replace("study: tests", "study: alone") + "workers: 2\n")
    s.cli("sweep", "--config", str(local))
    for run, undisturbed in zip(s.runs, grid(alone), strict=True):
        assert [r["step"] for r in RunDir(run.run_dir).records()] == list(range(1, 401))
        assert curve(run) == curve(undisturbed)


def test_a_requeue_is_of_one_task_alone(tiny: RunConfig, tmp_path: Path, cluster: Cluster) -> None:
    """The last task to start has the id of its array: whoever requeues that requeues all of it, cancelled tasks too."""
    long = changed(tiny, steps=400, checkpoint_interval=50, val_interval=200)
    s = Study(study(long, widths=(32,), lrs=(1e-2,), seeds=(0, 1, 2)), cluster, tmp_path)
    s.sweep()
    cancelled, sibling, last = s.runs
    before = s.freeze(cancelled, sibling, after=60)
    cluster.call("scancel", s.task(cancelled))
    cluster.wait(lambda: s.task(cancelled) not in cluster.queue(), 60, "the cancelled task to end")
    pid = s.freeze(last, after=60)[last.run_name]
    array = s.task(last).partition("_")[0]
    assert f" job {s.task(last)} ({array}), start 1, on " in s.log(last)
    cluster.call("scontrol", "update", f"JobId={s.task(last)}", "TimeLimit=1")
    cluster.wait(lambda: "SIGUSR1: asking the run for a checkpoint" in s.log(last), 100, "SIGUSR1 before the limit")
    os.kill(pid, signal.SIGCONT)
    cluster.wait(lambda: "back in the queue" in s.log(last), 60, "the requeue before the limit")
    cluster.call("scontrol", "update", f"JobId={s.task(last)}", "TimeLimit=10")
    cluster.wait(lambda: "start 2, on" in s.log(last), 60, "the task to start again")
    assert s.process(sibling) == before[sibling.run_name]
    os.kill(before[sibling.run_name], signal.SIGCONT)
    s.wait_until_idle()
    assert [cluster.job_field(s.task(run), "Restarts") for run in s.runs] == ["0", "0", "1"]
    assert cluster.state(s.task(cancelled)) == "CANCELLED"
    states = {name: run["state"] for name, run in s.status().items()}
    assert [states[run.run_name] for run in s.runs] == ["failed", "finished", "finished"]


def test_two_ranks_under_srun_train_one_run(tiny: RunConfig, tmp_path: Path, cluster: Cluster) -> None:
    s = Study(
        study(changed(tiny, steps=20), widths=(32,), lrs=(1e-2,)), cluster, tmp_path,
        widths=[{"from": 32, "devices": 2, "strategy": "ddp"}],
    )  # fmt: skip
    assert "1 run on 1 node x 2 devices, strategy ddp, micro-batch 2" in s.sweep()
    s.wait_until_idle()
    (run,) = s.runs
    assert getattr(RunDir(run.run_dir).result(), "status", None) == "completed", s.log(run)
    recorded = yaml.safe_load(RunDir(run.run_dir).config_file.read_text())
    assert (recorded["devices"], recorded["strategy"]) == (2, "ddp")
    alone = changed(tiny, steps=20, study="alone")
    train(alone)
    for two, one in zip(curve(run), curve(alone), strict=True):
        losses = {key: value for key, value in one.items() if key.endswith("loss")}
        assert {key: two[key] for key in losses} == pytest.approx(losses, rel=1e-4)


def test_a_run_within_an_allocation_starts_its_own_processes(tiny: RunConfig, tmp_path: Path, cluster: Cluster) -> None:
    two = changed(tiny, devices=2, strategy="ddp", micro_batch=2)
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(run_settings(two)))
    train_it = (sys.executable, "-m", "pipeline", "train", "--config", str(tmp_path / "two.yaml"))
    said = cluster.call("salloc", "--quiet", "--ntasks=2", *train_it)
    assert "training loss" in said
    assert getattr(RunDir(two.run_dir).result(), "status", None) == "completed"


def test_a_preempted_run_resumes(tiny: RunConfig, tmp_path: Path, cluster: Cluster) -> None:
    """With a grace time SLURM signals the tasks alone: the job script must find out why they ended."""
    long = changed(tiny, steps=400, checkpoint_interval=50, val_interval=200)
    s = Study(study(long, widths=(32,), lrs=(1e-2,)), cluster, tmp_path, partition="low")
    s.sweep()
    (run,) = s.runs
    s.freeze(run, after=60)  # SLURM wakes it with the signal
    cluster.call("sbatch", "--partition=high", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait(lambda: "back in the queue" in s.log(run), 60, "preemption")
    s.wait_until_idle()
    assert getattr(RunDir(run.run_dir).result(), "status", None) == "completed", s.log(run)
    assert cluster.job_field(s.task(run), "Restarts") == "1"
    alone = changed(long, study="alone", lr=1e-2)
    train(alone)
    assert curve(run) == curve(alone)


def test_an_adaptive_sweep_goes_on_by_itself(tiny: RunConfig, tmp_path: Path, cluster: Cluster) -> None:
    """The job after each round plans and submits the next, until the budget is spent; then it reports."""
    settings = {field.name: getattr(tiny, field.name) for field in dataclasses.fields(tiny)}
    study = Study(SweepConfig(**settings | {"study": "rounds"}, widths=(32, 64), lrs=(0.01,)), cluster, tmp_path)
    adaptive = ("--plan", "adaptive", "--budget", "9 runs", "--seeds", "0")
    planned = study.sweep(*adaptive, "--dry_run")
    assert "round 1: scanning width 32" in planned
    assert planned.count("script ") == 2
    assert not (study.folder / "plan.jsonl").exists()
    study.sweep(*adaptive)
    study.wait_until_idle(300)
    rounds = [json.loads(line) for line in (study.folder / "plan.jsonl").read_text().splitlines()]
    assert len(rounds) >= 2
    assert sum(len(made["runs"]) for made in rounds) == 9
    results = [json.loads(path.read_text())["status"] for path in study.folder.glob("*/result.json")]
    assert len(results) == 9
    assert set(results) <= {"completed", "diverged", "aborted"}
    reports = [s for s in study.ledger().read() if s.kind == "report"]
    assert len(reports) == sum(bool(made["runs"]) for made in rounds)  # the last one says what ended it
    last = (study.folder / "slurm" / "logs" / f"report-{reports[-1].job}.log").read_text()
    assert "the budget of 9 runs is spent" in last
    assert (study.folder / "report.html").exists()
    assert "the budget of 9 runs is spent" in study.sweep(*adaptive)

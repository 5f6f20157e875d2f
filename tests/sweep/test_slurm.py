"""Studies through SLURM, without one: profiles, time limits, the ledger, what is submitted, status, the job scripts.

Stand-ins for sbatch, squeue, scancel, srun and scontrol keep a queue in a file; test_slurm_real.py has the real ones.
"""

import dataclasses
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import RunConfig, SweepConfig
from pipeline.errors import RequestError
from pipeline.recipes import load_run, shipped, shipped_folder
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.sweep import status
from pipeline.sweep.grid import cost, grid
from pipeline.sweep.launch.lock import study_lock
from pipeline.sweep.launch.slurm import launch, queue
from pipeline.sweep.launch.slurm.profile import Profile, load_profile
from pipeline.sweep.launch.slurm.queue import SlurmError, Task
from pipeline.sweep.launch.slurm.submissions import Ledger, Submission
from pipeline.sweep.launch.slurm.time_limit import Measured, time_limit
from tests.conftest import changed
from tests.sweep.test_sweep import study

SCRIPTS = shipped_folder("slurm")

SBATCH = """
name = next(a for a in sys.argv if a.startswith("--job-name=")).partition("=")[2]
with open(here / "calls", "a") as stream: stream.write(json.dumps(sys.argv) + "\\n")
if (here / "refuse").exists() and (here / "refuse").read_text() in name:
    sys.exit("sbatch: error: Batch job submission failed:\\n  Invalid account")
job = 1 + sum(1 for _ in open(here / "calls")) + 100
array = next((a for a in sys.argv if a.startswith("--array=0-")), None)
indices = range(int(array.removeprefix("--array=0-").partition("%")[0]) + 1) if array else ["N/A"]
with open(here / "queue", "a") as stream:
    for index in indices: stream.write(f"{job}|{index}|{name}|PENDING|Priority\\n")
if (here / "lose_answer").exists():
    sys.exit("sbatch: error: Socket timed out on send/recv operation")
print(job)
"""
SQUEUE = """
if (here / "down").exists(): sys.exit("slurm_load_jobs error: Unable to contact slurm controller")
names = next(a for a in sys.argv if a.startswith("--name=")).partition("=")[2].split(",")
for line in (here / "queue").read_text().splitlines():
    if line.split("|")[2] in names: print(line)
"""
SACCT = """
if not (here / "accounts").exists(): sys.exit("Slurm accounting storage is disabled")
print((here / "accounts").read_text(), end="")
"""
SCANCEL = """
with open(here / "calls", "a") as stream: stream.write(json.dumps(sys.argv) + "\\n")
kept = [l for l in (here / "queue").read_text().splitlines() if l.split("|")[0] != sys.argv[-1] or "|PENDING|" not in l]
(here / "queue").write_text("".join(l + "\\n" for l in kept))
"""


class FakeSlurm:
    """What the stand-ins were called with, and the queue they keep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def calls(self, program: str) -> list[list[str]]:
        lines = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        return [argv[1:] for argv in map(json.loads, lines) if Path(argv[0]).name == program]

    def arrays(self) -> list[list[str]]:
        return [argv for argv in self.calls("sbatch") if any(word.startswith("--array") for word in argv)]

    def forget(self, task: str) -> None:
        """Drop lines from the queue by how they begin, JOB|INDEX|."""
        lines = (self.folder / "queue").read_text().splitlines(keepends=True)
        (self.folder / "queue").write_text("".join(line for line in lines if not line.startswith(task)))

    def set(self, old: str, new: str) -> None:
        """Replace text in the queue, whose lines are JOB|INDEX|NAME|STATE|REASON."""
        path = self.folder / "queue"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "queue").touch()
    for name, body in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL), ("sacct", SACCT)):
        head = f"#!{sys.executable} -S\nimport json, pathlib, sys\nhere = pathlib.Path({str(folder)!r})\n"
        (folder / name).write_text(head + body)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return FakeSlurm(folder)


def profile_file(tmp_path: Path, **settings: Any) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump({"max_time": "2h"} | settings, sort_keys=False))
    return path


@pytest.fixture
def config(tiny: RunConfig, tmp_path: Path) -> SweepConfig:
    """Four runs over two widths."""
    return study(tiny, launcher="slurm", profile=str(profile_file(tmp_path)))


def finish(run: RunConfig, **result: Any) -> None:
    directory = RunDir(run.run_dir)
    directory.create(run, "text")
    final = {"final_train_loss": 5.0, "final_val_loss": 5.0}
    directory.write_result(RunResult(**{"status": "completed", "final": final, "steps": 1, "tokens": 1, "seconds": 600.0,
                                        "tokens_per_second": 1.0, "parameters": 1, "diverged_at": None} | result))  # fmt: skip


def ledger(config: SweepConfig) -> Ledger:
    return Ledger(Path(config.out) / config.study / "slurm" / "submissions.jsonl")


# ---------------------------------------------------------------------------------------------------------------------
# Profiles


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[1]", "a profile is a mapping of keys to values"),
        ("a: [", "not YAML"),
        ("partitoin: gpu", "unknown key partitoin, did you mean partition?"),
        ("max_time: 24:00:00", "max_time: expected a time such as 90min, 24h or 2d, got 86400"),
        ("max_time: 3min", "max_time 3min leaves too little before the signal: give at least 5min, or a smaller signal_seconds than 120"),
        ("throttle: 0", "throttle: expected a whole number from 1, got 0"),
        ("devices: true", "devices: expected a whole number from 1, got True"),
        ("memory_per_node: 64 GB", "memory_per_node: expected a size such as 64G, got '64 GB'"),
        ("memory_per_node: 64G\nmemory_per_device: 8G", "give memory_per_node or memory_per_device, not both"),
        ("environment: {A-B: 1}", "environment: expected a mapping of variables to values, got {'A-B': 1}"),
        ("options: {array: 0-3}", "options: array is the pipeline's to set"),
        ("options: {--mail-type: END}", "options: expected a mapping of sbatch's options, without dashes, to values"),
        ("setup: nowhere.sh", "nowhere.sh is not a file"),
        ("widths: [{devices: 2}]", "rule 1 of widths: start it with from: WIDTH, such as {from: 1024, devices: 8}"),
        ("widths: [{from: 64, device: 2}]", "rule 1 of widths: unknown key device, did you mean devices?"),
        ("widths: [{from: 64, python: x}]", "rule 1 of widths: unknown key python"),
        ("widths: [{from: 64, max_time: 1min}]", "max_time 1min leaves too little"),
        ("margin: 0.5", "margin: expected a number from 1, got 0.5"),
    ],
)  # fmt: skip
def test_a_wrong_profile_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(RequestError) as error:
        load_profile(str(path))
    assert str(path) in str(error.value)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_and_missing_profiles() -> None:
    with pytest.raises(RequestError, match=r"--profile nosite: .*no profile of that name \(example\)"):
        load_profile("nosite")
    with pytest.raises(
        RequestError, match=r"needs --profile: a YAML that describes your cluster, like .*example\.yaml"
    ):
        load_profile("")


@pytest.mark.parametrize("name", list(shipped("slurm/profiles")))
def test_every_shipped_profile_loads(name: str) -> None:
    profile = load_profile(name)
    run = RunConfig(width=4096, global_batch=512)
    assert profile.place(run).world_size >= 1


def test_the_example_names_every_key() -> None:
    """Whoever copies it sees all there is."""
    text = (SCRIPTS / "profiles" / "example.yaml").read_text()
    assert [f.name for f in dataclasses.fields(Profile) if f.name not in text] == []


def test_the_last_rule_that_reaches_a_width_holds(tmp_path: Path, tiny: RunConfig) -> None:
    rules = [{"from": 64, "devices": 4, "max_time": "1d12h"}, {"from": 48, "devices": 2, "strategy": "ddp"}]
    profile = load_profile(str(profile_file(tmp_path, widths=rules)))
    assert [profile.at(width).devices for width in (32, 48, 63, 64, 4096)] == [None, 2, 2, 4, 4]
    assert [profile.at(width).max_time for width in (32, 48, 64)] == [120, 120, 2160]
    wide = profile.place(changed(tiny, width=64))
    assert (wide.devices, wide.strategy, wide.micro_batch) == (4, "auto", 1)
    assert profile.place(tiny) == tiny
    assert wide.run_name == changed(tiny, width=64).run_name  # the same mathematics, the same directory
    assert profile.place(changed(tiny, width=64, micro_batch=1)).micro_batch == 1
    impossible = load_profile(str(profile_file(tmp_path, devices=3)))
    with pytest.raises(RequestError, match=r"^profile, width 32: --global_batch 4 is not a multiple"):
        impossible.place(tiny)


# ---------------------------------------------------------------------------------------------------------------------
# Time limits


def test_time_is_measured_else_scaled_else_estimated(tmp_path: Path, tiny: RunConfig) -> None:
    profile = load_profile(str(profile_file(tmp_path, margin=2, max_time="10h", flops_per_second=1e6)))
    wide = changed(tiny, width=64)
    own, other = Measured(32, cost(tiny), 1200.0, 3), Measured(64, cost(wide), 3600.0, 1)
    limit = time_limit(tiny, profile, [own, other])
    assert (limit.minutes, str(limit)) == (45, "00:45:00")  # 2 x 20 min + 5
    assert limit.reason == "the longest of 3 finished runs of this width, 20 min x 2 + 5 min"
    two = changed(tiny, devices=2, micro_batch=2)
    assert time_limit(two, profile, [own]).minutes == 25
    scaled = time_limit(wide, profile, [own])
    assert scaled.minutes == pytest.approx(40 * cost(wide) / cost(tiny) + 5, abs=1)
    assert scaled.reason.startswith("scaled by cost from width 32")
    guess = time_limit(tiny, profile, [])
    assert guess.minutes == -(-2 * 6 * cost(tiny) // 6e7) + 5
    assert guess.reason.startswith("estimated: ")


def test_time_stays_between_the_shortest_limit_and_max_time(tmp_path: Path, tiny: RunConfig) -> None:
    profile = load_profile(str(profile_file(tmp_path, signal_seconds=600, max_time="1h")))
    assert time_limit(tiny, profile, [Measured(32, cost(tiny), 1.0, 1)]).minutes == 21
    long = time_limit(tiny, profile, [Measured(32, cost(tiny), 1e6, 1)])
    assert (long.minutes, long.reason.rpartition(", ")[2]) == (
        60,
        "above max_time: goes back into the queue and resumes",
    )
    assert (
        time_limit(tiny, profile, []).reason == "max_time: no run has finished, and the profile has no flops_per_second"
    )


# ---------------------------------------------------------------------------------------------------------------------
# The ledger


def test_the_ledger_forgets_a_torn_line_and_refuses_a_damaged_one(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "submissions.jsonl")
    first = Submission("a", "array", ("r1", "r2"), 64, ("sbatch", "x"), "m.txt")
    book.planned(first)
    with book.path.open("a") as stream:
        stream.write('{"event": "submitted", "na')
    assert book.read() == [first]
    book.submitted("a", "7")
    assert [s.job for s in book.read()] == ["7"]
    book.planned(Submission("b", "report", (), None, ("sbatch",)))
    book.refused("b", "no")
    assert [(s.name, s.job, s.refused) for s in book.read()] == [("a", "7", None), ("b", None, "no")]
    book.path.write_text("{}\n" + book.path.read_text())
    with pytest.raises(RequestError, match="is damaged"):
        book.read()


# ---------------------------------------------------------------------------------------------------------------------
# What is submitted


def test_one_array_per_width_and_a_report_after_them(
    config: SweepConfig, fake: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = tmp_path / "set up.sh"
    setup.touch()
    profile_file(
        tmp_path, partition="gpu", account="lab", gres="gpu:h100", cpus_per_device=3, memory_per_device="7G", throttle=5,
        modules=["cuda/12"], setup="set up.sh", environment={"A": "x; $(rm -rf /)", "B": True}, max_requeues=4,
        options={"mail-type": "END", "exclusive": None}, report={"partition": "cpu"}, python="/opt/my python",
        widths=[{"from": 64, "devices": 2, "strategy": "ddp", "constraint": "fast"}],
    )  # fmt: skip
    runs = grid(config)
    assert launch.launch(config, runs) == 0
    wide, narrow, report = fake.calls("sbatch")
    root = Path(config.out) / config.study / "slurm"
    name = next(word for word in wide if word.startswith("--job-name=")).partition("=")[2]
    assert wide == [
        "--parsable", f"--job-name={name}", f"--output={root}/logs/%A_%a.log", "--export=ALL", f"--chdir={Path.cwd()}",
        "--array=0-1%5", "--time=02:00:00", "--signal=B:USR1@120", "--nodes=1", "--ntasks-per-node=2",
        "--cpus-per-task=3", "--mem=14G", "--gres=gpu:h100:2", "--constraint=fast", "--partition=gpu", "--account=lab",
        "--mail-type=END", "--exclusive", str(SCRIPTS / "train_array.sbatch"), str(SCRIPTS / "environment.sh"),
        "--python", "/opt/my python", "--max_requeues", "4", "--module", "cuda/12", "--setup", str(setup),
        "--env", "A=x; $(rm -rf /)", "--env", "B=true", "--", str(root / "manifests" / f"{name}.txt"),
    ]  # fmt: skip
    assert {"--ntasks-per-node=1", "--mem=7G", "--gres=gpu:h100:1"} < set(narrow)
    assert not any(word.startswith("--constraint") for word in narrow)
    assert {"--dependency=afterany:102:103", "--partition=cpu", "--account=lab"} < set(report)
    assert report[-1] == str(root.parent)
    lines = (root / "manifests" / f"{name}.txt").read_text().splitlines()
    written = [load_run(Path(line))[0] for line in lines]
    assert [run.run_name for run in written] == [run.run_name for run in runs[:2]]
    assert [(run.devices, run.strategy, run.micro_batch) for run in written] == [(2, "ddp", 2)] * 2
    said = capsys.readouterr().out
    assert "4 runs, 0 finished already, 0 in the queue, 4 to submit" in said
    assert (
        "width 64: job 102, 2 runs on 1 node x 2 devices, strategy ddp, micro-batch 2; time 02:00:00 (max_time" in said
    )
    assert "report: job 104 after 102, 103" in said


def test_only_what_is_neither_finished_nor_in_the_queue_is_submitted(
    config: SweepConfig, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid(config)
    finish(runs[0])
    assert launch.launch(config, runs) == 0
    assert [s.runs for s in ledger(config).read()] == [(runs[1].run_name,), tuple(r.run_name for r in runs[2:]), ()]
    assert launch.launch(config, runs) == 0  # 3 in the queue
    assert len(fake.calls("sbatch")) == 3
    assert "1 finished already, 3 in the queue, 0 to submit" in capsys.readouterr().out
    finish(runs[2], status="diverged")
    fake.forget("103|1|")  # runs[3]
    fake.set(
        f"102|0|{ledger(config).read()[0].name}|PENDING", f"102|0|{ledger(config).read()[0].name}|FAILED"
    )  # runs[1]
    assert launch.launch(config, runs) == 0
    resubmitted = [s for s in ledger(config).read()[3:] if s.kind == "array"]
    assert [s.runs for s in resubmitted] == [(runs[1].run_name,), (runs[3].run_name,)]
    for run in runs:
        finish(run)
    assert launch.launch(config, runs) == 0
    assert len([s for s in ledger(config).read() if s.kind == "array"]) == 4
    assert "nothing to submit" in capsys.readouterr().out


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "SUSPENDED", "REQUEUE_HOLD", "CONFIGURING"])
def test_whatever_may_still_run_is_live(config: SweepConfig, fake: FakeSlurm, state: str) -> None:
    runs = grid(config)
    launch.launch(config, runs)
    fake.set("PENDING", state)
    launch.launch(config, runs)
    assert len(fake.arrays()) == 2


@pytest.mark.parametrize("state", sorted(queue.ENDED))
def test_whatever_has_ended_is_submitted_again(config: SweepConfig, fake: FakeSlurm, state: str) -> None:
    runs = grid(config)
    launch.launch(config, runs)
    fake.set("PENDING", state)
    launch.launch(config, runs)
    assert len(fake.arrays()) == 4


def test_a_new_report_replaces_one_that_waits_and_follows_one_that_runs(config: SweepConfig, fake: FakeSlurm) -> None:
    runs = grid(config)
    launch.launch(config, runs)  # arrays 102, 103; report 104
    names = [s.name for s in ledger(config).read()]
    fake.set(f"102|0|{names[0]}|PENDING", f"102|0|{names[0]}|FAILED")
    launch.launch(config, runs)  # array 105; report 106
    assert "--dependency=afterany:102:103:105" in fake.calls("sbatch")[-1]
    assert fake.calls("scancel") == [["--state=PENDING", "104"]]
    latest = ledger(config).read()[-1].name
    fake.set(f"106|N/A|{latest}|PENDING", f"106|N/A|{latest}|RUNNING")
    fake.set(f"103|0|{names[1]}|PENDING", f"103|0|{names[1]}|FAILED")
    launch.launch(config, runs)  # array 108; report 109: scancel was call 107
    assert "--dependency=afterany:102:103:105:106:108" in fake.calls("sbatch")[-1]
    assert len(fake.calls("scancel")) == 1


def test_the_report_also_waits_for_jobs_of_an_earlier_grid(config: SweepConfig, fake: FakeSlurm) -> None:
    launch.launch(config, grid(config))
    wider = dataclasses.replace(config, widths=(32, 96))
    launch.launch(wider, grid(wider))
    assert len(fake.arrays()) == 3
    assert "--dependency=afterany:102:103:105" in fake.calls("sbatch")[-1]


def test_a_refused_width_leaves_the_others(
    config: SweepConfig, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid(config)
    (fake.folder / "refuse").write_text("w64")
    assert launch.launch(config, runs) == 1
    said = capsys.readouterr()
    assert said.err == "sbatch refused: width 64: sbatch: error: Batch job submission failed: Invalid account\n"
    assert "width 32: job 103" in said.out
    assert "--dependency=afterany:103" in fake.calls("sbatch")[-1]
    lost = [run for run in status.statuses(Path(config.out) / "tests", ledger(config).read(), []) if run.width == 64]
    assert {(run.state, (run.reason or "")[:15]) for run in lost} == {("lost", "sbatch refused:")}
    (fake.folder / "refuse").unlink()
    assert launch.launch(config, runs) == 0
    assert [s.width for s in ledger(config).read() if s.kind == "array" and s.job] == [32, 64]


def test_if_all_is_refused_the_request_was_wrong(config: SweepConfig, fake: FakeSlurm) -> None:
    (fake.folder / "refuse").write_text("w")
    with pytest.raises(RequestError, match=r"^sbatch refused: width 64: sbatch: error: .*Invalid account$"):
        launch.launch(config, grid(config))
    assert not any("report.sbatch" in " ".join(argv) for argv in fake.calls("sbatch"))


def test_a_job_whose_answer_was_lost_is_found(config: SweepConfig, fake: FakeSlurm) -> None:
    (fake.folder / "lose_answer").touch()
    assert launch.launch(config, grid(config)) == 0
    assert [s.job for s in ledger(config).read()] == ["102", "103", "104"]


def test_a_crash_between_sbatch_and_the_record_loses_and_doubles_nothing(
    config: SweepConfig, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = grid(config)
    with monkeypatch.context() as crash:
        crash.setattr(Ledger, "submitted", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            launch.launch(config, runs)
    assert len(fake.arrays()) == 1
    assert launch.launch(config, runs) == 0
    assert [s.job for s in ledger(config).read() if s.kind == "array"] == ["102", "103"]
    assert [s.width for s in ledger(config).read() if s.kind == "array"] == [64, 32]
    # and one that died before it called sbatch
    with monkeypatch.context() as crash:
        crash.setattr(queue, "submit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        fake.set("PENDING", "FAILED")
        with pytest.raises(KeyboardInterrupt):
            launch.launch(config, runs)
    assert launch.launch(config, runs) == 0
    assert len(fake.arrays()) == 4


def test_nothing_is_submitted_when_squeue_does_not_answer(config: SweepConfig, fake: FakeSlurm) -> None:
    runs = grid(config)
    launch.launch(config, runs)
    (fake.folder / "down").touch()
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        launch.launch(config, runs)
    assert len(fake.calls("sbatch")) == 3


def test_without_slurm(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match=r"^there is no sbatch on the PATH"):
        launch.launch(config, grid(config))
    assert launch.dry_run(config, grid(config)) == 0
    assert capsys.readouterr().out.count("\nsbatch --parsable ") == 3
    assert not Path(config.out).exists()


def test_a_dry_run_says_what_is_skipped_and_what_would_be_called(
    config: SweepConfig, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid(config)
    launch.launch(config, runs)
    finish(runs[0], seconds=1200.0)
    fake.forget("103|1|")
    before = sorted(str(path) for path in Path(config.out).rglob("*"))
    capsys.readouterr()
    assert launch.dry_run(config, runs) == 0
    said = capsys.readouterr().out
    assert sorted(str(path) for path in Path(config.out).rglob("*")) == before
    assert f"skipped: {runs[0].run_name} is completed\n" in said
    assert f"skipped: {runs[1].run_name} is job 102_1, pending\n" in said
    assert f"\n  0 {runs[3].run_name}\n" in said
    assert "scaled by cost from width 64" in said
    promised = [shlex.split(line) for line in said.splitlines() if line.startswith("sbatch ")]
    launch.launch(config, runs)
    real = [s.argv for s in ledger(config).read()[-2:]]
    assert promised[0] == list(real[0])
    assert [w for w in promised[1] if "dependency" not in w] == [w for w in real[1] if "dependency" not in w]


def test_another_sweep_at_work_is_named(config: SweepConfig, fake: FakeSlurm) -> None:
    folder = Path(config.out) / config.study
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="another sweep is running the study"):
            launch.launch(config, grid(config))


def test_very_many_runs_go_into_several_arrays(
    config: SweepConfig, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "ARRAY_SIZE", 1)
    launch.launch(config, grid(config))
    assert [len(s.runs) for s in ledger(config).read() if s.kind == "array"] == [1, 1, 1, 1]


def test_a_job_that_submits_does_not_hand_on_its_allocation() -> None:
    inside = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_CONF": "c", "SRUN_CPUS_PER_TASK": "2", "HOME": "h"}
    assert queue._environment(inside) == {"SLURM_CONF": "c", "HOME": "h"}
    assert queue._environment({"SLURM_MPI_TYPE": "pmix"}) == {"SLURM_MPI_TYPE": "pmix"}


def test_sbatch_holds_the_studys_lock_until_it_has_ended(tmp_path: Path) -> None:
    """A sweep that is killed while sbatch talks to SLURM must not let the next one in."""
    with study_lock(tmp_path) as lock:
        inode = os.fstat(lock).st_ino
        assert queue.submit([sys.executable, "-c", f"import os; print(os.fstat({lock}).st_ino)"], lock) == str(inode)


def test_names_that_sbatch_would_expand_are_escaped_or_refused(
    config: SweepConfig, fake: FakeSlurm, tmp_path: Path
) -> None:
    odd = dataclasses.replace(config, out=str(tmp_path / "100%A"))
    launch.launch(odd, grid(odd))
    assert f"--output={tmp_path}/100%%A/tests/slurm/logs/%A_%a.log" in fake.calls("sbatch")[0]
    for out in ("a\\b", "a\nb"):
        worse = dataclasses.replace(config, out=str(tmp_path / out))
        with pytest.raises(RequestError, match="choose another --out"):
            launch.launch(worse, grid(worse))


def test_submitting_and_status_import_no_torch() -> None:
    code = "import sys, pipeline.cli.sweep, pipeline.sweep.launch.slurm.launch, pipeline.sweep.status; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# Status


def by_run(config: SweepConfig, tasks: list[Task]) -> dict[str, status.RunStatus]:
    found = status.statuses(Path(config.out) / config.study, ledger(config).read(), tasks)
    return {run.run: run for run in found}


def test_status_joins_the_queue_with_the_run_directories(
    config: SweepConfig, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid(config)
    launch.launch(config, runs)
    done, going, waiting, dead = runs
    finish(done)
    RunDir(going.run_dir).create(going, "text")
    RunDir(going.run_dir).metrics_file.write_text('{"step": 1, "loss": 2.0}\n{"step": 7, "loss": 2.0}\n{"step": 8, "lo')
    log = Path(config.out) / "tests" / "slurm" / "logs" / "103_1.log"
    start = "2026-01-01 00:00:00 pipeline: job 103_1 (9), start {}, on n1: c.yaml\n"
    log.write_text(
        f"{start.format(1)}pipeline: error: interrupted; the same command continues\n"
        f"{start.format(2)}pipeline: error: out of memory: use --micro_batch 2\nsrun: error: n1: task 0: Exited\n"
        "2026-01-01 00:00:09 pipeline: error: the run failed (exit code 1)\n"
    )
    names = [s.name for s in ledger(config).read()]
    fake.set(f"102|1|{names[0]}|PENDING", f"102|1|{names[0]}|RUNNING")
    fake.set(f"103|1|{names[1]}|PENDING|Priority", f"103|1|{names[1]}|FAILED|NonZeroExitCode")
    fake.set(f"103|0|{names[1]}|PENDING|Priority", f"103|0|{names[1]}|PENDING|launch failed requeued held")
    capsys.readouterr()
    assert status.main([str(Path(config.out) / "tests")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"study {Path(config.out) / 'tests'}: 4 runs, ")
    assert [line.split() for line in said[1:4]] == [
        ["width", "runs", "finished", "diverged", "running", "queued", "failed", "lost"],
        ["32", "2", "0", "0", "0", "1", "1", "0"],
        ["64", "2", "1", "0", "1", "0", "0", "0"],
    ]
    rest = "\n".join(said[4:])
    assert f"queued: {waiting.run_name}: launch failed requeued held, job 103_0" in rest
    assert (
        f"failed: {dead.run_name}: job failed (NonZeroExitCode): pipeline: error: out of memory: use --micro_batch 2 (log {log})"
        in rest
    )
    assert f"running: {going.run_name}: step 7/12, last record " in rest
    assert rest.endswith("report: job 104 pending (Priority)")
    status.main([str(Path(config.out) / "tests"), "--json"])
    page = json.loads(capsys.readouterr().out)
    assert {run["run"]: run["state"] for run in page["runs"]} == {
        done.run_name: "finished", going.run_name: "running", waiting.run_name: "queued", dead.run_name: "failed",
    }  # fmt: skip
    assert page["report_jobs"] == [{"job": "104", "state": "PENDING"}]


def test_status_of_a_run_follows_its_last_submission(config: SweepConfig, fake: FakeSlurm) -> None:
    runs = grid(config)
    launch.launch(config, runs)
    first = ledger(config).read()[0].name
    fake.set("PENDING", "FAILED")
    launch.launch(config, runs)
    tasks = [*queue.tasks([s.name for s in ledger(config).read()])]
    assert {run.state for run in by_run(config, tasks).values()} == {"queued"}
    assert {run.state for run in by_run(config, list(reversed(tasks))).values()} == {"queued"}
    assert {run.state for run in by_run(config, [t for t in tasks if t.name == first]).values()} == {"lost"}


def test_status_asks_accounting_where_there_is_one(config: SweepConfig, fake: FakeSlurm) -> None:
    runs = grid(config)
    launch.launch(config, runs)
    name = ledger(config).read()[0].name
    (fake.folder / "accounts").write_text(
        f"102_0|{name}|OUT_OF_MEMORY|0:125\n102_1|{name}|CANCELLED by 0|0:0\n102_[2-9]|{name}|PENDING|0:0\n"
    )
    fake.forget("102|")
    tasks, silence = status._ask(ledger(config).read())
    assert silence is None
    found = by_run(config, tasks)
    assert found[runs[0].run_name].reason == "job out_of_memory (exit code 0:125): it left no log"
    assert found[runs[1].run_name].state == "failed"
    assert found[runs[2].run_name].state == "queued"


def test_status_without_slurm_reads_the_directories(
    config: SweepConfig, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid(config)
    launch.launch(config, runs)
    finish(runs[0], status="diverged")
    (fake.folder / "down").touch()
    capsys.readouterr()
    assert status.main([str(Path(config.out) / "tests")]) == 0
    said = capsys.readouterr().out
    assert "SLURM does not answer, so this is from the run directories alone: slurm_load_jobs error" in said
    assert f"lost: {runs[1].run_name}: SLURM does not know its job any more, job 102_1" in said


def test_status_of_a_local_study(config: SweepConfig, tmp_path: Path) -> None:
    done, failed, going, interrupted = grid(config)
    for run in (done, failed, going, interrupted):
        RunDir(run.run_dir).create(run, "text")
    finish(done)
    RunDir(failed.run_dir).record_failure("OSError: no space")
    with RunDir(going.run_dir).lock():
        found = by_run(config, [])
    assert {name: (run.state, run.reason) for name, run in found.items()} == {
        done.run_name: ("finished", None),
        failed.run_name: ("failed", "OSError: no space"),
        going.run_name: ("running", None),
        interrupted.run_name: ("lost", "interrupted"),
    }
    with RunDir(going.run_dir).lock():  # looking has not taken it
        pass


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its log is empty"),
        ("training\nstep 1\n", "step 1"),
        ("x pipeline: job 1_0 (1), start 1, on n: c\npipeline: error: interrupted\n"
         "x pipeline: job 1_0 (1), start 2, on n: c\nsrun: error: task 0: Killed\nx pipeline: error: the run failed\n",
         "srun: error: task 0: Killed"),
    ],
)  # fmt: skip
def test_the_reason_is_of_the_last_start(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "log").write_text(text)
    assert status._last_words(str(tmp_path / "log")) == words


def test_status_of_what_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such study folder"):
        status.main([str(tmp_path / "x")])
    with pytest.raises(RequestError, match="holds no runs"):
        status.main([str(tmp_path)])


# ---------------------------------------------------------------------------------------------------------------------
# The job scripts

SRUN = """
signal.signal(signal.SIGUSR1, lambda *_: (time.sleep(0.3), os._exit(int(os.environ.get("AFTER_SIGNAL", "1")))))
signal.signal(signal.SIGTERM, lambda *_: os._exit(99))
pathlib.Path("argv").write_text(json.dumps([sys.argv[1:], {k: os.environ.get(k) for k in ("SPACED", "FROM_SETUP", "SLURM_CPUS_PER_TASK")}]))
if not pathlib.Path("wait").exists(): sys.exit(int(os.environ.get("CODE", "0")))
time.sleep(20)
"""
SCONTROL = """
with open("scontrol.calls", "a") as stream: stream.write(" ".join(sys.argv[1:]) + "\\n")
if sys.argv[1] == "show": print("JobId=12 PreemptEligibleTime=now PreemptTime=" + os.environ.get("PREEMPTED", "None"))
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

    def start(self, index: int = 1, script: str = "train_array.sbatch", **environment: str) -> subprocess.Popen[str]:
        slurm_says = {
            "SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_JOB_ID": "12", "SLURM_JOB_ID": "13", "SLURM_JOB_NODELIST": "n1",
            "SLURM_NTASKS_PER_NODE": "2", "SLURM_CPUS_PER_TASK": "3",
        }  # fmt: skip
        arguments = ["--python", "/opt/my python", "--max_requeues", "2", "--setup", str(self.setup)]
        return subprocess.Popen(
            ["bash", str(SCRIPTS / script), str(SCRIPTS / "environment.sh"), *arguments, "--env",
             "SPACED=a  'b' $(touch owned) \"c\"", "--", str(self.manifest)],
            cwd=self.folder, env=os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}"} | slurm_says | environment,
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
    assert script.scontrol() == ["requeue 13"]
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
    assert script.scontrol() == []


def test_when_slurm_stops_a_task_slurm_decides_what_follows(script: Script) -> None:
    code, output = script.interrupt(signal.SIGTERM)
    assert code == 1  # srun was sent USR1, not TERM, which would have made it kill the run
    assert "SIGTERM: asking the run for a checkpoint" in output
    assert not any(call.startswith("requeue") for call in script.scontrol())


def test_preemption_that_signals_the_tasks_alone_is_noticed(script: Script) -> None:
    code, _ = script.run(CODE="1", PREEMPTED="2026-01-01T00:00:00")
    assert code == 1
    assert script.scontrol() == ["show job 13", "requeue 13"]


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

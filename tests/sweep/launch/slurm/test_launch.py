"""What is submitted to SLURM, against stand-ins; tests/real/test_slurm_real.py has the real one."""

import dataclasses
import fcntl
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.recipes import load_run, shipped_folder
from pipeline.sweep import status
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import grid
from pipeline.sweep.launch.slurm import arrays, launch, queue, watch
from pipeline.sweep.launch.slurm.queue import SlurmError
from pipeline.sweep.launch.slurm.submissions import Ledger
from pipeline.sweep.study import Planned, study_lock
from tests.support.slurm_stand_in import FakeSlurm, ledger, preview, profile_file, submit
from tests.support.studies import finish

SCRIPTS = shipped_folder("slurm")


def test_further_axes_are_tasks_of_the_widths_arrays(config: SweepConfig, fake: FakeSlurm) -> None:
    grown = dataclasses.replace(config, grid={"model.n_layer": (1, 2), "mult.hidden_lr": (0.5, 1.0)})
    assert submit(grown) == 0
    arrays = [call for call in fake.calls("sbatch") if any(word.startswith("--array=") for word in call)]
    assert [next(word for word in call if word.startswith("--array=")) for call in arrays] == ["--array=0-7"] * 2
    manifests = (Path(config.out) / config.study / "slurm" / "manifests").iterdir()
    settings = [load_run(Path(line))[0] for file in manifests for line in file.read_text().splitlines()]
    assert {run.run_name for run in settings} == {run.run_name for run in grid(grown)}
    assert {(run.model.n_layer, run.mult.hidden_lr) for run in settings} == {(1, 0.5), (1, 1.0), (2, 0.5), (2, 1.0)}


def test_one_array_per_width_and_a_report_after_them(
    config: SweepConfig, fake: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = tmp_path / "set up.sh"
    setup.touch()
    profile_file(
        tmp_path, partition="gpu", account="lab", gres="gpu:h100", cpus_per_device=3, memory_per_device="7G",
        throttle=5,
        modules=["cuda/12"], setup="set up.sh", environment={"A": "x; $(rm -rf /)", "B": True}, max_requeues=4,
        options={"mail-type": "END", "exclusive": None}, report={"partition": "cpu"}, python="/opt/my python",
        widths=[{"from": 64, "devices": 2, "strategy": "ddp", "constraint": "fast"}],
    )  # fmt: skip
    runs = grid(config)
    assert submit(config) == 0
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
    assert submit(config) == 0
    assert [s.runs for s in ledger(config).read()] == [(runs[1].run_name,), tuple(r.run_name for r in runs[2:]), ()]
    assert submit(config) == 0  # 3 in the queue
    assert len(fake.calls("sbatch")) == 3
    assert "1 finished already, 3 in the queue, 0 to submit" in capsys.readouterr().out
    finish(runs[2], status="diverged")
    fake.forget("103|1|")  # runs[3]
    fake.set(
        f"102|0|{ledger(config).read()[0].name}|PENDING", f"102|0|{ledger(config).read()[0].name}|FAILED"
    )  # runs[1]
    assert submit(config) == 0
    resubmitted = [s for s in ledger(config).read()[3:] if s.kind == "array"]
    assert [s.runs for s in resubmitted] == [(runs[1].run_name,), (runs[3].run_name,)]
    for run in runs:
        finish(run)
    assert submit(config) == 0
    assert len([s for s in ledger(config).read() if s.kind == "array"]) == 4
    assert "nothing to submit" in capsys.readouterr().out


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "SUSPENDED", "REQUEUE_HOLD", "CONFIGURING"])
def test_whatever_may_still_run_is_live(config: SweepConfig, fake: FakeSlurm, state: str) -> None:
    submit(config)
    fake.set("PENDING", state)
    submit(config)
    assert len(fake.arrays()) == 2


@pytest.mark.parametrize("state", sorted(queue.ENDED))
def test_whatever_has_ended_is_submitted_again(config: SweepConfig, fake: FakeSlurm, state: str) -> None:
    submit(config)
    fake.set("PENDING", state)
    submit(config)
    assert len(fake.arrays()) == 4


def test_a_new_report_replaces_one_that_waits_and_follows_one_that_runs(config: SweepConfig, fake: FakeSlurm) -> None:
    submit(config)  # arrays 102, 103; report 104
    names = [s.name for s in ledger(config).read()]
    fake.set(f"102|0|{names[0]}|PENDING", f"102|0|{names[0]}|FAILED")
    submit(config)  # array 105; report 106
    assert "--dependency=afterany:102:103:105" in fake.calls("sbatch")[-1]
    assert fake.calls("scancel") == [["--state=PENDING", "104"]]
    latest = ledger(config).read()[-1].name
    fake.set(f"106|N/A|{latest}|PENDING", f"106|N/A|{latest}|RUNNING")
    fake.set(f"103|0|{names[1]}|PENDING", f"103|0|{names[1]}|FAILED")
    submit(config)  # array 108; report 109: scancel was call 107
    assert "--dependency=afterany:102:103:105:106:108" in fake.calls("sbatch")[-1]
    assert len(fake.calls("scancel")) == 1


def test_the_report_also_waits_for_jobs_of_an_earlier_grid(config: SweepConfig, fake: FakeSlurm) -> None:
    submit(config)
    wider = dataclasses.replace(config, widths=(32, 96))
    submit(wider)
    assert len(fake.arrays()) == 3
    assert "--dependency=afterany:102:103:105" in fake.calls("sbatch")[-1]


def test_a_refused_width_leaves_the_others(
    config: SweepConfig, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    (fake.folder / "refuse").write_text("w64")
    assert submit(config) == 1
    said = capsys.readouterr()
    assert said.err == "sbatch refused: width 64: sbatch: error: Batch job submission failed: Invalid account\n"
    assert "width 32: job 103" in said.out
    assert "--dependency=afterany:103" in fake.calls("sbatch")[-1]
    study = Path(config.out) / "tests"
    jobs = watch.run_jobs(study, ledger(config).read(), [])
    lost = [run for run in status.statuses(study, jobs) if run.width == 64]
    assert {(run.state, (run.reason or "")[:15]) for run in lost} == {("lost", "sbatch refused:")}
    (fake.folder / "refuse").unlink()
    assert submit(config) == 0
    assert [s.width for s in ledger(config).read() if s.kind == "array" and s.job] == [32, 64]


def test_if_all_is_refused_the_request_was_wrong(config: SweepConfig, fake: FakeSlurm) -> None:
    (fake.folder / "refuse").write_text("w")
    with pytest.raises(RequestError, match=r"^sbatch refused: width 64: sbatch: error: .*Invalid account$"):
        submit(config)
    assert not any("report.sbatch" in " ".join(argv) for argv in fake.calls("sbatch"))


def test_a_job_whose_answer_was_lost_is_found(config: SweepConfig, fake: FakeSlurm) -> None:
    (fake.folder / "lose_answer").touch()
    assert submit(config) == 0
    assert [s.job for s in ledger(config).read()] == ["102", "103", "104"]


def test_a_crash_between_sbatch_and_the_record_loses_and_doubles_nothing(
    config: SweepConfig, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as crash:
        crash.setattr(Ledger, "submitted", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            submit(config)
    assert len(fake.arrays()) == 1
    assert submit(config) == 0
    assert [s.job for s in ledger(config).read() if s.kind == "array"] == ["102", "103"]
    assert [s.width for s in ledger(config).read() if s.kind == "array"] == [64, 32]
    # and one that died before it called sbatch
    with monkeypatch.context() as crash:
        crash.setattr(queue, "submit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        fake.set("PENDING", "FAILED")
        with pytest.raises(KeyboardInterrupt):
            submit(config)
    assert submit(config) == 0
    assert len(fake.arrays()) == 4


def test_nothing_is_submitted_when_squeue_does_not_answer(config: SweepConfig, fake: FakeSlurm) -> None:
    submit(config)
    (fake.folder / "down").touch()
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        submit(config)
    assert len(fake.calls("sbatch")) == 3


def test_without_slurm(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match=r"^there is no sbatch on the PATH"):
        submit(config)
    assert preview(config) == 0
    assert capsys.readouterr().out.count("\nsbatch --parsable ") == 3
    assert not Path(config.out).exists()


def test_a_dry_run_says_what_is_skipped_and_what_would_be_called(
    config: SweepConfig, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid(config)
    submit(config)
    finish(runs[0], seconds=1200.0)
    fake.forget("103|1|")
    before = sorted(str(path) for path in Path(config.out).rglob("*"))
    capsys.readouterr()
    assert preview(config) == 0
    said = capsys.readouterr().out
    assert sorted(str(path) for path in Path(config.out).rglob("*")) == before
    assert f"skipped: {runs[0].run_name} is completed\n" in said
    assert f"skipped: {runs[1].run_name} is job 102_1, pending\n" in said
    assert f"\n  0 {runs[3].run_name}\n" in said
    assert "scaled by cost from width 64" in said
    promised = [shlex.split(line) for line in said.splitlines() if line.startswith("sbatch ")]
    submit(config)
    real = [s.argv for s in ledger(config).read()[-2:]]
    assert promised[0] == list(real[0])
    assert [w for w in promised[1] if "dependency" not in w] == [w for w in real[1] if "dependency" not in w]


def test_another_sweep_at_work_is_named(config: SweepConfig, fake: FakeSlurm) -> None:
    folder = Path(config.out) / config.study
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(RequestError, match="another sweep is running the study"):
            submit(config)


def test_very_many_runs_go_into_several_arrays(
    config: SweepConfig, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "ARRAY_SIZE", 1)
    submit(config)
    assert [len(s.runs) for s in ledger(config).read() if s.kind == "array"] == [1, 1, 1, 1]


def test_a_job_that_submits_does_not_hand_on_its_allocation() -> None:
    inside = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_CONF": "c", "SRUN_CPUS_PER_TASK": "2", "HOME": "h"}
    assert queue._environment(inside) == {"SLURM_CONF": "c", "HOME": "h"}
    assert queue._environment({"SLURM_MPI_TYPE": "pmix"}) == {"SLURM_MPI_TYPE": "pmix"}


def test_the_report_job_gives_a_failed_round_up_and_a_user_in_an_allocation_does_not(
    config: SweepConfig, fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = Planned(tuple(grid(config)), followed=True)
    assert submit(config) == 0
    report = next(s.job for s in ledger(config).read() if s.kind == "report")
    (fake.folder / "queue").write_text("")  # all have failed
    monkeypatch.setenv("SLURM_JOB_ID", str(report))
    assert launch.submit(config, begun) == 1
    assert "runs of this round failed: the same command on the login node tries them again" in capsys.readouterr().err
    assert len(fake.arrays()) == 2
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert launch.submit(config, begun) == 0
    assert len(fake.arrays()) == 4


def test_sbatch_holds_the_studys_lock_until_it_has_ended(tmp_path: Path) -> None:
    """A sweep that is killed while sbatch talks to SLURM must not let the next one in."""
    with study_lock(tmp_path) as lock:
        inode = os.fstat(lock).st_ino
        assert queue.submit([sys.executable, "-c", f"import os; print(os.fstat({lock}).st_ino)"], lock) == str(inode)


def test_names_that_sbatch_would_expand_are_escaped_or_refused(
    config: SweepConfig, fake: FakeSlurm, tmp_path: Path
) -> None:
    odd = dataclasses.replace(config, out=str(tmp_path / "100%A"))
    submit(odd)
    assert f"--output={tmp_path}/100%%A/tests/slurm/logs/%A_%a.log" in fake.calls("sbatch")[0]
    for out in ("a\\b", "a\nb"):
        worse = dataclasses.replace(config, out=str(tmp_path / out))
        with pytest.raises(RequestError, match="choose another --out"):
            submit(worse)


def test_submitting_and_status_import_no_torch() -> None:
    modules = "pipeline.cli.sweep, pipeline.sweep.launch.slurm.launch, pipeline.sweep.status"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""The status of a study, from its directories and from SLURM's stand-ins."""

import json
from pathlib import Path

import pytest

from pipeline.cli import sweep
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.sweep import status
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import grid
from pipeline.sweep.launch.slurm import queue, watch
from pipeline.sweep.launch.slurm.queue import Task
from pipeline.sweep.plan_file import PLAN, append, recorded
from tests.support.slurm_stand_in import FakeSlurm, ledger, submit
from tests.support.studies import finish


def by_run(config: SweepConfig, tasks: list[Task]) -> dict[str, status.RunStatus]:
    folder = Path(config.out) / config.study
    found = status.statuses(folder, watch.run_jobs(folder, ledger(config).read(), tasks))
    return {run.run: run for run in found}


def test_status_joins_the_queue_with_the_run_directories(
    config: SweepConfig, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid(config)
    submit(config)
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
    assert sweep.main(["status", str(Path(config.out) / "tests")]) == 0
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
        f"failed: {dead.run_name}: job failed (NonZeroExitCode): pipeline: error: out of memory: use --micro_batch 2 "
        f"(log {log})" in rest
    )
    assert f"running: {going.run_name}: step 7/12, last record " in rest
    assert rest.endswith("report: job 104 pending (Priority)")
    sweep.main(["status", str(Path(config.out) / "tests"), "--json"])
    page = json.loads(capsys.readouterr().out)
    assert {run["run"]: run["state"] for run in page["runs"]} == {
        done.run_name: "finished", going.run_name: "running", waiting.run_name: "queued", dead.run_name: "failed",
    }  # fmt: skip
    assert page["report_jobs"] == [{"job": "104", "state": "PENDING"}]


def test_status_of_a_run_follows_its_last_submission(config: SweepConfig, fake: FakeSlurm) -> None:
    submit(config)
    first = ledger(config).read()[0].name
    fake.set("PENDING", "FAILED")
    submit(config)
    tasks = [*queue.tasks([s.name for s in ledger(config).read()])]
    assert {run.state for run in by_run(config, tasks).values()} == {"queued"}
    assert {run.state for run in by_run(config, list(reversed(tasks))).values()} == {"queued"}
    assert {run.state for run in by_run(config, [t for t in tasks if t.name == first]).values()} == {"lost"}


def test_status_asks_accounting_where_there_is_one(config: SweepConfig, fake: FakeSlurm) -> None:
    runs = grid(config)
    submit(config)
    name = ledger(config).read()[0].name
    (fake.folder / "accounts").write_text(
        f"102_0|{name}|OUT_OF_MEMORY|0:125\n102_1|{name}|CANCELLED by 0|0:0\n102_[2-9]|{name}|PENDING|0:0\n"
    )
    fake.forget("102|")
    tasks, silence = watch.ask(ledger(config).read())
    assert silence is None
    found = by_run(config, tasks)
    assert found[runs[0].run_name].reason == "job out_of_memory (exit code 0:125): it left no log"
    assert found[runs[1].run_name].state == "failed"
    assert found[runs[2].run_name].state == "queued"


def test_status_without_slurm_reads_the_directories(
    config: SweepConfig, fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = grid(config)
    submit(config)
    finish(runs[0], status="diverged")
    (fake.folder / "down").touch()
    capsys.readouterr()
    assert sweep.main(["status", str(Path(config.out) / "tests")]) == 0
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
    assert watch.last_words(str(tmp_path / "log")) == words


def test_status_of_an_adaptive_study(config: SweepConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = Path(config.out) / config.study
    done = grid(config)[0]
    finish(done, seconds=900.0)
    chosen = [{"param": "sp", "width": 64, "seed": 0, "x": -8.0, "why": "scan"}]
    known = {"reached": {"sp": {"optimal": 0.213, "max_stable": None}}, "asked": 0.05, "budget": "20h"}
    found = "optimal exponent to +-0.213, max-stable exponent to +-inf"
    append(
        study,
        {"round": 1, "finding": "scanning width 32", "runs": chosen, "reached": {}, "asked": 0.05, "budget": "20h"},
    )
    append(study, {"round": 2, "finding": found, **known, "runs": chosen})
    assert sweep.main(["status", str(study)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == [
        f"adaptive, round 2: {found} (asked for: 0.05)",
        "1 run and 0.25 device-hours spent of a budget of 20h",
    ]
    sweep.main(["status", str(study), "--json"])
    page = json.loads(capsys.readouterr().out)
    assert page["adaptive"] | known == page["adaptive"]
    assert (page["adaptive"]["round"], page["adaptive"]["ended"], page["device_hours"]) == (2, False, 0.25)
    append(study, {"round": 2, "finding": "as asked", **known, "runs": []})
    append(study, {"round": 2, "finding": "as asked", **known, "runs": []})
    assert len(recorded(study)) == 3
    assert "adaptive, ended after round 2: as asked\n" in str(status.look(study))
    append(study, {"round": 3, "finding": found, **known, "runs": chosen})
    assert [entry["round"] for entry in recorded(study)] == [1, 2, 3], "an end that went on is none"
    (study / PLAN).write_text('{"runs": []}\n')
    with pytest.raises(RequestError, match=r"plan\.jsonl is damaged: delete it"):
        status.look(study)


def test_status_of_what_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such study folder"):
        sweep.main(["status", str(tmp_path / "x")])
    with pytest.raises(RequestError, match="holds no runs"):
        sweep.main(["status", str(tmp_path)])


def test_a_run_whose_settings_cannot_be_read_is_lost_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "study" / "x").mkdir(parents=True)
    (tmp_path / "study" / "x" / "config.yaml").write_text("a: [")
    (run,) = status.look(tmp_path / "study").runs
    assert run.state == "lost"
    assert str(run.reason).startswith("its config.yaml cannot be read or is missing: delete ")

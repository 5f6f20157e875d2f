"""A study through SLURM: one array of jobs per width, and a last job that fits and reports. Training knows nothing of
it.

Under the study's lock: what is finished or still in the queue is left alone, everything else is submitted. Of an
adaptive study that is one round; the job that follows the round's arrays plans and submits the next.
"""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.config import RunConfig, run_settings
from pipeline.console import plural
from pipeline.errors import RequestError
from pipeline.files import write_atomic
from pipeline.mirrors.mirrors import require_packages
from pipeline.strict_yaml import dump_yaml
from pipeline.sweep.branches import branches
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.launch.slurm import queue
from pipeline.sweep.launch.slurm.arrays import Array, Survey, finished, plan, survey
from pipeline.sweep.launch.slurm.profile import Profile, load_profile
from pipeline.sweep.launch.slurm.queue import SlurmError
from pipeline.sweep.launch.slurm.sbatch import report_job, script_path, slurm_folder
from pipeline.sweep.launch.slurm.submissions import Ledger, Submission
from pipeline.sweep.launch.slurm.watch import ask, report_jobs, run_jobs
from pipeline.sweep.study import Jobs, Planned, Submit, study_lock

WAITS = False


def check(config: SweepConfig) -> None:
    """Raises `RequestError` for a profile that cannot be, and for a mirror that is missing here: jobs run with the
    environment of the call."""
    load_profile(config.profile)
    require_packages(config)


def jobs(study: Path) -> Jobs:
    """What SLURM knows of the study."""
    submissions = _ledger(study).read()
    tasks, silence = ask(submissions)
    return Jobs(run_jobs(study, submissions, tasks), report_jobs(submissions, tasks), silence)


@contextmanager
def opened(config: SweepConfig) -> Iterator[Submit]:
    """Nothing stays from round to round."""
    yield lambda planned: submit(config, planned)


def submit(config: SweepConfig, planned: Planned) -> int:
    """Submit what is neither finished nor in the queue; 1 if SLURM refused some, which the next call tries again.

    Raises `RequestError` before anything is submitted, `SlurmError` if SLURM does not answer.
    """
    ours = {s.job for s in _ledger(_study(config)).read() if s.kind == "report" and s.job}
    if planned.begun and os.environ.get("SLURM_JOB_ID") in ours:
        # the job after the round's, not a user within some allocation: no run is waited for any more
        print("runs of this round failed: the same command on the login node tries them again", file=sys.stderr)
        return 1
    profile, study, runs = load_profile(config.profile), _study(config), planned.runs
    if not queue.installed():
        raise RequestError("there is no sbatch on the PATH: call this on the cluster, or give --launcher local")
    placed = [profile.place(run) for run in runs]
    with study_lock(study) as lock:
        for name in ("configs", "manifests", "logs"):
            (slurm_folder(study) / name).mkdir(parents=True, exist_ok=True)
        ledger = _ledger(study)
        _recover(ledger)
        submissions = ledger.read()
        found = survey(placed, submissions)
        arrays = plan(study, placed, profile, found, len(submissions))
        print(_summary(study, runs, found), flush=True)
        if len(found.results) == len(runs):
            print(f"nothing to submit; pipeline report {study} makes the report again")
        submitted, refusals = _submit_arrays(arrays, study, ledger, lock)
        if again := _again(planned, study):
            write_atomic(again, dump_yaml(run_settings(config, SweepConfig)))
        live = {task.job for task in found.live.values()} | submitted
        _submit_report(study, profile, found, live, ledger, lock, again)
    if refusals and not submitted and len(refusals) == len(arrays):
        raise RequestError(f"sbatch refused: {refusals[0]}")
    for refusal in refusals:
        print(f"sbatch refused: {refusal}", file=sys.stderr)
    return 1 if refusals else 0


def dry_run(config: SweepConfig, planned: Planned) -> int:
    """Print what `submit` would submit, each command as it would be called; writes nothing, asks squeue alone."""
    profile, study, runs = load_profile(config.profile), _study(config), planned.runs
    placed = [profile.place(run) for run in runs]
    submissions = _ledger(study).read()
    try:
        found = survey(placed, submissions)
    except SlurmError as error:
        print(f"what is in the queue is not known: {error}")
        found = Survey(finished(placed), {}, ())
    arrays = plan(study, placed, profile, found, len(submissions))
    print(_summary(study, runs, found))
    for run in runs:
        if run.run_name in found.results:
            print(f"skipped: {run.run_name} is {found.results[run.run_name].status}")
        elif task := found.live.get(run.run_name):
            print(f"skipped: {run.run_name} is job {task}, {task.state.lower()}")
    for array in arrays:
        print(f"\nwidth {array.submission.width}: {array}")
        print(f"script {script_path('train_array.sbatch')}, manifest {array.submission.manifest}:")
        print(*(f"  {index} {run.run_name}" for index, run in enumerate(array.runs)), sep="\n")
        print(shlex.join(array.submission.argv))
    if arrays:
        live = sorted({task.job for task in found.live.values()})
        after = [*live, *(f"<id of {array.submission.name}>" for array in arrays)]
        report = report_job(study, profile, after, len(submissions) + len(arrays), _again(planned, study))
        print(f"\nreport, when these have ended; script {script_path('report.sbatch')}:\n{shlex.join(report.argv)}")
    return 0


def _study(config: SweepConfig) -> Path:
    study = config.study_dir.resolve()
    if not str(study).isprintable() or "\\" in str(study):
        raise RequestError(f"sbatch cannot name files in {str(study)!r}: choose another --out")
    return study


def _ledger(study: Path) -> Ledger:
    return Ledger(slurm_folder(study) / "submissions.jsonl")


# ---------------------------------------------------------------------------------------------------------------------
# Submitting


def _recover(ledger: Ledger) -> None:
    """Find the jobs whose sbatch was called by a sweep that then died: SLURM knows them by name."""
    unanswered = [s.name for s in ledger.read() if s.job is None and s.refused is None]
    for name, job in sorted({(task.name, task.job) for task in queue.tasks(unanswered)}):
        ledger.submitted(name, job)


def _submit_arrays(arrays: list[Array], study: Path, ledger: Ledger, lock: int) -> tuple[set[str], list[str]]:
    """The ids of the jobs, and why others were refused."""
    jobs, refusals = set(), []
    for array in arrays:
        configs = slurm_folder(study) / "configs"
        for run in array.runs:
            write_atomic(configs / f"{run.run_name}.yaml", dump_yaml(run_settings(run)))
        assert array.submission.manifest is not None
        lines = "".join(f"{configs / run.run_name}.yaml\n" for run in array.runs)
        write_atomic(Path(array.submission.manifest), lines)
        try:
            job = _submit(array.submission, ledger, lock)
        except _Refused as refusal:
            refusals.append(f"width {array.submission.width}: {refusal}")
            continue
        jobs.add(job)
        print(f"width {array.submission.width}: job {job}, {array}", flush=True)
    return jobs, refusals


class _Refused(Exception):
    """SLURM does not take a job; nothing of it is in the queue."""


def _submit(submission: Submission, ledger: Ledger, lock: int) -> str:
    ledger.planned(submission)
    try:
        job = queue.submit(submission.argv, lock)
    except SlurmError as error:  # sbatch may have lost the answer alone
        there = [task.job for task in queue.tasks([submission.name])]
        if not there:
            ledger.refused(submission.name, str(error))
            raise _Refused(str(error)) from None
        job = there[0]
    ledger.submitted(submission.name, job)
    return job


def _again(planned: Planned, study: Path) -> Path | None:
    """Where the settings of a sweep lie that has further rounds, for the job that goes on with it."""
    return slurm_folder(study) / "sweep.yaml" if planned.followed else None


def _submit_report(
    study: Path, profile: Profile, found: Survey, live: set[str], ledger: Ledger, lock: int, again: Path | None
) -> None:
    """One job, after everything that is in the queue; an earlier one that still waits is replaced."""
    if not live:
        return
    submissions = ledger.read()
    after = {s.job: s.argv for s in submissions if s.kind == "report"}
    for task in found.reports:
        if task.waiting and live <= _awaited(after.get(task.job, ())):
            print(f"report: job {task.job} waits for {', '.join(sorted(live, key=int))}", flush=True)
            return
    begun = {task.job for task in found.reports if not task.waiting}  # two reports must not write at once
    report = report_job(study, profile, sorted(live | begun, key=int), len(submissions), again)
    try:
        job = _submit(report, ledger, lock)
    except _Refused as refusal:
        print(f"no report job, sbatch refused it: {refusal}; run pipeline report {study} later", file=sys.stderr)
        return
    for task in found.reports:
        if task.waiting:
            queue.cancel_pending(task.job)
    print(f"report: job {job} after {', '.join(sorted(live | begun, key=int))}", flush=True)


def _awaited(argv: Iterable[str]) -> set[str]:
    """The jobs that a report job was told to wait for."""
    option = next((word for word in argv if word.startswith("--dependency=")), "")
    return set(option.partition(":")[2].split(":"))


def _summary(study: Path, runs: Sequence[RunConfig], found: Survey) -> str:
    live = sum(run.run_name in found.live for run in runs)
    todo = len(runs) - len(found.results) - live
    alone = "; each trains all of its steps: through SLURM none branches off a longer one" if branches(runs)[1] else ""
    return (
        f"study {study}: {plural(len(runs), 'run')}, {len(found.results)} finished already, "
        f"{live} in the queue, {todo} to submit{alone}"
    )

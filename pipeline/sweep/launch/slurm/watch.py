"""What SLURM knows of a study's runs: the queue and the accounts, joined with what was submitted."""

import re
from functools import partial
from pathlib import Path

from pipeline.files import tail
from pipeline.sweep.launch.slurm import queue
from pipeline.sweep.launch.slurm.queue import SlurmError, Task
from pipeline.sweep.launch.slurm.sbatch import slurm_folder
from pipeline.sweep.launch.slurm.submissions import Submission, live_reports, of_runs
from pipeline.sweep.study import Job, ReportJob


def ask(submissions: list[Submission]) -> tuple[list[Task], str | None]:
    """All that squeue and accounting know, squeue's word last; and why squeue says nothing."""
    asked = [s for s in submissions if s.refused is None]
    if not asked:
        return [], None
    try:
        known = queue.tasks([s.name for s in asked])
    except SlurmError as error:
        return [], str(error)
    return [*queue.accounted([s.job for s in asked if s.job]), *known], None


def run_jobs(study: Path, submissions: list[Submission], tasks: list[Task]) -> dict[str, Job]:
    """Every run that was submitted, by name."""
    last = {run: s for s in submissions if s.kind == "array" for run in s.runs}
    by_run = {run: task for run, s, task in of_runs(submissions, tasks) if s is last[run] or task.live}
    return {run: _job(study, run, submission, by_run.get(run)) for run, submission in last.items()}


def report_jobs(submissions: list[Submission], tasks: list[Task]) -> tuple[ReportJob, ...]:
    """The report jobs that wait or run."""
    return tuple(ReportJob(str(t), t.state, t.reason) for t in live_reports(submissions, tasks))


def _job(study: Path, run: str, submission: Submission, task: Task | None) -> Job:
    place = f"{submission.job}_{submission.runs.index(run)}" if submission.job else None
    path = slurm_folder(study) / "logs" / f"{place}.log"
    log = str(path) if place and path.exists() else None
    if task is not None and task.live:
        state, why = "queued" if task.waiting else "running", partial(str, task.reason)
    elif task is not None:
        state, why = "failed", partial(_how_it_ended, task, log)
    elif submission.refused:
        state, why = "lost", partial(str, f"sbatch refused: {submission.refused}")
    elif log:
        state, why = "failed", partial(last_words, log)
    else:
        state, why = "lost", partial(str, "SLURM does not know its job any more")
    return Job(str(task) if task else place, state, why, log, slurm_folder(study) / "configs" / f"{run}.yaml")


def _how_it_ended(task: Task, log: str | None) -> str:
    ended = f"{task.state.lower()} ({task.reason})" if task.reason not in ("", "None") else task.state.lower()
    return f"job {ended}: {last_words(log)}"


def last_words(log: str | None) -> str:
    """Of a log's last start: the training's last complaint, else srun's, else the last line."""
    if log is None:
        return "it left no log"
    lines = [line.strip() for line in tail(Path(log)).splitlines() if line.strip()]
    starts = [
        number for number, line in enumerate(lines) if re.search(r" pipeline: job \S+ \(\d+\), start \d+, on ", line)
    ]
    lines = lines[starts[-1] :] if starts else lines
    for voice in ("pipeline: error:", "srun: error:", ""):
        if said := [line for line in lines if line.startswith(voice)]:
            return said[-1]
    return "its log is empty"

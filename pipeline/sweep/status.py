"""`pipeline sweep status STUDY`: what the run directories say, joined with what SLURM says where there is one."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.cli.arguments import RequestParser
from pipeline.errors import RequestError
from pipeline.sweep.launch.lock import plural
from pipeline.sweep.launch.slurm import queue
from pipeline.sweep.launch.slurm.queue import SlurmError, Task
from pipeline.sweep.launch.slurm.submissions import Ledger, Submission

STATES = ("finished", "diverged", "aborted", "running", "queued", "failed", "lost")
_OF_RESULT = {"completed": "finished", "diverged": "diverged", "aborted": "aborted"}
USUAL = ("None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime")  # reasons to wait that need no word
TAIL = 65536  # bytes at the end of a file that hold its last lines


@dataclass(frozen=True)
class RunStatus:
    """A run and what is known of it."""

    run: str
    width: int
    state: str
    """One of `STATES`. failed: it ended by itself or was ended. lost: begun or submitted, and nobody works on it."""
    step: int = 0
    steps: int = 0
    last_seen: float | None = None
    """Seconds since its last record."""
    job: str | None = None
    reason: str | None = None
    log: str | None = None


def main(argv: Sequence[str]) -> int:
    """A table per width, what is going, and what failed and why."""
    parser = RequestParser(prog="pipeline sweep status", description="What the runs of a study are doing.")
    parser.add_argument("study", type=Path, help="the study's folder, such as runs/STUDY")
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    arguments = parser.parse_args(list(argv))
    study: Path = arguments.study.resolve()
    if not study.is_dir():
        raise RequestError(f"{arguments.study}: no such study folder")
    submissions = Ledger(study / "slurm" / "submissions.jsonl").read()
    tasks, silence = _ask(submissions)
    runs = statuses(study, submissions, tasks)
    if not runs:
        raise RequestError(f"{arguments.study} holds no runs, and nothing was submitted from it")
    reports = [task for task in tasks if task.live and task.name in {s.name for s in submissions if s.kind == "report"}]
    if arguments.json:
        page: dict[str, Any] = {"study": str(study), "runs": [asdict(run) for run in runs]}
        page |= {"report_jobs": [{"job": str(t), "state": t.state} for t in reports], "slurm_error": silence}
        print(json.dumps(page, indent=2))
        return 0
    print(f"study {study}: {plural(len(runs), 'run')}, {time.strftime('%F %T')}")
    if silence:
        print(f"SLURM does not answer, so this is from the run directories alone: {silence}")
    print(_table(runs), *_details(runs), sep="\n")
    for task in reports:
        print(f"report: job {task} {task.state.lower()} ({task.reason})")
    return 0


def _ask(submissions: list[Submission]) -> tuple[list[Task], str | None]:
    """All that squeue and accounting know, squeue's word last; and why squeue says nothing."""
    asked = [s for s in submissions if s.refused is None]
    if not asked:
        return [], None
    try:
        known = queue.tasks([s.name for s in asked])
    except SlurmError as error:
        return [], str(error)
    return [*queue.accounted([s.job for s in asked if s.job]), *known], None


def statuses(study: Path, submissions: list[Submission], tasks: list[Task]) -> list[RunStatus]:
    """Every run that has a directory or was submitted, by width and name."""
    arrays = {s.name: s for s in submissions if s.kind == "array"}
    last: dict[str, Submission] = {run: s for s in arrays.values() for run in s.runs}
    by_run: dict[str, Task] = {}
    for task in tasks:
        submission = arrays.get(task.name)
        if submission is None or task.index is None or submission.job not in (None, task.job):
            continue
        run = submission.runs[task.index]
        if submission is last[run] or task.live:
            by_run[run] = task
    begun = {path.parent.name for path in study.glob("*/config.yaml") if not path.parent.name.startswith(".")}
    locked = _locked_inodes()
    found = [_status(study, run, last.get(run), by_run.get(run), locked) for run in begun | set(last)]
    return sorted(found, key=lambda status: (status.width, status.run))


def _status(study: Path, run: str, submission: Submission | None, task: Task | None, locked: set[int]) -> RunStatus:
    folder = study / run
    config = _config(folder / "config.yaml") or _config(study / "slurm" / "configs" / f"{run}.yaml")
    width, steps = int(config.get("width", 0)), int(config.get("steps", 0))
    step, last_seen = _progress(folder / "metrics.jsonl")
    job = submission.job if submission else None
    index = submission.runs.index(run) if submission else 0
    path = study / "slurm" / "logs" / f"{job}_{index}.log"
    log = str(path) if job and path.exists() else None
    state, reason = _state(folder, submission, task, locked, log)
    name = str(task) if task else f"{job}_{index}" if job else None
    return RunStatus(run, width, state, step, steps, last_seen, name, reason, log)


def _state(
    folder: Path, submission: Submission | None, task: Task | None, locked: set[int], log: str | None
) -> tuple[str, str | None]:
    """The first of these that holds: it has ended, SLURM works on it, a process of this machine does, it failed."""
    result = _result(folder / "result.json")
    if result.get("status") in _OF_RESULT:
        return _OF_RESULT[result["status"]], None
    if task is not None and task.live:
        return ("queued" if task.waiting else "running"), task.reason
    if _inode(folder / ".lock") in locked:
        return "running", None
    if result.get("status") == "failed":
        return "failed", str(result.get("error") or "it does not say why")
    if task is not None:
        ended = f"{task.state.lower()} ({task.reason})" if task.reason not in ("", "None") else task.state.lower()
        return "failed", f"job {ended}: {_last_words(log)}"
    if submission is not None and submission.refused:
        return "lost", f"sbatch refused: {submission.refused}"
    if submission is not None and log:
        return "failed", _last_words(log)
    return "lost", "SLURM does not know its job any more" if submission else "interrupted"


def _last_words(log: str | None) -> str:
    """Of a log's last start: the training's last complaint, else srun's, else the last line."""
    if log is None:
        return "it left no log"
    lines = [line.strip() for line in _tail(Path(log)).splitlines() if line.strip()]
    starts = [
        number for number, line in enumerate(lines) if re.search(r" pipeline: job \S+ \(\d+\), start \d+, on ", line)
    ]
    lines = lines[starts[-1] :] if starts else lines
    for voice in ("pipeline: error:", "srun: error:", ""):
        if said := [line for line in lines if line.startswith(voice)]:
            return said[-1]
    return "its log is empty"


# ---------------------------------------------------------------------------------------------------------------------
# Reading without disturbing who writes


def _config(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _result(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"status": "failed", "error": f"{path} is damaged"}
    return loaded if isinstance(loaded, dict) else {}


def _progress(metrics: Path) -> tuple[int, float | None]:
    """The last recorded step, and the seconds since then."""
    try:
        seconds = max(0.0, time.time() - metrics.stat().st_mtime)
        whole = _tail(metrics).rpartition("\n")[0]
        return int(json.loads(whole.rpartition("\n")[2])["step"]), round(seconds, 1)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, None


def _tail(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - TAIL))
        return stream.read().decode(errors="replace")


def _locked_inodes() -> set[int]:
    """Inodes of the files that processes of this machine hold locks on; taking a lock to see would get in their way."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:  # not Linux
        return set()
    return {int(word.split(":")[2]) for line in lines for word in line.split() if word.count(":") == 2}


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Words


def _table(runs: list[RunStatus]) -> str:
    shown = [state for state in STATES if state != "aborted" or any(run.state == state for run in runs)]
    rows = [("width", "runs", *shown)]
    for width in sorted({run.width for run in runs}):
        states = Counter(run.state for run in runs if run.width == width)
        rows.append((str(width), str(states.total()), *(str(states[state]) for state in shown)))
    return "\n".join("  ".join(f"{cell:>8}" for cell in row) for row in rows)


def _details(runs: list[RunStatus]) -> Iterable[str]:
    for run in runs:
        job = f", job {run.job}" if run.job else ""
        if run.state == "running":
            seen = "no record yet" if run.last_seen is None else f"step {run.step}/{run.steps}, last record {run.last_seen:.0f} s ago"  # fmt: skip
            yield f"running: {run.run}: {seen}{job}"
        elif run.state == "queued" and run.reason not in USUAL:
            yield f"queued: {run.run}: {run.reason}{job}"
        elif run.state in ("failed", "lost"):
            yield f"{run.state}: {run.run}: {run.reason}" + (f" (log {run.log})" if run.log else job)

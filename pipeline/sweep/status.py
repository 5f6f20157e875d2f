"""The status of a study: what the run directories say, joined with what its launchers say."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from pipeline.config import RunConfig
from pipeline.console import duration, plural, table, wrapped
from pipeline.errors import RequestError
from pipeline.files import tail, write_atomic
from pipeline.recipes import RECORDED_KEY
from pipeline.run.directory import RunDir
from pipeline.run.study import require_study
from pipeline.strict_yaml import load_entries
from pipeline.sweep.branches import Branches
from pipeline.sweep.config import LAUNCHERS, SweepConfig
from pipeline.sweep.grid import cell, cost
from pipeline.sweep.plan_file import Standing, standing
from pipeline.sweep.study import Job, ReportJob, launcher

STATES = ("finished", "diverged", "aborted", "running", "queued", "failed", "lost", "planned")
_RARE = ("aborted", "planned")  # that have a column only where there is such a run
PLANNED = "planned.json"
"""In a study's folder: what the last sweep of it on this machine was to run (`remember`)."""
_OF_RESULT = {"completed": "finished", "diverged": "diverged", "aborted": "aborted"}
USUAL = ("None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime")  # reasons to wait that need no word


@dataclass(frozen=True)
class RunStatus:
    """A run and what is known of it."""

    run: str
    width: int
    state: str
    """One of `STATES`. failed: it ended by itself or was ended. lost: begun or submitted, and nobody works on it.
    planned: it has not begun."""
    step: int = 0
    """That it has reached, or that a longer run reaches for it."""
    steps: int = 0
    last_seen: float | None = None
    """Seconds since its last record."""
    job: str | None = None
    reason: str | None = None
    log: str | None = None
    cell: str = ""
    """Where it stands on the study's further axes, as far as that is known."""
    device_seconds: float = 0.0
    """That it took, once it has ended."""


@dataclass(frozen=True)
class StudyStatus:
    """What the runs of a study are doing. In words: a table per width, what is going, and what failed and why."""

    study: Path
    runs: list[RunStatus]
    reports: tuple[ReportJob, ...]
    silence: str | None
    """Why SLURM does not answer."""
    seconds_left: float | None = None
    """Until the sweep on this machine ends, or its round, as far as finished runs tell; None: none is running, or
    nothing is known."""
    adaptive: Standing | None = None
    """How far an adaptive sweep is."""

    @property
    def hours(self) -> float:
        """That devices have spent on the runs that have ended."""
        return sum(run.device_seconds for run in self.runs) / 3600

    def to_json(self) -> dict[str, Any]:
        """One object, for scripts."""
        return {
            "study": str(self.study),
            "runs": [asdict(run) for run in self.runs],
            "report_jobs": [{"job": report.job, "state": report.state} for report in self.reports],
            "slurm_error": self.silence,
            "seconds_left": self.seconds_left,
            "device_hours": round(self.hours, 6),
            "adaptive": asdict(self.adaptive) if self.adaptive else None,
        }

    def __str__(self) -> str:
        lines = [f"study {self.study}: {plural(len(self.runs), 'run')}, {time.strftime('%F %T')}"]
        if self.silence:
            lines.append(f"SLURM does not answer, so this is from the run directories alone: {self.silence}")
        lines += [*_table(self.runs), *_details(self.runs)]
        if self.adaptive:
            begun = sum(run.state != "planned" for run in self.runs)
            lines += [line for text in self.adaptive.lines(begun, self.hours) for line in wrapped(text, "")]
        if self.seconds_left is not None:
            end = time.strftime("%F %H:%M", time.localtime(time.time() + self.seconds_left))
            lines.append(
                f"about {duration(self.seconds_left)} left{' of this round' if self.adaptive else ''}, until {end}"
            )
        lines += [f"report: job {r.job} {r.state.lower()} ({r.reason})" for r in self.reports]
        return "\n".join(lines)


def look(folder: Path) -> StudyStatus:
    """The status of the study in `folder`. Raises `RequestError`."""
    require_study(folder)
    study = folder.resolve()
    known = [launcher(name).jobs(study) for name in LAUNCHERS]
    jobs = {run: job for its in known for run, job in its.runs.items()}
    plan = _plan(study)
    runs = statuses(study, jobs, plan.get("runs", {}))
    if not runs:
        raise RequestError(f"{folder} holds no runs, and nothing was submitted from it")
    reports = tuple(report for its in known for report in its.reports)
    silence = next((its.silence for its in known if its.silence), None)
    left = _seconds_left(study, runs, plan)
    return StudyStatus(study, runs, reports, silence, left, standing(study))


def going(folder: Path) -> bool:
    """Whether a process of this machine or a launcher works on the study. Where locks cannot be seen (not on Linux),
    only launchers tell."""
    study, held = folder.resolve(), _held_inodes()
    if any(_inode(lock) in held for lock in (study / ".lock", *study.glob("*/.lock"))):
        return True
    jobs = (job for name in LAUNCHERS for job in launcher(name).jobs(study).runs.values())
    return any(job.state in ("queued", "running") for job in jobs)


def remember(config: SweepConfig, runs: Sequence[RunConfig], workers: int, known: Branches) -> None:
    """Write down what a sweep is to run, for who asks how it goes."""
    entries = {
        run.run_name: {
            "width": run.width,
            "step": known[run].step if run in known else 0,
            "steps": run.last_step,
            "cost": cost(run),
            "cell": cell(config, run),
        }
        for run in runs
    }
    write_atomic(config.study_dir / PLANNED, json.dumps({"workers": workers, "runs": entries}, indent=1) + "\n")


def _plan(study: Path) -> dict[str, Any]:
    """What `remember` wrote; empty without it. Raises `RequestError`."""
    path = study / PLANNED
    try:
        plan: dict[str, Any] = json.loads(path.read_bytes())
        return {"workers": int(plan["workers"]), "runs": {str(name): dict(run) for name, run in plan["runs"].items()}}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path} is damaged ({error}): delete it, the runs are kept") from None


def _seconds_left(study: Path, runs: list[RunStatus], plan: Mapping[str, Any]) -> float | None:
    """From the seconds that finished runs of the plan took per unit of their cost."""
    entries = plan.get("runs", {})
    mine = [run for run in runs if run.run in entries]
    took, units = 0.0, 0.0
    for run in mine:
        if run.state == "finished" and (result := RunDir(study / run.run).result()) is not None:
            took, units = took + result.seconds, units + entries[run.run]["cost"]
    if not units or not any(run.state == "running" for run in mine):
        return None
    left = [entries[run.run]["cost"] * (1 - run.step / max(run.steps, 1)) for run in mine
            if run.state in ("running", "planned", "failed", "lost")]  # fmt: skip
    return float(took / units * max(sum(left) / plan["workers"], *left))


def statuses(
    study: Path, jobs: Mapping[str, Job], planned: Mapping[str, Any] = MappingProxyType({})
) -> list[RunStatus]:
    """Every run that has a directory, was submitted or is planned, by width and name."""
    files = ("config.yaml", "metrics.jsonl", "result.json")
    begun = {path.parent.name for file in files for path in study.glob(f"*/{file}")}
    begun = {name for name in begun if not name.startswith(".")}
    held = _held_inodes()
    runs = [_status(study / run, jobs.get(run), held) for run in begun | set(jobs)]
    runs = [replace(run, cell=planned.get(run.run, {}).get("cell", "")) for run in runs]
    for name in planned.keys() - {run.run for run in runs}:
        its = planned[name]
        runs.append(
            RunStatus(name, int(its["width"]), "planned", int(its.get("step", 0)), int(its["steps"]), cell=its["cell"])
        )
    return sorted(runs, key=lambda status: (status.cell, status.width, status.run))


def _status(folder: Path, job: Job | None, held: set[int]) -> RunStatus:
    settings = _settings(folder / "config.yaml") or (_settings(job.settings) if job and job.settings else {})
    record, last_seen = last_record(folder / "metrics.jsonl")
    step = int(record.get("step", 0))
    state, reason, seconds = _state(folder, job, held)
    if state == "lost" and not settings and job is None:
        reason = f"its config.yaml cannot be read or is missing: delete {folder} to run it again"
    width, steps = int(settings.get("width", 0)), int(settings.get("stop_after") or settings.get("steps", 0))
    name, log = (job.name, job.log) if job else (None, None)
    branched = (settings.get(RECORDED_KEY) or {}).get("branched")
    if branched and state == "lost" and not (folder / "starts.jsonl").exists():
        state, reason = "planned", None
    seconds -= branched["seconds"] if branched and seconds else 0.0  # another run's
    seconds *= int(settings.get("devices", 1)) * int(settings.get("num_nodes", 1))
    return RunStatus(folder.name, width, state, step, steps, last_seen, name, reason, log, device_seconds=seconds)


def _state(folder: Path, job: Job | None, held: set[int]) -> tuple[str, str | None, float]:
    """The first that holds: it has ended, a launcher works on it, a process of this machine does, it failed. With why,
    and the seconds it took if it has ended."""
    try:
        result, failure = RunDir(folder).result(), RunDir(folder).failure()
    except RequestError as error:
        result, failure = None, str(error)
    if result is not None and not (folder / "config.yaml").is_file():
        return "lost", None, 0.0
    if result is not None:
        return _OF_RESULT[result.status], None, result.seconds
    if job is not None and job.state in ("queued", "running"):
        return job.state, job.why(), 0.0
    if _inode(folder / ".lock") in held:
        return "running", None, 0.0
    if failure is not None:
        return "failed", failure, 0.0
    return (job.state, job.why(), 0.0) if job is not None else ("lost", "interrupted", 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Reading without disturbing who writes


def _settings(path: Path) -> dict[str, Any]:
    try:
        loaded = load_entries(path)
    except (OSError, yaml.YAMLError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def last_record(metrics: Path) -> tuple[dict[str, Any], float | None]:
    """The last line of a run's metrics.jsonl, and the seconds since it was written; empty and None before there is
    one."""
    try:
        seconds = max(0.0, time.time() - metrics.stat().st_mtime)
        whole = tail(metrics).rpartition("\n")[0]
        record = json.loads(whole.rpartition("\n")[2])
        return {**record, "step": int(record["step"])}, round(seconds, 1)
    except (OSError, ValueError, KeyError, TypeError):
        return {}, None


def _held_inodes() -> set[int]:
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


def _table(runs: list[RunStatus]) -> list[str]:
    shown = [state for state in STATES if state not in _RARE or any(run.state == state for run in runs)]
    cells = any(run.cell for run in runs)
    rows = [(*(("at",) if cells else ()), "width", "runs", *shown)]
    for where, width in sorted({(run.cell, run.width) for run in runs}):
        states = Counter(run.state for run in runs if (run.cell, run.width) == (where, width))
        counts = (str(width), str(states.total()), *(str(states[state]) for state in shown))
        rows.append((*((where,) if cells else ()), *counts))
    return table(rows, lead="", right=True, least=8)


def _details(runs: list[RunStatus]) -> Iterator[str]:
    for run in runs:
        job = f", job {run.job}" if run.job else ""
        if run.state == "running":
            ago = f"last record {run.last_seen:.0f} s ago" if run.last_seen is not None else ""
            yield f"running: {run.run}: {f'step {run.step}/{run.steps}, {ago}' if ago else 'no record yet'}{job}"
        elif run.state == "queued" and run.reason not in USUAL:
            yield f"queued: {run.run}: {run.reason}{job}"
        elif run.state in ("failed", "lost"):
            yield f"{run.state}: {run.run}: {run.reason}" + (f" (log {run.log})" if run.log else job)

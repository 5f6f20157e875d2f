"""The job arrays of a study: what its runs are doing, and which arrays train those that nobody works on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.console import plural
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.sweep.launch.slurm import queue
from pipeline.sweep.launch.slurm.profile import Profile
from pipeline.sweep.launch.slurm.queue import Task
from pipeline.sweep.launch.slurm.sbatch import array_argv, job_name, slurm_folder
from pipeline.sweep.launch.slurm.submissions import Submission, live_reports, of_runs
from pipeline.sweep.launch.slurm.time_limit import TimeLimit, measure, time_limit

ARRAY_SIZE = 1000  # tasks of one array: SLURM's MaxArraySize is 1001 where nobody changed it


@dataclass(frozen=True)
class Survey:
    """What a study's runs are doing."""

    results: dict[str, RunResult]
    """Of finished runs."""
    live: dict[str, Task]
    """Runs in the queue, also those of an earlier call with another grid."""
    reports: tuple[Task, ...]
    """Report jobs in the queue."""


@dataclass(frozen=True)
class Array:
    """A job array that is about to be submitted: runs of one width, on their devices."""

    submission: Submission
    runs: tuple[RunConfig, ...]
    limit: TimeLimit

    def __str__(self) -> str:
        run = self.runs[0]
        nodes, devices = plural(run.num_nodes, "node"), plural(run.devices, "device")
        return (
            f"{plural(len(self.runs), 'run')} on {nodes} x {devices}, strategy {run.strategy}, "
            f"micro-batch {run.micro_batch}; time {self.limit} ({self.limit.reason})"
        )


def survey(runs: Iterable[RunConfig], submissions: list[Submission]) -> Survey:
    """Raises `SlurmError` if jobs were submitted that may be going, and squeue does not answer."""
    results = finished(runs)
    asked = [s for s in submissions if s.refused is None and (s.kind == "report" or not results.keys() >= set(s.runs))]
    tasks = queue.tasks([s.name for s in asked])
    live = {run: task for run, _, task in of_runs(asked, tasks) if task.live and run not in results}
    return Survey(results, live, live_reports(asked, tasks))


def plan(study: Path, runs: list[RunConfig], profile: Profile, found: Survey, submitted: int) -> list[Array]:
    """One array per width, or more where a width has very many runs; `submitted` jobs were numbered already."""
    todo: dict[int, list[RunConfig]] = {}
    for run in runs:
        if run.run_name not in found.results and run.run_name not in found.live:
            todo.setdefault(run.width, []).append(run)
    measured = measure([(run, found.results[run.run_name]) for run in runs if run.run_name in found.results])
    arrays: list[Array] = []
    for width, chosen in todo.items():
        here = profile.at(width)
        limit = time_limit(chosen[0], here, measured)
        for start in range(0, len(chosen), ARRAY_SIZE):
            part = tuple(chosen[start : start + ARRAY_SIZE])
            name = job_name(study, submitted + len(arrays), f"w{width}")
            manifest = slurm_folder(study) / "manifests" / f"{name}.txt"
            argv = array_argv(study, name, manifest, part, here, limit)
            names = tuple(run.run_name for run in part)
            arrays.append(Array(Submission(name, "array", names, width, argv, str(manifest)), part, limit))
    return arrays


def finished(runs: Iterable[RunConfig]) -> dict[str, RunResult]:
    """The results of the runs that have one, by name."""
    results = {run.run_name: RunDir(run.run_dir).result() for run in runs}
    return {name: result for name, result in results.items() if result is not None}

"""How long the runs of a width take on the devices they get: measured, else scaled, else estimated."""

import math
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.console import duration
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.sweep.grid import cost
from pipeline.sweep.launch.slurm.profile import Profile

STARTUP = 5  # minutes that every time limit adds: imports, data, the first step


@dataclass(frozen=True)
class TimeLimit:
    minutes: int
    reason: str
    """Where it comes from, in words."""

    def __str__(self) -> str:
        return f"{self.minutes // 60:02d}:{self.minutes % 60:02d}:00"  # hours, minutes, seconds, as sbatch reads it


@dataclass(frozen=True)
class Measured:
    """The longest completed run of a width."""

    width: int
    cost: float
    device_seconds: float
    runs: int


def measure(finished: list[tuple[RunConfig, RunResult]]) -> list[Measured]:
    """Per width, from runs and their results; runs that diverged ended early and say nothing."""
    by_width: dict[int, list[tuple[float, RunConfig]]] = {}
    for run, result in finished:
        if result.status == "completed" and result.seconds:
            by_width.setdefault(run.width, []).append((result.seconds, run))
    longest = {width: max(found, key=lambda pair: pair[0]) for width, found in by_width.items()}
    return [
        Measured(width, cost(run), seconds * _devices(run.run_dir), len(by_width[width]))
        for width, (seconds, run) in longest.items()
    ]


def _devices(run_dir: Path) -> int:
    """Devices that a run was started on, as it recorded them."""
    return RunDir(run_dir).config().world_size


def time_limit(run: RunConfig, profile: Profile, measured: list[Measured]) -> TimeLimit:
    """For `run`, which has its devices already, under the profile of its width."""
    nearest = min(measured, key=lambda m: abs(math.log(m.width / run.width)), default=None)
    if nearest is not None:
        seconds = nearest.device_seconds * cost(run) / nearest.cost / run.world_size
        some = f"the longest of {nearest.runs} finished runs" if nearest.runs > 1 else "a finished run"
        what = f"{some} of this width"
        if nearest.width != run.width:
            what = f"scaled by cost from width {nearest.width}"
    elif profile.flops_per_second:
        flops = 6 * cost(run)
        seconds = flops / (profile.flops_per_second * run.world_size)
        what = f"estimated: {flops:.2g} FLOPs at {profile.flops_per_second:.2g} per second and device"
    else:
        return TimeLimit(profile.max_minutes, "max_time: no run has finished, and the profile has no flops_per_second")
    wanted = max(math.ceil(profile.margin * seconds / 60) + STARTUP, profile.shortest_limit)
    reason = f"{what}, {duration(seconds)} x {profile.margin:g} + {STARTUP} min"
    if wanted > profile.max_minutes:
        return TimeLimit(profile.max_minutes, f"{reason}, above max_time: goes back into the queue and resumes")
    return TimeLimit(wanted, reason)

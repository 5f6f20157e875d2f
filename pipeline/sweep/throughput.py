"""How long runs take, from those that are finished: seconds per unit of relative cost, by width."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.console import plural
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.sweep.grid import cost

MOST = 40  # runs of other studies that are read, the newest ones


@dataclass(frozen=True)
class Pace:
    """Device-seconds per unit of `cost`."""

    by_width: dict[int, float]
    source: str
    """Where it comes from, in words."""

    def seconds(self, run: RunConfig) -> float:
        """What `run` is expected to take on its devices, at the pace of the nearest width."""
        nearest = min(self.by_width, key=lambda width: abs(math.log(width / run.width)))
        return self.by_width[nearest] * cost(run) / run.world_size


def pace_of(timed: Iterable[tuple[RunConfig, float]], source: str) -> Pace | None:
    """From runs and the seconds that they took; None without any."""
    seconds, costs = defaultdict[int, float](float), defaultdict[int, float](float)
    for run, its in timed:
        seconds[run.width] += its * run.world_size
        costs[run.width] += cost(run)
    return Pace({width: seconds[width] / costs[width] for width in seconds}, source) if seconds else None


def measured(runs: Sequence[RunConfig]) -> Pace | None:
    """From the finished ones of `runs`, else from the newest runs of their kind that lie beside their study."""
    own = [(run, result.seconds) for run in runs if (result := _completed(run.run_dir)) is not None]
    if own or not runs:
        return pace_of(own, f"by {plural(len(own), 'finished run')} of this study")
    wanted, others = runs[0], []
    for file in sorted(Path(wanted.out).glob("*/*/result.json"), key=_age)[:MOST]:
        try:
            run = RunDir(file.parent).config()
            result = _completed(file.parent)
        except RequestError:  # a damaged one is for `pipeline sweep status` to name
            continue
        if result is not None and (run.model.kind, run.precision) == (wanted.model.kind, wanted.precision):
            others.append((run, result.seconds))
    return pace_of(others, f"by {plural(len(others), 'finished run')} of other studies in {wanted.out}")


def _completed(folder: Path) -> RunResult | None:
    result = RunDir(folder).result()
    return result if result is not None and result.status == "completed" and result.seconds else None


def _age(file: Path) -> float:
    try:
        return -file.stat().st_mtime
    except OSError:  # deleted since
        return 0.0

"""What a sweep on this machine shows while it goes: what it is to take, how far the running runs are, and a line for
each that has ended."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pipeline.config import RunConfig
from pipeline.console import Lanes, Progress, duration, plural
from pipeline.processes import Task, cores
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.sweep.branches import Branches, branches, own, shared
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import cell, cost
from pipeline.sweep.status import last_record
from pipeline.sweep.throughput import measured

MOST_LANES = 8  # running runs that are shown one by one
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 600.0  # seconds of silence before plain lines say how far the running runs are


def expected(config: SweepConfig, runs: Sequence[RunConfig], todo: list[RunConfig]) -> Iterator[str]:
    """What `todo`, of all `runs`, takes: in tokens, and in hours as far as finished runs tell."""
    if not todo:
        return
    todo, known = branches(todo)
    yield from shared(todo, known)
    tokens = round(sum(run.total_tokens * own(run, known) for run in todo))
    takes = f"to train: {plural(len(todo), 'run')}, {tokens:,} {_unit(todo[0])}"
    if (pace := measured(runs)) is None:
        yield f"{takes}; how long is said when the first has ended (--dry_run --calibrate measures it before)"
        return
    seconds = [pace.seconds(run) * own(run, known) for run in todo]
    workers = config.workers or max(1, cores() // config.devices)
    left = max(sum(seconds) / workers, *seconds)
    end = time.strftime("%F %H:%M", time.localtime(time.time() + left))
    yield f"{takes}; about {duration(left)} to go, until {end}, {pace.source}"


def _unit(run: RunConfig) -> str:
    return "tokens" if run.kind.takes == "text" else "examples"


class Shown:
    """A line per finished run, and the time left: a bar on a terminal, in the lines elsewhere."""

    def __init__(self, config: SweepConfig, total: int, workers: int, known: Branches = MappingProxyType({})) -> None:
        self.config, self.total, self.workers, self.done, self.known = config, total, workers, 0, known
        self.unit_seconds: dict[int, list[float]] = {}  # per unit of cost, by width
        self.unit_cost: list[float] = []  # seconds per unit of cost
        self.progress, self.lanes = Progress(total, "run"), Lanes(min(workers, MOST_LANES))
        self.say = self.progress.say
        self.left = 0.0
        self.spoken, self.pause = time.monotonic(), FIRST_PAUSE

    def close(self) -> None:
        self.lanes.close()
        self.progress.close()

    def finished(self, run: RunConfig, result: RunResult | None, reason: str | None, seconds: float) -> None:
        self.done += 1
        self.progress.at(self.done)
        said = f"failed: {reason}" if result is None else str(result)
        if result is not None and result.status == "completed":
            self.unit_cost.append(seconds / (cost(run) * own(run, self.known)))
            self.unit_seconds.setdefault(run.width, []).append(self.unit_cost[-1])
        left = f"  about {duration(self.left)} left" if self.left and not self.progress.terminal else ""
        self.say(f"[{self.done}/{self.total}] {self._name(run)}  {said}  ({seconds:.0f} s){left}")
        self.spoken = time.monotonic()

    def _name(self, run: RunConfig) -> str:
        where = cell(self.config, run)
        return f"{run.param:>4} width {run.width:<5} lr {run.lr:<8.3g} seed {run.seed}{where and f'  {where}'}"

    def refresh(self, pending: Mapping[Task[Any], RunConfig], waiting: Iterable[RunConfig] = ()) -> None:
        """Say anew how far the running ones are, and how much time is left, from the runs that have not ended, those
        included that wait for others."""
        now = time.monotonic()
        self._running([run for task, run in pending.items() if task.started is not None], now)
        if not self.unit_cost:
            return
        remaining = sum(max(0.0, self._estimate(run) - (now - (task.started or now))) for task, run in pending.items())
        remaining += sum(map(self._estimate, waiting))
        self.left = remaining / self.workers
        self.progress.at(self.done, f"about {duration(self.left)} left")

    def _running(self, runs: Sequence[RunConfig], now: float) -> None:
        """Their steps: bars on a terminal; elsewhere a line when nothing was said for long, and ever more seldom."""
        if not self.progress.terminal and now - self.spoken < self.pause:
            return
        rows = []
        for run in runs:
            record, _ = last_record(RunDir(run.run_dir).metrics_file)
            rows.append((self._name(run), int(record.get("step", 0)), run.last_step, _loss(record)))
        self.lanes.show(rows)
        if not self.progress.terminal and rows:
            far = ", ".join(
                f"{' '.join(name.split())} step {step}/{steps}" for name, step, steps, _ in rows[:MOST_LANES]
            )
            more = f" and {len(rows) - MOST_LANES} more" if len(rows) > MOST_LANES else ""
            self.say(f"[{self.done}/{self.total}] running: {far}{more}")
            self.spoken, self.pause = now, min(2 * self.pause, LONGEST_PAUSE)

    def _estimate(self, run: RunConfig) -> float:
        """Seconds a run takes, by its cost: at the mean of its width so far, else at the worst of all that ended."""
        known = self.unit_seconds.get(run.width)
        return cost(run) * own(run, self.known) * (sum(known) / len(known) if known else max(self.unit_cost))


def _loss(record: Mapping[str, Any]) -> str:
    loss = record.get("loss")
    return f"loss {loss:.3f}" if isinstance(loss, int | float) else ""

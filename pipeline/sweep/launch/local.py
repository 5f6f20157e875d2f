"""A study on this machine: one worker process per GPU or, without one, per core; each trains many runs.

Runs that want several devices get as many GPUs or cores, and processes of their own.
"""

import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from pipeline.config import RunConfig, SweepConfig, run_settings
from pipeline.errors import RequestError
from pipeline.processes import cores, end_with_parent, spawn, start_worker
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.sweep.grid import cost
from pipeline.sweep.launch.lock import study_lock

MAX_DEATHS = 3  # a run that takes its worker down this often is given up


def run_study(config: SweepConfig, runs: list[RunConfig]) -> dict[str, str]:
    """Train `runs`; return why each run that failed did. Ctrl-C stops the workers and leaves every run resumable."""
    if config.num_nodes > 1:
        raise RequestError(f"--num_nodes {config.num_nodes}: a sweep on this machine has one; use --launcher slurm")
    if not runs:
        return {}
    with study_lock(Path(config.out) / config.study):
        _prepare_data(runs[0])
        gpus = _gpus()
        places = [",".join(gpus[i : i + config.devices]) for i in range(0, len(gpus), config.devices)]
        if places and len(places[-1].split(",")) < config.devices:
            del places[-1]
        if gpus and not places:
            raise RequestError(f"--devices {config.devices}: this machine has {len(gpus)} GPUs")
        workers = config.workers or len(places) or max(1, cores() // config.devices)
        return _Pool(min(len(runs), workers), places, runs).run()


def _prepare_data(run: RunConfig) -> None:
    """Once, before the workers start, so that they do not all do it."""
    from pipeline.data.open import open_data

    open_data(run)


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    return [str(index) for index in range(torch.cuda.device_count())]


# ---------------------------------------------------------------------------------------------------------------------
# Workers


def _worker(connection: Connection, gpus: str | None) -> None:
    """Train the runs that arrive until the connection closes; answer each with (result, None) or (None, reason)."""
    start_worker()
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    import torch

    from pipeline.training.trainer import train

    torch.set_num_threads(1)
    while True:
        try:
            run: RunConfig = connection.recv()
        except EOFError:
            return
        try:
            result = train(run, show_progress=False) if run.world_size == 1 else _train_apart(run)
            connection.send((result, None))
        except KeyboardInterrupt:  # terminated by the parent
            return
        except RequestError as error:
            connection.send((None, str(error)))
        except Exception as error:
            connection.send((None, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"))


def _train_apart(run: RunConfig) -> RunResult:
    """Train a run of several processes, which Lightning starts from a command of its own. Raises `RequestError`."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "run.yaml"
        recipe.write_text(yaml.safe_dump(run_settings(run), sort_keys=False))
        command = [sys.executable, "-m", "pipeline", "train", "--config", str(recipe)]
        said = subprocess.run(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=end_with_parent
        )
    result = RunDir(run.run_dir).result()
    if result is None:
        last = (said.stderr.strip().splitlines() or [f"exit code {said.returncode}"])[-1]
        raise RequestError(last.removeprefix("pipeline: error: "))
    return result


@dataclass
class _Slot:
    """A worker process and the run it is busy with."""

    process: Any
    connection: Connection
    gpus: str | None
    run: RunConfig | None = None
    started: float = 0.0


class _Pool:
    """Hands runs to workers, replaces workers that die, and shows progress."""

    def __init__(self, workers: int, places: list[str], runs: list[RunConfig]) -> None:
        """`places`: the GPUs of every worker, as CUDA_VISIBLE_DEVICES names them; empty without GPUs."""
        self.queue = deque(runs)
        self.deaths: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.status = _Status(len(runs), workers)
        os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers when they import torch
        self.slots = [self._start(places[i % len(places)] if places else None) for i in range(workers)]

    def _start(self, gpus: str | None) -> _Slot:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_worker, args=(theirs, gpus))
        process.start()
        theirs.close()
        return _Slot(process, ours, gpus)

    def run(self) -> dict[str, str]:
        try:
            while self.queue or any(slot.run for slot in self.slots):
                for slot in self.slots:
                    if slot.run is None and self.queue:
                        self._hand_out(slot)
                busy = {slot.connection: slot for slot in self.slots if slot.run}
                for ready in multiprocessing.connection.wait(list(busy), timeout=1.0):
                    self._collect(busy[ready])  # type: ignore[index]
                self.status.refresh(self.slots, self.queue)
        finally:
            for slot in self.slots:
                slot.process.terminate()
            for slot in self.slots:
                slot.process.join()
            self.status.close()
        return self.failures

    def _hand_out(self, slot: _Slot) -> None:
        slot.run, slot.started = self.queue.popleft(), time.monotonic()
        try:
            slot.connection.send(slot.run)
        except OSError:  # died while idle
            self._bury(slot)

    def _collect(self, slot: _Slot) -> None:
        assert slot.run is not None
        try:
            result, reason = slot.connection.recv()
        except (EOFError, OSError):
            self._bury(slot)
            return
        if reason is not None:
            self.failures[slot.run.run_name] = reason
        self.status.finished(slot.run, result, reason, time.monotonic() - slot.started)
        slot.run = None

    def _bury(self, slot: _Slot) -> None:
        """A worker died: its run goes back to the front of the queue, another worker takes its place."""
        run = slot.run
        assert run is not None
        slot.process.join()
        self.deaths[run.run_name] += 1
        if self.deaths[run.run_name] < MAX_DEATHS:
            self.status.say(f"a worker died (exit code {slot.process.exitcode}); resuming {run.run_name}")
            self.queue.appendleft(run)
        else:
            reason = f"its worker died {MAX_DEATHS} times (exit code {slot.process.exitcode}); out of memory?"
            self.failures[run.run_name] = reason
            RunDir(run.run_dir).record_failure(reason)
            self.status.finished(run, None, reason, time.monotonic() - slot.started)
        self.slots[self.slots.index(slot)] = self._start(slot.gpus)


class _Status:
    """A line per finished run, and the time left: a bar on a terminal, in the lines elsewhere."""

    def __init__(self, total: int, workers: int) -> None:
        self.total, self.workers, self.done = total, workers, 0
        self.seconds: dict[int, list[float]] = {}  # by width
        self.unit_cost: list[float] = []  # seconds per unit of cost
        self.bar = tqdm(total=total, unit="run", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self.left = 0.0

    def say(self, line: str) -> None:
        if self.bar.disable:
            print(line, flush=True)
        else:
            self.bar.write(line)

    def finished(self, run: RunConfig, result: RunResult | None, reason: str | None, seconds: float) -> None:
        self.done += 1
        self.bar.update(1)
        said = f"failed: {reason}" if result is None else str(result)
        if result is not None and result.status == "completed":
            self.seconds.setdefault(run.width, []).append(seconds)
            self.unit_cost.append(seconds / cost(run))
        eta = f"  about {_duration(self.left)} left" if self.bar.disable and self.left else ""
        name = f"{run.param:>4} width {run.width:<5} lr {run.lr:<8.3g} seed {run.seed}"
        self.say(f"[{self.done}/{self.total}] {name}  {said}  ({seconds:.0f} s){eta}")

    def refresh(self, slots: list[_Slot], queue: Sequence[RunConfig]) -> None:
        if not self.unit_cost:
            return
        now = time.monotonic()
        remaining = sum(self._estimate(run) for run in queue)
        remaining += sum(max(0.0, self._estimate(s.run) - (now - s.started)) for s in slots if s.run)
        self.left = remaining / self.workers
        self.bar.set_postfix_str(f"about {_duration(self.left)} left")

    def _estimate(self, run: RunConfig) -> float:
        """Seconds a run takes: the mean of its width so far, else scaled by cost from the runs that ended."""
        known = self.seconds.get(run.width)
        return sum(known) / len(known) if known else cost(run) * max(self.unit_cost)

    def close(self) -> None:
        self.bar.close()


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"

"""A study on this machine: one worker process per GPU or, without one, per core; each trains many runs."""

import fcntl
import multiprocessing
import multiprocessing.connection
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.config import RequestError, RunConfig, SweepConfig
from pipeline.processes import spawn, start_worker
from pipeline.recipes import parse
from pipeline.sweep.plan import cost, grid
from pipeline.training.rundir import Record, RunDir, outcome

MAX_DEATHS = 3  # a run that takes its worker down this often is given up


def main(argv: Sequence[str]) -> int:
    """`pipeline sweep`."""
    config, dry_run = parse("sweep", argv)
    runs = grid(config)
    if config.data.write_through and len(runs) > 1:
        raise RequestError("--data.write_through is for one run: write with train, and sweep with --data FOLDER")
    finished = {run.run_name for run in runs if RunDir(run.run_dir).result() is not None}
    pending = [run for run in runs if run.run_name not in finished]
    print(f"study {Path(config.out) / config.study}: {len(runs)} runs, {len(finished)} finished already", flush=True)
    if dry_run:
        for run in runs:
            print(f"  {run.run_name}  {'finished' if run.run_name in finished else 'to run'}")
        return 0
    failures = run_study(config, pending)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(runs)} runs failed; the same command tries them again", file=sys.stderr)
    return 1 if failures else 0


def run_study(config: SweepConfig, runs: list[RunConfig]) -> dict[str, str]:
    """Train `runs`; return why each run that failed did. Ctrl-C stops the workers and leaves every run resumable."""
    if not runs:
        return {}
    with _study_lock(Path(config.out) / config.study):
        _prepare_data(runs[0])
        gpus = _gpus()
        return _Pool(min(len(runs), config.workers or len(gpus) or os.cpu_count() or 1), gpus, runs).run()


@contextmanager
def _study_lock(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    except OSError as error:
        raise RequestError(f"cannot write the study folder {folder} ({error.strerror}): choose another --out") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(f"another sweep is running the study {folder}") from None
        yield


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


def _worker(connection: Connection, gpu: str | None) -> None:
    """Train the runs that arrive until the connection closes; answer each with (result, None) or (None, reason)."""
    start_worker()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    from pipeline.training.trainer import train

    torch.set_num_threads(1)
    while True:
        try:
            run: RunConfig = connection.recv()
        except EOFError:
            return
        try:
            connection.send((train(run, show_progress=False), None))
        except KeyboardInterrupt:  # terminated by the parent
            return
        except RequestError as error:
            connection.send((None, str(error)))
        except Exception as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            _record_failure(run, reason)
            connection.send((None, reason))


def _record_failure(run: RunConfig, reason: str) -> None:
    """Leave a result.json that says so, if the disk lets us; the next sweep tries the run again."""
    try:
        RunDir(run.run_dir).write_result({"status": "failed", "error": reason})
    except OSError:
        print(f"could not record the failure of {run.run_name}", file=sys.stderr)


@dataclass
class _Slot:
    """A worker process and the run it is busy with."""

    process: Any
    connection: Connection
    gpu: str | None
    run: RunConfig | None = None
    started: float = 0.0


class _Pool:
    """Hands runs to workers, replaces workers that die, and shows progress."""

    def __init__(self, workers: int, gpus: list[str], runs: list[RunConfig]) -> None:
        self.queue = deque(runs)
        self.deaths: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.status = _Status(len(runs), workers)
        os.environ["OMP_NUM_THREADS"] = "1"  # read by the workers when they import torch
        self.slots = [self._start(gpus[i % len(gpus)] if gpus else None) for i in range(workers)]

    def _start(self, gpu: str | None) -> _Slot:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=_worker, args=(theirs, gpu))
        process.start()
        theirs.close()
        return _Slot(process, ours, gpu)

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
            _record_failure(run, reason)
            self.status.finished(run, None, reason, time.monotonic() - slot.started)
        self.slots[self.slots.index(slot)] = self._start(slot.gpu)


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

    def finished(self, run: RunConfig, result: Record | None, reason: str | None, seconds: float) -> None:
        self.done += 1
        self.bar.update(1)
        said = f"failed: {reason}" if result is None else outcome(result)
        if result is not None and result["status"] == "completed":
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

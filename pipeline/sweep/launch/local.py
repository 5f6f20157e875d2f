"""A study on this machine: one worker process per GPU or, without one, per core; each trains many runs.

Runs that want several devices get as many GPUs or cores, and processes of their own.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from pipeline.config import RunConfig, run_settings
from pipeline.errors import RequestError, in_a_line, require
from pipeline.files import write_atomic
from pipeline.mirrors.mirrors import require_packages
from pipeline.processes import Task, WorkerDied, Workers, cores, end_with_parent
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.strict_yaml import dump_yaml
from pipeline.sweep.branches import Branches, branches, shared
from pipeline.sweep.config import SweepConfig
from pipeline.sweep.grid import cost, summary, unfinished
from pipeline.sweep.launch.shown import Shown, expected
from pipeline.sweep.status import remember
from pipeline.sweep.study import Jobs, Planned, Submit, study_lock
from pipeline.training.health import handle_stop_signals

WAITS = True
MAX_DEATHS = 3  # a run that takes its worker down this often is given up


def check(config: SweepConfig) -> None:
    """Raises `RequestError` for what is another launcher's, or more than this machine has."""
    require(not config.profile, "--profile describes a cluster: give --launcher slurm with it")
    require(
        config.num_nodes == 1, f"--num_nodes {config.num_nodes}: a sweep on this machine has one; use --launcher slurm"
    )
    require_packages(config)
    if config.devices > 1:  # else there is no need to wait for torch
        from pipeline.training.machine import check_devices

        check_devices(config.devices)


@contextmanager
def opened(config: SweepConfig) -> Iterator[Submit]:
    """Rounds that are submitted within it share their worker processes, which start when a run needs them."""
    with Crew(config) as crew:
        yield lambda planned: submit(config, planned, crew)


def submit(config: SweepConfig, planned: Planned, crew: "Crew | None" = None) -> int:
    """Train what is not finished; 1 if a run failed."""
    todo = unfinished(planned.runs)
    for line in (summary(config, len(planned.runs), len(todo)), *expected(config, planned.runs, todo)):
        print(line, flush=True)
    failures = run_study(config, todo, crew, planned.runs)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures)} of {len(planned.runs)} runs failed; the same command tries them again", file=sys.stderr)
    return 1 if failures else 0


def narrow_first(runs: Sequence[RunConfig], workers: int) -> list[RunConfig]:
    """The order to train in. A cheap run for every worker, of learning rates in the middle, so that first results come
    early and the time left is known; then the most expensive first, so that workers end together and none is left with
    a long one. Where there are no more runs than workers, order does not matter."""
    middle = sorted(run.lr for run in runs)[len(runs) // 2] if runs else 1.0
    cheap = sorted(runs, key=lambda run: (cost(run), abs(math.log(run.lr / middle))))
    first = cheap[: min(workers, max(0, len(runs) - workers))]
    return [*first, *sorted((run for run in runs if run not in first), key=cost, reverse=True)]


def worker_count(config: SweepConfig) -> int:
    """Workers of a sweep: as many as asked for, else one per place of GPUs, else of cores."""
    from pipeline.training.machine import gpus

    return config.workers or len(gpus()) // config.devices or max(1, cores() // config.devices)


def dry_run(config: SweepConfig, planned: Planned) -> int:
    """Print the plan's preview."""
    for line in (*planned.preview, *shared(*branches(unfinished(planned.runs)))):
        print(line)
    return 0


def jobs(study: Path) -> Jobs:
    """Nothing that the run directories do not say."""
    return Jobs()


def run_study(
    config: SweepConfig, runs: list[RunConfig], crew: "Crew | None" = None, planned: Sequence[RunConfig] = ()
) -> dict[str, str]:
    """Train `runs`, of all that are `planned`; return why each run that failed did. Ctrl-C stops the workers and leaves
    every run resumable."""
    check(config)
    if not runs:
        return {}
    with study_lock(config.study_dir):
        runs, known = branches(runs)
        remember(config, planned or runs, worker_count(config), known)
        for run in {run.data: run for run in runs}.values():
            _prepare_data(run)
        if crew is not None:
            return crew.train(runs, known)
        with Crew(config) as own:
            return own.train(runs, known)


def _prepare_data(run: RunConfig) -> None:
    """Once, before the workers start, so that they do not all do it; some need none."""
    if run.data.vectors is not None and not run.data.vectors.from_files:
        return
    from pipeline.data.open import open_data

    open_data(run)


class Crew:
    """The worker processes of a sweep, each on its GPUs where there are any, which stay from round to round."""

    def __init__(self, config: SweepConfig) -> None:
        self._config = config
        self._count = 0
        self._workers: Workers | None = None
        self._say: Callable[[str], None] = print

    def __enter__(self) -> Self:
        handle_stop_signals(self._interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close()
        if kind is not KeyboardInterrupt:
            handle_stop_signals(signal.SIG_DFL)

    def _interrupt(self, *_: object) -> None:
        """A signal that asks to stop is Ctrl-C: without it workers would die with this process, without checkpoints."""
        raise KeyboardInterrupt

    def _close(self) -> None:
        handle_stop_signals(signal.SIG_IGN)  # a second one would leave workers behind
        if self._workers is not None:
            self._workers.close()

    def train(self, runs: list[RunConfig], known: Branches) -> dict[str, str]:
        """Why runs failed. A branch begins when it is there, or when the run that was to leave it has ended."""
        workers = self._started()
        failures: dict[str, str] = {}
        status = Shown(self._config, len(runs), min(len(runs), self._count), known)
        self._say = status.say
        waiting = list(known)
        try:
            first = narrow_first([run for run in runs if run not in known], self._count)
            pending = {workers.submit(_train, run): run for run in first}
            while pending:
                wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                for task in [task for task in pending if task.done()]:
                    run = pending.pop(task)
                    result, reason = _outcome(task, run)
                    if reason is not None:
                        failures[run.run_name] = reason
                    status.finished(run, result, reason, time.monotonic() - (task.started or 0.0))
                going = set(pending.values()) if waiting else set()
                for run in [run for run in waiting if known[run].of not in going or _left(run)]:
                    waiting.remove(run)
                    pending[workers.submit(_train, run)] = run
                status.refresh(pending, waiting)
        except BaseException:
            self._close()  # before the study's lock is given up
            raise
        finally:
            status.close()
        return failures

    def _started(self) -> Workers:
        if self._workers is None:
            from pipeline.training.machine import gpus

            devices, visible = self._config.devices, gpus()
            places = [",".join(visible[i : i + devices]) for i in range(0, len(visible) - devices + 1, devices)]
            self._count = worker_count(self._config)
            os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
            self._workers = Workers(
                self._count,
                _begin,
                dict(os.environ),
                places=places,
                preload=("pipeline.sweep.launch.ready",),
                max_deaths=MAX_DEATHS,
                died=self._died,
            )
        return self._workers

    def _died(self, task: Task["_Outcome"], exit_code: int | None) -> None:
        self._say(f"a worker died (exit code {exit_code}); resuming {task.arguments[0].run_name}")


_Outcome = tuple[RunResult | None, str | None]
"""The result of a run and None, or None and why it failed."""


def _outcome(task: Task[_Outcome], run: RunConfig) -> _Outcome:
    try:
        return task.result()
    except WorkerDied as error:
        reason = f"its worker {error.how}"
        RunDir(run.run_dir).record_failure(reason)
        return None, reason


def _left(run: RunConfig) -> bool:
    """Whether another run has left the beginning of this one, and is done with that."""
    directory = RunDir(run.run_dir)
    if not directory.checkpoint_step():
        return False
    try:
        with directory.lock():
            return True
    except RequestError:
        return False


# ---------------------------------------------------------------------------------------------------------------------
# In a worker


def _begin(environment: dict[str, str], gpus: str | None = None) -> None:
    os.environ.clear()  # it is that of an earlier sweep, if this process had one
    os.environ.update(environment)
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    import torch

    torch.set_num_threads(1)


def _train(run: RunConfig) -> _Outcome:
    from pipeline.training.trainer import train

    try:
        return (train(run, show_progress=False) if run.world_size == 1 else _train_apart(run)), None
    except Exception as error:
        return None, in_a_line(error)


def _train_apart(run: RunConfig) -> RunResult:
    """Train a run of several processes, which Lightning starts from a command of its own. Raises `RequestError`."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "run.yaml"
        write_atomic(recipe, dump_yaml(run_settings(run)))
        command = [sys.executable, "-m", "pipeline", "train", "--config", str(recipe)]
        said = subprocess.run(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, preexec_fn=end_with_parent
        )
    result = RunDir(run.run_dir).result()
    if result is None:
        last = (said.stderr.strip().splitlines() or [f"exit code {said.returncode}"])[-1]
        raise RequestError(last.removeprefix("pipeline: error: "))
    return result

"""Worker processes: deaf to Ctrl-C, and gone when whoever started them is. Started afresh, or forked from a process
that has imported what they need."""

import atexit
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self, TypeVar

T = TypeVar("T")

spawn = multiprocessing.get_context("spawn")


def _work(connection: Connection, prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """What a worker process does: the tasks that arrive, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes share the cores already
    if prepare is not None:
        prepare(*arguments)
    while True:
        try:
            connection.send_bytes(_answer(connection.recv_bytes()))
        except (EOFError, KeyboardInterrupt):  # the latter where a task was asked to stop, and has seen to its affairs
            return


def _answer(message: bytes) -> bytes:
    """What became of a task, as `_done` says it; an error is made sure to survive the journey."""
    function, arguments = pickle.loads(message)
    answer = _done(function, arguments)
    try:
        sent = pickle.dumps(answer)
        if answer[1] is not None:
            pickle.loads(sent)
        return sent
    except (TypeError, AttributeError, pickle.PickleError) as error:
        return pickle.dumps((None, RuntimeError(f"{type(answer[1] or error).__name__}: {answer[1] or error}")))


def _done(function: Callable[..., T], arguments: tuple[Any, ...]) -> tuple[T | None, Exception | None]:
    """The result of a task, or its error."""
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error


def _die_with_parent() -> None:
    """End this worker when the process that started it is gone, however it went; nothing it holds needs a farewell."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def end_with_parent() -> None:
    """For a command that is started (`preexec_fn`): SIGTERM when who started it is gone, however it went."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def first_process() -> bool:
    """Whether this process speaks and writes: the first of a run's, as Lightning's launcher, torchrun and SLURM number
    them."""
    return all(os.environ.get(rank, "0") == "0" for rank in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID"))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


MAX_DEATHS = 5  # a task whose process dies so often is given up


class WorkerDied(OSError):
    """A task took its process down again and again."""

    def __init__(self, deaths: int, exit_code: int | None) -> None:
        # the kernel kills what memory has run out for; anything else had a chance to speak
        why = "out of memory?" if exit_code == -signal.SIGKILL else "what it printed says why"
        self.exit_code = exit_code
        self.how = f"died {deaths} times (exit code {exit_code}); {why}"
        super().__init__(f"a worker process {self.how}")


class Task(Future[T]):
    """A task that a worker process does, and the future of its result."""

    def __init__(self, function: Callable[..., T], *arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments
        self.message = pickle.dumps((function, arguments))
        self.started: float | None = None
        """By `time.monotonic`, when it was last handed to a worker."""
        self.deaths = 0

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Give it its result or its error, unless it was cancelled."""
        if self.set_running_or_notify_cancel():
            self.set_result(result) if error is None else self.set_exception(error)


@dataclass
class _Worker:
    """A place for a worker process, the process that fills it, and the task it is busy with."""

    arguments: tuple[Any, ...]
    process: Any = None
    connection: Any = None
    task: Task[Any] | None = None


class Workers:
    """A pool of worker processes that replaces those that are killed and gives their tasks, which must stand being
    begun twice, to others. ``Workers(0)`` runs every task at once in this process.

    `prepare` with its `arguments` is called once in every process, before its first task; where there are `places`,
    with the worker's own one after them. Modules to `preload` are imported once for all workers, which then have the
    environment that the first of them in this process had. A task at which `max_deaths` processes died is given up; of
    every death before that `died` is told, in the pool's thread, with the process's exit code.
    """

    def __init__(
        self,
        count: int,
        prepare: Callable[..., None] | None = None,
        *arguments: Any,
        places: Sequence[Any] = (),
        preload: Sequence[str] = (),
        max_deaths: int = MAX_DEATHS,
        died: Callable[[Task[Any], int | None], None] = lambda *_: None,
    ) -> None:
        self._prepare, self._max_deaths, self._died = prepare, max_deaths, died
        self._context: Any = spawn
        if preload:
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload(list(preload))
        places = [(places[number % len(places)],) if places else () for number in range(count)]
        self._workers = [_Worker((*arguments, *place)) for place in places]
        self._queue: deque[Task[Any]] = deque()
        self._lock = threading.RLock()  # of who adds tasks or starts processes: there are none after closing
        self._closed = False
        self._ear, self._bell = spawn.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._dispatch, name="workers", daemon=True)
        if count:
            atexit.register(self.close)  # before multiprocessing waits for processes that wait for tasks
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, whatever they are doing: at once, but for a task that handles SIGTERM."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        processes = [process for worker in self._workers if (process := worker.process) is not None]
        for process in processes:
            process.terminate()
        if self._thread.is_alive():
            self._bell.send_bytes(b"")
            self._thread.join()
        for worker in self._workers:
            if worker.connection is not None:
                worker.connection.close()  # what is still on its way comes too late
        for process in processes:
            process.join()
        for task in [*self._queue, *(worker.task for worker in self._workers if worker.task is not None)]:
            task.cancel()

    def submit(self, function: Callable[..., T], *arguments: Any) -> Task[T]:
        """The future's exception is the task's; `WorkerDied` for one that takes its process down again and again,
        `OSError` where no process can be started."""
        task = Task(function, *arguments)
        if not self._workers:
            task.settle(*_done(function, arguments))
            return task
        with self._lock:
            if self._closed:
                task.cancel()
                return task
            self._queue.append(task)
            self._bell.send_bytes(b"")
        return task

    # In the pool's thread, which alone talks to the workers

    def _dispatch(self) -> None:
        while not self._closed:
            self._hand_out()
            # without those that were found dead while the pool was being closed, whose tasks nobody takes any more
            busy = {w.connection: w for w in self._workers if w.task is not None and w.process is not None}
            for ready in multiprocessing.connection.wait([self._ear, *busy]):
                if ready is self._ear:
                    self._ear.recv_bytes()
                else:
                    self._collect(busy[ready])

    def _hand_out(self) -> None:
        idle = sorted((w for w in self._workers if w.task is None), key=lambda worker: worker.process is None)
        chosen = idle[: len(self._queue)]
        with self._lock:
            if self._closed:
                return
            for worker in chosen:
                task = self._queue.popleft()
                try:
                    if worker.process is None:
                        worker.process, worker.connection = self._start(worker.arguments)
                    worker.task = task
                except OSError as error:
                    task.settle(None, error)
        for worker in chosen:  # now that all are started: one that has just been takes its task after a while
            if worker.task is not None:
                worker.task.started = time.monotonic()
                try:
                    worker.connection.send_bytes(worker.task.message)
                except OSError:  # it died while it was idle
                    self._bury(worker)

    def _start(self, arguments: tuple[Any, ...]) -> tuple[Any, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._prepare, arguments))
        process.start()
        theirs.close()
        return process, ours

    def _collect(self, worker: _Worker) -> None:
        try:
            answer = worker.connection.recv_bytes()
        except (EOFError, OSError):
            self._bury(worker)
            return
        task, worker.task = worker.task, None
        assert task is not None
        task.settle(*pickle.loads(answer))

    def _bury(self, worker: _Worker) -> None:
        """A process died: its task goes back to the front of the queue, or is given up."""
        worker.process.join()
        exit_code, worker.process = worker.process.exitcode, None
        worker.connection.close()
        if self._closed:
            return
        task, worker.task = worker.task, None
        assert task is not None
        task.deaths += 1
        if task.deaths == self._max_deaths:
            task.settle(None, WorkerDied(task.deaths, exit_code))
            return
        self._died(task, exit_code)
        self._queue.appendleft(task)
        self._bell.send_bytes(b"")

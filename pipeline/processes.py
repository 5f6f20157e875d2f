"""Worker processes: started afresh, deaf to Ctrl-C, and gone when whoever started them is."""

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Self, TypeVar

T = TypeVar("T")

spawn = multiprocessing.get_context("spawn")


def start_worker(prepare: Callable[..., None] | None = None, *arguments: Any) -> None:
    """What every worker process does first: this, and `prepare`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes share the cores already
    if prepare is not None:
        prepare(*arguments)


def _die_with_parent() -> None:
    """End this worker when the process that started it is gone, however it went; nothing it holds needs a farewell."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def end_with_parent() -> None:
    """For a command that is started (`preexec_fn`): SIGTERM when the process that started it is gone, however it went."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


MAX_DEATHS = 5  # a task whose process dies so often is given up


class Workers:
    """A pool of worker processes that replaces those that are killed and gives their tasks, which must stand being begun
    twice, to others. ``Workers(0)`` runs every task at once in this process.

    `prepare` with its `arguments` is called once in every process, before its first task.
    """

    def __init__(self, count: int, prepare: Callable[..., None] | None = None, *arguments: Any) -> None:
        self._count, self._prepare, self._arguments = count, prepare, arguments
        self._lock = threading.Lock()
        self._closed = False
        self._pool = self._start() if count else None

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._count, mp_context=spawn, initializer=start_worker, initargs=(self._prepare, *self._arguments)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            # shutting down waits for running tasks; ending a pool's processes has no public name before Python 3.14
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, task: Callable[..., T], *arguments: Any) -> "Future[T]":
        """The future's exception is the task's; `OSError` for one that takes its process down again and again."""
        future: Future[T] = Future()
        if self._count:
            self._run(future, task, arguments, deaths=0)
            return future
        try:
            future.set_result(task(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def _run(self, future: "Future[T]", task: Callable[..., T], arguments: tuple[Any, ...], deaths: int) -> None:
        with self._lock:
            if self._pool is None:
                future.cancel()
                return
            pool = self._pool
            try:
                inner = pool.submit(task, *arguments)
            except BrokenProcessPool:
                pool = self._pool = self._start()
                inner = pool.submit(task, *arguments)
        inner.add_done_callback(lambda inner: self._ended(inner, pool, future, task, arguments, deaths))

    def _ended(
        self,
        inner: "Future[T]",
        pool: ProcessPoolExecutor,
        future: "Future[T]",
        task: Callable[..., T],
        arguments: tuple[Any, ...],
        deaths: int,
    ) -> None:
        if inner.cancelled() or self._closed:
            future.cancel()
        elif not isinstance(error := inner.exception(), BrokenProcessPool):
            future.set_result(inner.result()) if error is None else future.set_exception(error)
        elif deaths + 1 == MAX_DEATHS:
            future.set_exception(OSError(f"a worker process died {MAX_DEATHS} times at the same task; out of memory?"))
        else:
            try:
                with self._lock:
                    if self._pool is pool:
                        self._pool = self._start()
                self._run(future, task, arguments, deaths + 1)
            except OSError as failure:  # no process can be started
                future.set_exception(failure)

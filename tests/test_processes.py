"""Worker processes that are killed, that fail, and that outlive nobody."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.processes import MAX_DEATHS, WorkerDied, Workers
from tests.data.preparing.test_prepare import children

pytestmark = pytest.mark.slow


def double(number: int) -> tuple[int, int]:
    return 2 * number, os.getpid()


def fail(message: str) -> None:
    raise RequestError(message)


def sleep(seconds: float, started: Path | None = None) -> float:
    if started is not None:
        with started.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return seconds


def die(notes: Path, times: int) -> int:
    """Takes its process down, so many times."""
    with notes.open("a") as stream:
        stream.write("x")
    if notes.stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return notes.stat().st_size


def wait_for(path: Path, lines: int = 1) -> list[int]:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if path.exists() and path.read_text().count("\n") >= lines:
            return [int(line) for line in path.read_text().split()]
        time.sleep(0.01)
    raise TimeoutError(path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.parametrize("count", [0, 2])
def test_results_and_exceptions_travel(count: int) -> None:
    with Workers(count) as workers:
        futures = [workers.submit(double, number) for number in range(20)]
        failure = workers.submit(fail, "one line")
        assert [future.result(timeout=30)[0] for future in futures] == list(range(0, 40, 2))
        assert {pid == os.getpid() for _, pid in (future.result() for future in futures)} == {count == 0}
        with pytest.raises(RequestError, match=r"^one line$"):
            failure.result(timeout=30)
        assert workers.submit(double, 4).result(timeout=30)[0] == 8, "a failed task leaves the workers in place"


def test_a_killed_worker_is_replaced_and_its_task_run_again(tmp_path: Path) -> None:
    with Workers(2) as workers:
        futures = [workers.submit(sleep, 0.5, tmp_path / str(i)) for i in range(4)]
        (victim,) = wait_for(tmp_path / "0")
        os.kill(victim, signal.SIGKILL)
        assert [future.result(timeout=30) for future in futures] == [0.5] * 4
        assert len((tmp_path / "0").read_text().split()) == 2, "begun twice"
        assert workers.submit(double, 1).result(timeout=30)[0] == 2


def test_a_worker_that_cannot_be_replaced_fails_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(arguments: tuple[object, ...]) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    with Workers(1) as workers:
        assert workers.submit(double, 1).result(timeout=30)[0] == 2
        monkeypatch.setattr(workers, "_start", refuse)
        with pytest.raises(OSError, match="temporarily unavailable"):
            workers.submit(die, tmp_path / "notes", 1).result(timeout=20)


@pytest.mark.slow
def test_a_task_that_kills_its_process_is_given_up(tmp_path: Path) -> None:
    with Workers(1) as workers:
        assert workers.submit(die, tmp_path / "less", MAX_DEATHS - 1).result(timeout=60) == MAX_DEATHS
        with pytest.raises(OSError, match=rf"a worker process died {MAX_DEATHS} times \(exit code -9\); out of memory"):
            workers.submit(die, tmp_path / "more", MAX_DEATHS).result(timeout=60)
        assert (tmp_path / "more").stat().st_size == MAX_DEATHS
        assert workers.submit(double, 1).result(timeout=30)[0] == 2


def test_closing_ends_a_running_task_at_once(tmp_path: Path) -> None:
    workers = Workers(2)
    running = [workers.submit(sleep, 60, tmp_path / "pids") for _ in range(2)]
    waiting = [workers.submit(sleep, 60) for _ in range(5)]
    pids = wait_for(tmp_path / "pids", lines=2)
    start = time.monotonic()
    workers.close()
    assert time.monotonic() - start < 5
    assert gone(pids)
    assert not multiprocessing.active_children()
    assert not children(os.getpid())
    for future in [*running, *waiting, workers.submit(double, 1)]:
        with pytest.raises(CancelledError):
            future.result(timeout=5)
    workers.close()


def test_closing_just_after_a_worker_was_killed_leaves_none(tmp_path: Path) -> None:
    for delay in (0, 0.01, 0.05, 0.2):
        workers = Workers(2)
        future = workers.submit(sleep, 60, tmp_path / str(delay))
        (victim,) = wait_for(tmp_path / str(delay))
        os.kill(victim, signal.SIGKILL)
        time.sleep(delay)
        workers.close()
        with pytest.raises(CancelledError):
            future.result(timeout=5)
        assert gone(children(os.getpid()))


PARENT = """
import sys; from pathlib import Path; from pipeline.processes import Workers; from tests.test_processes import sleep
if __name__ == "__main__":
    with Workers(2) as workers:
        for future in [workers.submit(sleep, 60, Path(sys.argv[1])) for _ in range(2)]:
            future.result()
"""


def parent(tmp_path: Path) -> tuple["subprocess.Popen[str]", list[int]]:
    """A process whose two workers are busy, and those."""
    (tmp_path / "parent.py").write_text(PARENT)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "pids")],
        env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    return process, wait_for(tmp_path / "pids", lines=2)


@pytest.mark.slow
def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    process, pids = parent(tmp_path)
    assert sorted(children(process.pid)) == sorted(pids)
    process.kill()
    process.communicate(timeout=10)
    assert gone(pids)


@pytest.mark.slow
def test_ctrl_c_is_the_parents_alone(tmp_path: Path) -> None:
    """It reaches the whole terminal; workers neither complain nor stop before they are told."""
    with Workers(1) as workers:
        future = workers.submit(sleep, 0.5, tmp_path / "pid")
        os.kill(wait_for(tmp_path / "pid")[0], signal.SIGINT)
        assert future.result(timeout=30) == 0.5
    process, pids = parent(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert error.count("KeyboardInterrupt") == 1
    assert "Process " not in error
    assert gone(pids)


def take_place(name: str, place: str) -> None:
    os.environ[name] = place


def test_every_worker_has_a_place_and_its_successor_the_same(tmp_path: Path) -> None:
    with Workers(2, take_place, "PLACE", places=["a", "b"]) as workers:
        first = [workers.submit(sleep, 1, tmp_path / str(i)) for i in range(2)]
        victims = [wait_for(tmp_path / str(i))[0] for i in range(2)]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        for future in first:
            future.result(timeout=30)
        both = [workers.submit(hold_place, tmp_path / f"held{i}") for i in range(2)]
        assert {future.result(timeout=30) for future in both} == {"a", "b"}


def hold_place(note: Path) -> str:
    """Keeps its worker busy until another one is, too."""
    note.touch()
    end = time.monotonic() + 30
    while len(list(note.parent.glob("held*"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return os.environ["PLACE"]


def test_a_death_is_told_and_disturbs_no_other_task(tmp_path: Path) -> None:
    told: list[tuple[Path, int | None]] = []
    with Workers(2, max_deaths=2, died=lambda task, code: told.append((task.arguments[0], code))) as workers:
        undisturbed = workers.submit(sleep, 3, tmp_path / "undisturbed")
        wait_for(tmp_path / "undisturbed")
        assert workers.submit(die, tmp_path / "once", 1).result(timeout=30) == 2
        with pytest.raises(WorkerDied, match="died 2 times") as error:
            workers.submit(die, tmp_path / "twice", 2).result(timeout=30)
        assert error.value.exit_code == -signal.SIGKILL
        undisturbed.result(timeout=30)
    assert told == [(tmp_path / "once", -signal.SIGKILL), (tmp_path / "twice", -signal.SIGKILL)]
    assert len((tmp_path / "undisturbed").read_text().split()) == 1, "begun once"


def test_closing_while_a_dead_worker_is_found_ends_the_thread_in_peace() -> None:
    """Its connection is closed by then; what the thread raises, a warning, fails the test."""
    workers = Workers(1)
    assert workers.submit(double, 1).result(timeout=30)[0] == 2
    (worker,) = workers._workers
    closing, found = threading.Thread(target=workers.close), threading.Event()

    def gone(message: bytes) -> None:
        closing.start()
        found.set()
        while not workers._closed:
            time.sleep(0.001)
        raise BrokenPipeError

    worker.connection.send_bytes = gone
    waiting = workers.submit(double, 2)
    assert found.wait(30)
    closing.join()
    assert waiting.cancelled()


def leave() -> None:
    os._exit(3)


def test_only_a_killed_worker_may_have_run_out_of_memory() -> None:
    with (
        Workers(1, max_deaths=1) as workers,
        pytest.raises(WorkerDied, match=r"\(exit code 3\); what it printed says why"),
    ):
        workers.submit(leave).result(timeout=30)


class Homebody(Exception):
    """Does not survive pickling: it is made of two things and says one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def fail_oddly() -> None:
    raise Homebody("this", "that")


def make_lock() -> object:
    return threading.Lock()


def test_what_cannot_travel_is_an_error_and_no_death() -> None:
    with Workers(1) as workers:
        with pytest.raises(RuntimeError, match="Homebody: this"):
            workers.submit(fail_oddly).result(timeout=30)
        with pytest.raises(RuntimeError, match="cannot pickle"):
            workers.submit(make_lock).result(timeout=30)
        assert workers.submit(double, 1).result(timeout=30)[0] == 2


def stop_in_peace(started: Path, finished: Path) -> None:
    """A task that wants to be asked to stop, as training does."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    started.write_text(f"{os.getpid()}\n")
    while not asked:
        time.sleep(0.01)
    time.sleep(0.2)
    finished.touch()
    raise KeyboardInterrupt


def test_a_task_that_handles_sigterm_is_waited_for(tmp_path: Path) -> None:
    with Workers(1) as workers:
        future = workers.submit(stop_in_peace, tmp_path / "started", tmp_path / "finished")
        wait_for(tmp_path / "started")
    assert (tmp_path / "finished").exists()
    with pytest.raises(CancelledError):
        future.result(timeout=5)

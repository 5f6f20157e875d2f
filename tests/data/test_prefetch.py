"""The prefetching thread keeps order, hands errors on, and ends; a failure of one rank is raised by all."""

import multiprocessing
import queue
import socket
import threading
import time
from collections.abc import Generator
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.data.prefetch import DEPTH, prefetched, together
from pipeline.errors import RequestError


def numbers(count: int, made: list[int] | None = None) -> Generator[Tensor]:
    for number in range(count):
        if made is not None:
            made.append(number)
        yield torch.tensor(number)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_same_batches_in_the_same_order() -> None:
    assert [int(batch) for batch in prefetched(numbers(50), pin=False)] == list(range(50))  # type: ignore[arg-type]
    assert not threads()


def test_it_runs_ahead_but_not_far() -> None:
    made: list[int] = []
    batches = prefetched(numbers(50, made), pin=False)
    next(batches)
    ends = time.monotonic() + 5
    while len(made) < 1 + DEPTH and time.monotonic() < ends:
        time.sleep(0.01)
    time.sleep(0.2)
    assert 1 + DEPTH <= len(made) <= 2 + DEPTH
    batches.close()
    assert not threads()


def test_an_error_comes_after_the_batches_before_it() -> None:
    def failing() -> Generator[Tensor]:
        yield from numbers(3)
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="the disk is gone"):  # noqa: PT012
        for batch in prefetched(failing(), pin=False):
            got.append(int(batch))  # type: ignore[arg-type]
    assert got == [0, 1, 2]
    assert not threads()


def test_closing_closes_what_is_read() -> None:
    closed = threading.Event()

    def source() -> Generator[Tensor]:
        try:
            yield from numbers(1000)
        finally:
            closed.set()

    batches = prefetched(source(), pin=False)
    next(batches)
    batches.close()
    assert closed.wait(5)
    assert not threads()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_pinned_memory() -> None:
    pairs = ((batch, batch + 1) for batch in numbers(3))
    assert all(part.is_pinned() for pair in prefetched(pairs, pin=True) for part in pair)
    assert all(batch.is_pinned() for batch in prefetched(numbers(3), pin=True))  # type: ignore[union-attr]


def test_one_process_needs_no_agreement() -> None:
    batches = numbers(3)
    assert together(batches) is batches


def _rank(rank: int, port: int, answers: "multiprocessing.Queue[tuple[int, int, str]]") -> None:
    store = dist.TCPStore("127.0.0.1", port, 3, rank == 0, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=3)

    def source() -> Generator[Tensor]:
        yield from numbers(4)
        if rank == 1:
            raise OSError("the hub gave up")
        yield from numbers(1000)

    got = 0
    try:
        for _ in together(source()):
            got += 1
            dist.all_reduce(torch.ones(1))  # what training does with a batch
    except (OSError, RequestError) as error:
        answers.put((rank, got, str(error)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_where_one_rank_fails_all_raise_its_error() -> None:
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers: multiprocessing.Queue[tuple[int, int, str]] = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, port, answers), daemon=True) for rank in range(3)]
    for process in ranks:
        process.start()
    try:
        said = sorted(answers.get(timeout=60) for _ in ranks)
    except queue.Empty:
        pytest.fail("a rank hangs")
    finally:
        for process in ranks:
            process.join(10)
            process.kill()
    assert said == [(0, 4, "rank 1: the hub gave up"), (1, 4, "the hub gave up"), (2, 4, "rank 1: the hub gave up")]

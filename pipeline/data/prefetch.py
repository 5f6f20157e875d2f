"""Prefetching: batches made by a thread while the device computes, and failures that reach all ranks."""

import queue
import threading
from collections.abc import Generator, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.data.batches import Batch

DEPTH = 2


def prefetched(batches: Iterator[Batch], *, pin: bool) -> Generator[Batch]:
    """The same batches, made by one thread that is up to DEPTH ahead; in pinned memory with `pin`.

    What the thread raises is raised here, in its turn. Closing the iterator ends the thread and closes `batches`.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(DEPTH)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(_pinned(batch) if pin else batch):
                    return
            put(None)
        except BaseException as error:  # whatever it is, it belongs to whoever trains
            put(error)
        finally:
            if (close := getattr(batches, "close", None)) is not None:
                close()

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=5.0)


def _pinned(batch: Batch) -> Batch:
    if isinstance(batch, Tensor):
        return batch.pin_memory()
    return batch[0].pin_memory(), batch[1].pin_memory()


def together(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, on all ranks or on none: where one rank's source fails, all raise its error.

    Without it the other ranks would wait for the failed one in their next collective. Asks over gloo, on the CPU, so
    that no accelerator has to wait for the answer. To be called by all ranks.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return batches
    return _together(batches, dist.new_group(backend="gloo"))


def _together(batches: Iterator[Batch], group: dist.ProcessGroup) -> Iterator[Batch]:
    while True:
        batch: Batch | None = None
        failure: Exception | None = None
        try:
            batch = next(batches)
        except Exception as error:  # whatever it is, the other ranks must not wait for this one
            failure = error
        failed = torch.tensor(failure is not None, dtype=torch.int32)
        dist.all_reduce(failed, group=group)
        if failed:
            messages: list[str | None] = [None] * dist.get_world_size(group)
            dist.all_gather_object(messages, str(failure) or repr(failure) if failure else None, group=group)
            rank, message = next((rank, text) for rank, text in enumerate(messages) if text)
            raise failure or OSError(f"rank {rank}: {message}")
        assert batch is not None
        yield batch

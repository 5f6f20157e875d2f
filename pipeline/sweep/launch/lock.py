"""What launchers share: one sweep at a time works on a study's folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RequestError


@contextmanager
def study_lock(folder: Path) -> Iterator[int]:
    """Hold the study for this process, and for children that are given the descriptor; made if it is not there yet.

    Raises `RequestError` where it cannot be written, or another sweep holds it.
    """
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
        yield stream.fileno()


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

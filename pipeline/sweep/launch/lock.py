"""The lock of a study: one sweep at a time works on its folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RequestError
from pipeline.files import locked


@contextmanager
def study_lock(folder: Path) -> Iterator[int]:
    """Hold the study for this process, and for children that are given the descriptor; made if it is not there yet.

    Raises `RequestError` where it cannot be written, or another sweep holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise RequestError(f"cannot write the study folder {folder} ({error.strerror}): choose another --out") from None
    with locked(folder / ".lock", busy=f"another sweep is running the study {folder}") as descriptor:
        yield descriptor

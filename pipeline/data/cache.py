"""The folder of prepared data and downloads, and locks between the processes that share it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RequestError


def cache_root() -> Path:
    """$PIPELINE_CACHE, else the user's cache folder."""
    if root := os.environ.get("PIPELINE_CACHE"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "width-scaling-pipeline"


def cache_folder(*parts: str) -> Path:
    """A folder of the cache, made if it is not there. Raises `RequestError` where it cannot be written."""
    folder = cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise RequestError(f"cannot write the data cache {folder} ({error.strerror}): set PIPELINE_CACHE") from None
    return folder


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, waiting for whoever holds it; released when the process ends, however it ends.

    `shared` holders exclude only those that are not. The file stays: deleting it would give two processes two locks.
    """
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield

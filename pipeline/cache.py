"""The cache: prepared data, downloads and remembered checksums."""

import functools
import hashlib
import json
import os
import re
import time
from pathlib import Path

from pipeline.errors import RequestError
from pipeline.files import expanded, file_sha256, write_atomic

LARGE_FILE = 2**25  # of larger files the sha256 is remembered on disk
RACY = 10**9  # nanoseconds in which a file may be written again with the same modification time


def cache_root() -> Path:
    """$PIPELINE_CACHE, else the user's cache folder."""
    if root := os.environ.get("PIPELINE_CACHE"):
        return Path(expanded(root, "PIPELINE_CACHE"))
    return Path(expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME")) / "width-scaling-pipeline"


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


def content_sha256(path: Path) -> str:
    """A file's sha256, remembered for as long as path, size and times stay: of a large file on disk, of others by this
    process. The time of change counts as well, since copying may set the one of modification."""
    state = path.stat()
    key = (str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if time.time_ns() - state.st_mtime_ns < RACY:
        return file_sha256(path)
    if state.st_size < LARGE_FILE:
        return _of_small_file(*key)
    memory = cache_folder("sha256") / hashlib.sha256(json.dumps(key).encode()).hexdigest()
    if not memory.exists() or not re.fullmatch("[0-9a-f]{64}", memory.read_text(errors="replace")):
        write_atomic(memory, file_sha256(path))
    return memory.read_text()


@functools.lru_cache(maxsize=4096)
def _of_small_file(path: str, size: int, modified: int, changed: int) -> str:
    return file_sha256(Path(path))

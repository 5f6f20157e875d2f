"""Files that a reader sees whole: atomic writes, JSON lines whose torn last line does not count, YAML, and locks."""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from pipeline.errors import RequestError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has the `OSError` of a write, which says not where, name the file. Around nothing but writes of it."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream whose content becomes `path` when the block ends without an error, durably and at once."""
    scratch = beside(path)
    try:
        # not mkstemp, whose files are their owner's alone whatever the umask says
        with naming(path), scratch.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def beside(path: Path) -> Path:
    """A hidden name that nobody has taken, for what is to become `path` when it is whole."""
    return path.with_name(f".{path.name}-{secrets.token_hex(4)}")


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8), all or nothing."""
    with atomic(path) as stream:
        stream.write(text.encode())


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, one per finished line; what stands after the last line break is not one yet.

    Raises `OSError`, and `ValueError` naming the first line that is not a JSON object.
    """
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {number}: not a JSON object")
        records.append(record)
    return records


def load_yaml(path: Path) -> Any:
    """What a YAML file holds, as plain values. Raises `OSError`, and `yaml.YAMLError` for what is none."""
    return yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def tail(path: Path, size: int = 65536) -> str:
    """The last `size` bytes of a file, as text; what is not UTF-8 reads as question marks. Raises `OSError`."""
    with path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
        return stream.read().decode(errors="replace")


@contextmanager
def locked(path: Path, *, shared: bool = False, busy: str = "") -> Iterator[int]:
    """Hold the lock file `path`, of which this gives the descriptor; released when the process ends, however it ends.

    Who holds it is waited for, or, with `busy`, is a `RequestError` that says so. `shared` holders exclude only those
    that are not. The file stays: deleting it would give two processes two locks.
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise RequestError(busy) from None
        yield stream.fileno()

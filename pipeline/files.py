"""Files that a reader sees whole: atomic writes, JSON lines whose torn last line does not count, and locks; and what a
user's paths mean."""

import fcntl
import glob
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.errors import RequestError, require


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


def strict_json(text: str | bytes) -> Any:
    """What a JSON text holds, in which no key stands twice and every number is finite. Raises `ValueError`."""
    try:
        return _STRICT.decode(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return content


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no finite number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


# made once: `json.loads` makes one for every line of every run
_STRICT = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_refuse, parse_float=_finite)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, one per finished line; what stands after the last line break is not one yet.

    Raises `OSError`, and `ValueError` naming the first line that is not a JSON object.
    """
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = _object(line.decode())
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {number}: not a JSON object")
        records.append(record)
    return records


def _object(line: str) -> Any:
    """`strict_json` of a line, at once where it holds nothing beside: there are very many."""
    try:
        content, end = _STRICT.scan_once(line, 0)  # type: ignore[attr-defined]  # what `decode` calls
    except (StopIteration, ValueError, RecursionError):
        end = -1
    return content if end == len(line) else strict_json(line)


def tail(path: Path, size: int = 65536) -> str:
    """The last `size` bytes of a file, as text; what is not UTF-8 reads as question marks. Raises `OSError`."""
    with path.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - size))
        return stream.read().decode(errors="replace")


def expanded(path: str, of: str) -> str:
    """A path as a user writes it, with ``~`` and ``$VARIABLES`` replaced.

    Raises `RequestError`, which begins with `of`, for one that no file can have, and for variables and users that are
    not there: folders of these very names are never what is meant.
    """
    found = os.path.expanduser(os.path.expandvars(path))  # noqa: PTH111 - keeps the spelling, and ~nobody
    of = f"{of} {path}".lstrip()
    variable = re.search(r"\$([A-Za-z_]\w*|\{[^}]*\})", found)
    require(variable is None, f"{of}: no variable {variable and variable[0]} is set: set it, or write the path out")
    require(not found.startswith("~"), f"{of}: there is no such user (a file of that name is ./{path})")
    require("\0" not in found, f"{of}: a path has no NUL byte")
    longest = max(len(name.encode("utf-8", "surrogateescape")) for name in found.split("/"))
    require(longest <= 255, f"{of}: a name has at most 255 bytes, not {longest}")
    return found


def matching(pattern: str) -> list[Path]:
    """The files that a path or a glob means, in the order of their paths; a file of that very name goes before."""
    names = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
    return sorted(path for name in names if (path := Path(name)).is_file())


def why_none(pattern: str) -> str:
    """Why `matching` finds nothing, and what to say instead."""
    if Path(pattern).is_dir():
        return f"a folder that is not prepared: name its files, such as '{pattern.rstrip('/')}/**/*.jsonl'"
    return "no such file"


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

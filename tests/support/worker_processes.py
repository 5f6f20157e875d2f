"""The worker processes of a sweep, as Linux lists them."""

from pathlib import Path


def workers_of(pid: int) -> list[int]:
    """What the process that the sweep forks its workers from has forked; none before it has, and after its end."""
    return [worker for child in _children(pid) if b"forkserver" in _command(child) for worker in _children(child)]


def _children(pid: int) -> list[int]:
    """Started by any of its threads."""
    try:
        return [int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""

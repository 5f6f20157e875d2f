"""submissions.jsonl: what a study gave to SLURM. A line is written and durable before sbatch is called, and another
when it answered, so a crash in between leaves a job that can be found again by its unique name."""

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import RequestError
from pipeline.files import naming, read_jsonl
from pipeline.sweep.launch.slurm.queue import Task

Kind = Literal["array", "report"]


@dataclass(frozen=True)
class Submission:
    """A job given, or about to be given, to SLURM."""

    name: str
    kind: Kind
    runs: tuple[str, ...]
    """Of an array: the run of each index."""
    width: int | None
    argv: tuple[str, ...]
    manifest: str | None = None
    job: str | None = None
    """SLURM's id; None while sbatch has not answered."""
    refused: str | None = None
    """What sbatch said instead."""


def of_runs(submissions: Iterable[Submission], tasks: Iterable[Task]) -> Iterator[tuple[str, Submission, Task]]:
    """The tasks of the arrays among the submissions, each with the run that it trains."""
    arrays = {s.name: s for s in submissions if s.kind == "array"}
    for task in tasks:
        submission = arrays.get(task.name)
        if submission is not None and task.index is not None and submission.job in (None, task.job):
            yield submission.runs[task.index], submission, task


def live_reports(submissions: Iterable[Submission], tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The report jobs among the submissions that wait or run."""
    jobs = {s.name: s.job for s in submissions if s.kind == "report"}
    return tuple(task for task in tasks if task.live and jobs.get(task.name, "") in (None, task.job))


class Ledger:
    """Reads and appends; only who holds the study's lock appends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Submission]:
        """In the order of submission. Raises `RequestError` for a damaged file."""
        known: dict[str, Submission] = {}
        try:
            for entry in read_jsonl(self.path):
                match entry.pop("event"):
                    case "planned":
                        entry |= {"runs": tuple(entry["runs"]), "argv": tuple(entry["argv"])}
                        del entry["time"]
                        known[entry["name"]] = Submission(**entry)
                    case "submitted":
                        known[entry["name"]] = dataclasses.replace(known[entry["name"]], job=entry["job"])
                    case "refused":
                        known[entry["name"]] = dataclasses.replace(known[entry["name"]], refused=entry["reason"])
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{self.path} is damaged ({error}): repair or delete it") from None
        return list(known.values())

    def planned(self, submission: Submission) -> None:
        fields = {f.name: getattr(submission, f.name) for f in dataclasses.fields(Submission)}
        self._append("planned", {k: v for k, v in fields.items() if k not in ("job", "refused")})

    def submitted(self, name: str, job: str) -> None:
        self._append("submitted", {"name": name, "job": job})

    def refused(self, name: str, reason: str) -> None:
        self._append("refused", {"name": name, "reason": reason})

    def _append(self, event: str, entry: dict[str, Any]) -> None:
        line = json.dumps({"event": event, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry}) + "\n"
        with naming(self.path), self.path.open("ab+") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - 1))
            if end and stream.read(1) != b"\n":  # torn by a crash: it never counted
                stream.truncate(self.path.read_bytes().rfind(b"\n") + 1)
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())

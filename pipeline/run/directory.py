"""A run on disk: config.yaml, metrics.jsonl, result.json, checkpoints/ (design, "A run on disk").

metrics.jsonl holds one JSON object per logged step; a number that is not finite is written as null. result.json is
written once, at the end, so a directory without one belongs to a run that is going or was interrupted.
"""

import fcntl
import json
import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from pipeline import __version__
from pipeline.config import RunConfig, run_settings
from pipeline.errors import RequestError
from pipeline.files import read_jsonl, write_atomic
from pipeline.recipes import RECORDED_KEY

LAST = "last.ckpt"
"""Link to the newest checkpoint."""

FINISHED = {"completed", "diverged", "aborted"}
Record = dict[str, Any]


class RunDir:
    """Reads and writes one run directory; nothing is created before `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.result_file = path / "result.json"
        self.starts_file = path / "starts.jsonl"
        self.checkpoints = path / "checkpoints"
        self.checkpoint = self.checkpoints / LAST

    def result(self) -> Record | None:
        """The result of a finished run; None while it is going, was interrupted, or failed and may be tried again."""
        if not self.result_file.exists():
            return None
        try:
            result = json.loads(self.result_file.read_text())
        except ValueError:
            raise RequestError(f"{self.result_file} is damaged: delete {self.path} to run it again") from None
        return result if result["status"] in FINISHED else None

    def create(self, config: RunConfig, data_fingerprint: str) -> None:
        """Make the directory and record what is run on what.

        Raises `RequestError` where it cannot be written, or holds a run on other data.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"cannot write the run directory {self.path} ({error.strerror}): choose another --out"
            ) from None
        if self.config_file.exists():
            if self.recorded().get("data_fingerprint") != data_fingerprint:
                raise RequestError(
                    f"{self.path} was started on other data (its source changed): give another --study or --out"
                )
            return
        recorded = {
            "data_fingerprint": data_fingerprint,
            "versions": {"pipeline": __version__}
            | {name: metadata.version(name) for name in ("torch", "lightning", "litgpt", "tokenizers", "numpy")},
        }
        write_atomic(
            self.config_file, yaml.safe_dump({**run_settings(config), RECORDED_KEY: recorded}, sort_keys=False)
        )

    def recorded(self) -> Record:
        """What config.yaml says of the run beside what was asked for."""
        return dict((yaml.safe_load(self.config_file.read_text()) or {}).get(RECORDED_KEY) or {})

    def record(self, **found: Any) -> None:
        """Add to `recorded`."""
        content = yaml.safe_load(self.config_file.read_text())
        content[RECORDED_KEY] |= found
        write_atomic(self.config_file, yaml.safe_dump(content, sort_keys=False))

    def record_start(self, config: RunConfig, step: int) -> None:
        """A line in starts.jsonl: when and where the run was started or continued, and from which step."""
        start = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "step": step,
            "processes": config.world_size,
            "strategy": config.strategy,
            "job": os.environ.get("SLURM_JOB_ID"),
        }
        with self.starts_file.open("a") as stream:
            stream.write(_line(start))

    def record_failure(self, reason: str) -> None:
        """Leave a result.json that says so, if the disk lets us; the run may be tried again."""
        with suppress(OSError):
            self.write_result({"status": "failed", "error": reason})

    def stacks(self, first_process: bool) -> Path:
        """Where a process that hangs writes what its threads were at."""
        return self.path / ("stalled.txt" if first_process else f"stalled-{socket.gethostname()}-{os.getpid()}.txt")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; released when the process ends, however it ends. Raises `RequestError`."""
        with (self.path / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RequestError(f"{self.path} is being trained by another process") from None
            yield

    def records(self) -> list[Record]:
        """All records so far; a torn last line is left out."""
        try:
            return read_jsonl(self.metrics_file)
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise RequestError(
                f"{self.metrics_file} is damaged ({error}): delete {self.path} to run it again"
            ) from None

    def cut_back(self, step: int) -> None:
        """Drop the records after `step`: a resumed run writes them again."""
        kept = [record for record in self.records() if record["step"] <= step]
        write_atomic(self.metrics_file, "".join(_line(record) for record in kept))

    @contextmanager
    def appending(self) -> Iterator["MetricsWriter"]:
        """Open metrics.jsonl for the rest of a run."""
        with self.metrics_file.open("a") as stream:
            yield MetricsWriter(stream)

    def write_result(self, result: Record) -> None:
        write_atomic(self.result_file, json.dumps(_strict(result), indent=2, allow_nan=False) + "\n")


class MetricsWriter:
    """Appends records, each visible to readers at once."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def append(self, record: Record) -> None:
        self._stream.write(_line(record))
        self._stream.flush()

    def sync(self) -> None:
        """Make what was appended durable, before a checkpoint that counts on it."""
        os.fsync(self._stream.fileno())


def final_values(records: list[Record], steps: int) -> Record:
    """``final_train_*``: mean over the records of the last 5 % of `steps` (at least the last record); ``final_val_*``: the
    last validation's. Of the loss always, of cross-entropy and accuracy where they are recorded."""
    final: Record = {}
    for name in ("loss", "cross_entropy", "accuracy"):
        tail = [r for r in records if r["step"] > 0.95 * steps] or records[-1:]
        train = [r[name] for r in tail if name in r]
        val = [r[f"val_{name}"] for r in records if f"val_{name}" in r]
        if train or name == "loss":
            final[f"final_train_{name}"] = None if not train or None in train else sum(train) / len(train)
            final[f"final_val_{name}"] = val[-1] if val else None
    return final


def outcome(result: Record) -> str:
    """How a finished run ended, in a few words. A validation loss may be infinite where the training loss was not yet."""
    if result["status"] == "diverged":
        return f"diverged: the training loss was not finite at step {result['diverged_at']}"
    if result["status"] == "aborted":
        return f"aborted at step {result['steps']}: the training loss stayed well above its first value"
    train, val = (
        f"{x:.4f}" if x is not None else "not finite" for x in (result["final_train_loss"], result["final_val_loss"])
    )
    return f"training loss {train}, validation {val}"


def _strict(record: Mapping[str, Any]) -> Record:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(_strict(record), allow_nan=False) + "\n"

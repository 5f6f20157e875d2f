"""The directory of a run: config.yaml, metrics.jsonl, result.json, seal.json, starts.jsonl, checkpoints/.

metrics.jsonl holds one JSON object per logged step; a number that is not finite is written as null. result.json is
written once, at the end, so a directory without one belongs to a run that is going or was interrupted. seal.json, just
before it, holds the checksums of all three.
"""

import errno
import functools
import hashlib
import itertools
import json
import math
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from io import FileIO
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, run_settings
from pipeline.errors import RequestError
from pipeline.files import file_sha256, locked, naming, read_jsonl, strict_json, write_atomic
from pipeline.recipes import RECORDED_KEY, load_run
from pipeline.run.result import FAILED, Record, RunResult
from pipeline.sealed import read_sealed, write_sealed
from pipeline.strict_yaml import dump_yaml, load_yaml
from pipeline.version import __version__

LAST = "last.ckpt"
"""Link to the newest checkpoint."""


class RunDir:
    """Reads and writes one run directory; nothing is created before `create`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.result_file = path / "result.json"
        self.seal_file = path / "seal.json"
        self.weights_file = path / "weights.json"
        self.starts_file = path / "starts.jsonl"
        self.checkpoints = path / "checkpoints"
        self.checkpoint = self.checkpoints / LAST

    @property
    def name(self) -> str:
        return self.path.name

    def result(self) -> RunResult | None:
        """The result of a finished run; None while it is going, was interrupted, or failed and may be tried again.

        Raises `RequestError` for a damaged file."""
        content = self._ended()
        if content is None or content.get("status") == FAILED:
            return None
        try:
            return RunResult.from_json(content)
        except KeyError as error:
            raise self._damaged(self.result_file, f"no {error}") from None
        except ValueError as error:
            raise self._damaged(self.result_file, error) from None

    def failure(self) -> str | None:
        """Why the run failed when it was last tried; None where it did not, or has not ended."""
        content = self._ended()
        if content is None or content.get("status") != FAILED:
            return None
        return str(content.get("error") or "it does not say why")

    def _ended(self) -> dict[str, Any] | None:
        try:
            content = strict_json(self.result_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise self._damaged(self.result_file, error) from None
        if not isinstance(content, dict):
            raise self._damaged(self.result_file, "not a JSON object")
        return content

    def config(self) -> RunConfig:
        """The settings of the run. Raises `RequestError` for a damaged file."""
        return self.read_config()[0]

    def recorded(self) -> dict[str, Any]:
        """What config.yaml says of the run beside what was asked for. Raises `RequestError` for a damaged file."""
        return self.read_config()[1]

    def read_config(self) -> tuple[RunConfig, dict[str, Any]]:
        """`config` and `recorded`, from one reading of the file."""
        try:
            return load_run(self.config_file)
        except RequestError as error:
            raise self._damaged(self.config_file, error) from None

    def _damaged(self, path: Path, why: object) -> RequestError:
        return RequestError(f"{path} is damaged ({' '.join(str(why).split())}): delete {self.path} to run it again")

    def create(self, config: RunConfig, data_fingerprint: str, **found: Any) -> None:
        """Make the directory and record what is run on what, and what else was `found`.

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
        versions = {"pipeline": __version__, **_versions()}
        recorded = {"data_fingerprint": data_fingerprint, "versions": versions, **found}
        settings = run_settings(config.branch(config.steps))  # what it leaves is no part of what repeats it
        write_atomic(self.config_file, dump_yaml({**settings, RECORDED_KEY: recorded}))

    def record(self, **found: Any) -> None:
        """Add to `recorded`."""
        content = load_yaml(self.config_file)
        content[RECORDED_KEY] |= found
        write_atomic(self.config_file, dump_yaml(content))

    def checkpoint_step(self) -> int:
        """The step of the newest checkpoint; 0 before there is one."""
        numbers = (path.name[len("step-") : -len(".ckpt")] for path in self.checkpoints.glob("step-*.ckpt"))
        return max((int(number) for number in numbers if number.isdigit()), default=0)

    def begin_as(self, other: "RunDir", step: int, seconds: float) -> None:
        """Have the records of another run, which this one goes on from after step `step` and so many seconds of
        training; config.yaml says so."""
        write_atomic(self.metrics_file, other.metrics_file.read_text())
        branched = {"from": other.name, "step": step, "seconds": round(seconds, 3)}
        self.record(**{**other.recorded(), "branched": branched})

    def record_weights(self, weights: Mapping[str, Any]) -> None:
        """Write weights.json, once: what every weight is, by name (`training.weights`)."""
        if not self.weights_file.exists():
            lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in weights.items())
            write_atomic(self.weights_file, f"{{\n{lines}\n}}\n")

    def weights(self) -> dict[str, dict[str, Any]]:
        """What `record_weights` wrote; empty for a run that is older than the file. Raises `RequestError` for a damaged
        one."""
        try:
            weights = json.loads(self.weights_file.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._damaged(self.weights_file, error) from None
        if not isinstance(weights, dict) or not all(isinstance(entry, dict) for entry in weights.values()):
            raise self._damaged(self.weights_file, "not an object of objects")
        return weights

    def record_start(self, config: RunConfig, step: int, **found: Any) -> None:
        """A line in starts.jsonl: when and where the run was started or continued, from which step, and what else was
        `found`."""
        start = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "step": step,
            "processes": config.world_size,
            "strategy": config.strategy,
            "job": os.environ.get("SLURM_JOB_ID"),
            **found,
        }
        with naming(self.starts_file), self.starts_file.open("a") as stream:
            stream.write(_line(start))

    def record_failure(self, reason: str) -> None:
        """Leave a result.json that says so, if the disk lets us; the run may be tried again."""
        with suppress(OSError):
            write_atomic(self.result_file, _end({"status": FAILED, "error": reason}))

    def stacks(self, first_process: bool) -> Path:
        """Where a process that hangs writes what its threads were at."""
        return self.path / ("stalled.txt" if first_process else f"stalled-{socket.gethostname()}-{os.getpid()}.txt")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; released when the process ends, however it ends. Raises `RequestError`."""
        with locked(self.path / ".lock", busy=f"{self.path} is being trained by another process"):
            yield

    def records(self) -> list[Record]:
        """All records so far; a torn last line is left out. Raises `RequestError` for a damaged file."""
        try:
            return [Record(record) for record in read_jsonl(self.metrics_file)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise self._damaged(self.metrics_file, error) from None

    def cut_back(self, step: int, count: int | None = None) -> None:
        """Drop the records after `step`: a resumed run writes them again. Raises `RequestError` where not `count` are
        left, of which the checkpoint of that step knows."""
        kept = [record for record in self.records() if record.step <= step]
        if count is not None and len(kept) != count:
            raise self._damaged(self.metrics_file, f"{len(kept)} of the {count} records up to step {step} are there")
        write_atomic(self.metrics_file, "".join(_line(record) for record in kept))

    @contextmanager
    def appending(self) -> Iterator["MetricsWriter"]:
        """Open metrics.jsonl for the rest of a run."""
        with self.metrics_file.open("ab", buffering=0) as stream:
            yield MetricsWriter(stream, self.metrics_file)

    def write_result(self, result: RunResult) -> None:
        """With the seal of what the run leaves."""
        text = _end(result.to_json())
        files = {file.name: file_sha256(file) for file in (self.config_file, self.metrics_file) if file.exists()}
        write_sealed(self.seal_file, files | {self.result_file.name: hashlib.sha256(text.encode()).hexdigest()})
        write_atomic(self.result_file, text)

    def require_sealed(self, config: RunConfig, records: Sequence[Record]) -> None:
        """Raises `RequestError` where a finished run's files are not as it left them, or its name or its records, read
        from these, cannot be its own. A run from before there were seals has its name and records alone."""
        try:
            seal = read_sealed(self.seal_file)
            changed = [name for name, known in seal.items() if file_sha256(self.path / name) != known]
        except FileNotFoundError as error:
            if error.filename != str(self.seal_file):
                raise self._damaged(Path(error.filename), "it is missing") from None
            changed = []
        except (OSError, ValueError) as error:
            raise self._damaged(self.seal_file, error) from None
        if changed:
            raise self._damaged(self.path / changed[0], "it is not as the run left it")
        steps: list[Any] = [record.get("step") for record in records]
        if not all(type(step) is int and step > before for before, step in itertools.pairwise([0, *steps])):
            raise self._damaged(self.metrics_file, "its steps do not ascend")
        if (why := config.contradiction(self.name)) is not None:
            raise self._damaged(self.config_file, why)


class MetricsWriter:
    """Appends records, each visible to readers at once. Raises `OSError` that names the file, or the run's directory
    where that was deleted or moved: then nothing that is written would be found again."""

    def __init__(self, stream: FileIO, path: Path) -> None:
        self._stream, self._path = stream, path

    def append(self, record: Mapping[str, Any]) -> None:
        self.check()
        left = memoryview(_line(record).encode())
        with naming(self._path):
            while left:
                left = left[self._stream.write(left) :]

    def sync(self) -> None:
        """Make what was appended durable, before a checkpoint or a result that counts on it."""
        self.check()
        with naming(self._path):
            os.fsync(self._stream.fileno())

    def check(self) -> None:
        """Whether the file is still where it was opened."""
        try:
            there = os.path.samestat(self._path.stat(), os.fstat(self._stream.fileno()))
        except (FileNotFoundError, NotADirectoryError):
            there = False
        if not there:
            why = "the run has lost its files, deleted or moved while it trained"
            raise FileNotFoundError(errno.ENOENT, why, str(self._path.parent))


@functools.cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "lightning", "litgpt", "tokenizers", "numpy")}


def _strict(record: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _end(content: Mapping[str, Any]) -> str:
    """The text of result.json."""
    return json.dumps(_strict(content), indent=2, allow_nan=False) + "\n"


_encode = json.JSONEncoder(allow_nan=False).encode


def _line(record: Mapping[str, Any]) -> str:
    return _encode(_strict(record)) + "\n"

"""One row of the table per finished run, read from its files once and kept in a cache that notices when they change."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.study import stability
from pipeline.analysis.study.stability import left_for_good
from pipeline.config import RunConfig, counted_settings
from pipeline.errors import RequestError
from pipeline.files import atomic, read_jsonl
from pipeline.recipes import load_run

CACHE = "runs.parquet"
"""Beside the runs of a study. May be deleted at any time."""

_FILES = ("result.json", "config.yaml", "metrics.jsonl")
Row = dict[str, Any]


def rows(study_dir: Path, run_dirs: Sequence[Path]) -> Iterator[Row]:
    """The rows of the runs that have a result, in the given order: from the cache where no file of the run has changed.

    A row has ``run``, ``status``, ``settings`` (JSON of `counted_settings`) and, unless it failed, what `results.Study`
    lists. Raises `RequestError` for an unreadable run.
    """
    known = _load(study_dir)
    found = []
    for run_dir in run_dirs:
        stamp = _stamp(run_dir)
        if stamp is None:
            continue
        cached = known.get(run_dir.name)
        fresh = cached if cached is not None and cached["stamp"] == stamp else {**_row(run_dir), "stamp": stamp}
        found.append(fresh)
        yield {key: value for key, value in fresh.items() if key != "stamp"}
    if [row["stamp"] for row in found] != [row["stamp"] for row in known.values()]:
        _save(study_dir, found)


def _stamp(run_dir: Path) -> str | None:
    """Changes when a file of the run does; None for a run without a result."""
    stats = []
    for name in _FILES:
        try:
            stats.append((run_dir / name).stat())
        except FileNotFoundError:
            if name == _FILES[0]:
                return None
    return " ".join(f"{s.st_mtime_ns}.{s.st_size}.{s.st_ino}" for s in stats)


def _code() -> str:
    """Changes when what is read, or how it is judged, does."""
    return hashlib.sha256(b"".join(Path(f).read_bytes() for f in (__file__, stability.__file__))).hexdigest()


def _load(study_dir: Path) -> dict[str, Row]:
    try:
        table = pd.read_parquet(study_dir / CACHE)
        if table.attrs.get("code") != _code():
            return {}
        return {row["run"]: {str(key): value for key, value in row.items()} for row in table.to_dict("records")}
    except Exception:  # whatever is wrong with it, the runs' own files are there
        return {}


def _save(study_dir: Path, found: Sequence[Row]) -> None:
    table = pd.DataFrame(found)
    table.attrs = {"code": _code()}
    with suppress(OSError), atomic(study_dir / CACHE) as stream:  # a folder that may only be read does without
        table.to_parquet(stream, index=False)


# ---------------------------------------------------------------------------------------------------------------------
# One run


def _row(run_dir: Path) -> Row:
    result = _read_json(run_dir / "result.json")
    if result.get("status") == "failed":
        return {"run": run_dir.name, "status": "failed"}
    config = _read_config(run_dir / "config.yaml")
    records = read_metrics(run_dir / "metrics.jsonl")
    try:
        steps = np.array([record["step"] for record in records], dtype=np.int64)
        losses = np.array([_number(record["loss"]) for record in records])
        validation = np.array([_number(record["val_loss"]) for record in records if "val_loss" in record])
        return {
            "run": run_dir.name,
            "param": config.param,
            "optimizer": config.optimizer,
            "loss": config.loss,
            "width": config.width,
            "base_width": config.base_width,
            "lr": config.lr,
            "seed": config.seed,
            "status": str(result["status"]),
            "initial_loss": losses[0],
            "final_train_loss": _number(result["final_train_loss"]),
            "final_val_loss": _number(result["final_val_loss"]),
            "last_train_loss": losses[-1],
            "best_train_loss": _least(losses),
            "best_val_loss": _least(validation),
            "final_train_accuracy": _number(result.get("final_train_accuracy")),
            "final_val_accuracy": _number(result.get("final_val_accuracy")),
            "steps": int(result["steps"]),
            "tokens": int(result["tokens"]),
            "seconds": _number(result["seconds"]),
            "tokens_per_second": _number(result["tokens_per_second"]),
            "parameters": int(result["parameters"]),
            "diverged_at": _number(result["diverged_at"]),
            "left_for_good": left_for_good(steps, losses, config.warmup_steps),
            "settings": json.dumps(counted_settings(config), sort_keys=True),
        }
    except KeyError as error:
        raise _unreadable(run_dir, f"no {error} in metrics.jsonl or result.json") from None
    except (TypeError, ValueError) as error:
        raise _unreadable(run_dir, error) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl, in order; non-finite numbers are None. A torn last line is ignored.

    Raises `RequestError` when the file is missing, empty, or damaged before its last line.
    """
    try:
        records = read_jsonl(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not records:
        raise _unreadable(path, "no records")
    return records


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _least(values: Any) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.min()) if len(finite) else math.nan


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(value, dict):
        raise _unreadable(path, "not a JSON object")
    return value


def _read_config(path: Path) -> RunConfig:
    try:
        return load_run(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, why: object) -> RequestError:
    return RequestError(f"{path}: unreadable ({' '.join(str(why).split())}); run it again or remove the run's folder")

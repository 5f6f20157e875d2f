"""The table of runs: one row per run that has ended, read from its files once and kept in a cache that notices when
they change."""

import gc
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.analysis.study.clipping import clipped_share
from pipeline.analysis.study.stability import ground_lost, records_above
from pipeline.config import RunConfig, counted_settings
from pipeline.entries.losses import LOSSES
from pipeline.errors import RequestError
from pipeline.processes import Workers
from pipeline.run.directory import RunDir
from pipeline.run.result import RunResult
from pipeline.sealed import read_sealed, write_sealed

CACHE = "runs.json"
"""Beside the runs of a study, sealed. May be deleted at any time."""

READ = 5
"""Goes up when a row holds something else; a cache with another number is read past. Rows hold what was read and no
judgement of it, so that changed rules and new settings need no other cache."""

GROUP = ["param", "optimizer", "loss"]
"""Columns whose values make one family of curves."""
POINT = [*GROUP, "width", "lr", "seed"]
"""Columns that tell the runs of a recipe apart; every other setting that differs between runs keeps them apart."""

Row = dict[str, Any]


_SHARE = 500  # runs that a process reads at a time


def rows(study_dir: Path, run_dirs: Sequence[Path], processes: int = 1) -> list[Row]:
    """The rows of the runs that have a result, in the given order: from the cache where no file of the run has changed.

    A row has ``run_dir``, ``run`` and ``status``, and unless it failed ``settings`` (JSON of `counted_settings` apart
    from `POINT`), ``data`` (fingerprint of its data, empty where it was not recorded), ``records_above`` and what
    `load.Study` lists. Very many are read by so many `processes`. Raises `RequestError` for an unreadable run.
    """
    with _uncollected():
        known = _load(study_dir)
        stamps = {run_dir: stamp for run_dir in run_dirs if (stamp := _stamp(run_dir)) is not None}
        changed = [one for one, stamp in stamps.items() if known.get(one.name, {}).get("stamp") != stamp]
        read = {row["run"]: row for row in _read(changed, processes)}
        found = [read.get(one.name, known.get(one.name, {})) | {"stamp": stamp} for one, stamp in stamps.items()]
        if [row["stamp"] for row in found] != [row["stamp"] for row in known.values()]:
            _save(study_dir, found)
    folder = {run_dir.name: run_dir for run_dir in run_dirs}
    for row in found:
        del row["stamp"]
        row["run_dir"] = folder[row["run"]]
    return found


def _read(run_dirs: Sequence[Path], processes: int) -> list[Row]:
    shares = [run_dirs[start : start + _SHARE] for start in range(0, len(run_dirs), _SHARE)]
    count = min(processes, len(shares) // 2)  # a process takes as long to start as it reads a share
    with Workers(count if count > 1 else 0) as pool:
        return [row for task in [pool.submit(_rows, share) for share in shares] for row in task.result()]


def _rows(run_dirs: Sequence[Path]) -> list[Row]:
    with _uncollected():
        return [_row(run_dir) for run_dir in run_dirs]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without a search for garbage, which no row is: of very many it would look at every one again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _stamp(run_dir: Path) -> str | None:
    """Changes when a file of the run does; None for a run without a result."""
    stats = []
    for name in ("result.json", "config.yaml", "metrics.jsonl"):
        try:
            stats.append(os.stat(f"{run_dir}/{name}"))  # noqa: PTH116 - of very many runs
        except FileNotFoundError:
            if not stats:
                return None
    return " ".join(f"{s.st_mtime_ns}.{s.st_size}.{s.st_ino}" for s in stats)


def _load(study_dir: Path) -> dict[str, Row]:
    try:
        content = read_sealed(study_dir / CACHE)
    except (OSError, ValueError):  # the runs' own files are there
        return {}
    if content["read"] != READ:
        return {}
    for row in content["rows"]:
        if "settings" in row:
            row["settings"] = content["settings"][row["settings"]]
    return {row["run"]: row for row in content["rows"]}


def _save(study_dir: Path, found: Sequence[Row]) -> None:
    texts = dict.fromkeys(row["settings"] for row in found if "settings" in row)
    place = {text: number for number, text in enumerate(texts)}
    stored = [row | {"settings": place[row["settings"]]} if "settings" in row else row for row in found]
    with suppress(OSError):  # a folder that may only be read does without
        write_sealed(study_dir / CACHE, {"read": READ, "settings": list(texts), "rows": stored})


# ---------------------------------------------------------------------------------------------------------------------
# One run


def _row(run_dir: Path) -> Row:
    run = RunDir(run_dir)
    result = run.result()
    if result is None:
        return {"run": run.name, "status": "failed"}
    records = run.records()
    if not records:
        raise RequestError(f"{run.metrics_file} has no records: delete {run.path} to run it again")
    try:
        steps = np.array([record.step for record in records], dtype=np.int64)
        losses = np.array([record.number("loss") for record in records])
        validation = np.array([record.number("val_loss") for record in records if "val_loss" in record])
        norms = [record.number("grad_norm") for record in records if "grad_norm" in record]
    except KeyError as error:
        raise RequestError(f"{run.metrics_file} has no {error}: delete {run.path} to run it again") from None
    except (TypeError, ValueError) as error:
        raise RequestError(f"{run.metrics_file} is damaged ({error}): delete {run.path} to run it again") from None
    config, recorded = run.read_config()
    run.require_sealed(config, records)
    data = str(recorded.get("data_fingerprint", ""))
    return {"run": run.name, "data": data, **_of(config, result, steps, losses, validation, norms)}


def _of(config: RunConfig, result: RunResult, steps: Any, losses: Any, validation: Any, norms: Any) -> Row:
    loss = LOSSES[config.loss]
    guessing = loss.of_guessing(config.d_out) if loss.judged else math.inf
    share_lost, noises_lost = ground_lost(losses[steps > config.warmup_steps]) if len(losses) else (0.0, 0.0)
    return {
        "param": config.param,
        "optimizer": config.optimizer,
        "loss": config.loss,
        "width": config.width,
        "base_width": config.base_width,
        "lr": config.lr,
        "seed": config.seed,
        "status": str(result.status),
        "initial_loss": float(losses[0]),
        "final_train_loss": result.final_value("train_loss"),
        "final_val_loss": result.final_value("val_loss"),
        "last_train_loss": float(losses[-1]),
        "best_train_loss": _least(losses),
        "best_val_loss": _least(validation),
        "final_train_accuracy": result.final_value("train_accuracy"),
        "final_val_accuracy": result.final_value("val_accuracy"),
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "tokens_per_second": result.tokens_per_second,
        "parameters": result.parameters,
        "diverged_at": math.nan if result.diverged_at is None else float(result.diverged_at),
        "clipped_share": clipped_share(norms, config.grad_clip),
        "records_above": records_above(steps, losses, config.warmup_steps, guessing),
        "share_lost": share_lost,
        "noises_lost": noises_lost,
        "settings": json.dumps({k: v for k, v in counted_settings(config).items() if k not in POINT}, sort_keys=True),
    }


def _least(values: Any) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.min()) if len(finite) else math.nan

"""Study folders -> one table, a row per finished run. Refuses what must not be compared; says what it left out."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.stability import left_for_good
from pipeline.config import RequestError, RunConfig, hashed_settings
from pipeline.files import read_jsonl
from pipeline.recipes import load_run

GROUP = ["param", "optimizer", "loss"]
"""Columns whose values make one family of curves."""
POINT = [*GROUP, "width", "lr", "seed"]
"""Columns that tell the runs of a study apart; every other setting must be the same in all of them ..."""
_WITH_OPTIMIZER = {"weight_decay", "betas", "eps", "momentum"}  # ... except these, the same among runs of one optimizer


@dataclass(frozen=True)
class Study:
    """The finished runs of one or more study folders, all of one recipe.

    `runs` has one row per run, ordered by `POINT`: run, param, optimizer, loss, width, base_width, lr, seed, status
    (completed, diverged, aborted), initial_loss, final_train_loss, final_val_loss (of the
    training loss, in nats for cross-entropy; nan: not finite), final_train_accuracy, final_val_accuracy (nan without classes), steps, tokens, seconds, tokens_per_second, parameters, diverged_at (step or nan) and left_for_good.
    """

    dirs: tuple[Path, ...]
    runs: pd.DataFrame
    config: RunConfig
    """Of the first run; all but `POINT` and what follows the optimizer holds for every run."""
    n_unfinished: int
    """Runs without a result: still going, or interrupted."""
    n_failed: int
    """Runs that ended in an error: no evidence about learning rates."""

    @property
    def name(self) -> str:
        return " + ".join(path.resolve().name for path in self.dirs)

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that all runs share."""
        own = {*POINT, *(_WITH_OPTIMIZER if self.runs["optimizer"].nunique() > 1 else ())}
        return {key: value for key, value in hashed_settings(self.config).items() if key not in own}


def load_study(study_dirs: Sequence[Path]) -> Study:
    """Reads every run of the folders. Raises `RequestError` for a missing or empty folder, an unreadable run, runs of
    different recipes, and the same point (`POINT`) trained twice."""
    study_dirs = list({path.resolve(): path for path in study_dirs}.values())
    rows: list[dict[str, Any]] = []
    configs: dict[Path, RunConfig] = {}
    n_unfinished = n_failed = 0
    for run_dir in [run for study_dir in study_dirs for run in _run_dirs(study_dir)]:
        result_path = run_dir / "result.json"
        if not result_path.exists():
            n_unfinished += 1
            continue
        result = _read_json(result_path)
        if result.get("status") == "failed":
            n_failed += 1
            continue
        config = _read_config(run_dir / "config.yaml")
        rows.append(_row(run_dir, config, result))
        configs[run_dir] = config
    where = ", ".join(map(str, study_dirs))
    if not rows:
        left_out = f" ({n_unfinished} unfinished, {n_failed} failed)" if n_unfinished or n_failed else ""
        raise RequestError(f"{where}: no finished runs{left_out}; run `pipeline sweep` on this study first")
    _require_one_recipe(configs, where)
    _require_distinct_points(configs)
    runs = pd.DataFrame(rows).sort_values(POINT, ignore_index=True)
    return Study(tuple(study_dirs), runs, next(iter(configs.values())), n_unfinished, n_failed)


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


def _run_dirs(study_dir: Path) -> list[Path]:
    if not study_dir.is_dir():
        raise RequestError(f"{study_dir}: no such study folder")
    if (study_dir / "config.yaml").is_file():
        raise RequestError(f"{study_dir} is a single run; give its study folder, {study_dir.parent}")
    found = sorted(path.parent for path in study_dir.glob("*/config.yaml") if not path.parent.name.startswith("."))
    studies = sorted({path.parents[1] for path in study_dir.glob("*/*/config.yaml")})
    if not found and studies:
        raise RequestError(f"{study_dir} holds studies, not runs; give one of them: {', '.join(map(str, studies))}")
    return found


def _row(run_dir: Path, config: RunConfig, result: dict[str, Any]) -> dict[str, Any]:
    metrics_path = run_dir / "metrics.jsonl"
    records = read_metrics(metrics_path)
    try:
        steps = np.array([record["step"] for record in records], dtype=np.int64)
        losses = np.array([_number(record["loss"]) for record in records])
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
            "final_train_accuracy": _number(result.get("final_train_accuracy")),
            "final_val_accuracy": _number(result.get("final_val_accuracy")),
            "steps": int(result["steps"]),
            "tokens": int(result["tokens"]),
            "seconds": _number(result["seconds"]),
            "tokens_per_second": _number(result["tokens_per_second"]),
            "parameters": int(result["parameters"]),
            "diverged_at": _number(result["diverged_at"]),
            "left_for_good": left_for_good(steps, losses, config.warmup_steps),
        }
    except KeyError as error:
        raise _unreadable(run_dir, f"no {error} in metrics.jsonl or result.json") from None
    except (TypeError, ValueError) as error:
        raise _unreadable(run_dir, error) from None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


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


def _require_one_recipe(configs: dict[Path, RunConfig], where: str) -> None:
    """All runs must share every setting but those of `POINT`; what follows the optimizer, among runs of one optimizer."""
    settings = {run_dir: hashed_settings(config) for run_dir, config in configs.items()}
    by_optimizer: dict[str, list[Path]] = {}
    for run_dir, config in configs.items():
        by_optimizer.setdefault(config.optimizer, []).append(run_dir)
    shared = next(iter(settings.values())).keys() - set(POINT) - _WITH_OPTIMIZER
    must_agree = [(key, list(configs)) for key in sorted(shared)]
    must_agree += [(key, runs) for key in sorted(_WITH_OPTIMIZER) for runs in by_optimizer.values()]
    differences = []
    for key, runs in must_agree:
        counts = Counter(repr(settings[run][key]) for run in runs).most_common()
        if len(counts) > 1:
            odd = next(run for run in runs if repr(settings[run][key]) == counts[-1][0])
            values = ", ".join(f"{value} in {n} run{'s' * (n > 1)}" for value, n in counts)
            differences.append(f"{key} ({values}, such as {odd.name})")
    if differences:
        raise RequestError(f"{where}: keep one study folder per recipe; its runs differ in {'; '.join(differences)}")


def _require_distinct_points(configs: dict[Path, RunConfig]) -> None:
    seen: dict[tuple[Any, ...], Path] = {}
    for run_dir, config in configs.items():
        point = tuple(getattr(config, key) for key in POINT)
        if point in seen:
            raise RequestError(f"the same point was trained twice: remove one of {seen[point]} and {run_dir}")
        seen[point] = run_dir

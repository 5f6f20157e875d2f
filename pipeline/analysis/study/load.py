"""Study folders -> one table, a row per finished run. Refuses what must not be compared; says what it left out."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from pipeline.analysis.study.axis import WIDTH, Axis
from pipeline.analysis.study.stability import Rule, left_for_good, lost_ground
from pipeline.analysis.study.table import Row, rows
from pipeline.config import RunConfig, counted_settings, default_settings
from pipeline.entries.losses import LOSSES
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.run.result import FAILED

GROUP = ["param", "optimizer", "loss"]
"""Columns whose values make one family of curves."""
POINT = [*GROUP, "width", "lr", "seed"]
"""Columns that tell the runs of a study apart; every other setting must be the same in all of them ..."""
_OF_A_RUN = ("result.json", "metrics.jsonl")
_NAMED = 5  # of the runs that are left out
_SPELLED = ("data.name", "data.path", "data.tokenizer")  # what the same data may be called
_WITH_OPTIMIZER = {"weight_decay", "betas", "eps", "momentum"}  # ... except these, the same among runs of one optimizer


@dataclass(frozen=True)
class Study:
    """The finished runs of one or more study folders, all of one recipe.

    `runs` has one row per run, ordered by `POINT`: run, param, optimizer, loss, width, base_width, lr, seed, status
    (completed, diverged, aborted), initial_loss, final_train_loss, final_val_loss (of the training loss, in nats for
    cross-entropy; nan: not finite), last_train_loss, best_train_loss, best_val_loss (of what was recorded),
    final_train_accuracy, final_val_accuracy (nan without classes), steps, tokens, seconds, tokens_per_second,
    parameters, diverged_at (step or nan), clipped_share (`clipping.clipped_share`), left_for_good and lost_ground.
    """

    dirs: tuple[Path, ...]
    runs: pd.DataFrame
    config: RunConfig
    """Of the first run; all but `POINT` and what follows the optimizer holds for every run."""
    n_unfinished: int
    """Runs without a result: still going, or interrupted."""
    n_failed: int
    """Runs that ended in an error: no evidence about learning rates."""
    left_out: tuple[str, ...] = ()
    """All of these, and runs that are of no use: the name of each, and why."""

    axis: ClassVar[Axis] = WIDTH
    second: ClassVar[Axis | None] = None
    group: ClassVar[tuple[str, ...]] = tuple(GROUP)

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.left_out:
            return ()
        more = f"; and {len(self.left_out) - _NAMED} others" if len(self.left_out) > _NAMED else ""
        return (f"Left out: {'; '.join(self.left_out[:_NAMED])}{more}.",)

    @property
    def name(self) -> str:
        return " + ".join(path.resolve().name for path in self.dirs)

    @property
    def folder(self) -> Path:
        """The first one: what is made of all of them goes there."""
        return self.dirs[0]

    @property
    def base_level(self) -> float:
        return self.config.base_width

    @property
    def level_step(self) -> int:
        return self.config.width_step

    @property
    def about(self) -> str:
        """The data, their licence and citation."""
        data = self.config.data
        said = (("Licence", data.license), ("Citation", data.citation))
        return " ".join([f"{data.name}.", *(f"{name}: {value}" for name, value in said if value)])

    def rule(self, loss: str) -> Rule:
        """When a run with that training loss failed although it ended with a finite loss."""
        return Rule(LOSSES[loss].judged, self.config.n_classes)

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that all runs share."""
        own = {*POINT, *(_WITH_OPTIMIZER if self.runs["optimizer"].nunique() > 1 else ())}
        return {key: value for key, value in counted_settings(self.config).items() if key not in own}


def load_study(study_dirs: Sequence[Path]) -> Study:
    """Reads every run of the folders. Raises `RequestError` for a missing or empty folder, an unreadable run, runs of
    different recipes, and the same point (`POINT`) trained twice."""
    study_dirs = list({path.resolve(): path for path in study_dirs}.values())
    run_dirs = {study_dir: _run_dirs(study_dir) for study_dir in study_dirs}
    found = [{**row, "run_dir": folder / row["run"]} for folder in study_dirs for row in rows(folder, run_dirs[folder])]
    finished = [row for row in found if row["status"] != "failed"]
    left_out = _left_out(run_dirs, {row["run_dir"]: row["status"] for row in found})
    n_unfinished, n_failed = sum(map(len, run_dirs.values())) - len(found), len(found) - len(finished)
    where = ", ".join(map(str, study_dirs))
    if not finished:
        others = f" ({n_unfinished} unfinished, {n_failed} failed)" if n_unfinished or n_failed else ""
        raise RequestError(f"{where}: no finished runs{others}; run `pipeline sweep` on this study first")
    _require_one_recipe(finished, where)
    _require_distinct_points(finished)
    for row in finished:
        row["left_for_good"] = left_for_good(row.pop("records_above"))
        row["lost_ground"] = lost_ground(row.pop("share_lost"), row.pop("noises_lost"))
    runs = pd.DataFrame(finished).drop(columns=["settings", "data", "run_dir"]).sort_values(POINT, ignore_index=True)
    config = RunDir(finished[0]["run_dir"]).config()
    return Study(tuple(study_dirs), runs, config, n_unfinished, n_failed, left_out)


def _left_out(run_dirs: Mapping[Path, Sequence[Path]], ended: Mapping[Path, str]) -> tuple[str, ...]:
    said = []
    for study_dir, runs in run_dirs.items():
        for run in runs:
            if run not in ended:
                said.append(f"{run.name}: unfinished")
            elif ended[run] == FAILED:
                said.append(f"{run.name}: failed, {RunDir(run).failure()}")
        for run in sorted({path.parent for name in _OF_A_RUN for path in study_dir.glob(f"*/{name}")} - set(runs)):
            if not run.name.startswith(".") and not (run / "config.yaml").exists():
                said.append(f"{run.name}: its config.yaml is missing")
    return tuple(said)


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


def _require_one_recipe(finished: Sequence[Row], where: str) -> None:
    """All runs must share every setting but those of `POINT`; what follows the optimizer, among runs of one optimizer.
    Data are the same where their content is, however their path is spelled."""
    # runs of one recipe differ in nothing but their points: a few distinct recipes stand for thousands of runs
    recipes: dict[str, list[Row]] = {}
    spelled: dict[str, dict[str, Any]] = {}  # by fingerprint, as in the first run on these data
    for row in finished:
        settings = {key: value for key, value in json.loads(row["settings"]).items() if key not in POINT}
        if row["data"]:
            settings |= spelled.setdefault(row["data"], {key: settings[key] for key in _SPELLED})
        recipes.setdefault(json.dumps([row["optimizer"], settings], sort_keys=True), []).append(row)
    by_optimizer: dict[str, list[str]] = {}
    for recipe in recipes:
        by_optimizer.setdefault(json.loads(recipe)[0], []).append(recipe)
    settings_of = {recipe: json.loads(recipe)[1] for recipe in recipes}
    defaults = default_settings()
    shared = set().union(*settings_of.values()) - _WITH_OPTIMIZER
    must_agree = [(key, list(recipes)) for key in sorted(shared)]
    must_agree += [(key, members) for key in sorted(_WITH_OPTIMIZER) for members in by_optimizer.values()]
    differences = []
    for key, members in must_agree:
        counts: Counter[str] = Counter()
        for recipe in members:
            counts[repr(settings_of[recipe].get(key, defaults.get(key)))] += len(recipes[recipe])
        if len(counts) > 1:
            common = counts.most_common()
            odd = next(
                recipes[r][0] for r in members if repr(settings_of[r].get(key, defaults.get(key))) == common[-1][0]
            )
            values = ", ".join(f"{value} in {n} run{'s' * (n > 1)}" for value, n in common)
            differences.append(f"{key} ({values}, such as {odd['run']})")
    if differences:
        raise RequestError(f"{where}: keep one study folder per recipe; its runs differ in {'; '.join(differences)}")


def _require_distinct_points(finished: Sequence[Row]) -> None:
    seen: dict[tuple[Any, ...], Path] = {}
    for row in finished:
        point = tuple(row[key] for key in POINT)
        if point in seen:
            raise RequestError(f"the same point was trained twice: remove one of {seen[point]} and {row['run_dir']}")
        seen[point] = row["run_dir"]

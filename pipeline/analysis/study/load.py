"""Study folders -> one table, a row per finished run. Keeps apart what must not be compared; says what it left out."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from pipeline.analysis.study.axis import WIDTH, Axis
from pipeline.analysis.study.cells import Settings, in_order, telling, text, value, varying
from pipeline.analysis.study.stability import Rule, left_for_good, lost_ground
from pipeline.analysis.study.table import GROUP, POINT, Row, rows
from pipeline.config import RunConfig, counted_settings
from pipeline.entries.losses import LOSSES
from pipeline.errors import RequestError
from pipeline.run.directory import RunDir
from pipeline.run.result import FAILED
from pipeline.run.study import require_study

_OF_A_RUN = ("result.json", "metrics.jsonl")
_Folders = tuple[list[Path], list[Path]]
"""Of a study: those of runs, and those of what was a run and has lost its config.yaml."""
_NAMED = 5  # of the runs that are left out
_SPELLED = ("data.name", "data.path", "data.tokenizer")  # what the same data may be called
_WITH_OPTIMIZER = {"weight_decay", "betas", "eps", "momentum"}  # what usually follows the optimizer


@dataclass(frozen=True)
class Study:
    """The finished runs of one or more study folders.

    `runs` has one row per run, ordered by `POINT`: run, param, optimizer, loss, width, base_width, lr, seed, status
    (completed, diverged, aborted), initial_loss, final_train_loss, final_val_loss (of the training loss, in nats for
    cross-entropy; nan: not finite), last_train_loss, best_train_loss, best_val_loss (of what was recorded),
    final_train_accuracy, final_val_accuracy (nan without classes), steps, tokens, seconds, tokens_per_second,
    parameters, diverged_at (step or nan), clipped_share (`clipping.clipped_share`), left_for_good and lost_ground; and
    the settings `cells`.
    """

    dirs: tuple[Path, ...]
    runs: pd.DataFrame
    config: RunConfig
    """Of the first run; `config_of` is that of given ones."""
    n_unfinished: int
    """Runs without a result: still going, or interrupted."""
    n_failed: int
    """Runs that ended in an error: no evidence about learning rates."""
    left_out: tuple[str, ...] = ()
    """All of these, and runs that are of no use: the name of each, and why."""
    settings: Mapping[str, Settings] = field(default_factory=dict)
    """By run, all that counts apart from `POINT`; empty: those of `config`."""
    cells: tuple[str, ...] = ()
    """Settings that keep families apart beside `GROUP`, which runs have as columns of texts."""
    along: tuple[str, ...] = ()
    """Further settings that differ between families and do not tell more of them apart."""

    axis: ClassVar[Axis] = WIDTH
    second: ClassVar[Axis | None] = None

    @property
    def group(self) -> tuple[str, ...]:
        return (*GROUP, *self.cells)

    @property
    def notes(self) -> tuple[str, ...]:
        said = []
        if self.left_out:
            more = f"; and {len(self.left_out) - _NAMED} others" if len(self.left_out) > _NAMED else ""
            said.append(f"Left out: {'; '.join(self.left_out[:_NAMED])}{more}.")
        if self.along:
            said.append(f"Groups differ in {', '.join(self.along)} too, beside what they are called by.")
        return tuple(said)

    def settings_of(self, run: str) -> Settings:
        """What counts of a run, apart from `POINT`."""
        return self.settings.get(run, self._of_config)

    @cached_property
    def _of_config(self) -> Settings:
        return {key: value for key, value in counted_settings(self.config).items() if key not in POINT}

    def config_of(self, rows: pd.DataFrame) -> RunConfig:
        """Of the first of some runs; those of one group differ in `POINT` alone."""
        return self.config if not self.dirs else self.directory(str(rows["run"].iloc[0])).config()

    def runs_like(self, config: RunConfig) -> pd.DataFrame:
        """The runs with the settings of `config`, whatever their points; the data may be spelled otherwise."""
        wanted = counted_settings(config)
        keys = (set().union(*self.settings.values()) | wanted.keys()) - {*POINT, *_SPELLED}
        alike = {id(one): all(value(one, key) == value(wanted, key) for key in keys) for one in self.settings.values()}
        return self.runs[[alike[id(self.settings[run])] for run in self.runs["run"]]]

    def directory(self, run: str) -> RunDir:
        """Of a run of one of the folders."""
        return RunDir(next(path for path in self.dirs if (path / run).is_dir()) / run)

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

    def rule(self, loss: str, rows: pd.DataFrame) -> Rule:
        """When one of these runs, of that training loss, failed although it ended with a finite loss."""
        return Rule(LOSSES[loss].judged, self.config_of(rows).n_classes)

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that all runs share."""
        return self.recipe_of(self.runs)

    def recipe_of(self, rows: pd.DataFrame) -> dict[str, Any]:
        """The settings that these runs share; what follows the optimizer, where the study has one alone."""
        every = [self.settings_of(run) for run in rows["run"]] if self.settings else [self.settings_of("")]
        left = {*varying(every), *(_WITH_OPTIMIZER if self.runs["optimizer"].nunique() > 1 else ())}
        return {key: found for key, found in every[0].items() if key not in left}


def load_study(study_dirs: Sequence[Path], processes: int = 1) -> Study:
    """Reads every run of the folders, very many with so many `processes`: more than one only from a program that may be
    imported again, as multiprocessing's *spawn* does. Raises `RequestError` for a missing or empty folder, an
    unreadable run, and the same point (`POINT`) of a recipe trained twice."""
    study_dirs = list({path.resolve(): path for path in study_dirs}.values())
    folders = {study_dir: _folders(study_dir) for study_dir in study_dirs}
    found = [row for study_dir, (runs, _) in folders.items() for row in rows(study_dir, runs, processes)]
    finished = [row for row in found if row["status"] != FAILED]
    left_out = _left_out(folders.values(), {row["run_dir"]: row["status"] for row in found})
    n_unfinished = sum(len(runs) for runs, _ in folders.values()) - len(found)
    n_failed = len(found) - len(finished)
    where = ", ".join(map(str, study_dirs))
    if not finished:
        others = f" ({n_unfinished} unfinished, {n_failed} failed)" if n_unfinished or n_failed else ""
        raise RequestError(f"{where}: no finished runs{others}; run `pipeline sweep` on this study first")
    recipes = _recipes(finished)
    _require_distinct_points(finished, recipes)
    cells, along = telling([tuple(row[key] for key in GROUP) for row in finished], recipes)
    for row in finished:
        row["left_for_good"] = left_for_good(row.pop("records_above"))
        row["lost_ground"] = lost_ground(row.pop("share_lost"), row.pop("noises_lost"))
    runs = pd.DataFrame(finished).drop(columns=["settings", "data", "run_dir"])
    for key in cells:
        runs[key] = [text(value(recipe, key)) for recipe in recipes]
    runs = runs.sort_values([*GROUP, *cells, "width", "lr", "seed"], ignore_index=True, key=_sortable)
    config = RunDir(finished[0]["run_dir"]).config()
    settings = {row["run"]: recipe for row, recipe in zip(finished, recipes, strict=True)}
    beside = [key for key in along if key not in _WITH_OPTIMIZER]
    kept_apart = (settings, tuple(cells), tuple(beside))
    return Study(tuple(study_dirs), runs, config, n_unfinished, n_failed, left_out, *kept_apart)


def _sortable(column: "pd.Series[Any]") -> "pd.Series[Any]":
    if column.dtype.kind in "if" or column.name in GROUP:
        return column
    order = {cell: place for place, cell in enumerate(sorted(column.unique(), key=in_order))}
    return column.map(order)


def _left_out(folders: Iterable[_Folders], ended: Mapping[Path, str]) -> tuple[str, ...]:
    said = []
    for runs, others in folders:
        for run in runs:
            if run not in ended:
                said.append(f"{run.name}: unfinished")
            elif ended[run] == FAILED:
                said.append(f"{run.name}: failed, {RunDir(run).failure()}")
        said += [f"{run.name}: its config.yaml is missing" for run in others]
    return tuple(said)


def _folders(study_dir: Path) -> _Folders:
    require_study(study_dir)
    runs, others = [], []
    for name in sorted(os.listdir(study_dir)):  # noqa: PTH208 - of very many runs
        if not name.startswith("."):
            if os.path.exists(f"{study_dir}/{name}/config.yaml"):  # noqa: PTH110
                runs.append(study_dir / name)
            elif any((study_dir / name / file).exists() for file in _OF_A_RUN):
                others.append(study_dir / name)
    return runs, others


def _recipes(finished: Sequence[Row]) -> list[Settings]:
    """Of every run the settings apart from those of `POINT`, one object per recipe. Data are the same where their
    content is, however their path is spelled."""
    spelled: dict[str, Settings] = {}  # by fingerprint, as in the first run on these data
    alike: dict[tuple[str, str], Settings] = {}
    known: dict[str, Settings] = {}
    for row in finished:
        text, data = row["settings"], row["data"]
        if (text, data) not in alike:
            settings = json.loads(text)
            if data:
                settings |= spelled.setdefault(data, {key: settings[key] for key in _SPELLED})
            alike[text, data] = known.setdefault(json.dumps(settings, sort_keys=True), settings)
    return [alike[row["settings"], row["data"]] for row in finished]


def _require_distinct_points(finished: Sequence[Row], recipes: Sequence[Settings]) -> None:
    seen: dict[tuple[Any, ...], Path] = {}
    for row, recipe in zip(finished, recipes, strict=True):
        point = (*(row[key] for key in POINT), id(recipe))
        if point in seen:
            raise RequestError(f"the same point was trained twice: remove one of {seen[point]} and {row['run_dir']}")
        seen[point] = row["run_dir"]

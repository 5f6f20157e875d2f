"""Runs, fits and predictions, as the verbs and `import pipeline` ask for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import pandas as pd

from pipeline.analysis.fit import predict as predictions
from pipeline.analysis.fit.estimators import DEFAULT
from pipeline.analysis.fit.predict import LrPrediction
from pipeline.analysis.fit.study_fit import StudyFit, fit_study
from pipeline.analysis.fit.surface import CellPrediction, SurfaceFit, fit_surfaces, predict_cells
from pipeline.analysis.study.along import along
from pipeline.analysis.study.load import load_study
from pipeline.analysis.study.measure import Measure
from pipeline.analysis.study.studies import AnyStudy, Compared
from pipeline.analysis.study.tables.columns import Ask, parse_columns, parse_list
from pipeline.analysis.study.tables.read import CAME_OUT, READERS, is_table
from pipeline.analysis.study.tables.table import load_tables
from pipeline.errors import RequestError, require

Source = str | Path | pd.DataFrame
"""A study folder, a table of runs by path or ``wandb:entity/project``, or a table in memory."""


@dataclass(frozen=True)
class Asked:
    """What is to be fitted, and how."""

    sources: Sequence[str | pd.DataFrame]
    measure: Measure
    estimator: str
    ask: Ask | None
    """Of tables; None: the sources are study folders."""
    axes: tuple[str, ...] = ()
    """Of study folders, by their names; none: width."""
    processes: int = 1
    """That may read very many runs (`load_study`)."""

    @property
    def dirs(self) -> list[Path]:
        """The study folders. Raises `RequestError` where the sources are tables."""
        require(self.ask is None, f"{_name(self.sources[0])} is a table: this needs a study folder")
        return [Path(_name(source)) for source in self.sources]

    def study(self) -> tuple[AnyStudy, Compared]:
        """The runs, and what they are compared by. Raises `RequestError`."""
        if self.ask is None:
            return along(load_study(self.dirs, self.processes), self.axes), self.measure
        table = load_tables(self.sources, self.ask)
        return table, table.measure

    def fit(self) -> StudyFit:
        """Along one axis. Raises `RequestError`."""
        fitted = self.fit_axes()
        if isinstance(fitted, SurfaceFit):
            first, second = (axis.name for axis in fitted.axes)
            raise RequestError(f"--axis {first},{second}: this draws one axis; pipeline fit and predict know two")
        return fitted

    def fit_axes(self) -> StudyFit | SurfaceFit:
        """Along one axis or two. Raises `RequestError`."""
        study, measure = self.study()
        if study.second is None:
            return fit_study(study, measure, self.estimator)
        require(self.estimator == DEFAULT, f"--estimator {self.estimator} knows one axis: two are fitted by {DEFAULT}")
        return fit_surfaces(study, measure)


def asked(
    runs: Source | Sequence[Source],
    *,
    metric: str | None = None,
    value: str | None = None,
    estimator: str = DEFAULT,
    axis: str | None = None,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
    processes: int = 1,
) -> Asked:
    """Raises `RequestError` for values that no run records, and for options that do not go with the sources."""
    every = [runs] if isinstance(runs, Source) else list(runs)
    sources = [one if isinstance(one, pd.DataFrame) else str(one) for one in every]
    require(bool(sources), "no runs: name a study folder or a table")
    try:
        measure = Measure(cast(Any, metric or "train"), cast(Any, value or "tail"))
    except ValueError as error:
        raise RequestError(str(error)) from None
    axes = parse_list("--axis", axis, most=2) if axis else ()
    tables = [source for source in sources if isinstance(source, pd.DataFrame) or is_table(source)]
    first = _name(sources[0])
    if not tables:
        for source in map(_name, sources):
            if Path(source).is_file():
                raise RequestError(f"{source}: tables of runs are files that end in {', '.join(READERS)}")
        _refuse({"columns": columns, "group": group}, f"is for tables of runs: {first} is none")
        return Asked(sources, measure, estimator, None, axes, processes)
    if len(tables) < len(sources):
        other = next(_name(source) for source in sources if not any(source is table for table in tables))
        raise RequestError(f"{_name(tables[0])} is a table and {other} is none: fit tables and study folders apart")
    _refuse({"metric": metric, "value": value}, "is for study folders: of a table say --columns loss=COLUMN")
    columns = parse_columns(f"{name}={column}" for name, column in (columns or {}).items())
    ask = Ask(columns, axes, None if group is None else parse_list("--group", group))
    return Asked(sources, measure, estimator, ask)


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, given in options.items():
        require(given is None, f"--{name} {why}")


def _name(source: str | pd.DataFrame) -> str:
    return source if isinstance(source, str) else "the table"


# ---------------------------------------------------------------------------------------------------------------------
# What `import pipeline` offers


def load_runs(
    runs: Source | Sequence[Source],
    *,
    metric: str | None = None,
    value: str | None = None,
    axis: str | None = None,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
) -> pd.DataFrame:
    """The finished runs of studies or tables, a row per run: param, optimizer, loss_kind (what was trained on), width,
    lr, seed, loss (what runs are compared by; nan: not finite), diverged, and of study folders what `pipeline fit` puts
    into runs.csv.

    `metric` and `value` choose the loss of study folders, as the flags of `pipeline fit` do; `columns` and `group` say
    what the columns of a table are. `fit` takes the frame, whole or in part. Raises `RequestError`.
    """
    study, measure = asked(runs, metric=metric, value=value, axis=axis, columns=columns, group=group).study()
    frame = study.runs.rename(columns={"loss": "loss_kind"})
    frame["loss"] = 1 - frame[measure.column] if measure.is_accuracy else frame[measure.column]
    frame["diverged"] = frame["status"] != "completed"
    axes = {"width": study.axis.name} | ({"second": study.second.name} if study.second else {})
    frame = frame.drop(columns=[new for old, new in axes.items() if new != old and new in frame]).rename(columns=axes)
    known = {"param", "optimizer", "loss_kind", "base_width", "lr", "seed", *axes.values(), *study.group}
    frame.attrs[CAME_OUT] = [name for name in frame if name not in known - {"loss"}]
    return frame


def fit(
    runs: Source | Sequence[Source],
    *,
    metric: str | None = None,
    value: str | None = None,
    estimator: str = DEFAULT,
    axis: str | None = None,
    columns: Mapping[str, str] | None = None,
    group: str | None = None,
) -> StudyFit | SurfaceFit:
    """Optimal and max-stable learning rate per width and their exponents, as `pipeline fit` finds them.

    `runs`: study folders, or tables of runs as files or in memory, of which `columns` says what is what
    (``{"width": "d_model"}``; usual names need none). A table has no trajectories: there a run is unstable where it is
    marked as diverged or its loss is not finite. `axis` ``"width,tokens"`` fits two. Raises `RequestError`.
    """
    return asked(
        runs, metric=metric, value=value, estimator=estimator, axis=axis, columns=columns, group=group
    ).fit_axes()  # fmt: skip


@overload
def predict(
    runs: StudyFit | Source | Sequence[Source], width: float, second: None = None, *, level: float = 0.9
) -> list[LrPrediction]: ...
@overload
def predict(runs: SurfaceFit, width: float, second: float, *, level: float = 0.9) -> list[CellPrediction]: ...
def predict(
    runs: StudyFit | SurfaceFit | Source | Sequence[Source],
    width: float,
    second: float | None = None,
    *,
    level: float = 0.9,
) -> list[LrPrediction] | list[CellPrediction]:
    """The learning rates for a width, trained or not, one prediction per family of curves, as `pipeline predict` makes
    them. `runs`: a fit, or what is to be fitted; `level`: mass of the intervals. `width` is the level of whatever the
    fit's axis is, `second` that of its second one. Raises `RequestError`.
    """
    require(0 < level < 1, f"level must lie between 0 and 1, got {level:g}")
    require(width > 0, f"width must be positive, got {width:g}")
    fitted = runs if isinstance(runs, StudyFit | SurfaceFit) else fit(runs)
    if isinstance(fitted, SurfaceFit):
        first, other = (axis.name for axis in fitted.axes)
        if second is None:
            raise RequestError(f"the runs differ in {first} and {other}: give both, predict(fit, {first}, {other})")
        return predict_cells(fitted, [(width, second)], level)
    require(second is None, f"the runs differ in {fitted.study.axis.name} alone: leave out the second level")
    return [predictions.predict(group, width, level) for group in fitted.groups]

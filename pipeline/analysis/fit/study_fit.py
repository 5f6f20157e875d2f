"""The fit of a study: its families of curves, each as its grid shows it and as the chosen estimator sees it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis.fit import estimators
from pipeline.analysis.fit.estimators import Estimator
from pipeline.analysis.fit.exponent import LrLaw
from pipeline.analysis.fit.fitted import Fitted, FittedWidth, Lr, Quantity
from pipeline.analysis.fit.theory import Predicted, predicted
from pipeline.analysis.study.axis import Axis
from pipeline.analysis.study.cells import in_order
from pipeline.analysis.study.clipping import Clipping
from pipeline.analysis.study.grid import Curve, Edge, Grid, GridWidth, Optimum, grid_of
from pipeline.analysis.study.load import Study, load_study
from pipeline.analysis.study.measure import TRAINING_LOSS, Measure
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import is_lost
from pipeline.analysis.study.studies import AnyStudy, Compared
from pipeline.analysis.study.table import GROUP
from pipeline.config import RunConfig
from pipeline.errors import RequestError
from pipeline.parameterization import rules


@dataclass(frozen=True)
class WidthFit:
    """One width of a group: its grid, and what the estimator makes of it."""

    grid: GridWidth
    fitted: FittedWidth

    @property
    def width(self) -> float:
        return self.grid.width

    @property
    def curve(self) -> Curve:
        return self.grid.curve

    @property
    def unstable(self) -> NDArray[np.bool_]:
        """Per learning rate of the curve."""
        return self.grid.unstable

    @property
    def optimum(self) -> Optimum:
        """Of the grid."""
        return self.grid.optimum

    @property
    def edge(self) -> Edge:
        """The grid's bracket of it."""
        return self.grid.edge

    @property
    def best(self) -> Lr | None:
        """The width's optimal learning rate by the estimator; None: it has none."""
        return self.fitted.best

    @property
    def best_loss(self) -> float:
        """Loss at `best`; nan without one."""
        return self.fitted.best_loss

    @property
    def loss_at_best(self) -> float:
        """Where `best` lies on the measured curve, which the estimator's `best_loss` need not: it may stand above or
        below every run. nan without one."""
        return math.nan if self.best is None else self.curve.at(self.best.value)

    @property
    def beyond_curve(self) -> bool:
        """Whether `best` lies past the learning rates with a finite loss, as an optimum at the edge may."""
        lrs = self.curve.lrs[np.isfinite(self.curve.losses)]
        return self.best is not None and not (len(lrs) and lrs[0] <= self.best.value <= lrs[-1])

    @property
    def largest(self) -> Lr | None:
        """The edge by the estimator."""
        return self.fitted.edge


@dataclass(frozen=True)
class GroupFit:
    """The widths of one family of curves, narrowest first, and the exponents over them. Of a study of ours these were
    trained under one parameterization, optimizer and loss."""

    axis: Axis
    """Along which the "widths" differ; of a study of ours the width."""
    key: Mapping[str, str]
    """The columns whose values make the family, and these."""
    param: str
    """Empty: not known, or not the same in all runs; so `optimizer` and `loss`."""
    optimizer: str
    loss: str
    estimator: Estimator
    grid: Grid
    fitted: Fitted
    predicted: dict[Quantity, Predicted]
    width_step: int
    """Every width is a multiple of it."""
    base_level: float
    """Of the axis, at which scaled learning rates are the base group's own."""
    unit: str
    """What runs are compared in."""
    borrowed: int
    """Runs of other parameterizations that count at the base width, where all are one model."""
    config: RunConfig | None = None
    """Of one of its runs; None: nobody knows it."""

    @property
    def head(self) -> dict[str, str]:
        """What tells the family from others, as tables on disk have it: parameterization, optimizer, loss (empty where
        not known), and further columns of its key."""
        return {**{name: getattr(self, name) for name in GROUP}, **self.key}

    @property
    def widths(self) -> tuple[WidthFit, ...]:
        return tuple(WidthFit(*pair) for pair in zip(self.grid.widths, self.fitted.widths, strict=True))

    @property
    def optimal(self) -> LrLaw:
        return self.fitted.laws["optimal"]

    @property
    def max_stable(self) -> LrLaw:
        return self.fitted.laws["max_stable"]

    @property
    def lr_ratio(self) -> float:
        """Typical ratio of neighbouring learning rates of the grid; nan with one learning rate per width."""
        ratios = np.concatenate([w.curve.lrs[1:] / w.curve.lrs[:-1] for w in self.grid.widths])
        return float(np.median(ratios)) if len(ratios) else math.nan

    @property
    def n_seeds(self) -> int:
        """Most seeds that any learning rate has."""
        return max(w.n_seeds for w in self.grid.widths)


@dataclass(frozen=True)
class StudyFit:
    """A study and what was fitted to it."""

    study: AnyStudy
    measure: Compared
    estimator: Estimator
    groups: tuple[GroupFit, ...]


def fit(study_dirs: Sequence[Path], measure: Measure = TRAINING_LOSS, estimator: str = estimators.DEFAULT) -> StudyFit:
    """Loads the studies as one and fits every group of curves. Raises `RequestError` (see `load.load_study`), also for
    an unknown estimator."""
    estimators.get(estimator)
    return fit_study(load_study(study_dirs), measure, estimator)


def fit_study(study: AnyStudy, measure: Compared, estimator: str = estimators.DEFAULT) -> StudyFit:
    """Fits every group of curves. Raises `RequestError`."""
    chosen = estimators.get(estimator)
    completed = study.runs[study.runs["status"] == "completed"]
    if measure.column not in study.runs or (len(completed) and completed[measure.column].isna().all()):
        raise RequestError(f"{study.name}: no completed run has a finite {measure.name}; try another --metric")
    grouped = study.runs.groupby(list(study.group)) if study.group else [((), study.runs)]
    groups = [_fit_group(key, rows, study, measure, chosen) for key, rows in grouped]
    order = {name: place for place, name in enumerate(rules.TABLE)}
    groups.sort(
        key=lambda group: (
            order.get(group.param, len(order)),
            group.optimizer,
            group.loss,
            *map(in_order, group.key.values()),
        )
    )
    return StudyFit(study, measure, chosen, tuple(groups))


def runs_of(rows: pd.DataFrame, measure: Compared) -> Runs:
    """The rows of one group of the run table as arrays."""
    values = rows[measure.column].to_numpy(dtype=np.float64)
    lost = np.array([is_lost(*run) for run in zip(rows["status"], values, strict=True)], dtype=np.bool_)
    loss = 1 - values if measure.is_accuracy else values
    return Runs.of(
        rows["width"].to_numpy(),
        rows["lr"].to_numpy(),
        rows["seed"].to_numpy(),
        np.where(lost, math.inf, loss),
        (rows["left_for_good"] | rows["lost_ground"]).to_numpy(),
        rows["final_train_accuracy"].to_numpy(),
        rows["second"].to_numpy() if "second" in rows else None,
    )


def _fit_group(key: Any, rows: pd.DataFrame, study: AnyStudy, measure: Compared, estimator: Estimator) -> GroupFit:
    param, optimizer, loss = (rows[name].iloc[0] if rows[name].nunique() == 1 else "" for name in GROUP)
    own = len(rows)
    config = study.config_of(rows) if isinstance(study, Study) else None
    if isinstance(study, Study):
        rows = _with_base_width(rows, study)
    grid = grid_of(runs_of(rows, measure), study.rule(loss, rows), estimator.max_stable, study.axis.wander)
    return GroupFit(
        study.axis,
        dict(zip(study.group, key, strict=True)),
        param,
        optimizer,
        loss,
        estimator,
        grid,
        estimator.fit(grid),
        # theory is about a model, and no table says what was trained
        {} if config is None else predicted(config, param, optimizer, loss, _clipping(grid, rows)),
        study.level_step if config is None else config.width_step,
        study.base_level if config is None else config.base_width,
        measure.unit(loss),
        len(rows) - own,
        config,
    )


def _clipping(grid: Grid, rows: pd.DataFrame) -> dict[Quantity, Clipping]:
    """Of the runs at each width's best learning rate of the grid, and at the last stable one."""
    at: dict[Quantity, dict[float, float]] = {
        "optimal": {w.width: w.optimum.lr for w in grid.widths},
        "max_stable": {w.width: w.edge.last_stable_lr for w in grid.widths},
    }
    shares = rows.groupby(["width", "lr"])["clipped_share"].mean()
    return {
        quantity: Clipping({width: float(shares.get((width, lr), math.nan)) for width, lr in lrs.items()})
        for quantity, lrs in at.items()
    }


def _with_base_width(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """With the base width's runs of the other parameterizations of its optimizer, loss and settings, where the group
    trained that width itself: there all are one model (design, section 4), and the same points trained twice count
    once."""
    if not (rows["width"] == rows["base_width"]).any():
        return rows
    one, runs = rows.iloc[0], study.runs
    alike = (runs["optimizer"] == one["optimizer"]) & (runs["loss"] == one["loss"])
    others = runs[alike & (runs["width"] == runs["base_width"]) & (runs["param"] != one["param"])]
    recipe = study.settings_of(one["run"])
    others = others[[study.settings_of(run) == recipe for run in others["run"]]]
    both = pd.concat([rows, others]).drop_duplicates(["width", "lr", "seed"], keep="first")
    ordered: pd.DataFrame = both.sort_values(["width", "lr", "seed"], kind="stable")
    return ordered

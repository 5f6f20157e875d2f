"""A study's families of curves, fitted: per group and width what the grid shows, and what the chosen estimator makes of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis.fit.collapse import Estimate, Quantity, WidthEstimate, estimate
from pipeline.analysis.fit.evidence import Shape, shape
from pipeline.analysis.fit.exponent import COLLAPSE, PAPER, Estimator, Exponent, fit_exponent, from_posterior
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.published import Curve, Optimum, grid_optimum, seed_mean_curve
from pipeline.analysis.fit.theory import Predicted, predicted
from pipeline.analysis.study.labels import Rule
from pipeline.analysis.study.load import GROUP, Study, load_study
from pipeline.analysis.study.measure import TRAINING_LOSS, Measure
from pipeline.analysis.study.runs import Runs
from pipeline.analysis.study.stability import Edge, is_lost, stability_edge, unstable_lrs
from pipeline.errors import RequestError
from pipeline.parameterization import rules


@dataclass(frozen=True)
class Lr:
    """A learning rate and its interval; `low` and `high` are nan where the estimator gives none."""

    value: float
    low: float = math.nan
    high: float = math.nan


def lr_of(posterior: Mixture, level: float = 0.95) -> Lr:
    """Median and central interval of log2 lr, as learning rates."""
    low, median, high = posterior.quantiles([(1 - level) / 2, 0.5, (1 + level) / 2])
    return Lr(2.0**median, 2.0**low, 2.0**high)


@dataclass(frozen=True)
class WidthFit:
    """One width of a group: its curve, the optimum and the stability edge on the grid, as published."""

    width: int
    curve: Curve
    unstable: NDArray[np.bool_]
    """Per learning rate of the curve."""
    optimum: Optimum
    edge: Edge
    n_runs: int
    n_missing: int
    """Points of the width's grid (learning rates x seeds) without a finished run."""
    found: WidthEstimate | None
    """None under the published practice."""

    @property
    def n_seeds(self) -> int:
        """Most seeds that any learning rate has."""
        return int(self.curve.n_seeds.max())

    @cached_property
    def best(self) -> Lr | None:
        """The width's optimal learning rate by the chosen estimator; None: it has none."""
        if self.found is not None:
            return None if self.found.optimum is None else lr_of(self.found.optimum)
        return None if self.optimum.index is None else Lr(self.optimum.lr)

    @property
    def best_loss(self) -> float:
        """Loss at `best`; nan without one."""
        return self.optimum.loss if self.found is None else self.found.bottom

    @cached_property
    def largest(self) -> Lr | None:
        """The edge by the chosen estimator: the max-stable learning rate, or as published the minimal unstable one."""
        if self.found is not None:
            return None if self.found.edge is None else lr_of(self.found.edge)
        return None if self.edge.censored else Lr(self.edge.min_unstable_lr)


@dataclass(frozen=True)
class GroupFit:
    """The widths trained under one parameterization, optimizer and loss, narrowest first, and the exponents over them.

    As published, `optimal` is fitted to the optima on the grid, those at its edge included, and `max_stable` to the minimal
    unstable learning rates, without the widths where none was seen. Otherwise both are posteriors of `estimate`.
    """

    param: str
    optimizer: str
    loss: str
    widths: tuple[WidthFit, ...]
    optimal: Exponent
    max_stable: Exponent
    estimate: Estimate | None
    """None under the published practice."""
    predicted: dict[Quantity, Predicted]
    width_step: int
    """Every width is a multiple of it."""

    @property
    def estimator(self) -> Estimator:
        return PAPER if self.estimate is None else COLLAPSE

    @property
    def lr_ratio(self) -> float:
        """Typical ratio of neighbouring learning rates of the grid; nan with one learning rate per width."""
        ratios = np.concatenate([w.curve.lrs[1:] / w.curve.lrs[:-1] for w in self.widths])
        return float(np.median(ratios)) if len(ratios) else math.nan

    @property
    def n_seeds(self) -> int:
        return max(w.n_seeds for w in self.widths)

    @cached_property
    def shapes(self) -> dict[Quantity, Shape]:
        """Whether one power law fits; empty under the published practice."""
        if self.estimate is None:
            return {}
        return {"optimal": shape(self.estimate, "optimal"), "max_stable": shape(self.estimate, "max_stable")}

    def exponent(self, quantity: Quantity) -> Exponent:
        return self.optimal if quantity == "optimal" else self.max_stable


@dataclass(frozen=True)
class StudyFit:
    """A study and what was fitted to it."""

    study: Study
    measure: Measure
    estimator: Estimator
    groups: tuple[GroupFit, ...]


def fit(study_dirs: Sequence[Path], measure: Measure = TRAINING_LOSS, estimator: Estimator = COLLAPSE) -> StudyFit:
    """Loads the studies as one and fits every group of curves. Raises `RequestError` (see `results.load_study`)."""
    study = load_study(study_dirs)
    completed = study.runs[study.runs["status"] == "completed"]
    if measure.column not in study.runs or (len(completed) and completed[measure.column].isna().all()):
        raise RequestError(f"{study.name}: no completed run has a finite {measure.name}; try another --metric")
    order = {name: place for place, name in enumerate(rules.TABLE)}
    groups = [_fit_group(key, rows, study, measure, estimator) for key, rows in study.runs.groupby(GROUP)]
    groups.sort(key=lambda group: (order[group.param], group.optimizer, group.loss))
    return StudyFit(study, measure, estimator, tuple(groups))


def runs_of(rows: pd.DataFrame, measure: Measure) -> Runs:
    """The rows of one group of the run table as arrays."""
    values = rows[measure.column].to_numpy(dtype=np.float64)
    lost = np.array([is_lost(*run) for run in zip(rows["status"], values, strict=True)], dtype=np.bool_)
    loss = 1 - values if measure.is_accuracy else values
    return Runs.of(
        rows["width"].to_numpy(),
        rows["lr"].to_numpy(),
        rows["seed"].to_numpy(),
        np.where(lost, math.inf, loss),
        rows["left_for_good"].to_numpy(),
        rows["final_train_accuracy"].to_numpy(),
    )


def _fit_group(key: Any, rows: pd.DataFrame, study: Study, measure: Measure, estimator: Estimator) -> GroupFit:
    param, optimizer, loss = key
    dimensions = study.config.data.dimensions
    rule = Rule(loss == "cross_entropy", dimensions[1] if dimensions else None)
    runs = runs_of(rows, measure)
    found = None if estimator == PAPER else estimate(runs, rule)
    widths = [
        _fit_width(runs.where(runs.width == width), rule, None if found is None else found.widths[place])
        for place, width in enumerate(runs.widths)
    ]
    if found is None:
        optima = [w for w in widths if w.optimum.index is not None]
        edges = [w for w in widths if not w.edge.censored]
        optimal = fit_exponent([w.width for w in optima], [w.optimum.lr for w in optima])
        max_stable = fit_exponent([w.width for w in edges], [w.edge.min_unstable_lr for w in edges])
    else:
        optimal, max_stable = from_posterior(found.optimal), from_posterior(found.max_stable)
    return GroupFit(
        param,
        optimizer,
        loss,
        tuple(widths),
        optimal,
        max_stable,
        found,
        predicted(study.config, param, optimizer, loss),
        study.config.width_step,
    )


def _fit_width(runs: Runs, rule: Rule, found: WidthEstimate | None) -> WidthFit:
    curve = seed_mean_curve(runs)
    optimum = grid_optimum(curve)
    unstable = unstable_lrs(
        curve.losses,
        optimum.index,
        left=curve.left,
        loss="cross_entropy" if rule.cross_entropy else "squared",
        accuracies=curve.accuracies,
        n_classes=rule.n_classes,
    )
    edge = stability_edge(curve.lrs, unstable, optimum.index)
    seeds, n_lrs = np.unique(runs.seed), len(curve.lrs)
    # where seeds have grids of their own, nothing is missing
    common = n_lrs * len(seeds) < 2 * len(runs)
    n_missing = n_lrs * len(seeds) - len(runs) if common else 0
    return WidthFit(runs.widths[0], curve, unstable, optimum, edge, len(runs), n_missing, found)

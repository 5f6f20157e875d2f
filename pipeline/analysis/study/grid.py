"""The grid of a family of curves: per width final loss against learning rate, seeds averaged, its best learning rate
and the bracket of its stability edge, as published. What every estimator starts from."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.study.edges import Intervals, intervals
from pipeline.analysis.study.runs import Bools, Floats, Ints, Runs
from pipeline.analysis.study.stability import TRAJECTORY, Cause, Labels, Rule, label

GridEnd = Literal["no", "low", "high", "both"]


@dataclass(frozen=True)
class Curve:
    """Final loss against learning rate at one width; arrays of equal length, learning rates ascending."""

    lrs: NDArray[np.float64]
    losses: NDArray[np.float64]
    """Mean over the seeds; inf where any seed is lost, as the published averages over NaN are."""
    accuracies: NDArray[np.float64]
    """Mean final training accuracy over the seeds that have one; nan without classes."""
    n_seeds: NDArray[np.int64]
    n_lost: NDArray[np.int64]
    """Seeds without a usable final loss (`stability.is_lost`)."""
    left: NDArray[np.bool_]
    """Whether any seed left the stable region for good (`stability.left_for_good`): never the optimum."""

    def at(self, lr: float) -> float:
        """Loss on the line through the finite points, straight against log lr; beyond them that of the last; nan
        without any."""
        finite = np.isfinite(self.losses)
        if not finite.any():
            return math.nan
        return float(np.interp(math.log(lr), np.log(self.lrs[finite]), self.losses[finite]))


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of the grid; `index` is its place on the curve, None when every learning rate is lost."""

    index: int | None
    lr: float
    loss: float
    at_edge: GridEnd
    """Which end of the grid the optimum sits at, if any: then the true one may lie beyond, and the grid wants
    extending."""


def seed_mean_curve(runs: Runs) -> Curve:
    """The curve of one width's runs."""
    lrs, place = np.unique(runs.lr, return_inverse=True)
    n_seeds = np.bincount(place)
    lost = ~np.isfinite(runs.loss)
    n_lost = np.bincount(place[lost], minlength=len(lrs))
    seen = np.isfinite(runs.accuracy)

    def mean(values: Floats, where: NDArray[np.bool_]) -> Floats:
        count = np.bincount(place[where], minlength=len(lrs))
        total = np.bincount(place[where], weights=values[where], minlength=len(lrs))
        return np.where(count > 0, total / np.maximum(count, 1), math.nan)

    return Curve(
        lrs=lrs,
        losses=np.where(n_lost > 0, math.inf, mean(runs.loss, ~lost)),
        accuracies=mean(runs.accuracy, seen),
        n_seeds=n_seeds,
        n_lost=n_lost,
        left=np.bincount(place[runs.left], minlength=len(lrs)) > 0,
    )


@dataclass(frozen=True)
class Edge:
    """Bracket of a width's max-stable learning rate: it lies in (last_stable_lr, min_unstable_lr).

    `min_unstable_lr` is nan when no learning rate at or above the optimum was unstable (the edge lies beyond
    `last_stable_lr`, the largest one tried); both are nan when all were (the edge lies below the smallest one tried).
    """

    last_stable_lr: float
    min_unstable_lr: float

    @property
    def censored(self) -> bool:
        """The grid shows at most one side of the edge."""
        return math.isnan(self.min_unstable_lr)


@dataclass(frozen=True)
class GridWidth:
    """One width of a family, as its grid shows it."""

    width: float
    curve: Curve
    cause: Ints
    """Per learning rate of the curve, what any of its runs is unstable by (`stability.label`)."""
    all_unstable: bool
    optimum: Optimum
    edge: Edge
    n_runs: int
    seeds: int
    """Seeds of all its learning rates together."""
    n_unstable_seeds: int
    """Those that saw an unstable learning rate at or above the optimum."""
    n_missing: int
    """Points of the width's grid (learning rates x seeds) without a finished run."""

    @property
    def unstable(self) -> Bools:
        """Per learning rate of the curve."""
        unstable: Bools = self.cause != Cause.STABLE
        return unstable

    @property
    def n_seeds(self) -> int:
        """Most seeds that any learning rate has."""
        return int(self.curve.n_seeds.max())


@dataclass(frozen=True)
class Grid:
    """A family of curves: its runs, their labels, and its widths, narrowest first."""

    runs: Runs
    published: Rule
    """The published criterion of its loss."""
    labels: Labels
    widths: tuple[GridWidth, ...]
    wander: tuple[float, ...] | None
    """`Axis.wander` of its axis."""


def grid_of(runs: Runs, published: Rule, by_trajectory: bool = True, wander: tuple[float, ...] | None = None) -> Grid:
    """Of the runs of one family, unstable by their trajectories or by the published criterion."""
    labels = label(runs, TRAJECTORY if by_trajectory else published)
    seen = intervals(runs, labels)
    widths = [_width(runs, labels, seen, place) for place in range(len(runs.widths))]
    return Grid(runs, published, labels, tuple(widths), wander)


def _width(runs: Runs, labels: Labels, seen: Intervals, place: int) -> GridWidth:
    width = runs.widths[place]
    here = runs.width == width
    of_width = runs.where(here)
    curve = seed_mean_curve(of_width)
    cause = np.zeros(len(curve.lrs), dtype=np.int64)
    np.maximum.at(cause, np.searchsorted(curve.lrs, of_width.lr), labels.cause[here])
    unstable = cause != Cause.STABLE
    optimum = grid_optimum(curve, unstable)
    n_lrs, n_seeds = len(curve.lrs), len(np.unique(of_width.seed))
    # where seeds have grids of their own, nothing is missing
    common = n_lrs * n_seeds < 2 * len(of_width)
    return GridWidth(
        width=width,
        curve=curve,
        cause=cause,
        all_unstable=bool(labels.all_unstable[place]),
        optimum=optimum,
        edge=stability_edge(curve.lrs, unstable, optimum.index),
        n_runs=len(of_width),
        seeds=n_seeds,
        n_unstable_seeds=int(np.sum(np.isfinite(seen.of(width).high))),
        n_missing=n_lrs * n_seeds - len(of_width) if common else 0,
    )


def grid_optimum(curve: Curve, unstable: Bools) -> Optimum:
    """The learning rate with the smallest mean final loss among those that are not unstable and of which no seed left
    for good; of equal ones the smallest."""
    usable = np.where(np.isfinite(curve.losses) & ~curve.left & ~unstable, curve.losses, math.inf)
    index = int(np.argmin(usable))
    if math.isinf(usable[index]):
        return Optimum(None, math.nan, math.nan, "no")
    low, high = index == 0, index == len(usable) - 1
    at_edge: GridEnd = "both" if low and high else "low" if low else "high" if high else "no"
    return Optimum(index, float(curve.lrs[index]), float(usable[index]), at_edge)


def stability_edge(lrs: NDArray[np.float64], unstable: NDArray[np.bool_], best: int | None) -> Edge:
    """The last stable and the minimal unstable learning rate: the smallest unstable one above the optimum (paper,
    D.4)."""
    if best is None:
        return Edge(math.nan, math.nan)
    beyond = np.flatnonzero(unstable[best:]) + best
    if not len(beyond):
        return Edge(float(lrs[-1]), math.nan)
    first = int(beyond[0])
    assert first > best, "the optimum itself is stable"
    return Edge(float(lrs[first - 1]), float(lrs[first]))

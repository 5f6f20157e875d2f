"""A width's optimal learning rate as published: the grid point with the smallest final loss, seeds averaged."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.study.runs import Floats, Runs

GridEdge = Literal["no", "low", "high", "both"]


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


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of the grid; `index` is its place on the curve, None when every learning rate is lost."""

    index: int | None
    lr: float
    loss: float
    at_edge: GridEdge
    """Which end of the grid the optimum sits at, if any: then the true one may lie beyond, and the grid wants extending."""


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


def grid_optimum(curve: Curve) -> Optimum:
    """The learning rate with the smallest mean final loss; of equal ones the smallest."""
    usable = np.where(np.isfinite(curve.losses) & ~curve.left, curve.losses, math.inf)
    index = int(np.argmin(usable))
    if math.isinf(usable[index]):
        return Optimum(None, math.nan, math.nan, "no")
    low, high = index == 0, index == len(usable) - 1
    at_edge: GridEdge = "both" if low and high else "low" if low else "high" if high else "no"
    return Optimum(index, float(curve.lrs[index]), float(usable[index]), at_edge)

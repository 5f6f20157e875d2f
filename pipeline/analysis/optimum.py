"""A width's optimal learning rate: the grid point with the smallest final loss, seeds averaged (the published practice)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.analysis import stability

Metric = Literal["train", "val"]
GridEdge = Literal["no", "low", "high", "both"]

COLUMN: dict[Metric, str] = {"train": "final_train_loss", "val": "final_val_loss"}


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


def seed_mean_curve(runs: pd.DataFrame, metric: Metric = "train") -> Curve:
    """The curve of one width from its rows of the run table (`results.load_study`)."""
    loss = runs[COLUMN[metric]].to_numpy(dtype=np.float64)
    lost = np.array([stability.is_lost(*run) for run in zip(runs["status"], loss, strict=True)])
    columns = {"lr": runs["lr"], "loss": np.where(lost, math.inf, loss), "lost": lost}
    columns |= {"accuracy": runs["final_train_accuracy"], "left": runs["left_for_good"]}
    by_lr = pd.DataFrame(columns).groupby("lr")
    mean = by_lr["loss"].mean()
    return Curve(
        lrs=mean.index.to_numpy(dtype=np.float64),
        losses=mean.to_numpy(dtype=np.float64),
        accuracies=by_lr["accuracy"].mean().to_numpy(dtype=np.float64),
        n_seeds=np.asarray(by_lr.size(), dtype=np.int64),
        n_lost=np.asarray(by_lr["lost"].sum(), dtype=np.int64),
        left=by_lr["left"].any().to_numpy(dtype=np.bool_),
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

"""What one width's own runs measure: its optimal learning rate, its stability edge and the price of another learning
rate. No estimator and no other width takes part, so that predictions can be scored by it.

x is log2 of the learning rate; errors are in octaves.
"""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.interpolate import PchipInterpolator

from pipeline.analysis.study.edges import intervals
from pipeline.analysis.study.runs import Floats, Ints, Runs
from pipeline.analysis.study.stability import Rule, label

# No grid tells an optimum closer than this.
LEAST_ERROR = 0.03

# What a run without a usable loss costs beyond the worst that has one; in the unit of the loss.
LOST = 1.0

# Learning rates that all seeds share, from which on what a seed adds to every loss can be told and taken out.
_SHARED = 3
_RESAMPLES = 200


@dataclass(frozen=True)
class Measured:
    """log2 of a learning rate and its standard error."""

    x: float
    error: float


class Unmeasured(Enum):
    """Why a width's runs do not tell."""

    FEW = "fewer than three learning rates there have a finite loss at every seed"
    LOW_END = "the smallest usable learning rate is the best, so the optimum may lie below"
    HIGH_END = "the largest learning rate tried is the best, so the optimum may lie above"
    NO_EDGE = "the learning rates tried do not lie on both sides of the edge for most seeds"


@dataclass(frozen=True)
class Regret:
    """By how much the loss at a learning rate exceeds the least of the measured curve, in the unit of the loss."""

    loss: float
    beyond: bool
    """The learning rate lies outside those tried: `loss` is that of the nearest one, the true one likely larger."""


def optimum(runs: Runs) -> Measured | Unmeasured:
    """The vertex of the mean loss over seeds, from the runs of one width.

    The median vertex of the parabolas in log2 lr through the 3, 4 and 5 neighbours of the best learning rate. Its error
    is the largest of: the spread of these vertices, that of the jackknife over the 5, that over resampled seeds, and
    `LEAST_ERROR`. Learning rates at which a seed was lost take no part, nor do those beyond them; where the best one is
    the last before these, the optimum is put a quarter into the gap, with an error as wide.
    """
    x, losses = _by_seed(runs)
    mean = _mean(losses)
    kept = np.isfinite(mean)
    if kept.sum() < 3:
        return Unmeasured.FEW
    best = int(np.argmin(mean[kept]))
    x_best = float(x[kept][best])
    if best == 0:
        return Unmeasured.LOW_END
    lost_above = float(np.min(x[~kept & (x > x_best)], initial=math.inf))
    kept &= x < lost_above
    if best == kept.sum() - 1:
        if math.isinf(lost_above):
            return Unmeasured.HIGH_END
        gap = lost_above - x_best
        return Measured(x_best + 0.25 * gap, max(0.3 * gap, LEAST_ERROR))
    found, spread = vertex(x[kept], mean[kept], best)
    return Measured(found, max(spread, _seed_error(x[kept], losses[kept]), LEAST_ERROR))


def edge(runs: Runs, rule: Rule) -> Measured | Unmeasured:
    """The median over seeds of the largest stable learning rate, from the runs of one width.

    Each seed's lies between its last stable and its first unstable one, so their median lies between the medians of
    these: the middle of that gap. The error is half the gap, and that of a median over so many seeds with it.
    """
    seen = intervals(runs, label(runs, rule))
    with np.errstate(invalid="ignore"):  # the mean of -inf and inf
        low, high = float(np.median(seen.low)), float(np.median(seen.high))
    if not math.isfinite(low) or not math.isfinite(high):
        return Unmeasured.NO_EDGE
    middles = (seen.low + seen.high)[seen.two_sided] / 2
    of_seeds = math.sqrt(math.pi / 2 / len(middles)) * float(np.std(middles, ddof=1)) if len(middles) > 1 else 0.0
    return Measured((low + high) / 2, math.hypot((high - low) / 2, of_seeds))


def regret(runs: Runs, x: float) -> Regret | None:
    """At log2 lr `x`, on the mean loss over seeds of one width's runs, interpolated without overshoot; lost runs count
    as `LOST` worse than the worst other. None: nothing there is usable, or there is one learning rate alone."""
    grid, losses = _by_seed(runs)
    finite = np.isfinite(losses)
    if not finite.any() or len(grid) < 2:
        return None
    mean = _mean(np.where(np.isinf(losses), losses[finite].max() + LOST, losses))
    inside = min(max(x, float(grid[0])), float(grid[-1]))
    # the interpolant is monotone between neighbours, so the grid has its least value
    return Regret(float(PchipInterpolator(grid, mean)(inside)) - float(mean.min()), inside != x)


def vertex(x: Floats, y: Floats, best: int) -> tuple[float, float]:
    """Vertex of y(x) near the inner point `best`, and its error: from the spread of candidates and the jackknife. Kept
    between the neighbours; where nothing there is convex, the point itself and a quarter of their distance."""
    span = float(x[best + 1] - x[best - 1])
    (found,) = _candidates(x, y[None], best)
    if np.isnan(found).all():
        return float(x[best]), span / 4
    near = np.arange(max(0, best - 2), min(len(x), best + 3))
    left_out = [_parabolas(x, y[None], best, near[near != one]) for one in near] if len(near) > 3 else []
    jack = [float(value[0]) for value in left_out if not np.isnan(value[0])]
    error = float(np.nanstd(found)) if np.isfinite(found).sum() > 1 else 0.1 * span
    if len(jack) > 2:
        error = max(error, math.sqrt(len(jack) - 1) * float(np.std(jack)))
    return float(np.nanmedian(found)), error


# ---------------------------------------------------------------------------------------------------------------------


def _candidates(x: Floats, curves: Floats, best: int) -> Floats:
    """Of every curve [curve, x] the vertices through 3, 4, 4 and 5 neighbours of `best`, as [curve, window]."""
    windows = [(best - below, best + above + 1) for below, above in ((1, 1), (2, 1), (1, 2), (2, 2))]
    return np.stack([_parabolas(x, curves, best, np.arange(*w)) for w in windows if w[0] >= 0 and w[1] <= len(x)], 1)


def _parabolas(x: Floats, curves: Floats, best: int, points: Ints) -> Floats:
    """Of every curve [curve, x] the vertex of the least-squares parabola through these points, kept between the
    neighbours of `best`; nan where it is not convex."""
    slope, curvature = np.linalg.pinv(np.vander(x[points] - x[best], 3, increasing=True))[1:] @ curves[:, points].T
    convex = curvature > 1e-12 * np.abs(curves).max(axis=1)
    at = x[best] - slope / 2 / np.where(convex, curvature, 1.0)
    return np.where(convex, np.clip(at, x[best - 1], x[best + 1]), math.nan)


def _by_seed(runs: Runs) -> tuple[Floats, Floats]:
    """x, ascending, and losses [x, seed]: inf where the run was lost, nan where there is none.

    What a seed adds to every loss, told by the learning rates that all seeds share, is taken out: it says nothing of
    learning rates, and would where seeds are missing. Seeds with grids of their own keep it.
    """
    lrs, row = np.unique(runs.lr, return_inverse=True)
    seeds, column = np.unique(runs.seed, return_inverse=True)
    losses = np.full((len(lrs), len(seeds)), math.nan)
    losses[row, column] = runs.loss
    shared = losses[np.isfinite(losses).all(axis=1)]
    if len(shared) >= _SHARED:
        losses = losses - np.median(shared - shared.mean(axis=1, keepdims=True), axis=0)
    return np.log2(lrs), losses


def _mean(losses: Floats) -> Floats:
    """Over the seeds that are there; inf where one was lost."""
    found: Floats = np.nanmean(losses, axis=1)
    return found


def _seed_error(x: Floats, losses: Floats) -> float:
    """Spread of the vertex over seeds drawn anew at every learning rate; 0 where most have one seed. `losses`: [x,
    seed], finite or nan. Deterministic."""
    there = [row[np.isfinite(row)] for row in losses]
    seeds = float(np.median([len(row) for row in there]))
    if seeds < 2:
        return 0.0
    rng = np.random.default_rng(0)
    curves = np.stack([rng.choice(row, (_RESAMPLES, len(row))).mean(axis=1) for row in there], axis=1)
    least = np.argmin(curves, axis=1)
    found = x[least]
    for best in set(least.tolist()) - {0, len(x) - 1}:
        here = (least == best).nonzero()[0]
        vertices = _candidates(x, curves[here], best)
        told = ~np.isnan(vertices).all(axis=1)
        found[here[told]] = np.nanmedian(vertices[told], axis=1)
    # drawn with replacement, n seeds vary less than the seeds they are drawn from
    return float(np.std(found)) * math.sqrt(seeds / (seeds - 1))

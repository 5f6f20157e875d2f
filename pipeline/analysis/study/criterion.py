"""The published criterion (paper, D.4) as a point of the curve: where the seeds' mean crosses it, above the optimum.

On a smooth shoulder, single runs that lie beyond it or not say little of where that is; the curve says it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.study.edges import Intervals
from pipeline.analysis.study.grid import Curve, Grid, GridWidth
from pipeline.analysis.study.runs import Floats
from pipeline.analysis.study.stability import MARGIN, Rule, accuracy_floor


@dataclass(frozen=True)
class Crossing:
    """Where a width's curve crosses the criterion; learning rates."""

    width: float
    lr: float
    below: float
    """The largest learning rate before it, of those that ran."""
    above: float
    """The smallest one beyond it."""


def crossings(grid: Grid) -> tuple[Crossing, ...]:
    """Of the widths whose curve crosses the criterion between two learning rates at which every seed came through;
    where runs diverge first, the edge by trajectory is all there is."""
    found = (_crossing(w, grid.published) for w in grid.widths)
    return tuple(one for one in found if one is not None)


def brackets(found: Sequence[Crossing]) -> Intervals:
    """The learning rates around them, as those around an edge."""
    low, high = (np.log2([getattr(one, side) for one in found]) for side in ("below", "above"))
    return Intervals(np.array([one.width for one in found]), np.zeros(len(found), dtype=np.int64), low, high)


def _crossing(w: GridWidth, published: Rule) -> Crossing | None:
    if w.optimum.index is None or not published.cross_entropy:
        return None
    lrs, excess = w.curve.lrs[w.optimum.index :], _excess(w.curve, w.optimum.loss, published)[w.optimum.index :]
    beyond = np.flatnonzero(~(excess <= 0))  # not `>`: nan > 0 is False
    if not len(beyond) or beyond[0] == 0 or not np.isfinite(excess[beyond[0]]):
        return None
    last, first = int(beyond[0]) - 1, int(beyond[0])
    share = -excess[last] / (excess[first] - excess[last])
    x = np.log2(lrs)
    return Crossing(w.width, float(2 ** (x[last] + share * (x[first] - x[last]))), float(lrs[last]), float(lrs[first]))


def _excess(curve: Curve, best: float, published: Rule) -> Floats:
    """Positive beyond the criterion."""
    if published.n_classes is not None:
        found: Floats = accuracy_floor(published.n_classes) - curve.accuracies
        return np.where(np.isfinite(curve.losses), found, np.inf)
    return curve.losses - best - MARGIN

"""The optimum of a width as seeds of its own measure it, free of any fit of a family of curves. x = log2(lr)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.interpolate import PchipInterpolator

from pipeline.analysis.fit.study_fit import runs_of
from pipeline.analysis.study.load import load_study
from pipeline.analysis.study.measure import TRAINING_LOSS
from pipeline.analysis.study.runs import Floats, Runs

GRID_ERROR = 0.15
"""Of the step between learning rates. Measured: parabolas through every other one of learning rates x sqrt(2) apart lie
0.16 octaves, rms over 15 widths, from those through all; their mean -0.03."""
_WINDOWS = ((1, 1), (2, 1), (1, 2), (2, 2))
"""Grid points to the left and right of the best that a parabola goes through."""
_CLIFF = 0.25
"""Where the run above the best was lost: so much of the gap lies the optimum above the best, give or take as much."""


@dataclass(frozen=True)
class Truth:
    """Median over seeds of their own optima, with its standard error: from resampled seeds, from how much the ways to
    draw the parabola disagree, and from the grid."""

    x: float
    error: float
    seeds: int
    side: int
    """-1, 1: half of the seeds or more are best at the lower or the upper end of their grid, so that `x` is a bound."""


def optima(x: Floats, loss: Floats) -> tuple[Floats, int]:
    """Vertices of the parabolas through points around the best of one seed, a row of ways (windows, of the loss and
    of its log), and the end of the grid that the best is (-1, 0, 1). Lost runs have loss inf."""
    order = np.argsort(x)
    x, loss = x[order], loss[order]
    lost = x[~np.isfinite(loss)]
    x, loss = x[np.isfinite(loss)], loss[np.isfinite(loss)]
    best, ways = int(np.argmin(loss)), 2 * len(_WINDOWS)
    if best == len(x) - 1 and (lost > x[best]).any():
        gap = float(lost[lost > x[best]].min()) - x[best]
        return x[best] + gap * _CLIFF * np.linspace(0, 2, ways), 0
    if best in (0, len(x) - 1):
        return np.full(ways, x[best]), -1 if best == 0 else 1
    found = np.full(ways, math.nan)
    for way in range(ways):
        left, right = _WINDOWS[way % len(_WINDOWS)]
        here = slice(best - left, best + right + 1)
        if best - left < 0 or best + right >= len(x):
            continue
        curvature, slope, _ = np.polyfit(
            x[here] - x[best], loss[here] if way < len(_WINDOWS) else np.log(loss[here]), 2
        )
        if curvature > 0:
            found[way] = np.clip(x[best] - slope / curvature / 2, x[best - 1], x[best + 1])
    middle = np.nanmedian(found) if np.isfinite(found).any() else x[best]  # none where losses tie
    return np.where(np.isnan(found), middle, found), 0


def truth(runs: Runs) -> Truth | None:
    """Of the runs of one width; None: fewer than three seeds have three learning rates that came through."""
    rows, sides = [], []
    for seed in np.unique(runs.seed):
        own = runs.where(runs.seed == seed)
        if np.isfinite(own.loss).sum() >= 3:
            ways, side = optima(own.x, own.loss)
            rows.append(ways)
            sides.append(side)
    if len(rows) < 3:
        return None
    by_seed = np.array(rows)
    places, rng = np.median(by_seed, axis=1), np.random.default_rng(0)
    resampled = np.median(rng.choice(places, (400, len(places))), axis=1)
    low, high = np.quantile(resampled, [0.16, 0.84])  # a seed far off hardly moves the median
    error = math.hypot((high - low) / 2, float(np.std(np.median(by_seed, axis=0))))
    side = next((end for end in (-1, 1) if 2 * sides.count(end) >= len(sides)), 0)
    step = float(np.median(np.diff(np.unique(runs.x))))
    return Truth(float(np.median(places)), math.hypot(error, GRID_ERROR * step), len(rows), side)


def slope(truths: Mapping[float, Truth]) -> tuple[float, float]:
    """Least-squares slope of the truths over log2 width, and its standard error."""
    z = np.log2(np.array(list(truths), dtype=np.float64))
    weights = (z - z.mean()) / np.sum((z - z.mean()) ** 2)
    places, errors = (np.array([getattr(t, name) for t in truths.values()]) for name in ("x", "error"))
    return float(weights @ places), math.sqrt(float(weights**2 @ errors**2))


@dataclass(frozen=True)
class Measured:
    """Runs of one width, and the most that one costs, lost or exploded: the loss of the untrained model."""

    runs: Runs
    untrained: float

    @property
    def best(self) -> float:
        """x of the least mean loss."""
        grid = np.unique(self.runs.x)
        return float(grid[np.argmin([np.mean(self.runs.loss[self.runs.x == x]) for x in grid])])

    def regret(self, x: float) -> float:
        """Mean loss over seeds at `x`, interpolated between learning rates, above the least. Beyond the grid: that of
        its end."""
        grid = np.unique(self.runs.x)
        loss = np.minimum(self.runs.loss, self.untrained)
        curve = PchipInterpolator(grid, [float(np.mean(loss[self.runs.x == here])) for here in grid])
        least = float(np.min(curve(np.linspace(grid[0], grid[-1], 2001))))
        return float(curve(np.clip(x, grid[0], grid[-1]))) - least


def measured(folder: Path) -> dict[tuple[str, int], Measured]:
    """The finished runs of a study folder by parameterization and width. Raises `RequestError`."""
    found = {}
    for _, rows in load_study([folder]).runs.groupby(["param", "width"]):
        family = str(rows["param"].iloc[0]), int(rows["width"].iloc[0])
        found[family] = Measured(runs_of(rows, TRAINING_LOSS), float(rows["initial_loss"].median()))
    return found

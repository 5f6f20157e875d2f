"""The neighbourhood of a width's optimum: the stable runs near its best learning rate. numpy only.

Axes: R runs, X places.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from pipeline.analysis.study.edges import Intervals
from pipeline.analysis.study.runs import Bools, Floats, Ints, Runs
from pipeline.analysis.study.stability import Labels

# Octaves below and above a width's best learning rate whose runs enter.
WINDOW = (-4.0, 3.0)
LEAST_LRS = 3

_CLOSE = 0.25  # octaves

# Beyond so many runs at a width they are averaged within bins of so many octaves.
_MOST_RUNS, _BIN = 160, 1 / 16

# A valley has no peak: a run so many noises above both neighbours, where other seeds are not, is a stray.
_STRAY = 8.0

_LEAST_NOISE = 1e-7


@dataclass(frozen=True)
class Scale:
    """What a study's valleys are like at first sight: the pilot of noise and curvature, both of y."""

    noise: float
    curvature: float


@dataclass(frozen=True)
class Neighbourhood:
    """One width. y is the loss or its logarithm."""

    width: float
    x_R: Floats
    y_R: Floats
    seed_R: Ints
    count_R: Floats
    """Runs that were averaged into one."""
    best: float
    low: float
    high: float
    """The smallest and the largest learning rate tried that came through, octaves."""
    edges: Intervals
    """Of this width."""

    @property
    def _mean(self) -> tuple[Floats, Ints, Floats]:
        """The curve at sight: x, ascending; the place of every run among them; and the mean y there. Learning rates
        that lie close, as those of seeds with grids of their own may, count as one: noise must not pass for slope."""
        _, place = np.unique(np.round(self.x_R / _CLOSE), return_inverse=True)
        count = np.bincount(place)
        return np.bincount(place, weights=self.x_R) / count, place, np.bincount(place, weights=self.y_R) / count

    @property
    def is_monotone(self) -> bool:
        """Whether the mean y only falls, or only rises."""
        change = np.diff(self._mean[2])
        return bool(np.all(change < 0) or np.all(change > 0))

    @property
    def falls_R(self) -> Bools:
        """Runs below the least mean y of a curve that only falls up to it, where all seeds lie above all of those at
        the least."""
        _, place, mean = self._mean
        best = int(np.argmin(mean))
        least = np.full(len(mean), math.inf)
        np.minimum.at(least, place, self.y_R)
        above: Bools = least > self.y_R[place == best].max()
        found: Bools = (place < best) & above[place] & bool(np.all(np.diff(mean[: best + 1]) < 0))
        return found

    @property
    def height_R(self) -> Floats:
        """Mean y around a run's learning rate above the least such mean."""
        _, place, mean = self._mean
        found: Floats = (mean - mean.min())[place]
        return found

    @property
    def slope_R(self) -> Floats:
        """Of the mean y over x."""
        x, place, mean = self._mean
        found: Floats = np.gradient(mean, x)[place]
        return found

    def where(self, kept: Bools) -> "Neighbourhood":
        """With the runs that are kept."""
        return replace(
            self, x_R=self.x_R[kept], y_R=self.y_R[kept], seed_R=self.seed_R[kept], count_R=self.count_R[kept]
        )

    def below_edge(self, places_X: Floats) -> Floats:
        """Probability that a run at a place is stable: an optimum lies below the edge."""
        stable = np.zeros(len(places_X))
        for low, high in zip(self.edges.low, self.edges.high, strict=True):
            if math.isinf(high):
                stable += 1
            elif math.isinf(low):
                stable += places_X < high
            else:
                stable += np.clip((high - places_X) / (high - low), 0, 1)
        found: Floats = np.maximum(stable / max(len(self.edges.low), 1), 1e-6)
        return found


def neighbourhoods(
    runs: Runs, labels: Labels, failed: Bools, seen: Intervals, y_R: Floats
) -> tuple[list[Neighbourhood], Scale]:
    """Of every width that has three learning rates near its best; y is what stands for the losses. Runs that `failed`
    by the published criterion are too far above the bottom to tell of it."""
    first = {(n, seed): high for n, seed, high in zip(seen.width.tolist(), seen.seed.tolist(), seen.high, strict=True)}
    keys = zip(runs.width.tolist(), runs.seed.tolist(), strict=True)
    # what came through above its seed's first unstable learning rate is luck, and no part of the valley
    stable = ~labels.unstable & ~failed & np.isfinite(runs.loss) & (runs.x < np.array([first[key] for key in keys]))
    kept = []
    for width, best in zip(runs.widths, labels.best_x.tolist(), strict=True):
        here = runs.width == width
        near = here & stable & (runs.x >= best + WINDOW[0] - 1e-9) & (runs.x <= best + WINDOW[1] + 1e-9)
        if len(_apart(runs.x[near])) < LEAST_LRS:
            continue
        tried = runs.x[here & np.isfinite(runs.loss)]
        order = np.flatnonzero(near)[np.lexsort((runs.seed[near], runs.x[near]))]
        one = Neighbourhood(
            width, runs.x[order], y_R[order], runs.seed[order], np.ones(len(order)), best, float(tried.min()),
            float(tried.max()), seen.of(width)
        )  # fmt: skip
        kept.append(one)
    scale = _pilot(kept)
    return [_averaged(_without_strays(one, scale.noise)) for one in kept], scale


def _pilot(kept: list[Neighbourhood]) -> Scale:
    """Noise from seeds that share a learning rate, where there are any, else from parabolas through what lies next to
    the best; curvature from these."""
    noise, curvature = [], []
    for one in kept:
        u = one.x_R - one.best
        # at least five learning rates, and what lies within an octave and a half
        reach = max(1.5, float(np.sort(np.abs(np.unique(u)))[:5][-1])) + 1e-9
        near = np.abs(u) <= reach
        parabola = np.polyfit(u[near], one.y_R[near], 2)
        if parabola[0] > 0:
            curvature.append(2 * float(parabola[0]))
        _, place = np.unique(one.x_R, return_inverse=True)
        count = np.bincount(place)
        repeated = count[place] > 1
        if repeated.sum() >= 4:
            mean = np.bincount(place, weights=one.y_R) / count
            off = (one.y_R - mean[place])[repeated] * np.sqrt(count / np.maximum(count - 1, 1))[place][repeated]
            noise.append(1.4826 * float(np.median(np.abs(off))))
        elif near.sum() > 3:
            off = one.y_R[near] - np.polyval(parabola, u[near])
            wrong = 2 if near.sum() < 8 else 1  # of few, most is the parabola's own misfit
            noise.append(math.sqrt(float(off @ off) / (near.sum() - 3)) / wrong)
    return Scale(max(float(np.median(noise or [0.01])), _LEAST_NOISE), float(np.median(curvature or [0.05])))


def _apart(x_R: Floats) -> Floats:
    """Learning rates that do not count as one."""
    found: Floats = np.unique(np.round(x_R / _CLOSE))
    return found


def _without_strays(one: Neighbourhood, noise: float) -> Neighbourhood:
    x, place, _ = one._mean
    middle = np.array([np.median(one.y_R[place == i]) if np.sum(place == i) > 2 else np.min(one.y_R[place == i])
                       for i in range(len(x))])  # fmt: skip
    cap = np.maximum(np.r_[math.inf, middle[:-1]], np.r_[middle[1:], math.inf])
    kept = one.y_R <= cap[place] + _STRAY * noise
    return one.where(kept) if len(_apart(one.x_R[kept])) >= LEAST_LRS else one


def _averaged(one: Neighbourhood) -> Neighbourhood:
    if len(one.x_R) <= _MOST_RUNS:
        return one
    _, place = np.unique(np.round(one.x_R / _BIN), return_inverse=True)
    count = np.bincount(place).astype(np.float64)
    return replace(
        one,
        x_R=np.bincount(place, weights=one.x_R) / count,
        y_R=np.bincount(place, weights=one.y_R) / count,
        seed_R=np.zeros(len(count), dtype=np.int64),
        count_R=count,
    )

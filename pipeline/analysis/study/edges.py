"""What the runs of a width say of its edge: per seed the interval that its threshold lies in, and where the edge has
islands."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.study.runs import Bools, Floats, Ints, Runs, whole
from pipeline.analysis.study.stability import Labels


@dataclass(frozen=True)
class Intervals:
    """Per (width, seed): the edge's threshold for that seed lies in (low, high], in octaves. -inf: not even the
    smallest learning rate tried was stable; inf: none was unstable."""

    width: Floats
    seed: Ints
    low: Floats
    high: Floats

    @property
    def two_sided(self) -> Bools:
        return np.isfinite(self.low) & np.isfinite(self.high)

    def of(self, width: float) -> "Intervals":
        return self.where(self.width == width)

    def where(self, mask: Bools) -> "Intervals":
        return Intervals(self.width[mask], self.seed[mask], self.low[mask], self.high[mask])

    @property
    def estimable_widths(self) -> tuple[float, ...]:
        """Widths with at least one two-sided interval; an exponent of the edge takes two."""
        return tuple(whole(width) for width in np.unique(self.width[self.two_sided]).tolist())


@dataclass(frozen=True)
class Islands:
    """Of a width, where one threshold per seed is not what its runs show: most of them are unstable at a learning rate
    and others are stable above it. Which of the two its best one lies on, and so its edge, is luck."""

    width: float
    hole: float
    """log2 of the lowest learning rate at which most runs are unstable."""
    top: float
    """log2 of the highest one above at which two runs or more, half of them at least, are stable."""
    n_stable: int
    """There."""
    n_runs: int
    """There."""


def islands(runs: Runs, labels: Labels) -> tuple[Islands, ...]:
    """Of every width that has any: two seeds at least are unstable where most are, and stable above. Below the best
    learning rate a run counts as unstable where it is lost or left for good, and a rate only where its median loss lies
    above that of a smaller one: slow training lies below."""
    gone = labels.unstable | runs.left | ~np.isfinite(runs.loss)
    found = []
    for place, width in enumerate(runs.widths):
        here = runs.width == width
        own, seed = gone[here], runs.seed[here]
        x, at = np.unique(runs.x[here], return_inverse=True)
        count, n_gone = np.bincount(at), np.bincount(at, weights=own)
        median = np.array([np.median(runs.loss[here][at == i]) for i in range(len(x))])
        mostly = n_gone > count / 2
        calm = np.minimum.accumulate(np.r_[math.inf, np.where(mostly, math.inf, median)[:-1]])
        holes = np.flatnonzero(mostly & np.isfinite(calm) & (median > calm))
        if labels.all_unstable[place] or not len(holes):
            continue
        fell = own & np.isin(at, holes)
        for top in np.flatnonzero(count - n_gone >= np.maximum(count / 2, 2))[::-1]:
            back = np.isin(seed[~own & (at == top)], seed[fell & (at < top)])
            if np.count_nonzero(back) >= 2:
                n_stable = int(count[top] - n_gone[top])
                found.append(Islands(width, float(x[holes[0]]), float(x[top]), n_stable, int(count[top])))
                break
    return tuple(found)


def across(seen: Intervals, runs: Runs, labels: Labels) -> Intervals:
    """The same where a width with `islands` leaves its edge open from below the lowest hole to above the highest
    island."""
    gone = labels.unstable | runs.left | ~np.isfinite(runs.loss)
    low, high = seen.low.copy(), seen.high.copy()
    for one in islands(runs, labels):
        for i in np.flatnonzero(seen.width == one.width):
            own = (runs.width == one.width) & (runs.seed == seen.seed[i])
            low[i] = np.max(runs.x[own & ~gone & (runs.x < one.hole)], initial=-math.inf)
            high[i] = np.min(runs.x[own & gone & (runs.x > one.top)], initial=math.inf)
    return Intervals(seen.width, seen.seed, low, high)


def intervals(runs: Runs, labels: Labels, ignored: Bools | None = None) -> Intervals:
    """What each seed of each width says of the edge: above its last stable learning rate below the first unstable one
    at or above the width's best. Runs that are `ignored` count as neither."""
    rows: list[tuple[float, int, float, float]] = []
    place_of = {width: place for place, width in enumerate(runs.widths)}
    order = np.lexsort((runs.x, runs.seed, runs.width))
    if ignored is not None:
        order = order[~ignored[order]]
    width, seed, x, unstable = runs.width[order], runs.seed[order], runs.x[order], labels.unstable[order]
    cuts = np.flatnonzero((np.diff(width) != 0) | (np.diff(seed) != 0)) + 1
    for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(x)], strict=True):
        place = place_of[float(width[start])]
        xs, bad = x[start:stop], unstable[start:stop]
        least = -math.inf if labels.all_unstable[place] else labels.best_x[place] - 1e-9
        hits = np.flatnonzero(bad & (xs >= least))
        first = int(hits[0]) if len(hits) else len(xs)
        stable = np.flatnonzero(~bad[:first])
        low = float(xs[stable[-1]]) if len(stable) else -math.inf
        rows.append((float(width[start]), int(seed[start]), low, float(xs[first]) if first < len(xs) else math.inf))
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    return Intervals(
        np.array(columns[0], dtype=np.float64),
        np.array(columns[1], dtype=np.int64),
        np.array(columns[2], dtype=np.float64),
        np.array(columns[3], dtype=np.float64),
    )

"""Runs -> optimum, stability edge and their power laws, with everything that qualifies them. numpy and scipy only.

found = estimate(Runs.of(width, lr, seed, loss))
found.optimal.exponent.interval(0.95)      # 95 % interval of d log(lr) / d log(n)
found.at("optimal", 8192).median           # log2 of the optimal learning rate at a width that was not trained
found.at("max_stable", 8192).interval(0.9)
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.analysis.fit.drift import extrapolated
from pipeline.analysis.fit.evidence import check_power_law
from pipeline.analysis.fit.exponent import from_posterior
from pipeline.analysis.fit.fitted import QUANTITIES, Fitted, FittedWidth, Lr, Observed, Quantity, lr_of
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.powerlaw import EdgeLaw, OptimumLaw, PowerLaw, edge_law, edge_of_width, optimum_law
from pipeline.analysis.fit.valley import Valley, fit_valley
from pipeline.analysis.study.grid import Grid, GridEnd
from pipeline.analysis.study.runs import Bools, Floats, Runs
from pipeline.analysis.study.stability import LANGUAGE, Intervals, Labels, Rule, intervals, label

# The optimum counts as limited by the edge where it comes within this many octaves of it at half the widths or more.
EDGE_GAP = 0.5
_ALLOWED = 0.2

# Best losses of widths whose ratio exceeds this are compared on a log scale: valleys then shrink with the loss itself.
_LOG_RATIO = 3.0

# A finite loss this many times the noise and this many nats above the fitted valley, beyond the optimum, belongs to a run
# that has half recovered from an instability: too bad for a stable run, too good for the unstable label.
_FAR, _FAR_NATS = 8.0, 0.1


@dataclass(frozen=True)
class WidthEstimate:
    """What one width adds, and what it lacks. x in octaves."""

    width: int
    n_runs: int
    n_seeds: int
    tried: tuple[float, float]
    """log2 of the smallest and the largest learning rate."""
    grid_x: float
    """log2 of the best learning rate tried, over the seeds' medians; nan: none is usable."""
    at_edge: GridEnd
    """Which end of the grid that is."""
    optimum: Mixture | None
    """Of this width's own optimum, the other widths and the shared shape used; None: it took no part."""
    edge: Mixture | None
    """Of this width's edge, likewise; None: neither its seeds nor other widths bound it."""
    bottom: float
    """Loss at the bottom of the fitted valley; nan: it took no part."""
    dropped: str
    """Why it took no part in the fit of the optimum; empty: it did."""
    all_unstable: bool
    n_unstable_seeds: int
    """Seeds that saw an unstable learning rate at or above the optimum."""


@dataclass(frozen=True)
class Estimate:
    """One family of curves, fitted. `optimal` is the answer; `own_optimum` the collapse fit's, which differs from it only
    where the edge limits the optimum, so that its posterior is reported instead."""

    runs: Runs
    rule: Rule
    labels: Labels
    valley: Valley | None
    seen: Intervals
    own_optimum: OptimumLaw | None
    max_stable: EdgeLaw | None
    """None: fewer than two widths with two-sided intervals."""
    log_loss: bool
    """The valley was fitted to log losses."""

    @cached_property
    def edge_limited(self) -> bool:
        """The optimum saturates at the edge: at half of the widths or more, and at two at least, it lies within `EDGE_GAP`
        octaves of it, a standard error of at most `_ALLOWED` allowed for, and their exponents are not told apart."""
        edge, own = self.max_stable, self.own_optimum
        if edge is None or own is None or len(own.widths) < 2:
            return False
        reach = own.x + np.minimum(np.sqrt(np.diag(own.covariance)), _ALLOWED)
        close = [
            bool(reach[place] > edge.at(width).median - EDGE_GAP)
            for place, width in enumerate(own.widths)
            if width in edge.widths
        ]
        spread = math.hypot(own.exponent.standard_deviation, edge.exponent.standard_deviation)
        together = abs(own.exponent.median - edge.exponent.median) < 2 * spread
        return together and sum(close) > 1 and 2 * sum(close) >= len(close)

    @property
    def optimal(self) -> PowerLaw | None:
        """None: no width has an optimum. With one width it has a place there and no exponent."""
        return self.max_stable if self.edge_limited else self.own_optimum

    def law(self, quantity: Quantity) -> PowerLaw | None:
        return self.optimal if quantity == "optimal" else self.max_stable

    def exponent(self, quantity: Quantity) -> Mixture | None:
        """None: not estimable."""
        law = self.law(quantity)
        return law.exponent if law is not None and len(law.widths) > 1 else None

    def at(self, quantity: Quantity, width: float) -> Mixture | None:
        """log2 of the learning rate at a width, trained or not; None where nothing is known of it.

        The place of an optimum that the edge limits is still the valley's, where the width was trained. Elsewhere the
        power law may drift (`drift`).
        """
        if quantity == "optimal":
            law: PowerLaw | None = self.optimal
            if self.own_optimum is not None and width in self.own_optimum.widths:
                law = self.own_optimum
        else:
            law = self.max_stable
            if law is None:
                return edge_of_width(self.seen.of(int(width)))
        if law is None:
            return None
        if width in law.widths:
            return law.at(width)
        return extrapolated(law, width) if len(law.widths) > 1 else None

    @cached_property
    def widths(self) -> tuple[WidthEstimate, ...]:
        return tuple(self._of_width(place, width) for place, width in enumerate(self.runs.widths))

    def _bottom(self, width: int) -> float:
        assert self.valley is not None
        level = float(self.valley.level[self.valley.widths.index(width)])
        return math.exp(level) if self.log_loss else level

    def _of_width(self, place: int, width: int) -> WidthEstimate:
        here = self.runs.where(self.runs.width == width)
        tried = (float(here.x.min()), float(here.x.max()))
        grid_x = float(self.labels.best_x[place])
        low, high = abs(grid_x - tried[0]) < 1e-9, abs(grid_x - tried[1]) < 1e-9
        fitted = self.valley is not None and width in self.valley.widths
        if self.labels.all_unstable[place]:
            dropped = "nothing trained stably there"
        elif not fitted:
            dropped = "fewer than three stable runs, or one learning rate alone, lie near its optimum"
        else:
            dropped = "" if self.own_optimum is not None else "no width shows both sides of its valley"
        return WidthEstimate(
            width=width,
            n_runs=len(here),
            n_seeds=len(np.unique(here.seed)),
            tried=tried,
            grid_x=grid_x,
            at_edge="both" if low and high else "low" if low else "high" if high else "no",
            optimum=None if dropped else self.at("optimal", width),
            edge=self.at("max_stable", width),
            bottom=math.nan if dropped else self._bottom(width),
            dropped=dropped,
            all_unstable=bool(self.labels.all_unstable[place]),
            n_unstable_seeds=int(np.sum(np.isfinite(self.seen.of(width).high))),
        )


def estimate(runs: Runs, rule: Rule = LANGUAGE) -> Estimate:
    """Fit one family of curves. Never raises for what the runs cannot tell: that is None or nan in the result."""
    labels = label(runs, rule)
    fitted, log_loss = _comparable(runs, labels)
    pilot = {width: float(x) for width, x in zip(runs.widths, labels.best_x, strict=True) if math.isfinite(x)}
    valley = fit_valley(fitted, ~labels.unstable & _below_edge(runs, intervals(runs, labels)), pilot)
    seen = intervals(runs, labels, _half_recovered(fitted, labels, valley))
    return Estimate(
        runs=runs,
        rule=rule,
        labels=labels,
        valley=valley,
        seen=seen,
        own_optimum=optimum_law(valley) if valley is not None and _bracketed(runs, labels, valley) else None,
        max_stable=edge_law(seen),
        log_loss=log_loss,
    )


# How far the edge scatters over seeds, octaves, where the runs do not tell: the mean of its prior (`powerlaw`).
_SEED_SCATTER = 0.24


def fit(grid: Grid) -> Fitted:
    """`estimate` as an estimator of studies."""
    known = estimate(grid.runs, grid.rule)
    posteriors = {quantity: known.exponent(quantity) for quantity in QUANTITIES}

    def lr_at(quantity: Quantity, width: int, level: float) -> Lr | None:
        posterior = known.at(quantity, width)
        return None if posterior is None else lr_of(posterior, level)

    def stands(width: int) -> Mixture | None:
        threshold = known.at("max_stable", width)
        scatter = _SEED_SCATTER if known.max_stable is None else known.max_stable.seed_scatter
        return None if threshold is None else threshold.shifted(0.0, scatter)

    return Fitted(
        widths=tuple(_fitted_width(known, width) for width in known.widths),
        exponents={quantity: from_posterior(known.law(quantity)) for quantity in QUANTITIES},
        lr_at=lr_at,
        posteriors={quantity: posterior for quantity, posterior in posteriors.items() if posterior is not None},
        stands=stands,
        observed={
            quantity: Observed(law.widths, np.diag(law.observed[1]), law.jitter)
            for quantity in QUANTITIES
            if (law := known.law(quantity)) is not None and len(law.widths) > 1
        },
        checks={quantity: check_power_law(known.law(quantity), known.seen) for quantity in QUANTITIES},
        edge_limited=known.edge_limited,
        log_loss=known.log_loss,
    )


def _fitted_width(known: Estimate, w: WidthEstimate) -> FittedWidth:
    laws = {quantity: known.law(quantity) for quantity in QUANTITIES}
    return FittedWidth(
        best=None if w.optimum is None else lr_of(w.optimum),
        best_loss=w.bottom,
        edge=None if w.edge is None else lr_of(w.edge),
        at_edge=w.at_edge,
        entered=frozenset(quantity for quantity, law in laws.items() if law is not None and w.width in law.widths),
        dropped=w.dropped,
        n_unstable_seeds=w.n_unstable_seeds,
    )


def _bracketed(runs: Runs, labels: Labels, valley: Valley) -> bool:
    """At least one width shows both sides of its valley; otherwise not even the shared shape is known."""
    for width in valley.widths:
        x = runs.x[runs.width == width]
        if x.min() + 1e-9 < labels.best_x[runs.widths.index(width)] < x.max() - 1e-9:
            return True
    return False


def _comparable(runs: Runs, labels: Labels) -> tuple[Runs, bool]:
    best = labels.best_loss[np.isfinite(labels.best_loss)]
    positive = bool(np.all(runs.loss > 0))
    if len(best) < 2 or not positive or best.max() < _LOG_RATIO * best.min():
        return runs, False
    return runs.with_loss(np.log(runs.loss)), True


def _below_edge(runs: Runs, seen: Intervals) -> Bools:
    """Runs below their seed's first unstable learning rate: what came through above it is luck, and no part of the valley."""
    first = {(n, seed): high for n, seed, high in zip(seen.width.tolist(), seen.seed.tolist(), seen.high, strict=True)}
    keys = zip(runs.width.tolist(), runs.seed.tolist(), strict=True)
    return runs.x < np.array([first[key] for key in keys])


def _half_recovered(runs: Runs, labels: Labels, valley: Valley | None) -> Bools:
    """Runs that tell nothing of the edge: finite, not labelled unstable, and yet far above the valley beyond its bottom."""
    found = np.zeros(len(runs), dtype=np.bool_)
    for place, width in enumerate(valley.widths if valley else ()):
        assert valley is not None
        beyond = (runs.width == width) & (runs.x > valley.x[place]) & np.isfinite(runs.loss)
        excess: Floats = runs.loss[beyond] - valley.loss(place, runs.x[beyond])
        found[beyond] = excess > max(_FAR * float(valley.noise[place]), _FAR_NATS)
    return found & ~labels.unstable

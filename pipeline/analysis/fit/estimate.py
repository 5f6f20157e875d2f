"""The estimate of one family of curves: each width's optimum from its own neighbourhood, interval-censored edges, and
laws over widths that may wander; everything as posteriors, with what qualifies them. numpy and scipy only.

known = estimate(Runs.of(width, lr, seed, loss))
known.optimal.exponent.interval(0.95)      # 95 % interval of d log(lr) / d log(n)
known.at("optimal", 8192).median           # log2 of the optimal learning rate at a width that was not trained
known.at("max_stable", 8192).interval(0.9)
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.analysis.fit.edgelaw import SEED_SCATTER, EdgeLaw, edge_law, edge_of_width
from pipeline.analysis.fit.fitted import Quantity
from pipeline.analysis.fit.law import EdgePlaces, OptimumLaw, Pair, PowerLaw, Wander, wandering_by
from pipeline.analysis.fit.neighbourhood import Neighbourhood, Scale, neighbourhoods
from pipeline.analysis.fit.optima import SEEN, Optima, optima
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.regret import Price, cheapest
from pipeline.analysis.study.edges import Intervals, across, intervals
from pipeline.analysis.study.runs import Bools, Floats, Runs
from pipeline.analysis.study.stability import LANGUAGE, Cause, Labels, label

# The optimum counts as limited by the edge where it comes within this many octaves of it at half the widths or more.
EDGE_GAP = 0.5
_ALLOWED = 0.2

# A finite loss this many times the noise, this much (of y) and more than once again the valley's height above the
# fitted valley, beyond the optimum, belongs to a run that has half recovered from an instability: too bad for a stable
# run, too good for the unstable label.
_FAR, _FAR_Y = 8.0, 0.1


@dataclass(frozen=True)
class Estimate:
    """One family of curves, fitted."""

    runs: Runs
    labels: Labels
    seen: Intervals
    near: tuple[Neighbourhood, ...]
    """Of the widths with enough learning rates near their best."""
    scale: Scale
    optima: Optima | None
    """None: no width is near enough to its optimum, or none shows both sides of its valley, or there is no valley."""
    max_stable: EdgeLaw | None
    """None: fewer than two widths with two-sided intervals."""
    log_loss: bool
    """y is the logarithm of the loss."""
    no_valley: bool
    """Losses do not depend on the learning rate beyond noise."""
    wander: Wander

    @cached_property
    def own_optimum(self) -> OptimumLaw | None:
        """What the valleys say; None: no width has an optimum. With one width it has a place there and no exponent."""
        if self.optima is None:
            return None
        return OptimumLaw.of(self.optima, self.edge_places, self.wander)

    @property
    def edge_places(self) -> EdgePlaces | None:
        """What the widths that have seen both sides of their edge say of it; None: fewer than two, which says nothing
        of where it goes."""
        known = [(n, edge_of_width(self.seen.of(n))) for n in self.seen.estimable_widths]
        own = [(n, edge) for n, edge in known if edge is not None]
        if len(own) < 2:
            return None
        return EdgePlaces(
            tuple(n for n, _ in own),
            np.array([edge.mean for _, edge in own]),
            np.array([edge.standard_deviation**2 for _, edge in own]),
        )

    @cached_property
    def edge_limited(self) -> bool:
        """The optimum saturates at the edge: at half of the widths or more, and at two at least, it lies within
        `EDGE_GAP` octaves of it, a standard error of at most `_ALLOWED` allowed for, and their exponents are not told
        apart."""
        edge, own = self.max_stable, self.own_optimum
        if edge is None or own is None or len(own.widths) < 2:
            return False
        place, covariance = own.observed
        reach = place + np.minimum(np.sqrt(np.diag(covariance)), _ALLOWED)
        close = [
            bool(reach[i] > edge.at(width).median - EDGE_GAP)
            for i, width in enumerate(own.widths)
            if width in edge.widths
        ]
        spread = math.hypot(own.exponent.standard_deviation, edge.exponent.standard_deviation)
        together = abs(own.exponent.median - edge.exponent.median) < 2 * spread
        return together and sum(close) > 1 and 2 * sum(close) >= len(close)

    @property
    def optimal(self) -> PowerLaw | None:
        """The optimum's law: its own, or the edge's where that limits it."""
        return self.max_stable if self.edge_limited else self.own_optimum

    def law(self, quantity: Quantity) -> PowerLaw | None:
        return self.optimal if quantity == "optimal" else self.max_stable

    def exponent(self, quantity: Quantity) -> Mixture | None:
        """None: not estimable."""
        law = self.law(quantity)
        return law.exponent if law is not None and len(law.widths) > 1 else None

    def at(self, quantity: Quantity, width: float) -> Mixture | None:
        """log2 of the learning rate at a width, trained or not; None where nothing is known of it. Where it was not
        trained, optimum and edge may wander, together."""
        own, edge = self.own_optimum, self.max_stable
        if quantity == "optimal":
            if own is None:
                return None
            return own.at(width) if width in own.widths or len(own.widths) > 1 else None
        if width in self.runs.widths:
            return self.edge_at(width) if edge is None else edge.at(width)
        pair = self.pair(width)
        if pair is not None:
            return pair.of(1)
        if edge is None:
            return None
        place, covariance = edge.observed
        alone = OptimumLaw(
            edge.widths, np.ones(1), place[None], np.diag(covariance)[None], wander=wandering_by(self.wander)
        )
        return alone.pair(width).of(0)

    def edge_at(self, width: float) -> Mixture | None:
        """What a trained width says of its edge by itself, log2 lr."""
        return edge_of_width(self.seen.of(width))

    def pair(self, width: float) -> Pair | None:
        """Optimum and edge together; None where one of them is not known."""
        own = self.own_optimum
        if own is None or own.edge is None:
            return None
        if width in self.runs.widths:
            optimum, edge = self.at("optimal", width), self.at("max_stable", width)
            return None if optimum is None or edge is None else Pair.independent(optimum, edge)
        return own.pair(width) if len(own.widths) > 1 else None

    def price(self, width: float, level: float) -> Price | None:
        """The learning rate of least expected regret at a width; None where the optimum is not known."""
        optimum = self.at("optimal", width)
        if optimum is None or self.optima is None:
            return None
        pair = self.pair(width)
        places = np.log2(np.array(self.optima.widths, dtype=np.float64))
        nearest = int(np.argmin(np.abs(places - math.log2(width))))
        return self.price_of(optimum if pair is None else pair, nearest, level)

    def price_of(self, known: Mixture | Pair, nearest: int, level: float) -> Price:
        """The same where optimum and, if known, edge are given, with the valley of one of the fitted widths."""
        assert self.optima is not None
        of_run = known.with_scatter(self.seed_scatter) if isinstance(known, Pair) else known
        return cheapest(of_run, self.optima.curves[nearest], self.log_loss, self._untrained_loss, level)

    @property
    def _untrained_loss(self) -> float:
        """The worst loss at or below a width's best learning rate comes nearest; above it, losses may be anything."""
        best = dict(zip(self.runs.widths, self.labels.best_x.tolist(), strict=True))
        below = self.runs.x <= np.array([best[n] for n in self.runs.width.tolist()]) + 1e-9
        return float(np.max(self.runs.loss[below & np.isfinite(self.runs.loss)]))

    @property
    def seed_scatter(self) -> float:
        """Of the edge over seeds, octaves; what is assumed where the runs do not tell."""
        return SEED_SCATTER if self.max_stable is None else self.max_stable.seed_scatter

    def bottom(self, width: float) -> float:
        """Loss at the bottom of the fitted valley of a width that has one."""
        assert self.optima is not None
        level = self.optima.curves[self.optima.widths.index(width)].level
        return math.exp(level) if self.log_loss else level


def estimate(runs: Runs, turning: bool = True, wander: Wander = None) -> Estimate:
    """Fit one family of curves; what is unstable is so by trajectory, and runs more than `MARGIN` above the best are no
    part of a valley. `turning`: their asymmetry may follow the width; `wander`: `Axis.wander`. Never raises for what
    the runs cannot tell: that is None or nan in the result."""
    labels = label(runs)
    finite = np.isfinite(runs.loss)
    # in logarithms, valleys that fall a hundredfold keep their shape, and so do those whose losses shrink with width
    log_loss = bool(np.all(runs.loss[finite] > 0))
    y_R = np.log(runs.loss) if log_loss else runs.loss
    failed = label(runs, LANGUAGE).cause == Cause.FAILED
    near, scale = neighbourhoods(runs, labels, failed, intervals(runs, labels), y_R)
    fitted = optima(near, scale, turning) if near else None
    seen = across(intervals(runs, labels, _half_recovered(runs, y_R, labels, fitted, scale)), runs, labels)
    falling = all(one.is_monotone for one in near)  # one side of a valley is no absence of one
    no_valley = fitted is not None and float(fitted.evidence.sum()) < SEEN and not falling
    return Estimate(
        runs=runs,
        labels=labels,
        seen=seen,
        near=tuple(near),
        scale=scale,
        optima=None if no_valley or not _bracketed(runs, labels, near) else fitted,
        max_stable=edge_law(seen),
        log_loss=log_loss,
        no_valley=no_valley,
        wander=wander,
    )


def _bracketed(runs: Runs, labels: Labels, near: list[Neighbourhood]) -> bool:
    """At least one width shows both sides of its valley; otherwise not even the shared shape is known."""
    for one in near:
        x = runs.x[runs.width == one.width]
        if x.min() + 1e-9 < labels.best_x[runs.widths.index(one.width)] < x.max() - 1e-9:
            return True
    return False


def _half_recovered(runs: Runs, y_R: Floats, labels: Labels, fitted: Optima | None, scale: Scale) -> Bools:
    """Runs that tell nothing of the edge: finite, not labelled unstable, and yet far above the valley beyond its
    bottom."""
    half_recovered = np.zeros(len(runs), dtype=np.bool_)
    for width, curve in zip(fitted.widths, fitted.curves, strict=True) if fitted else ():
        beyond = (runs.width == width) & (runs.x > curve.x) & np.isfinite(runs.loss)
        height = curve.height(runs.x[beyond])
        excess: Floats = y_R[beyond] - curve.level - height
        half_recovered[beyond] = excess > np.maximum(height, max(_FAR * scale.noise, _FAR_Y))
    return half_recovered & ~labels.unstable

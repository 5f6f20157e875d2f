"""The collapse fit: one valley shape for all widths and interval-censored edges; optimum, stability edge and their
power laws as posteriors, with everything that qualifies them. numpy and scipy only.

known = estimate(Runs.of(width, lr, seed, loss))
known.optimal.exponent.interval(0.95)      # 95 % interval of d log(lr) / d log(n)
known.at("optimal", 8192).median           # log2 of the optimal learning rate at a width that was not trained
known.at("max_stable", 8192).interval(0.9)
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.analysis.fit.drift import extrapolated
from pipeline.analysis.fit.edgelaw import SEED_SCATTER, EdgeLaw, edge_law, edge_of_width
from pipeline.analysis.fit.evidence import check_power_law
from pipeline.analysis.fit.exponent import from_posterior
from pipeline.analysis.fit.fitted import QUANTITIES, Fitted, FittedWidth, LeftOut, Lr, Observed, Quantity, lr_of
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.powerlaw import OptimumLaw, PowerLaw, optimum_law
from pipeline.analysis.fit.valley import Valley, fit_valley
from pipeline.analysis.study.grid import Grid, GridEnd
from pipeline.analysis.study.runs import Bools, Floats, Runs
from pipeline.analysis.study.stability import LANGUAGE, Intervals, Labels, Rule, intervals, label

# The optimum counts as limited by the edge where it comes within this many octaves of it at half the widths or more.
EDGE_GAP = 0.5
_ALLOWED = 0.2

# Best losses of widths whose ratio exceeds this are compared on a log scale: valleys then shrink with the loss itself.
_LOG_RATIO = 3.0

# A finite loss this many times the noise and this many nats above the fitted valley, beyond the optimum, belongs to a
# run that has half recovered from an instability: too bad for a stable run, too good for the unstable label.
_FAR, _FAR_NATS = 8.0, 0.1


@dataclass(frozen=True)
class Estimate:
    """One family of curves, fitted. `optimal` is the answer; `own_optimum` the collapse fit's, which differs from it
    only where the edge limits the optimum, so that its posterior is reported instead."""

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
        """The optimum saturates at the edge: at half of the widths or more, and at two at least, it lies within
        `EDGE_GAP` octaves of it, a standard error of at most `_ALLOWED` allowed for, and their exponents are not told
        apart."""
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
                return edge_of_width(self.seen.of(width))
        if law is None:
            return None
        if width in law.widths:
            return law.at(width)
        return extrapolated(law, width) if len(law.widths) > 1 else None

    def bottom(self, width: float) -> float:
        """Loss at the bottom of the fitted valley of a width that has one."""
        assert self.valley is not None
        level = float(self.valley.level[self.valley.widths.index(width)])
        return math.exp(level) if self.log_loss else level


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
    """Runs below their seed's first unstable learning rate: what came through above it is luck, and no part of the
    valley."""
    first = {(n, seed): high for n, seed, high in zip(seen.width.tolist(), seen.seed.tolist(), seen.high, strict=True)}
    keys = zip(runs.width.tolist(), runs.seed.tolist(), strict=True)
    return runs.x < np.array([first[key] for key in keys])


def _half_recovered(runs: Runs, labels: Labels, valley: Valley | None) -> Bools:
    """Runs that tell nothing of the edge: finite, not labelled unstable, and yet far above the valley beyond its
    bottom."""
    half_recovered = np.zeros(len(runs), dtype=np.bool_)
    for place, width in enumerate(valley.widths if valley else ()):
        assert valley is not None
        beyond = (runs.width == width) & (runs.x > valley.x[place]) & np.isfinite(runs.loss)
        excess: Floats = runs.loss[beyond] - valley.loss(place, runs.x[beyond])
        half_recovered[beyond] = excess > max(_FAR * float(valley.noise[place]), _FAR_NATS)
    return half_recovered & ~labels.unstable


# ---------------------------------------------------------------------------------------------------------------------
# As an estimator of studies


def fit(grid: Grid) -> Fitted:
    """`estimate` as an estimator of studies."""
    known = estimate(grid.runs, grid.rule)
    posteriors = {quantity: known.exponent(quantity) for quantity in QUANTITIES}

    def lr_at(quantity: Quantity, width: float, level: float) -> Lr | None:
        posterior = known.at(quantity, width)
        return None if posterior is None else lr_of(posterior, level)

    def stands(width: float) -> Mixture | None:
        threshold = known.at("max_stable", width)
        scatter = SEED_SCATTER if known.max_stable is None else known.max_stable.seed_scatter
        return None if threshold is None else threshold.shifted(0.0, scatter)

    return Fitted(
        widths=tuple(_width(known, place, width) for place, width in enumerate(grid.runs.widths)),
        laws={quantity: from_posterior(known.law(quantity)) for quantity in QUANTITIES},
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


def _width(known: Estimate, place: int, width: float) -> FittedWidth:
    left_out = _left_out(known, place, width)
    optimum, edge = None if left_out else known.at("optimal", width), known.at("max_stable", width)
    return FittedWidth(
        best=None if optimum is None else lr_of(optimum),
        best_loss=math.nan if left_out else known.bottom(width),
        edge=None if edge is None else lr_of(edge),
        at_edge=_at_edge(known.runs.x[known.runs.width == width], float(known.labels.best_x[place])),
        left_out=left_out,
    )


def _left_out(known: Estimate, place: int, width: float) -> LeftOut | None:
    if known.labels.all_unstable[place]:
        return LeftOut.UNSTABLE
    if known.valley is None or width not in known.valley.widths:
        return LeftOut.FEW_RUNS
    return LeftOut.ONE_SIDED if known.own_optimum is None else None


def _at_edge(x: Floats, best_x: float) -> GridEnd:
    low, high = abs(best_x - float(x.min())) < 1e-9, abs(best_x - float(x.max())) < 1e-9
    return "both" if low and high else "low" if low else "high" if high else "no"

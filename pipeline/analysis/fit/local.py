"""The default estimator: `estimate`, as every estimator of studies returns it."""

import math

import numpy as np

from pipeline.analysis.fit.estimate import Estimate, estimate
from pipeline.analysis.fit.evidence import check_power_law
from pipeline.analysis.fit.exponent import from_posterior
from pipeline.analysis.fit.fitted import (
    LEVEL,
    QUANTITIES,
    Fitted,
    FittedWidth,
    LeftOut,
    Lr,
    LrAt,
    Observed,
    Quantity,
    lr_of,
)
from pipeline.analysis.fit.law import WANDER
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.transfer import transfer
from pipeline.analysis.study.grid import Grid, GridEnd
from pipeline.analysis.study.runs import Floats


def fit(grid: Grid) -> Fitted:
    """`estimate` as an estimator of studies."""
    known = estimate(grid.runs, wander=grid.wander)
    posteriors = {quantity: known.exponent(quantity) for quantity in QUANTITIES}

    def lr_at(quantity: Quantity, width: float, level: float) -> Lr | None:
        posterior = known.at(quantity, width)
        if posterior is None:
            return None
        lr = lr_of(posterior, level)
        edge = known.at("max_stable", width) if quantity == "optimal" else None
        return lr if edge is None else lr.below(lr_of(edge, level).value)

    def stands(width: float) -> Mixture | None:
        threshold = known.at("max_stable", width)
        return None if threshold is None else threshold.shifted(0.0, known.seed_scatter)

    own = known.own_optimum
    wander = WANDER[0][0] if own is None else own.wandering
    return Fitted(
        widths=tuple(_width(known, place, width, lr_at) for place, width in enumerate(grid.runs.widths)),
        laws={quantity: from_posterior(known.law(quantity)) for quantity in QUANTITIES},
        lr_at=lr_at,
        posteriors={quantity: posterior for quantity, posterior in posteriors.items() if posterior is not None},
        stands=stands,
        price=known.price,
        observed={
            quantity: Observed(law.widths, np.diag(law.observed[1]), law.jitter, wander)
            for quantity in QUANTITIES
            if (law := known.law(quantity)) is not None and len(law.widths) > 1
        },
        checks={quantity: check_power_law(known.law(quantity), known.seen) for quantity in QUANTITIES},
        edge_limited=known.edge_limited,
        log_loss=known.log_loss,
        transfer=None if own is None or known.optima is None else transfer(own, known.optima, known.log_loss),
        shape_differs=0.0 if known.optima is None else known.optima.shape_differs,
    )


def _width(known: Estimate, place: int, width: float, lr_at: LrAt) -> FittedWidth:
    gone = left_out(known, place, width)
    edge = known.at("max_stable", width)
    return FittedWidth(
        best=None if gone else lr_at("optimal", width, LEVEL),
        best_loss=math.nan if gone else known.bottom(width),
        edge=None if edge is None else lr_of(edge),
        at_edge=at_edge(known.runs.x[known.runs.width == width], float(known.labels.best_x[place])),
        left_out=gone,
    )


def left_out(known: Estimate, place: int, width: float) -> LeftOut | None:
    """Why the width, the `place`-th, has no optimum."""
    if known.labels.all_unstable[place]:
        return LeftOut.UNSTABLE
    if width not in [one.width for one in known.near]:
        return LeftOut.FEW_RUNS
    if known.optima is None:
        return LeftOut.NO_VALLEY if known.no_valley else LeftOut.ONE_SIDED
    flat = known.optima.evidence[known.optima.widths.index(width)] < 0
    return LeftOut.NO_VALLEY if flat else None


def at_edge(x: Floats, best_x: float) -> GridEnd:
    """Which end of the learning rates tried the best one is."""
    low, high = abs(best_x - float(x.min())) < 1e-9, abs(best_x - float(x.max())) < 1e-9
    return "both" if low and high else "low" if low else "high" if high else "no"

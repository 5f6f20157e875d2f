"""The prediction for a width, trained or not: optimal, max-stable and recommended learning rate, its price, and what to
doubt of them."""

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.analysis.fit.advice import Advice, advise
from pipeline.analysis.fit.fitted import QUANTITIES, Lr, Quantity
from pipeline.analysis.fit.regret import Price
from pipeline.analysis.fit.study_fit import GroupFit

# Where the optimum is not known, what is recommended keeps this distance from the learning rate above which more than
# `RISK` of runs are unstable.
MARGIN_OCTAVES = 1.0
RISK = 0.05

# Beyond this factor past the widest width trained, the power law itself is an assumption that nothing checks.
FAR = 4.0

Why = Literal["no interval", "nothing known", "optimum unknown", "edge unknown", "least regret"]


@dataclass(frozen=True)
class Recommendation:
    """A learning rate to take, or why there is none."""

    lr: float | None
    why: Why
    """optimum unknown: half of what 95 % of runs stand."""
    price: Price | None = None
    """Of the least expected regret."""
    largest_stable: float = math.nan
    """The largest learning rate of which a run was stable, at any width."""


@dataclass(frozen=True)
class Doubt:
    """One thing that a prediction's interval does not hold."""

    kind: Literal[
        "no interval", "beyond tried", "far wider", "far narrower", "drift", "unchecked", "edge-limited", "grid end"
    ]
    quantity: Quantity = "optimal"
    widths: tuple[float, ...] = ()
    """far: the nearest one trained. grid end: where the best learning rate tried is the last."""
    tried: float = math.nan
    """beyond tried: the largest learning rate of any run of the family."""


@dataclass(frozen=True)
class LrPrediction:
    """At one width, for one group. What is not known is None."""

    group: GroupFit
    width: float
    level: float
    optimal: Lr | None
    max_stable: Lr | None
    """Median over seeds; as published: the minimal unstable learning rate on the line."""
    safe: float | None
    """The learning rate that all but `RISK` of runs are expected to stand, over seeds and over what is not known."""
    recommended: Recommendation
    doubts: tuple[Doubt, ...]
    advice: dict[Quantity, tuple[Advice, ...]]


def predict(group: GroupFit, width: float, level: float) -> LrPrediction:
    """From one fitted group."""
    fitted = group.fitted
    optimal, max_stable = (fitted.lr_at(quantity, width, level) for quantity in QUANTITIES)
    threshold = fitted.stands(width)
    safe = None if threshold is None else 2.0 ** threshold.quantile(RISK)
    trained = width in group.grid.runs.widths
    advice = {
        quantity: ()
        if trained or quantity not in fitted.observed
        else advise(fitted.observed[quantity], group.grid.runs, width, group.width_step, group.axis.cost_power)
        for quantity in (QUANTITIES if fitted.intervals else ())
    }
    recommended = _recommend(group, width, level, safe)
    bare = [] if fitted.intervals else [Doubt("no interval")]
    tried = float(group.grid.runs.lr.max())
    beyond = [lr for lr in (recommended.lr, optimal and optimal.value) if lr and lr > tried * (1 + 1e-9)]
    untried = [Doubt("beyond tried", tried=tried)] if beyond else []
    doubts = (*untried, *bare, *_far(group, width), *_doubts(group, width, trained))
    return LrPrediction(group, width, level, optimal, max_stable, safe, recommended, doubts, advice)


def _recommend(group: GroupFit, width: float, level: float, safe: float | None) -> Recommendation:
    if not group.fitted.intervals:
        return Recommendation(None, "no interval")
    runs, unstable = group.grid.runs, group.grid.labels.unstable
    stable = 2.0 ** float(max(runs.x[~unstable], default=-math.inf))
    price = group.fitted.price(width, level)
    if price is not None:
        why: Why = "edge unknown" if math.isnan(price.diverges) else "least regret"
        return Recommendation(price.lr, why, price, stable)
    if safe is None:
        return Recommendation(None, "nothing known")
    return Recommendation(safe * 2.0**-MARGIN_OCTAVES, "optimum unknown", None, stable)


def _far(group: GroupFit, width: float) -> list[Doubt]:
    narrowest, widest = group.grid.runs.widths[0], group.grid.runs.widths[-1]
    if width > FAR * widest:
        return [Doubt("far wider", widths=(widest,))]
    return [Doubt("far narrower", widths=(narrowest,))] if width * FAR < narrowest else []


def _doubts(group: GroupFit, width: float, trained: bool) -> list[Doubt]:
    fitted = group.fitted
    doubts = []
    for quantity in QUANTITIES:
        check = fitted.checks.get(quantity)
        if quantity in fitted.observed and not trained and check is not None and check.verdict != "one power law":
            doubts.append(Doubt(check.verdict, quantity))
    if fitted.edge_limited:
        doubts.append(Doubt("edge-limited"))
    at_end = [w.width for w in group.widths if w.fitted.at_edge != "no" and not w.grid.all_unstable]
    if at_end and fitted.intervals:
        doubts.append(Doubt("grid end", widths=tuple(at_end)))
    return doubts

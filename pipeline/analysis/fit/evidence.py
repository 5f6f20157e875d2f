"""What a fit supports: clean exponents, one power law or a drift, agreement with theory. Numbers here, words
elsewhere."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from pipeline.analysis.fit.edgelaw import edge_law, edge_of_width
from pipeline.analysis.fit.law import OptimumLaw, PowerLaw
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.study.edges import Intervals

CLEAN = (-1.0, -0.5, 0.0)
_BORDERS = (-math.inf, -0.75, -0.25, math.inf)

DECIDED = 0.95
EQUAL_WITHIN = 0.1

# Chance that a study of one power law is called drifting, all widths together.
_FALSE_ALARM = 0.05


@dataclass(frozen=True)
class CleanExponent:
    """How a clean exponent stands. The three statements differ: -0.38 can be nearest to -1/2 and incompatible with
    it."""

    value: float
    p_nearest: float
    """Posterior mass nearer to it than to the other two."""
    compatible: bool
    """It lies in the 95 % interval."""
    p_equal: float
    """Posterior mass within `EQUAL_WITHIN` of it."""

    @property
    def nearest(self) -> bool:
        return self.p_nearest >= DECIDED

    @property
    def equal(self) -> bool:
        return self.p_equal >= DECIDED


def clean_exponents(exponent: Mixture) -> tuple[CleanExponent, ...]:
    """-1, -1/2 and 0, in this order; their `p_nearest` sum to 1. None of them `nearest`: undecided."""
    low, high = exponent.interval()
    cdf = [0.0, exponent.cdf(_BORDERS[1]), exponent.cdf(_BORDERS[2]), 1.0]
    return tuple(
        CleanExponent(
            value,
            cdf[place + 1] - cdf[place],
            low <= value <= high,
            exponent.probability(value - EQUAL_WITHIN, value + EQUAL_WITHIN),
        )
        for place, value in enumerate(CLEAN)
    )


def decided(exponent: Mixture) -> float | None:
    """The clean exponent that the data are nearest to with probability 95 %; None: undecided."""
    return next((clean.value for clean in clean_exponents(exponent) if clean.nearest), None)


@dataclass(frozen=True)
class LocalExponent:
    """The slope between two neighbouring widths."""

    narrow: float
    wide: float
    exponent: Mixture


@dataclass(frozen=True)
class HeldOut:
    """A width predicted from the others."""

    width: float
    error: float
    """Found minus predicted, octaves."""
    standard_error: float
    """Of that difference."""
    inside: bool
    """Within what chance allows at this number of widths."""


Verdict = Literal["unchecked", "one power law", "drift"]


@dataclass(frozen=True)
class PowerLawCheck:
    """Whether one power law describes all widths. `unchecked`: fewer than three widths, so that any two values fit."""

    local: tuple[LocalExponent, ...]
    held_out: tuple[HeldOut, ...]
    verdict: Verdict


UNCHECKED = PowerLawCheck((), (), "unchecked")


def check_power_law(law: PowerLaw | None, seen: Intervals) -> PowerLawCheck:
    """Local exponents, and every width left out in turn and predicted from the rest, widths taken to be irregular by a
    tenth of an octave or so and no more: an irregularity as large as a drift is called one.

    A drift is a width outside its predictive interval at level 1 - 5 % / widths, so that a true power law is called one
    in about 5 % of studies at most.
    """
    if law is None:
        return UNCHECKED
    return _of_optimum(law) if isinstance(law, OptimumLaw) else _of_edge(seen)


def _of_optimum(law: OptimumLaw) -> PowerLawCheck:
    places = np.arange(len(law.widths))
    x, covariance = law.observed
    local = tuple(
        LocalExponent(law.widths[i], law.widths[i + 1], law.straight(places[i : i + 2]).exponent) for i in places[:-1]
    )
    held_out = []
    for place, width in enumerate(law.widths):
        rest = law.straight(np.delete(places, place))
        if len(rest.widths) > 1:
            error = math.sqrt(float(covariance[place, place]))
            own = Mixture(x[[place]], np.array([error]), np.ones(1))
            held_out.append(_held_out(width, own, rest.at(width), len(places)))
    return PowerLawCheck(local, tuple(held_out), _verdict(held_out))


def _of_edge(seen: Intervals) -> PowerLawCheck:
    widths = seen.estimable_widths
    local = []
    for narrow, wide in pairwise(widths):
        law = edge_law(seen.where(np.isin(seen.width, [narrow, wide])))
        if law is not None:
            local.append(LocalExponent(narrow, wide, law.exponent))
    held_out = []
    for width in widths:
        rest, own = edge_law(seen.where(seen.width != width)), edge_of_width(seen.of(width))
        if rest is not None and own is not None:
            held_out.append(_held_out(width, own, rest.at(width), len(widths)))
    return PowerLawCheck(tuple(local), tuple(held_out), _verdict(held_out))


def _held_out(width: float, own: Mixture, predicted: Mixture, n_widths: int) -> HeldOut:
    """Both may be skewed: the difference is compared by convolving their quantiles."""
    grid = (np.arange(40) + 0.5) / 40
    difference = np.subtract.outer(own.quantiles(list(grid)), predicted.quantiles(list(grid))).ravel()
    tail = _FALSE_ALARM / n_widths / 2
    low, high = np.quantile(difference, [tail, 1 - tail])
    error = own.median - predicted.median
    return HeldOut(width, error, float(np.std(difference)), bool(low <= 0 <= high))


def _verdict(held_out: list[HeldOut]) -> Verdict:
    if not held_out:
        return "unchecked"
    return "one power law" if all(held.inside for held in held_out) else "drift"


@dataclass(frozen=True)
class Agreement:
    """A predicted exponent beside the measured one."""

    predicted: float
    inside: bool
    """It lies in the measured 95 % interval."""
    p_near: float
    """Posterior mass within `EQUAL_WITHIN` of it."""


def agreement(exponent: Mixture, predicted: float) -> Agreement:
    low, high = exponent.interval()
    near = exponent.probability(predicted - EQUAL_WITHIN, predicted + EQUAL_WITHIN)
    return Agreement(predicted, low <= predicted <= high, near)

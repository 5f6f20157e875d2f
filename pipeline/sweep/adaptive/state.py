"""What the finished runs say to an adaptive plan, and what it is after."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pipeline.analysis.fit.estimate import Estimate, estimate
from pipeline.analysis.fit.fitted import Quantity
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.study.axis import WIDTH
from pipeline.analysis.study.runs import Runs

SCAN_STEP = 2.0  # octaves between runs of the scan
SAME = 0.05  # octaves within which two runs tell the same
FIRST_SLOPE = -0.5  # exponent by which the second width starts from the first


@dataclass(frozen=True)
class Aim:
    """What a sweep is to find out, and at what cost."""

    widths: tuple[int, ...]
    """Narrowest first, two at least."""
    start: float
    """First guess of the optimum at the narrowest width, octaves."""
    half_width: float
    """Of the 95 % intervals of both exponents; with a `regret`, how close those may come at most."""
    cost: Callable[[int], float]
    """Of one run at a width; the unit does not matter."""
    first_seed: int = 0
    regret: float = 0.0
    """Expected of the recommended learning rate `at_width`; 0: the exponents are what is asked for."""
    at_width: int = 0


@dataclass(frozen=True)
class Proposal:
    """A run to make, and why."""

    width: int
    seed: int
    x: float
    why: str


@dataclass(frozen=True)
class Round:
    """Runs that may all be made at once; none, with the reason, when there is nothing left to do."""

    proposals: tuple[Proposal, ...]
    finding: str
    """What the sweep knows so far, or why it ends."""
    reached: Mapping[str, float] = field(default_factory=dict)
    """What it knows in numbers, once it knows all widths: the half-widths of both exponents' intervals, or the regret
    that is expected; inf: not known yet."""


class State:
    """What the finished runs say."""

    def __init__(self, runs: Runs, aim: Aim) -> None:
        self.runs, self.aim = runs, aim
        self.gave_up = ""

    @cached_property
    def known(self) -> Estimate:
        assert len(self.runs)
        return estimate(self.runs, wander=WIDTH.wander)

    def half_width(self, quantity: Quantity) -> float:
        """Of the 95 % interval of an exponent; inf: it cannot be told yet, or not from all widths."""
        posterior = self.known.exponent(quantity)
        law = self.known.optimal if quantity == "optimal" else self.known.max_stable
        if posterior is None or law is None or len(law.widths) < len(self.aim.widths):
            return math.inf
        return half_width(posterior)

    def regret(self) -> float:
        """Expected of the recommended learning rate at the width that was asked for; inf: it cannot be told yet."""
        price = self.known.price(self.aim.at_width, 0.9)
        return math.inf if price is None else price.expected

    def best(self, width: int) -> float:
        """Where the optimum is thought to be: fitted, else the best of the grid, else from the next narrower width."""
        law = self.known.own_optimum
        if law is not None and (width in law.widths or len(law.widths) > 1):
            fitted = law.at(width).median
            if width not in self.runs.widths:
                return fitted
            low, high = self._span(width)
            return min(max(fitted, low - SCAN_STEP), high + SCAN_STEP)
        if width in self.runs.widths and math.isfinite(self.grid_best(width)):
            return self.grid_best(width)
        return self._from_narrower(width, self.best)

    def grid_best(self, width: int) -> float:
        """The best learning rate tried; nan: none is usable."""
        return float(self.known.labels.best_x[self.runs.widths.index(width)])

    def limit(self, width: int) -> float:
        """Where the edge is thought to be."""
        if self.known.max_stable is not None:
            return self.known.max_stable.at(width).median
        own = self.known.seen.of(width)
        if own.two_sided.any():
            return float(np.median((own.low + own.high)[own.two_sided] / 2))
        return self._from_narrower(width, self.limit)

    def _from_narrower(self, width: int, known: Callable[[int], float]) -> float:
        place = self.aim.widths.index(width)
        assert place > 0, "the narrowest width has been scanned"
        narrower = self.aim.widths[place - 1]
        return known(narrower) + FIRST_SLOPE * math.log2(width / narrower)

    def _span(self, width: int) -> tuple[float, float]:
        x = self.runs.x[self.runs.width == width]
        return float(x.min()), float(x.max())

    def cell(self, width: int, seed: int) -> Runs:
        return self.runs.where((self.runs.width == width) & (self.runs.seed == seed))

    def bracket(self, width: int, seed: int) -> tuple[float, float]:
        seen = self.known.seen
        own = seen.where((seen.width == width) & (seen.seed == seed))
        return (float(own.low[0]), float(own.high[0])) if len(own.low) else (-math.inf, math.inf)

    def new(self, proposals: Iterator[Proposal]) -> tuple[Proposal, ...]:
        """Those that are not as good as made already, or proposed twice."""
        kept: list[Proposal] = []
        for p in proposals:
            others = [q.x for q in kept if (q.width, q.seed) == (p.width, p.seed)]
            if not any_near(np.array([*self.cell(p.width, p.seed).x, *others]), p.x, SAME):
                kept.append(p)
        return tuple(kept)

    def seeds(self, width: int) -> int:
        """Seeds of a width that have been begun."""
        return len(np.unique(self.runs.seed[self.runs.width == width]))


def any_near(x: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", target: float, reach: float) -> bool:
    """Whether one of `x` lies within `reach` of the target, all in octaves."""
    return bool(len(x) and np.min(np.abs(x - target)) <= reach)


def half_width(posterior: Mixture) -> float:
    """Half the length of the central 95 % interval."""
    low, high = posterior.interval(0.95)
    return (high - low) / 2

"""What the runs say of one number, as a distribution: quantiles, probabilities, intervals. Deterministic, no sampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from pipeline.analysis.runs import Floats


@dataclass(frozen=True)
class Mixture:
    """A mixture of normal distributions; `weight` sums to 1, `sd` may hold zeros (atoms)."""

    location: Floats
    sd: Floats
    weight: Floats

    def cdf(self, value: float) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = (value - self.location) / self.sd
        below = np.where(self.sd > 0, ndtr(scaled), value >= self.location)
        return float(self.weight @ below)

    def probability(self, low: float, high: float) -> float:
        """Mass between `low` and `high`."""
        return max(0.0, self.cdf(high) - self.cdf(low))

    def quantile(self, q: float) -> float:
        """The value below which mass `q` lies, by bisection to 1e-10 of the spread."""
        reach = -float(ndtri(min(q, 1 - q) / 2)) + 1
        low = float(np.min(self.location - reach * self.sd))
        high = float(np.max(self.location + reach * self.sd))
        for _ in range(60):
            middle = (low + high) / 2
            if self.cdf(middle) < q:
                low = middle
            else:
                high = middle
            if high - low < 1e-7:
                break
        return (low + high) / 2

    def quantiles(self, qs: Sequence[float]) -> list[float]:
        return [self.quantile(q) for q in qs]

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The central interval that holds mass `level`."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    @property
    def mean(self) -> float:
        return float(self.weight @ self.location)

    @property
    def standard_deviation(self) -> float:
        return math.sqrt(float(self.weight @ (self.sd**2 + (self.location - self.mean) ** 2)))

    def shifted(self, by: float, scatter: float = 0.0) -> "Mixture":
        """The distribution of this number plus an independent normal one of mean `by`."""
        return Mixture(self.location + by, np.hypot(self.sd, scatter), self.weight)


@lru_cache(maxsize=8)
def half_normal_grid(scale: float, n: int) -> Floats:
    """`n` equally likely values of a half-normal distribution, as quadrature points of its prior."""
    found: Floats = scale * ndtri(0.5 + 0.5 * (np.arange(n) + 0.5) / n)
    return found


def normalized(log_weight: Floats) -> Floats:
    """exp, summing to 1."""
    weight = np.exp(log_weight - np.max(log_weight))
    found: Floats = weight / weight.sum()
    return found

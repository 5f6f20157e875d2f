"""What the runs say of one number, as a distribution: quantiles, probabilities, intervals. Deterministic, no
sampling."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from pipeline.analysis.study.runs import Floats

# Of the prior on widths' irregularity: the share of studies that are far more irregular, and how much more.
_TAIL_SHARE, _TAIL_FACTOR = 0.03, 8.0


@dataclass(frozen=True)
class Mixture:
    """A mixture of normal distributions; `weight` sums to 1, `sd` may hold zeros (atoms)."""

    location: Floats
    sd: Floats
    weight: Floats

    def cdf(self, value: float) -> float:
        return float(self._cdf(np.array([value]))[0])

    def _cdf(self, values: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = (values[:, None] - self.location) / self.sd
        below = np.where(self.sd > 0, ndtr(scaled), values[:, None] >= self.location)
        found: Floats = below @ self.weight
        return found

    def probability(self, low: float, high: float) -> float:
        """Mass between `low` and `high`."""
        return max(0.0, self.cdf(high) - self.cdf(low))

    def quantiles(self, qs: Sequence[float]) -> list[float]:
        """The values below which the masses `qs`, each in (0, 1), lie: bisection to 1e-7."""
        q = np.array(qs, dtype=np.float64)
        reach = 1 - ndtri(np.minimum(q, 1 - q) / 2)
        low = np.array([np.min(self.location - r * self.sd) for r in reach])
        high = np.array([np.max(self.location + r * self.sd) for r in reach])
        while float(np.max(high - low)) > 1e-7:
            middle = (low + high) / 2
            under = self._cdf(middle) < q
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return [float(value) for value in (low + high) / 2]

    def quantile(self, q: float) -> float:
        return self.quantiles([q])[0]

    @cached_property
    def median(self) -> float:
        return self.quantile(0.5)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The central interval that holds mass `level`."""
        low, high = self.quantiles([(1 - level) / 2, (1 + level) / 2])
        return low, high

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


@lru_cache(maxsize=8)
def jitter_prior(scale: float, n: int, tail: int) -> tuple[Floats, Floats]:
    """Values and prior weights of the irregularity of single widths: half-normal, at `n` points, with a small share
    spread at `tail` points (0: none) far beyond, so that widths that do not follow a power law widen the interval."""
    if not tail:
        return half_normal_grid(scale, n), np.full(n, 1 / n)
    values = np.concatenate([half_normal_grid(scale, n), half_normal_grid(_TAIL_FACTOR * scale, tail)])
    weights = np.repeat([(1 - _TAIL_SHARE) / n, _TAIL_SHARE / tail], [n, tail])
    return values, weights


def normalized(log_weight: Floats) -> Floats:
    """exp, summing to 1."""
    weight = np.exp(log_weight - np.max(log_weight))
    found: Floats = weight / weight.sum()
    return found

"""Slopes of log value on log width with honest errors, for many series at once. numpy and scipy only.

Shapes: W widths, S seeds, K series (one per quantity, weight and step).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, stdtrit

from pipeline.analysis.study.runs import Floats, Ints

# A test of whether width means lie on a line decides which error is used. Pooling costs least at a level far above 5 %
# (Bancroft and Han, 1983: 25 %).
POOLING_LEVEL = 0.25


@dataclass(frozen=True)
class Slopes:
    """Fitted laws ``value = 2^intercept * width^exponent``, arrays (K,). What cannot be estimated is nan: everything
    with fewer than two widths; the errors with two widths and one seed, which lie on their line whatever it is."""

    exponent: Floats
    standard_error: Floats
    half_width: Floats
    """Of the 95 % interval."""
    intercept: Floats
    n_widths: Ints
    n_seeds: Ints
    """Most seeds that any width has."""

    @property
    def low(self) -> Floats:
        return self.exponent - self.half_width

    @property
    def high(self) -> Floats:
        return self.exponent + self.half_width


def fit_slopes(widths: NDArray[np.int64], values_WSK: Floats) -> Slopes:
    """Ordinary least squares of log2 value, averaged over seeds, on log2 width; widths weigh the same.

    Values that are missing, not finite or not positive have no logarithm and are left out. The error comes from two
    sources: what seeds scatter around their width's mean (seeds that have all widths: after their own mean is taken
    out, since a seed's batches are the same at every width), and what the means scatter around the line. Where they
    agree, they are pooled; where the means scatter more (level `POOLING_LEVEL`), the values follow no straight line so
    closely, and the means alone give the error, with Student's t on (widths - 2) degrees of freedom. Two widths show
    nothing of a line: their error is that of the seeds alone.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log2(np.where(np.isfinite(values_WSK) & (values_WSK > 0), values_WSK, np.nan))
    known = np.isfinite(y)
    n_WK = known.sum(1)
    has_WK = n_WK > 0
    n_widths = has_WK.sum(0)
    mean_WK = np.where(has_WK, np.where(known, y, 0).sum(1) / np.maximum(n_WK, 1), 0)
    x_W = np.log2(widths.astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        x_WK = np.where(has_WK, x_W[:, None] - (has_WK * x_W[:, None]).sum(0) / n_widths, 0)
        spread = (x_WK**2).sum(0)
        slope = (x_WK * mean_WK).sum(0) / spread
        middle = (has_WK * mean_WK).sum(0) / n_widths
        intercept = middle - slope * (has_WK * x_W[:, None]).sum(0) / n_widths
        residual_WK = np.where(has_WK, mean_WK - middle - slope * x_WK, 0)
        seeds, seeds_freedom = _seed_variance(np.where(known, y - mean_WK[:, None], 0), known, n_WK, n_widths)
        # variance of a mean over seeds; over the widths, as the slope weighs them
        share = np.where(has_WK, x_WK**2 / np.maximum(n_WK, 1), 0).sum(0) / spread
        seeds = seeds * share
        means_freedom = np.maximum(n_widths - 2, 0)
        means = (residual_WK**2).sum(0) / means_freedom
        variance, freedom = _choose(seeds, seeds_freedom, means, means_freedom)
        error = np.sqrt(variance / spread)
        half = stdtrit(freedom, 0.975) * error
    estimable = n_widths >= 2
    return Slopes(
        np.where(estimable, slope, np.nan),
        np.where(estimable & (freedom > 0), error, np.nan),
        np.where(estimable & (freedom > 0), half, np.nan),
        np.where(estimable, intercept, np.nan),
        n_widths,
        n_WK.max(0),
    )


def _seed_variance(
    deviation_WSK: Floats, known: NDArray[np.bool_], n_WK: Ints, n_widths: Ints
) -> tuple[Floats, NDArray[np.int64]]:
    """Variance of one seed's value around its width's mean, and its degrees of freedom (0: one seed per width)."""
    per_seed_SK = known.sum(0)
    most = n_WK.max(0)
    crossed = ((per_seed_SK == 0) | (per_seed_SK == n_widths)).all(0)
    own_SK = np.where(per_seed_SK > 0, deviation_WSK.sum(0) / np.maximum(per_seed_SK, 1), 0)
    left = np.where(known & crossed, deviation_WSK - own_SK, deviation_WSK)
    single = np.maximum(n_WK - 1, 0).sum(0)
    freedom = np.where(crossed, np.maximum(n_widths - 1, 0) * np.maximum(most - 1, 0), single)
    return np.where(freedom > 0, (left**2).sum((0, 1)) / np.maximum(freedom, 1), np.nan), freedom


def _choose(seeds: Floats, seeds_freedom: Ints, means: Floats, means_freedom: Ints) -> tuple[Floats, NDArray[np.int64]]:
    """Variance of a width's mean around the line, and its degrees of freedom."""
    line_fails = fdtrc(means_freedom, seeds_freedom, means / seeds) < POOLING_LEVEL
    line_fails |= (seeds == 0) & (means > 0)
    both = seeds_freedom + means_freedom
    pooled = (
        np.where(seeds_freedom > 0, seeds, 0) * seeds_freedom + np.where(means_freedom > 0, means, 0) * means_freedom
    ) / both
    alone = line_fails & (means_freedom > 0) & (seeds_freedom > 0)
    return np.where(alone, means, pooled), np.where(alone, means_freedom, both)

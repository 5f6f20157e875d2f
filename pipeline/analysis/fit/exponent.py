"""Laws of the learning rate over width, whose exponent is the slope of log lr on log width: by least squares as
published, or from a posterior."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from pipeline.analysis.fit.law import PowerLaw


@dataclass(frozen=True)
class LrLaw:
    """A power law ``lr = exp(log_lr_at_1) * width^exponent``, fitted to the learning rates of `widths`; -1/2 means lr
    shrinks like width^-1/2.

    What could not be estimated is nan: everything with fewer than two widths, by least squares the errors with fewer
    than three. Of a posterior these are median, standard deviation, central 95 % interval and median line.
    """

    widths: tuple[float, ...] = ()
    """Those that took part."""
    exponent: float = math.nan
    standard_error: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    log_lr_at_1: float = math.nan

    @property
    def n_widths(self) -> int:
        return len(self.widths)

    @property
    def has_interval(self) -> bool:
        return not math.isnan(self.ci_low) and not self.exact

    @property
    def estimable(self) -> bool:
        return not math.isnan(self.exponent)

    @property
    def exact(self) -> bool:
        """Three or more values that lie on a line, as grid values can: the error of 0 then says nothing."""
        return self.n_widths > 2 and self.standard_error < 1e-9

    def lr_at(self, width: float) -> float:
        """The learning rate on the fitted line at `width`."""
        return math.exp(self.log_lr_at_1 + self.exponent * math.log(width))


def from_posterior(law: PowerLaw | None) -> LrLaw:
    """The posterior in numbers; everything nan without a law or with one width."""
    if law is None or len(law.widths) < 2:
        return LrLaw(() if law is None else law.widths)
    exponent = law.exponent
    low, median, high = exponent.quantiles([0.025, 0.5, 0.975])
    middle = math.sqrt(law.widths[0] * law.widths[-1])
    at_1 = math.log(2) * law.line(middle).median - median * math.log(middle)
    return LrLaw(law.widths, median, exponent.standard_deviation, low, high, at_1)


def fit_exponent(widths: Sequence[float], lrs: Sequence[float]) -> LrLaw:
    """Ordinary least squares of log lr on log width, with a 95 % Student-t interval on (widths - 2) degrees of freedom.

    The published exponents (paper, Fig. 6 and Table F.1) are such slopes, reported without an error. Read the error
    with care:

    - it measures only the scatter of the grid values around the line, not the noise over seeds or the grid's spacing;
    - the slope is quantized (`slope_step`): on an x2 grid with widths x4 apart, three widths allow multiples of 1/4
      only;
    - values that happen to lie on a line, such as the same grid point at all widths, give an error of exactly 0;
    - at three widths there is one degree of freedom, and the interval is 12.7 standard errors to either side.
    """
    x, y, entered = np.log(widths), np.log(lrs), tuple(widths)
    n = len(x)
    if n < 2:
        return LrLaw(entered)
    spread = float(np.sum((x - x.mean()) ** 2))
    slope = float((x - x.mean()) @ y / spread)
    intercept = float(y.mean() - slope * x.mean())
    if n == 2:
        return LrLaw(entered, slope, log_lr_at_1=intercept)
    residuals = y - intercept - slope * x
    error = math.sqrt(float(residuals @ residuals) / (n - 2) / spread)
    half = float(stdtrit(n - 2, 0.975)) * error
    return LrLaw(entered, slope, error, slope - half, slope + half, intercept)


def slope_step(widths: Sequence[float], lr_ratio: float) -> float:
    """How far the slope moves when the value at the narrowest or widest width moves by one grid step of ratio
    `lr_ratio`."""
    x = np.log(widths) - np.mean(np.log(widths))
    return math.log(lr_ratio) * float(np.max(np.abs(x)) / np.sum(x**2))

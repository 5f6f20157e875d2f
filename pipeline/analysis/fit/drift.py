"""Predictions at widths that were not trained: a power law need not hold there, or hold yet at the widths that were.

x_n = mu + alpha z_n + g (z_n - mean z)^2 / 2 + xi_n, z = log2 n: the exponent changes by g ~ N(0, DRIFT^2) with every
doubling of the width. What the trained widths say of g moves a prediction; what they leave open widens its interval,
the more the farther it reaches. An exponent itself is that of the trained widths, and knows no drift.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.powerlaw import PowerLaw
from pipeline.analysis.study.runs import Floats

# Half the distance between two clean exponents, -1/2 and 0, in three doublings of width: networks pass from one law to
# another about so slowly, where a sum such as n / sqrt(d_out) + sqrt(n) passes from one term to the other.
DRIFT = 0.08


@dataclass(frozen=True)
class Line:
    """The line through estimates of its value at `widths`, of the given covariance, all normal (universal kriging)."""

    widths: Floats
    covariance: Floats
    """Irregularity of single widths included."""

    def at(self, width: float, x: Floats, drift: float = DRIFT) -> tuple[float, float]:
        """Mean and variance of the law at a width, given estimates x."""
        z = np.log2(self.widths)
        middle = z.mean()
        design = np.stack([np.ones_like(z), z - middle], axis=1)
        bend = drift * (z - middle) ** 2 / 2
        to = math.log2(width) - middle
        here, bend_here = np.array([1.0, to]), drift * to**2 / 2
        inverse = np.linalg.inv(self.covariance + np.outer(bend, bend))
        spread = np.linalg.inv(design.T @ inverse @ design)
        line = spread @ design.T @ inverse @ x
        pull = bend_here * bend @ inverse
        open_ = here - pull @ design
        variance = bend_here**2 - bend_here * float(pull @ bend) + float(open_ @ spread @ open_)
        return float(here @ line + pull @ (x - design @ line)), variance


def extrapolated(law: PowerLaw, width: float) -> Mixture:
    """log2 of the learning rate at a width that was not trained, drift and irregularity included."""
    x, covariance = law.observed
    widths = np.array(law.widths, dtype=np.float64)
    line = Line(widths, covariance + law.jitter**2 * np.eye(len(widths)))
    (straight, least), (bent, most) = line.at(width, x, 0.0), line.at(width, x)
    return law.at(width).shifted(bent - straight, math.sqrt(max(most - least, 0.0)))

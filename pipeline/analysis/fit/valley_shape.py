"""The family of shapes of valleys.

V(u; k) = (e^(ku) - 1 - ku) / k^2, a parabola skewed by k, and G(V; p) = ((1 + 2V)^p - 1) / (2p), from straight walls
(p = 1/2) over V itself (1) to a flat bottom (2). Its bottom is about two octaves wide. Valleys that end at a cliff, or
where two regimes meet, have none: two straight walls at an angle, their slopes in the ratio e^(2k).
"""

import numpy as np

from pipeline.analysis.study.runs import Floats

ANGLE = 0.3
"""The sharpness of walls that meet at an angle, in place of a p."""

_ROUNDING = 0.15  # octaves within which they do
_SLOPE = 0.45  # the mean of both, so that walls are as high an octave away as those of G


def shape(u: Floats, k: float, p: float) -> Floats:
    """Height at u octaves from the bottom: G(V(u; k); p), or that of walls at an angle (p = `ANGLE`)."""
    if p == ANGLE:
        return _angle(u, k)
    found: Floats = np.expm1(p * np.log1p(2 * _skewed(u, k))) / (2 * p)
    return found


def _skewed(u: Floats, k: float) -> Floats:
    """V(u; k)."""
    t = np.clip(k * u, -20, 20)
    small = np.abs(t) < 0.03
    s = np.where(small, 1.0, t)
    phi = np.where(small, 0.5 + t / 6 + t * t / 24 + t**3 / 120, (np.expm1(s) - s) / s**2)
    found: Floats = u * u * phi
    return found


def _angle(u: Floats, k: float) -> Floats:
    """A hyperbola whose asymptotes' slopes are e^k and -e^-k, over their mean, moved so that it is lowest at 0."""
    v = u - _ROUNDING * np.sinh(k)
    found: Floats = np.tanh(k) * v + np.sqrt(v * v + _ROUNDING**2) - _ROUNDING / np.cosh(k)
    return _SLOPE * found

"""The family of shapes of valleys.

V(u; k) = (e^(ku) - 1 - ku) / k^2, a parabola skewed by k, and G(V; p) = ((1 + 2V)^p - 1) / (2p), from straight walls
(p = 1/2) over V itself (1) to a flat bottom (2).
"""

import numpy as np

from pipeline.analysis.study.runs import Floats


def shape(u: Floats, k: float, p: float) -> Floats:
    """G(V(u; k); p)."""
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

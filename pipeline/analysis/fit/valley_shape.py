"""The family of shapes of valleys.

V(u; k) = (e^(ku) - 1 - ku) / k^2, a parabola skewed by k, and G(V; p) = ((1 + 2V)^p - 1) / (2p), from straight walls
(p = 1/2) over V itself (1) to a flat bottom (2).
"""

import numpy as np

from pipeline.analysis.study.runs import Floats


def shape(u: Floats, k: float, p: float) -> tuple[Floats, Floats, Floats, Floats]:
    """G(V(u; k); p) and its derivatives by u, k and p."""
    v, du, dk = _skewed(u, k)
    log = np.log1p(2 * v)
    grown = np.expm1(p * log)
    slope = np.exp((p - 1) * log)
    return grown / (2 * p), slope * du, slope * dk, (p * (grown + 1) * log - grown) / (2 * p * p)


def _skewed(u: Floats, k: float) -> tuple[Floats, Floats, Floats]:
    """V(u; k), dV/du and dV/dk."""
    t = np.clip(k * u, -20, 20)
    small = np.abs(t) < 0.03
    s = np.where(small, 1.0, t)
    e = np.expm1(s)
    phi = np.where(small, 0.5 + t / 6 + t * t / 24 + t**3 / 120, (e - s) / s**2)
    psi = np.where(small, 1 + t / 2 + t * t / 6 + t**3 / 24, e / s)
    dphi = np.where(small, 1 / 6 + t / 12 + t * t / 40 + t**3 / 180, (e * (s - 2) + 2 * s) / s**3)
    return u * u * phi, u * psi, u**3 * dphi

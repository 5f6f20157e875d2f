"""How well learning rates transfer over widths, in the three measures of Kalra & Barkeshli (2026, arXiv:2605.21486),
taken from the fit: the error of the power law, how robust the loss is to a learning rate that is off, and the loss lost
by transferring where no law is fitted, far out."""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.fit.law import OptimumLaw
from pipeline.analysis.fit.likelihood import Curve
from pipeline.analysis.fit.optima import Optima
from pipeline.analysis.study.runs import Floats

_BEYOND = (1, 4, 16)
"""Times the widest width."""


@dataclass(frozen=True)
class Transfer:
    """Of one family of curves with optima at three widths or more."""

    fit_error: float
    """Octaves: root mean square of the optima's distances from the straight power law, two degrees of freedom off."""
    off_by_octave: tuple[tuple[float, float], ...]
    """Per width: what a learning rate an octave off costs, the mean of both sides, in units of the loss."""
    robustness: float
    """Exponent of that cost over width; positive: wider models are less forgiving."""
    carried: tuple[tuple[float, float], ...]
    """At the widest width trained and beyond: what the narrowest width's best learning rate costs there, were it
    carried over unchanged, by the median law and the valley of the widest."""


def transfer(law: OptimumLaw, optima: Optima, log_loss: bool) -> Transfer | None:
    """None: fewer than three widths have an optimum."""
    if len(law.widths) < 3:
        return None
    z, places = np.log2(np.array(law.widths, dtype=np.float64)), law.observed[0]
    off: Floats = places - np.polyval(np.polyfit(z, places, 1), z)
    costs = [float(np.mean(_cost(curve, np.array([-1.0, 1.0]), log_loss))) for curve in optima.curves]
    narrowest, widest = law.widths[0], law.widths[-1]

    def carried(width: float) -> float:
        away = law.at(narrowest).median - law.at(width).median
        return float(_cost(optima.curves[-1], np.array([away]), log_loss)[0])

    return Transfer(
        math.sqrt(float(off @ off) / (len(z) - 2)),
        tuple(zip(law.widths, costs, strict=True)),
        float(np.polyfit(z, np.log2(costs), 1)[0]),
        tuple((times * widest, carried(times * widest)) for times in _BEYOND),
    )


def _cost(curve: Curve, off: Floats, log_loss: bool) -> Floats:
    """What learning rates so many octaves off the optimum cost."""
    height = curve.height(curve.x + off)
    found: Floats = math.exp(curve.level) * np.expm1(np.minimum(height, 50.0)) if log_loss else height
    return found

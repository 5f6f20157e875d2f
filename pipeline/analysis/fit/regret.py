"""What a learning rate costs: regret, the loss at it minus the least loss at that width, and the learning rate of least
expected regret (design, section 4, Price).

A run above its edge diverges, and costs at least the loss of the untrained model: here the worst loss of the family's
runs at or below their width's best learning rate. Below the edge, it costs the height of the valley of the nearest
width that was trained, moved to where the optimum is expected, above its lowest point below the edge. Deterministic
quadrature over optimum and edge together.

Axes: I candidates, S scenarios.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from pipeline.analysis.fit.law import Pair
from pipeline.analysis.fit.likelihood import Curve
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.valley_shape import shape
from pipeline.analysis.study.runs import Floats

_CANDIDATES = 161
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_NODE_WEIGHTS = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()
# The curvature of another width's valley, over the true one, and how likely.
_FACTORS, _FACTOR_WEIGHTS = np.array([0.6, 1.0, 1.6]), np.array([0.25, 0.5, 0.25])
_COMPONENTS = 300


@dataclass(frozen=True)
class Price:
    """A learning rate and what it costs over the best one, in units of the loss."""

    lr: float
    expected: float
    """Regret, divergence included."""
    at_most: float
    """The quantile of the regret at the asked level; inf: a run diverges with more than the rest."""
    diverges: float
    """Probability that a run diverges; nan: the edge is not known."""


def cheapest(known: Mixture | Pair, curve: Curve, log_loss: bool, worst: float, level: float) -> Price:
    """The learning rate of least expected regret, given the optimum alone or with the edge of one run. `worst` is what
    a diverged run ends with, `curve` the valley in losses, or in their logarithms."""
    at = _scenarios(known)
    valley = _Valley(curve, log_loss, worst)
    x_I = _candidates(at)
    # where the bottom lies beyond the edge, nobody reaches it
    reached_S = valley.loss(np.minimum(at.optimum_S, at.edge_S), at)
    regret_IS = np.maximum(valley.loss(x_I[:, None], at) - reached_S, 0.0)
    diverges_IS = ndtr((x_I[:, None] - at.edge_S) / at.edge_sd_S)
    expected_I = ((1 - diverges_IS) * regret_IS + diverges_IS * valley.divergence) @ at.weight_S
    chosen = int(np.argmin(expected_I))
    diverges = float(diverges_IS[chosen] @ at.weight_S) if isinstance(known, Pair) else math.nan
    at_most = _quantile(regret_IS[chosen], at.weight_S * (1 - diverges_IS[chosen]), level)
    return Price(2.0 ** float(x_I[chosen]), float(expected_I[chosen]), at_most, diverges)


def _candidates(at: "_Scenarios") -> Floats:
    """log2 lr, (I,): where the optimum may be, and further below, since edges push there."""
    order = np.argsort(at.optimum_S)
    low, high = np.interp([0.02, 0.98], np.cumsum(at.weight_S[order]), at.optimum_S[order])
    found: Floats = np.linspace(low - 1.5, high + 0.5, _CANDIDATES)
    return found


def _quantile(values: Floats, weight: Floats, level: float) -> float:
    """Of values whose weights may sum to less than 1; what is missing lies at infinity."""
    order = np.argsort(values)
    reached = np.flatnonzero(np.cumsum(weight[order]) >= level)
    return float(values[order][reached[0]]) if len(reached) else math.inf


@dataclass(frozen=True)
class _Scenarios:
    """S things that may be true: the place of the optimum, the edge given it (normal), the curvature's factor."""

    optimum_S: Floats
    edge_S: Floats
    edge_sd_S: Floats
    factor_S: Floats
    weight_S: Floats


@dataclass(frozen=True)
class _Valley:
    """Losses above the bottom of a valley, wherever a scenario puts it."""

    curve: Curve
    log_loss: bool
    worst: float

    @property
    def bottom(self) -> float:
        return math.exp(self.curve.level) if self.log_loss else self.curve.level

    @property
    def divergence(self) -> float:
        return max(self.worst - self.bottom, 0.0)

    def loss(self, x: Floats, at: _Scenarios) -> Floats:
        """At x, (S,) or (I, 1); beyond the worst loss seen, the formula says nothing."""
        u = x - at.optimum_S
        height = shape(u.ravel(), self.curve.asymmetry, self.curve.sharpness).reshape(u.shape)
        height = at.factor_S * self.curve.curvature * height
        above = self.bottom * np.expm1(np.minimum(height, 50.0)) if self.log_loss else height
        found: Floats = np.minimum(above, self.divergence)
        return found


def _scenarios(known: Mixture | Pair) -> _Scenarios:
    if isinstance(known, Pair):
        pair = known
    else:  # an edge that nobody has seen
        pair = Pair.independent(known, Mixture(np.array([math.inf]), np.zeros(1), np.ones(1)))
    kept = np.argsort(-pair.weight_H, kind="stable")[:_COMPONENTS]
    weight, mean, covariance = pair.weight_H[kept], pair.mean_H2[kept], pair.covariance_H22[kept]
    sd = np.sqrt(covariance[:, 0, 0])
    along = covariance[:, 0, 1] / np.maximum(sd, 1e-9)
    edge_sd = np.sqrt(np.maximum(covariance[:, 1, 1] - along**2, 1e-6))

    def spread(values: Floats) -> Floats:
        """(kept, nodes) for every factor."""
        found: Floats = np.repeat(values.ravel(), len(_FACTORS))
        return found

    optimum = mean[:, :1] + sd[:, None] * _NODES
    return _Scenarios(
        spread(optimum),
        spread(mean[:, 1:] + along[:, None] * _NODES),
        spread(edge_sd[:, None] + 0 * optimum),
        np.tile(_FACTORS, optimum.size),
        np.outer(weight[:, None] * _NODE_WEIGHTS, _FACTOR_WEIGHTS).ravel() / weight.sum(),
    )

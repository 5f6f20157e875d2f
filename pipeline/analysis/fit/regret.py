"""What a learning rate costs: regret, the loss at it minus the least loss at that width, and the learning rate of least
expected regret (design, section 4, Price).

A run above its edge diverges, and costs at least the loss of the untrained model: here the worst finite loss of the
family. Below, it costs the height of the valley of the nearest width that was trained, moved to where the optimum is
expected. Deterministic quadrature over optimum and edge together.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from pipeline.analysis.fit.law import Pair
from pipeline.analysis.fit.neighbourhood import Curve
from pipeline.analysis.fit.posterior import Mixture
from pipeline.analysis.fit.valley_shape import shape
from pipeline.analysis.study.runs import Floats

_CANDIDATES = 161
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_NODE_WEIGHTS = _NODE_WEIGHTS / _NODE_WEIGHTS.sum()
# The curvature of another width's valley, over the true one, and how likely.
_FACTORS, _FACTOR_WEIGHTS = np.array([0.6, 1.0, 1.6]), np.array([0.25, 0.5, 0.25])
_COMPONENTS = 80


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
    optimum_S, edge_mean_S, edge_sd_S, factor_S, weight_S = _scenarios(known)
    order = np.argsort(optimum_S)
    mass = np.cumsum(weight_S[order])
    low, high = np.interp([0.02, 0.98], mass, optimum_S[order])
    x_I = np.linspace(low - 1.5, high + 0.5, _CANDIDATES)
    u = (x_I[:, None] - optimum_S[None, :]).ravel()
    height = factor_S * curve.curvature * shape(u, curve.asymmetry, curve.sharpness)[0].reshape(len(x_I), -1)
    best = math.exp(curve.level) if log_loss else curve.level
    cost = max(worst - best, 0.0)
    # beyond the worst loss seen, the valley's formula says nothing
    regret_IS = np.minimum(best * np.expm1(np.minimum(height, 50.0)) if log_loss else height, cost)
    diverges_IS = np.zeros_like(regret_IS) if edge_sd_S is None else ndtr((x_I[:, None] - edge_mean_S) / edge_sd_S)
    expected_I = ((1 - diverges_IS) * regret_IS + diverges_IS * cost) @ weight_S
    chosen = int(np.argmin(expected_I))
    diverges = math.nan if edge_sd_S is None else float(diverges_IS[chosen] @ weight_S)
    at_most = _quantile(regret_IS[chosen], weight_S * (1 - diverges_IS[chosen]), level)
    return Price(2.0 ** float(x_I[chosen]), float(expected_I[chosen]), at_most, diverges)


def _quantile(values: Floats, weight: Floats, level: float) -> float:
    """Of values whose weights may sum to less than 1; what is missing lies at infinity."""
    order = np.argsort(values)
    reached = np.flatnonzero(np.cumsum(weight[order]) >= level)
    return float(values[order][reached[0]]) if len(reached) else math.inf


def _scenarios(known: Mixture | Pair) -> tuple[Floats, Floats | None, Floats | None, Floats, Floats]:
    """Places of the optimum; mean and standard deviation of the edge given each (None: unknown); factors of the
    curvature; weights."""
    pair = known if isinstance(known, Pair) else None
    weight, mean, sd = (
        (pair.weight_H, pair.mean_H2[:, 0], np.sqrt(pair.covariance_H22[:, 0, 0]))
        if pair is not None
        else (known.weight, known.location, known.sd)  # type: ignore[union-attr]
    )
    kept = np.argsort(-weight, kind="stable")[:_COMPONENTS]
    weight, mean, sd = weight[kept] / weight[kept].sum(), mean[kept], sd[kept]
    optimum = mean[:, None] + sd[:, None] * _NODES
    edge_mean = edge_sd = None
    if pair is not None:
        both, edge = pair.covariance_H22[kept, 0, 1], pair.covariance_H22[kept, 1, 1]
        along = both / np.maximum(sd, 1e-9)
        edge_mean = pair.mean_H2[kept, 1][:, None] + along[:, None] * _NODES
        edge_sd = np.sqrt(np.maximum(edge - along**2, 1e-6))[:, None] + 0 * optimum
    repeat = len(_FACTORS)

    def spread(values: Floats | None) -> Floats | None:
        return None if values is None else np.repeat(values.ravel(), repeat)

    weights = np.outer((weight[:, None] * _NODE_WEIGHTS).ravel(), _FACTOR_WEIGHTS).ravel()
    factors = np.tile(_FACTORS, optimum.size)
    places = spread(optimum)
    assert places is not None
    return places, spread(edge_mean), spread(edge_sd), factors, weights

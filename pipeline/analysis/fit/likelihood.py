"""How well an optimum at any place explains a neighbourhood's runs.

y = a + c G(V(x - x_n; k); p) + error (`valley_shape`), where the error is more than noise: seeds differ in level and in
the place of their optimum, and no formula is the valley's own, the less so the higher above the bottom one looks.
Level a and curvature c are integrated out; what is left is a table of log likelihoods over the place x_n and the
hypotheses of `Hypotheses`. numpy only.

Axes: R runs, X places, K asymmetries k, P sharpnesses p, N noises, M misfits, S shifts of seeds; H = N x M x S.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipeline.analysis.fit.neighbourhood import Neighbourhood, Scale
from pipeline.analysis.fit.posterior import normalized
from pipeline.analysis.fit.valley_shape import ANGLE, shape
from pipeline.analysis.study.runs import Floats

# Two runs this far apart, in octaves, share their misfit to e^-1/2; a quarter of it no other run shares.
_MISFIT_REACH, _OWN_MISFIT = 0.7, 0.25

_QUIETEST = 0.01  # noise within seeds, over the pilot's, below which numbers are rounding

_LOG_C_SD = 1.0  # of log c around the study's own
_REACH = 2.0  # octaves beyond the learning rates tried where an optimum is looked for
_PLACES = 41


@dataclass(frozen=True)
class Hypotheses:
    """What a table is made over."""

    noise_N: Floats
    """Of one run, over the pilot's."""
    misfit_M: Floats
    """Of the formula, relative to the height above the bottom."""
    shift_S: Floats
    """Octaves by which seeds' optima differ, a standard deviation."""
    asymmetry_K: Floats
    """k; positive: steeper above the optimum."""
    sharpness_P: Floats
    """p: walls at an angle (`ANGLE`), straight ones (1/2), exponential ones (1), a flat bottom (2)."""
    level: float = 1.0
    """Variance of a seed's level, which all its runs share, over that of a run's noise."""


ALL = Hypotheses(
    np.array([0.25, 0.5, 1.0, 2.0, 4.0]),
    np.array([0.1, 0.3, 0.8]),
    np.array([0.03, 0.12, 0.35]),
    np.arange(-0.8, 1.61, 0.3),
    np.array([ANGLE, 0.4, 0.7, 1.0, 1.5]),
)
_FEW = Hypotheses(
    np.array([0.5, 2.0]), np.array([0.3]), np.array([0.1]), np.array([-0.2, 0.4, 1.0]), np.array([0.7, 1.2])
)


_SEEN = Hypotheses(ALL.noise_N, np.array([0.1, 0.4]), np.array([0.1]), np.array([-0.2, 0.4, 1.0]), np.array([0.7, 1.2]))


@dataclass(frozen=True)
class _Whitened:
    """y, the constant and everything else in units of its error: one inverse Cholesky factor for each (N, M, S)."""

    factor_HRR: Floats
    y_HR: Floats
    one_HR: Floats
    """Of unit length."""
    log_norm_H: Floats

    @property
    def log_density_H(self) -> Floats:
        """Of y, without a valley."""
        found: Floats = self.log_norm_H - 0.5 * np.sum(self.y_HR**2, axis=1)
        return found

    @staticmethod
    def of(one: Neighbourhood, scale: Scale, over: Hypotheses) -> "_Whitened":
        n, m, s = np.meshgrid(over.noise_N, over.misfit_M, over.shift_S, indexing="ij")
        noise, misfit, shift = ((v.ravel() ** 2)[:, None, None] for v in (n * scale.noise, m, s))
        same = one.seed_R[:, None] == one.seed_R[None, :]
        apart = (one.x_R[:, None] - one.x_R[None, :]) / _MISFIT_REACH
        shared = np.exp(-0.5 * apart**2) + _OWN_MISFIT**2 * np.eye(len(one.x_R))
        height, slope = one.height_R, one.slope_R
        covariance = noise * (np.diag(1 / one.count_R) + over.level * same)
        covariance = covariance + misfit * (shared * np.outer(height, height))
        covariance = covariance + shift * (same * np.outer(slope, slope))
        lower = np.linalg.cholesky(covariance)
        factor = np.linalg.inv(lower)
        constant = factor.sum(axis=2)
        length = np.sqrt(np.sum(constant**2, axis=1))
        unit = constant / length[:, None]
        y = factor @ one.y_R
        y = y - unit * np.sum(unit * y, axis=1, keepdims=True)
        log_norm = -np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1) - np.log(length)
        return _Whitened(factor, y, unit, log_norm)


def log_likelihood(one: Neighbourhood, scale: Scale, places_X: Floats, over: Hypotheses = ALL) -> Floats:
    """Of an optimum at each place, (N, M, S, K, P, X); a and c integrated out, c over its prior around the pilot's."""
    u = (one.x_R[None, :] - places_X[:, None]).ravel()
    curves = [shape(u, k, p).reshape(len(places_X), -1) for k in over.asymmetry_K for p in over.sharpness_P]
    curve_RC = np.concatenate(curves).T
    white = _Whitened.of(one, scale, over)
    curve = white.factor_HRR @ curve_RC
    curve -= white.one_HR[:, :, None] * np.einsum("hr,hrc->hc", white.one_HR, curve)[:, None, :]
    square = np.einsum("hrc,hrc->hc", curve, curve)
    along = np.einsum("hr,hrc->hc", white.y_HR, curve)
    step = np.linspace(-2.5, 2.5, 11)
    c = scale.curvature * np.exp(_LOG_C_SD * step)[:, None, None]
    log_prior = np.log(normalized(-0.5 * step**2))[:, None, None]
    log = c * (along - 0.5 * c * square) + log_prior
    top = log.max(axis=0)
    total: Floats = top + np.log(np.exp(log - top).sum(axis=0)) + white.log_density_H[:, None]
    axes = (over.noise_N, over.misfit_M, over.shift_S, over.asymmetry_K, over.sharpness_P, places_X)
    return total.reshape([len(axis) for axis in axes])


def evidence_of_valley(one: Neighbourhood, scale: Scale) -> float:
    """How many times (log) better a valley explains the losses than no dependence on the learning rate, an eighth of
    the runs, the highest, left out: a few that have half recovered are no valley. Those have too large a learning rate:
    losses that fall all the way to the best stay."""
    noises = [(scale, _SEEN), *_within_seeds(one, scale)]
    falls = one.falls_R
    order = np.argsort(np.where(falls, -math.inf, one.y_R), kind="stable")
    kept = np.ones(len(order), dtype=np.bool_)
    kept[order[len(order) - math.ceil(len(order) / 8) :]] = False
    kept |= falls
    one = one.where(kept)
    flat = [
        _Whitened.of(one, noise, replace(over, misfit_M=np.zeros(1), shift_S=np.zeros(1))).log_density_H
        for noise, over in noises
    ]
    reach = np.linspace(one.low - _REACH, one.high + _REACH, 33)
    valley = [log_likelihood(one, noise, reach, over) for noise, over in noises]
    return _log_mean(np.array(valley)) - _log_mean(np.array(flat))


def _within_seeds(one: Neighbourhood, scale: Scale) -> Iterator[tuple[Scale, Hypotheses]]:
    """Noise as it is within seeds, and how much more their levels differ: runs of a seed share initialization and data,
    so that what lies between seeds hides no valley within them. Nothing where the runs do not tell the two apart."""
    columns = [np.unique(np.round(one.x_R, 6), return_inverse=True)[1], np.unique(one.seed_R, return_inverse=True)[1]]
    of_x, of_seed = (np.eye(column.max() + 1)[column] for column in columns)
    design = np.hstack([of_x, of_seed[:, 1:]])
    effect, _, rank, _ = np.linalg.lstsq(design, one.y_R, rcond=None)
    left = len(one.y_R) - int(rank)
    if of_seed.shape[1] < 2 or left < 2:
        return
    noise = max(math.sqrt(float(np.sum((one.y_R - design @ effect) ** 2)) / left), _QUIETEST * scale.noise)
    levels = np.r_[0.0, effect[of_x.shape[1] :]]
    if noise < scale.noise:
        yield replace(scale, noise=noise), replace(_SEEN, level=max(1.0, float(np.var(levels, ddof=1)) / noise**2))


def _log_mean(log: Floats) -> float:
    return float(log.max() + np.log(np.mean(np.exp(log - log.max()))))


def places(one: Neighbourhood, scale: Scale) -> Floats:
    """Where an optimum may be, from a first and coarse look."""
    low, high = one.low - _REACH, one.high + _REACH
    coarse = np.arange(max(one.best - 2.5, low), min(one.best + 2.5, high) + 1e-9, 0.125)
    weight = normalized(log_likelihood(one, scale, coarse, _FEW).reshape(-1, len(coarse))).sum(axis=0)
    mean = float(weight @ coarse)
    half = min(max(5 * math.sqrt(float(weight @ (coarse - mean) ** 2) + 0.03**2), 0.4), 3.0)
    start = max(mean - half, low)
    found: Floats = np.linspace(start, max(min(mean + half, high), start + 0.3), _PLACES)
    return found


@dataclass(frozen=True)
class Curve:
    """One valley: y = level + curvature * G(V(x - x_n; k); p)."""

    x: float
    level: float
    curvature: float
    asymmetry: float
    sharpness: float

    def height(self, x: Floats) -> Floats:
        """Above the bottom."""
        found: Floats = self.curvature * shape(x - self.x, self.asymmetry, self.sharpness)
        return found


def curve_at(one: Neighbourhood, scale: Scale, x: float, cell: tuple[int, ...], over: Hypotheses = ALL) -> Curve:
    """The best curve whose optimum lies at x, under the hypotheses (N, M, S, K, P) of a cell."""
    n, m, s, k, p = cell
    single = Hypotheses(over.noise_N[[n]], over.misfit_M[[m]], over.shift_S[[s]], over.asymmetry_K[[k]],
                        over.sharpness_P[[p]], over.level)  # fmt: skip
    factor = _Whitened.of(one, scale, single).factor_HRR[0]
    height = shape(one.x_R - x, float(single.asymmetry_K[0]), float(single.sharpness_P[0]))
    design = factor @ np.stack([np.ones_like(height), height], axis=1)
    level, curvature = np.linalg.lstsq(design, factor @ one.y_R, rcond=None)[0]
    if curvature <= 0:
        curvature = scale.curvature * math.exp(-2 * _LOG_C_SD)
    return Curve(x, float(level), float(curvature), float(single.asymmetry_K[0]), float(single.sharpness_P[0]))

"""The neighbourhood of a width's optimum: the stable runs near its best learning rate, and how well an optimum at any
place explains them.

y = a + c G(V(x - x_n; k); p) + error (`valley_shape`), where the error is more than noise: seeds differ in level and in
the place of their optimum, and no formula is the valley's own, the less so the higher above the bottom one looks.
Level a and curvature c are integrated out; what is left is a table of log likelihoods over the place x_n and the
hypotheses of `Hypotheses`. numpy only.

Axes: R runs, X places, K asymmetries k, P sharpnesses p, N noises, M misfits, S shifts of seeds.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from pipeline.analysis.fit.posterior import normalized
from pipeline.analysis.fit.valley_shape import shape
from pipeline.analysis.study.runs import Bools, Floats, Ints, Runs
from pipeline.analysis.study.stability import Intervals, Labels

# Octaves below and above a width's best learning rate whose runs enter.
WINDOW = (-4.0, 3.0)
LEAST_LRS = 3

# Beyond so many runs at a width they are averaged within bins of so many octaves.
_MOST_RUNS, _BIN = 160, 1 / 16

# A valley has no peak: a run so many noises above both neighbours, where other seeds are not, is a stray.
_STRAY = 8.0

# Two runs this far apart, in octaves, share their misfit to e^-1/2; a quarter of it no other run shares.
_MISFIT_REACH, _OWN_MISFIT = 0.7, 0.25

_LOG_C_SD = 1.0  # of log c around the study's own
_REACH = 2.0  # octaves beyond the learning rates tried where an optimum is looked for
_PLACES = 41
_LEAST_NOISE = 1e-7


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
    """p: straight walls (1/2), exponential ones (1), a flat bottom (2)."""


ALL = Hypotheses(
    np.array([0.25, 0.5, 1.0, 2.0, 4.0]),
    np.array([0.1, 0.3, 0.8]),
    np.array([0.03, 0.12, 0.35]),
    np.arange(-0.8, 1.61, 0.3),
    np.array([0.4, 0.7, 1.0, 1.5]),
)
_FEW = Hypotheses(
    np.array([0.5, 2.0]), np.array([0.3]), np.array([0.1]), np.array([-0.2, 0.4, 1.0]), np.array([0.7, 1.2])
)


_SEEN = Hypotheses(ALL.noise_N, np.array([0.1, 0.4]), np.array([0.1]), np.array([-0.2, 0.4, 1.0]), np.array([0.7, 1.2]))


@dataclass(frozen=True)
class Scale:
    """What a study's valleys are like at first sight: the pilot of noise and curvature, both of y."""

    noise: float
    curvature: float


@dataclass(frozen=True)
class Neighbourhood:
    """One width. y is the loss or its logarithm."""

    width: float
    x_R: Floats
    y_R: Floats
    seed_R: Ints
    count_R: Floats
    """Runs that were averaged into one."""
    best: float
    low: float
    high: float
    """The smallest and the largest learning rate tried that came through, octaves."""
    edges: Intervals
    """Of this width."""

    @property
    def _mean(self) -> tuple[Floats, Ints, Floats]:
        """Distinct x, the place of every run among them, and the mean y there."""
        x, place = np.unique(self.x_R, return_inverse=True)
        return x, place, np.bincount(place, weights=self.y_R) / np.bincount(place)

    @property
    def height_R(self) -> Floats:
        """Mean y at a run's learning rate above the least such mean."""
        _, place, mean = self._mean
        found: Floats = (mean - mean.min())[place]
        return found

    @property
    def slope_R(self) -> Floats:
        """Of the mean y over x."""
        x, place, mean = self._mean
        found: Floats = np.gradient(mean, x)[place]
        return found

    def below_edge(self, places_X: Floats) -> Floats:
        """Probability that a run at a place is stable: an optimum lies below the edge."""
        stable = np.zeros(len(places_X))
        for low, high in zip(self.edges.low, self.edges.high, strict=True):
            if math.isinf(high):
                stable += 1
            elif math.isinf(low):
                stable += places_X < high
            else:
                stable += np.clip((high - places_X) / (high - low), 0, 1)
        found: Floats = np.maximum(stable / max(len(self.edges.low), 1), 1e-6)
        return found


def neighbourhoods(
    runs: Runs, labels: Labels, failed: Bools, seen: Intervals, y_R: Floats
) -> tuple[list[Neighbourhood], Scale]:
    """Of every width that has three learning rates near its best; y is what stands for the losses. Runs that `failed`
    by the published criterion are too far above the bottom to tell of it."""
    first = {(n, seed): high for n, seed, high in zip(seen.width.tolist(), seen.seed.tolist(), seen.high, strict=True)}
    keys = zip(runs.width.tolist(), runs.seed.tolist(), strict=True)
    # what came through above its seed's first unstable learning rate is luck, and no part of the valley
    stable = ~labels.unstable & ~failed & np.isfinite(runs.loss) & (runs.x < np.array([first[key] for key in keys]))
    kept = []
    for width, best in zip(runs.widths, labels.best_x.tolist(), strict=True):
        here = runs.width == width
        near = here & stable & (runs.x >= best + WINDOW[0] - 1e-9) & (runs.x <= best + WINDOW[1] + 1e-9)
        if len(np.unique(runs.x[near])) < LEAST_LRS:
            continue
        tried = runs.x[here & np.isfinite(runs.loss)]
        order = np.flatnonzero(near)[np.lexsort((runs.seed[near], runs.x[near]))]
        one = Neighbourhood(
            width, runs.x[order], y_R[order], runs.seed[order], np.ones(len(order)), best, float(tried.min()),
            float(tried.max()), seen.of(width)
        )  # fmt: skip
        kept.append(one)
    scale = _pilot(kept)
    return [_averaged(_without_strays(one, scale.noise)) for one in kept], scale


def _pilot(kept: list[Neighbourhood]) -> Scale:
    """Noise from seeds that share a learning rate, where there are any, else from parabolas through the five learning
    rates next to the best; curvature from these."""
    noise, curvature = [], []
    for one in kept:
        x, place, mean = one._mean
        count = np.bincount(place)
        repeated = count[place] > 1
        near = np.sort(np.argsort(np.abs(x - one.best), kind="stable")[:5])
        parabola = np.polyfit(x[near] - one.best, mean[near], 2)
        if parabola[0] > 0:
            curvature.append(2 * float(parabola[0]))
        if repeated.sum() >= 4:
            off = (one.y_R - mean[place])[repeated] * np.sqrt(count / np.maximum(count - 1, 1))[place][repeated]
            noise.append(1.4826 * float(np.median(np.abs(off))))
        elif len(near) > 3:
            off = mean[near] - np.polyval(parabola, x[near] - one.best)
            noise.append(math.sqrt(float(off @ off) / (len(near) - 3)) / 2)
    return Scale(max(float(np.median(noise or [0.01])), _LEAST_NOISE), float(np.median(curvature or [0.05])))


def _without_strays(one: Neighbourhood, noise: float) -> Neighbourhood:
    x, place, _ = one._mean
    middle = np.array([np.median(one.y_R[place == i]) if np.sum(place == i) > 2 else np.min(one.y_R[place == i])
                       for i in range(len(x))])  # fmt: skip
    cap = np.maximum(np.r_[math.inf, middle[:-1]], np.r_[middle[1:], math.inf])
    kept = one.y_R <= cap[place] + _STRAY * noise
    return _where(one, kept) if len(np.unique(one.x_R[kept])) >= LEAST_LRS else one


def _where(one: Neighbourhood, kept: Bools) -> Neighbourhood:
    return replace(one, x_R=one.x_R[kept], y_R=one.y_R[kept], seed_R=one.seed_R[kept], count_R=one.count_R[kept])


def _averaged(one: Neighbourhood) -> Neighbourhood:
    if len(one.x_R) <= _MOST_RUNS:
        return one
    _, place = np.unique(np.round(one.x_R / _BIN), return_inverse=True)
    count = np.bincount(place).astype(np.float64)
    return replace(
        one,
        x_R=np.bincount(place, weights=one.x_R) / count,
        y_R=np.bincount(place, weights=one.y_R) / count,
        seed_R=np.zeros(len(count), dtype=np.int64),
        count_R=count,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Likelihoods


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
        covariance = noise * (np.diag(1 / one.count_R) + same)
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
    curves = [shape(u, k, p)[0].reshape(len(places_X), -1) for k in over.asymmetry_K for p in over.sharpness_P]
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
    the runs, the highest, left out: a few that have half recovered are no valley."""
    order = np.argsort(one.y_R, kind="stable")
    kept = np.ones(len(order), dtype=np.bool_)
    kept[order[len(order) - math.ceil(len(order) / 8) :]] = False
    one = _where(one, kept)
    flat = _log_mean(_Whitened.of(one, scale, replace(_SEEN, misfit_M=np.zeros(1), shift_S=np.zeros(1))).log_density_H)
    reach = np.linspace(one.low - _REACH, one.high + _REACH, 33)
    return _log_mean(log_likelihood(one, scale, reach, _SEEN)) - flat


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
        found: Floats = self.curvature * shape(x - self.x, self.asymmetry, self.sharpness)[0]
        return found


def curve_at(one: Neighbourhood, scale: Scale, x: float, cell: tuple[int, ...], over: Hypotheses = ALL) -> Curve:
    """The best curve whose optimum lies at x, under the hypotheses (N, M, S, K, P) of a cell."""
    n, m, s, k, p = cell
    single = Hypotheses(over.noise_N[[n]], over.misfit_M[[m]], over.shift_S[[s]], over.asymmetry_K[[k]],
                        over.sharpness_P[[p]])  # fmt: skip
    factor = _Whitened.of(one, scale, single).factor_HRR[0]
    height = shape(one.x_R - x, float(single.asymmetry_K[0]), float(single.sharpness_P[0]))[0]
    design = factor @ np.stack([np.ones_like(height), height], axis=1)
    level, curvature = np.linalg.lstsq(design, factor @ one.y_R, rcond=None)[0]
    if curvature <= 0:
        curvature = scale.curvature * math.exp(-2 * _LOG_C_SD)
    return Curve(x, float(level), float(curvature), float(single.asymmetry_K[0]), float(single.sharpness_P[0]))

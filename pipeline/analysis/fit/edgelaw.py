"""The power law of the stability edge, from the intervals that each seed's runs leave for it."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.special import ndtr

from pipeline.analysis.fit.posterior import Mixture, half_normal_grid, jitter_prior, normalized
from pipeline.analysis.study.edges import Intervals
from pipeline.analysis.study.runs import Floats, Ints

# Prior scale of a width's irregularity, octaves.
EDGE_JITTER = 0.08

# The edge: interval likelihoods on grids.
_OUTLIER, _OUTLIER_SPAN = 0.02, 8.0  # share of seeds that tell nothing of the edge, and the octaves they spread over
_SEED_SCALE = 0.3  # prior scale of the scatter over seeds, octaves
SEED_SCATTER = 0.24  # mean of that prior: what is assumed where the runs do not tell
# Widths whose seeds scatter far more, as they do where training is chaotic: their share, and octaves. Of 28 real widths
# (multi-index and digits, SGD) any share up to .4 explains the intervals within a nat of the best (.2).
_CHAOTIC, _CHAOS = 0.01, (1.0, 2.0)
_REACH, _STEP = 4.0, 0.05  # octaves to either side of the pilot line, at least, and the resolution there
_BEYOND = 2.0  # octaves that the local grid goes beyond the intervals, and the line's own
_N_TAU = 8
_N_JITTER = (6, 1)
_N_S = sum(_N_JITTER)
_BINS = 120


def _reach(seen: Intervals, pilot: Floats) -> float:
    """How far the local grids go, which hold all that the two-sided intervals leave open around the pilot line."""
    known = seen.two_sided
    farthest = float(np.maximum(np.abs(seen.low - pilot), np.abs(seen.high - pilot))[known].max())
    return max(_REACH, _STEP * math.ceil((farthest + _BEYOND) / _STEP))


@lru_cache(maxsize=8)
def _local(reach: float) -> Floats:
    found: Floats = np.arange(-reach, reach + _STEP / 2, _STEP)
    return found


@lru_cache(maxsize=4)
def _kernels(scale: float, reach: float) -> Floats:
    """(s, to, from): the weight of a width's edge at `from` octaves for a line at `to`, for each s."""
    m = _local(reach)
    s = jitter_prior(scale, *_N_JITTER)[0][:, None, None]
    kernel = np.exp(-0.5 * ((m[:, None] - m[None, :]) / np.maximum(s, _STEP / 3)) ** 2)
    found: Floats = kernel / kernel.sum(axis=2, keepdims=True)
    return found


@dataclass(frozen=True)
class EdgeLaw:
    """Posterior of the stability edge given per-seed intervals. The edge of a width is the median over its seeds.

    Likelihood prod [(1 - eps)(Phi((U - m)/tau) - Phi((L - m)/tau)) + eps min(1, (U - L)/8)] with m = mu + alpha z +
    xi_n, tau the scatter over seeds, which all widths share but for a few that are chaotic; mu and alpha flat. Needs
    two-sided intervals at two widths.
    """

    widths: tuple[float, ...]
    pilot: Floats
    """Per width, the line around which the grids lie."""
    by_width: Floats
    """(tau, width, local grid): likelihood of a width's edge."""
    on_line: Floats
    """(s, tau, width, local grid): the same of the line there, the width's irregularity integrated over."""
    d_mu: Floats
    d_alpha: Floats
    weight: Floats
    """(s, tau, mu, alpha), sums to 1."""
    scale: float
    reach: float

    @cached_property
    def _z(self) -> Floats:
        return np.log2(np.array(self.widths, dtype=np.float64))

    @property
    def _slope(self) -> float:
        return float((self.pilot[-1] - self.pilot[0]) / (self._z[-1] - self._z[0]))

    @property
    def exponent(self) -> Mixture:
        weight = self.weight.sum(axis=(0, 1, 2))
        step = (self.d_alpha[1] - self.d_alpha[0]) / math.sqrt(12)
        return Mixture(self._slope + self.d_alpha, np.full(len(weight), step), weight)

    @property
    def observed(self) -> tuple[Floats, Floats]:
        m = _local(self.reach)
        mass = np.einsum("t,twm->wm", self.weight.sum(axis=(0, 2, 3)), self.by_width)
        mass /= mass.sum(axis=1, keepdims=True)
        mean: Floats = mass @ m
        return self.pilot + mean, np.diag(mass @ m**2 - mean**2)

    def at(self, width: float) -> Mixture:
        if width in self.widths:
            return self._at_fitted(self.widths.index(width))
        line = self.line(width)
        s = np.repeat(jitter_prior(self.scale, *_N_JITTER)[0], len(line.sd) // _N_S)
        return Mixture(line.location, np.hypot(line.sd, s), line.weight)

    def line(self, width: float) -> Mixture:
        """As a histogram per value of s, which keeps the mixture small."""
        z = math.log2(width) - self._z.mean()
        line = self.pilot.mean() + self._slope * z + self.d_mu[:, None] + self.d_alpha * z
        weight = self.weight.sum(axis=1)
        edges = np.linspace(float(line.min()), float(line.max()) + 1e-9, _BINS + 1)
        place = np.clip(np.searchsorted(edges, line.ravel(), side="right") - 1, 0, _BINS - 1)
        mass = np.concatenate([np.bincount(place, weights=w.ravel(), minlength=_BINS) for w in weight])
        centres = np.tile((edges[1:] + edges[:-1]) / 2, _N_S)
        return Mixture(centres, np.full(len(centres), (edges[1] - edges[0]) / math.sqrt(12)), mass)

    @property
    def jitter(self) -> float:
        return float(self.weight.sum(axis=(1, 2, 3)) @ jitter_prior(self.scale, *_N_JITTER)[0])

    def _at_fitted(self, place: int) -> Mixture:
        m = _local(self.reach)
        z = self._z[place] - self._z.mean()
        line = self.d_mu[:, None] + self.d_alpha * z
        at = np.clip(np.rint((line + self.reach) / _STEP).astype(int), 0, len(m) - 1).ravel()
        kernels = _kernels(self.scale, self.reach)
        mass: Floats = np.zeros(len(m))
        for i in range(_N_S):
            for j in range(self.weight.shape[1]):
                lines = np.bincount(at, weights=self.weight[i, j].ravel(), minlength=len(m)).astype(np.float64)
                mass += (lines / np.maximum(self.on_line[i, j, place], 1e-300)) @ kernels[i] * self.by_width[j, place]
        mass /= mass.sum()
        return Mixture(self.pilot[place] + m, np.full(len(m), _STEP / math.sqrt(12)), mass)

    @property
    def seed_scatter(self) -> float:
        """Posterior mean of tau, octaves."""
        return float(self.weight.sum(axis=(0, 2, 3)) @ half_normal_grid(_SEED_SCALE, _N_TAU))


def edge_law(seen: Intervals, scale: float = EDGE_JITTER) -> EdgeLaw | None:
    """None: fewer than two widths have a two-sided interval, so that no exponent can be told."""
    anchors = seen.estimable_widths
    if len(anchors) < 2:
        return None
    widths = tuple(np.unique(seen.width).tolist())
    z = np.log2(np.array(widths, dtype=np.float64))
    known = seen.where(seen.two_sided)
    slope, offset = np.polyfit(np.log2(known.width), (known.low + known.high) / 2, 1)
    pilot = offset + slope * z
    place = np.searchsorted(np.array(widths), seen.width)
    reach = _reach(seen, pilot[place])
    by_width = _interval_likelihood(seen, pilot[place], reach, place)
    kernels = _kernels(scale, reach)
    on_line = np.einsum("smn,twn->stwm", kernels, by_width, optimize=True)
    log_line = np.log(np.maximum(on_line, 1e-300))
    log_prior = np.log(jitter_prior(scale, *_N_JITTER)[1])[:, None, None, None]
    zc = z - z.mean()
    d_mu = np.linspace(_BEYOND - reach, reach - _BEYOND, 25)
    d_alpha = d_mu / np.max(np.abs(zc))
    weight = _line_weight(log_line[::3], log_prior[::3], zc, d_mu, d_alpha, reach)
    for count in (25, 41):
        marginals = weight.sum(axis=(0, 1))
        d_mu, d_alpha = _zoom(d_mu, marginals.sum(axis=1), count), _zoom(d_alpha, marginals.sum(axis=0), count)
        weight = _line_weight(log_line, log_prior, zc, d_mu, d_alpha, reach)
    return EdgeLaw(widths, pilot, by_width, on_line, d_mu, d_alpha, weight, scale, reach)


def edge_of_width(seen: Intervals) -> Mixture | None:
    """The edge of a single width from its own seeds alone; None: they bound it from one side at most."""
    if not seen.two_sided.any():
        return None
    known = seen.where(seen.two_sided)
    middle = (known.low + known.high).mean() / 2
    around = np.full(len(seen.low), middle)
    reach = _reach(seen, around)
    mass = _interval_likelihood(seen, around, reach, np.zeros(len(seen.low), dtype=np.int64)).sum(axis=(0, 1))
    return Mixture(middle + _local(reach), np.full(len(mass), _STEP / math.sqrt(12)), mass / mass.sum())


def _interval_likelihood(seen: Intervals, pilot: Floats, reach: float, place: Ints) -> Floats:
    """(tau, width, local grid) around the `pilot` of each interval, whose width is the `place`-th."""
    m = _local(reach)
    tau = np.r_[half_normal_grid(_SEED_SCALE, _N_TAU), _CHAOS][:, None, None]
    low, high = seen.low - pilot, seen.high - pilot
    inside = ndtr((high[:, None] - m) / tau) - ndtr((low[:, None] - m) / tau)
    anywhere = np.minimum(1.0, (high - low) / _OUTLIER_SPAN)
    log = np.log((1 - _OUTLIER) * inside + _OUTLIER * anywhere[:, None])
    starts = np.flatnonzero(np.r_[True, np.diff(place) != 0])
    found = np.add.reduceat(log, starts, axis=1)
    likelihood = np.exp(found - found.max(axis=(0, 2), keepdims=True))
    chaotic = likelihood[_N_TAU:].mean(axis=0)
    mixed: Floats = (1 - _CHAOTIC) * likelihood[:_N_TAU] + _CHAOTIC * chaotic
    return mixed


def _line_weight(
    log_line: Floats, log_prior: Floats, zc: Floats, d_mu: Floats, d_alpha: Floats, reach: float
) -> Floats:
    total = np.zeros((*log_line.shape[:2], len(d_mu), len(d_alpha)))
    for place, z in enumerate(zc):
        at = (d_mu[:, None] + d_alpha * z + reach) / _STEP
        at = np.clip(at, 0, log_line.shape[3] - 1.001)
        left = at.astype(int)
        right = at - left
        line = log_line[:, :, place]
        total += line[:, :, left] * (1 - right) + line[:, :, left + 1] * right
    return normalized(total + log_prior)


def _zoom(grid: Floats, marginal: Floats, count: int) -> Floats:
    """A grid over where the mass is, with a cell to spare."""
    held = np.flatnonzero(marginal > 1e-6 * marginal.max())
    step = grid[1] - grid[0]
    low = grid[held[0]] - step
    high = grid[held[-1]] + step
    found: Floats = np.linspace(low, high, count)
    return found

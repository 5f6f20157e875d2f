"""The Gaussian process of optimum and stability edge over log width, or over several axes (`law`), given its scales.

Axes: H hypotheses, R rows (what single widths say of optimum or edge), A axes (width; or width and tokens), L levels
(mu, and the gap's), Z, Q places asked.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.analysis.fit.posterior import normalized
from pipeline.analysis.study.runs import Floats

SLOPE_SD = 1.2  # of alpha: hardly anything is assumed of it

# Of the edge's exponent minus the optimum's: the likeliest of 29 real families that have edges, 11 of ours and 18 of
# two other sources (ours by themselves say at most .15, the others .3).
_GAP_SLOPE_SD = 0.25
_GAP_WANDER = 0.3  # of the edge beside the optimum, over the optimum's
EDGE_JITTER = 0.1  # octaves


def wandering(z: Floats, other: Floats) -> Floats:
    """Covariance of the integral of a two-sided Brownian motion of unit rate that starts at 0."""
    a, b = np.abs(z)[:, None], np.abs(other)[None, :]
    small, large = np.minimum(a, b), np.maximum(a, b)
    together = np.sign(z)[:, None] == np.sign(other)[None, :]
    found: Floats = np.where(together, small**2 / 2 * (large - small / 3), 0.0)
    return found


def covariance_of(z_RA: Floats, other_ZA: Floats, wander_A: Floats) -> tuple[Floats, Floats]:
    """Of the optimum's smooth law without its level, and of the gap's, (R, Z)."""
    line = z_RA @ other_ZA.T
    axes = zip(z_RA.T, other_ZA.T, wander_A.tolist(), strict=True)
    path: Floats = np.sum([wander**2 * wandering(z, other) for z, other, wander in axes], axis=0)
    return SLOPE_SD**2 * line + path, _GAP_SLOPE_SD**2 * line + _GAP_WANDER**2 * path


@dataclass(frozen=True)
class Given:
    """The law's posterior given each hypothesis: weights, and the inverse of the rows' covariance."""

    z_RA: Floats
    is_edge_R: Floats
    weight_H: Floats
    jitter_H: Floats
    wander_HA: Floats
    component_H: "np.ndarray[tuple[int], np.dtype[np.int64]]"
    value_HR: Floats
    variance_HR: Floats
    """Their own, irregularity left out."""
    inverse_HRR: Floats

    @cached_property
    def design_RL(self) -> Floats:
        """The levels: mu, and the gap's where there are edges."""
        columns = [np.ones(len(self.z_RA))]
        if self.is_edge_R.any():
            columns.append(self.is_edge_R)
        return np.stack(columns, axis=1)

    @cached_property
    def levels(self) -> tuple[Floats, Floats, Floats]:
        """Their estimates (H, L), covariance (H, L, L), and inverse @ (value - levels) (H, R)."""
        reach = self.inverse_HRR @ self.design_RL
        covariance = np.linalg.inv(np.einsum("rl,hrm->hlm", self.design_RL, reach))
        level = np.einsum("hlm,hrm,hr->hl", covariance, reach, self.value_HR)
        rest = np.einsum("hrs,hs->hr", self.inverse_HRR, self.value_HR - level @ self.design_RL.T)
        return level, covariance, rest

    def _predict(self, gain_HRQ: Floats, prior_HQQ: Floats, design_QL: Floats) -> tuple[Floats, Floats]:
        """Mean (H, Q) and covariance of Q linear functionals with covariance `gain` with the rows."""
        level, level_covariance, rest = self.levels
        mean = level @ design_QL.T + np.einsum("hrq,hr->hq", gain_HRQ, rest)
        solved = self.inverse_HRR @ gain_HRQ
        open_HQL = design_QL - np.einsum("hrq,rl->hql", solved, self.design_RL)
        covariance = prior_HQQ - np.einsum("hrq,hrp->hqp", gain_HRQ, solved)
        return mean, covariance + np.einsum("hql,hlm,hpm->hqp", open_HQL, level_covariance, open_HQL)

    def _by_wander(self, z_ZA: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Covariances of optimum and gap between rows and z, (H, R, Z), and among z, (H, Z, Z)."""
        values_VA, place = np.unique(self.wander_HA, axis=0, return_inverse=True)
        with_rows = [covariance_of(self.z_RA, z_ZA, values) for values in values_VA]
        among = [covariance_of(z_ZA, z_ZA, values) for values in values_VA]
        optimum, gap = (np.stack([pair[i] for pair in with_rows])[place] for i in (0, 1))
        optimum_z, gap_z = (np.stack([pair[i] for pair in among])[place] for i in (0, 1))
        return optimum, gap, optimum_z, gap_z

    def smooth(self, weight_Z: Floats, z_ZA: Floats, level: float) -> tuple[Floats, Floats]:
        """Mean and variance (H,) of sum weight * (law of the optimum at z), whose level counts `level` times."""
        with_rows, _, among, _ = self._by_wander(z_ZA)
        design = np.zeros((1, self.design_RL.shape[1]))
        design[0, 0] = level
        gain = (with_rows @ weight_Z)[:, :, None]
        mean, covariance = self._predict(
            gain, np.einsum("a,hab,b->h", weight_Z, among, weight_Z)[:, None, None], design
        )
        return mean[:, 0], covariance[:, 0, 0]

    def pair(self, z_A: Floats) -> tuple[Floats, Floats]:
        """Optimum and edge at z, irregularities included: mean (H, 2) and covariance (H, 2, 2)."""
        optimum, gap, optimum_z, gap_z = self._by_wander(z_A[None])
        gain = np.concatenate([optimum, optimum + gap * self.is_edge_R[None, :, None]], axis=2)
        same, apart = optimum_z[:, 0, 0], gap_z[:, 0, 0]
        prior = np.stack([np.stack([same, same], axis=1), np.stack([same, same + apart], axis=1)], axis=1)
        design = np.zeros((2, self.design_RL.shape[1]))
        design[:, 0] = 1.0
        if design.shape[1] > 1:
            design[1, 1] = 1.0
        mean, covariance = self._predict(gain, prior, design)
        covariance[:, 0, 0] += self.jitter_H**2
        covariance[:, 1, 1] += EDGE_JITTER**2
        return mean, covariance

    def others(self, place: int) -> tuple[Floats, Floats, Floats, "np.ndarray[tuple[int], np.dtype[np.int64]]"]:
        """What the other rows say of row `place`, its irregularity included: weights, mean and variance (H,); and
        each hypothesis' component of the optima."""
        reach = self.inverse_HRR @ self.design_RL
        q = self.inverse_HRR[:, place] - np.einsum("hl,hlm,hrm->hr", reach[:, place], self.levels[1], reach)
        off, precision = np.einsum("hr,hr->h", q, self.value_HR), np.maximum(q[:, place], 1e-12)
        mean = self.value_HR[:, place] - off / precision
        variance = np.maximum(1 / precision - self.variance_HR[:, place], 1e-6)
        own = -0.5 * off**2 / precision + 0.5 * np.log(precision)
        return normalized(np.log(np.maximum(self.weight_H, 1e-300)) - own), mean, variance, self.component_H


def forecast_variance(widths: Floats, variance: Floats, wander: float, width: float) -> float:
    """Of the law at `width` from estimates with such variances, irregularity included, at the given wandering."""
    log = np.log2(widths)[:, None]
    z, to, rate = log - log.mean(), np.array([[math.log2(width)]]) - log.mean(), np.array([wander])
    inverse = np.linalg.inv(covariance_of(z, z, rate)[0] + np.diag(variance))
    gain = covariance_of(z, to, rate)[0][:, 0]
    open_ = 1 - float(inverse.sum(axis=0) @ gain)
    own = float(covariance_of(to, to, rate)[0][0, 0])
    return own - float(gain @ inverse @ gain) + open_**2 / float(inverse.sum())

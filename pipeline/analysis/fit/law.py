"""Optimum and stability edge over widths: power laws whose exponent may wander, and single widths that lie off them.

x_n = mu + alpha z_n + W(z_n) + xi_n, z = log2 n around the middle of the widths, xi_n ~ N(0, jitter^2), and W the
integral of a Brownian motion: the exponent itself changes by `wander` per root octave of width. The edge goes along: it
is the same law plus a gap, whose slope and wandering are smaller. Both scales are unknown and integrated over; their
priors were learned from many real studies (`JITTER`, `WANDER`).

Axes: H hypotheses of the optima x jitter x wander, W widths of the optima, R rows: those, then the widths of the edge;
A axes (`surface` has two).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from pipeline.analysis.fit.optima import Optima
from pipeline.analysis.fit.posterior import Mixture, normalized
from pipeline.analysis.fit.process import EDGE_JITTER, Given, covariance_of
from pipeline.analysis.study.runs import Floats

# Values and prior weights, octaves, and octaves per octave^(3/2). Learned by an EM algorithm over this grid, stopped
# early and smoothed, from 118 families of curves: 24 of our own (benchmarks/real.py) and those of four other sources
# (Step Law's dense models, muP's MLPs and transformers, a chess model), each source and axis weighing like the root of
# its number. Families either follow one power law or wander by a third, and are hardly irregular; irregular ones weigh
# more here than they were met.
JITTER = ((0.02, 0.08, 0.16, 0.3, 0.5), (0.6, 0.25, 0.07, 0.06, 0.02))
WANDER = ((0.02, 0.1, 0.2, 0.35, 0.55), (0.28, 0.14, 0.16, 0.32, 0.1))
STRAIGHT = ((0.0,), (1.0,))
Prior = tuple[tuple[float, ...], tuple[float, ...]]
"""Values and their weights."""
Wander = tuple[float, ...] | None
"""`Axis.wander`."""
_LEAST = 1e-4  # weight, over the largest, that a component needs


class PowerLaw(Protocol):
    """What is known of a learning rate as a function of width."""

    @property
    def widths(self) -> tuple[float, ...]:
        """Those it was fitted to."""
        ...

    @property
    def exponent(self) -> Mixture: ...

    @property
    def jitter(self) -> float:
        """Posterior mean of the irregularity of single widths, octaves."""
        ...

    @property
    def observed(self) -> tuple[Floats, Floats]:
        """Mean and covariance of what each width says by itself, octaves."""
        ...

    def line(self, width: float) -> Mixture:
        """log2 of the learning rate on the law at `width`: what widths scatter around."""
        ...

    def at(self, width: float) -> Mixture:
        """log2 of the learning rate at `width`, its irregularity included; a fitted width's own data count."""
        ...


@dataclass(frozen=True)
class EdgePlaces:
    """What single widths say of their edge, octaves."""

    widths: tuple[float, ...]
    mean: Floats
    variance: Floats


@dataclass(frozen=True)
class Pair:
    """Optimum and edge of a width together: a mixture of H bivariate normal distributions, octaves."""

    weight_H: Floats
    mean_H2: Floats
    covariance_H22: Floats

    def of(self, which: int) -> Mixture:
        """0: the optimum, 1: the edge."""
        return _mixture(self.mean_H2[:, which], self.covariance_H22[:, which, which], self.weight_H)

    @staticmethod
    def independent(optimum: Mixture, edge: Mixture) -> "Pair":
        """Of a width where both were measured; of the edge mean and standard deviation."""
        n = len(optimum.weight)
        covariance = np.zeros((n, 2, 2))
        variance = edge.standard_deviation**2 if math.isfinite(edge.mean) else 0.0
        covariance[:, 0, 0], covariance[:, 1, 1] = optimum.sd**2, variance
        return Pair(optimum.weight, np.stack([optimum.location, np.full(n, edge.mean)], axis=1), covariance)

    def with_scatter(self, sd: float) -> "Pair":
        """The edge of a single run."""
        return replace(self, covariance_H22=self.covariance_H22 + np.diag([0.0, sd**2]))


@dataclass(frozen=True)
class OptimumLaw:
    """The posterior given what the widths say of their optima, and of their edges."""

    widths: tuple[float, ...]
    weight_C: Floats
    mean_CW: Floats
    variance_CW: Floats
    optima: Optima | None = None
    """Where `mean` and `variance` stand for tables; else they are all."""
    edge: EdgePlaces | None = None
    wander: Prior = WANDER

    @staticmethod
    def of(optima: Optima, edge: EdgePlaces | None = None, wander: Wander = None) -> "OptimumLaw":
        prior = wandering_by(wander)
        return OptimumLaw(optima.widths, optima.weight_C, optima.mean_CW, optima.variance_CW, optima, edge, prior)

    @staticmethod
    def of_places(widths: tuple[float, ...], x: Floats, variance: Floats) -> "OptimumLaw":
        """From independent normal estimates, on one power law."""
        return OptimumLaw(widths, np.ones(1), x[None, :], variance[None, :], wander=STRAIGHT)

    def straight(self, places: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> "OptimumLaw":
        """One power law through the optima of some widths."""
        widths = tuple(self.widths[i] for i in places)
        mean, variance = self.mean_CW[:, places], self.variance_CW[:, places]
        return OptimumLaw(widths, self.weight_C, mean, variance, wander=STRAIGHT)

    @property
    def observed(self) -> tuple[Floats, Floats]:
        mean = self.weight_C @ self.mean_CW
        off = self.mean_CW - mean
        return mean, np.diag(self.weight_C @ self.variance_CW) + np.einsum("c,ci,cj->ij", self.weight_C, off, off)

    @property
    def jitter(self) -> float:
        return float(self._given.weight_H @ self._given.jitter_H)

    @property
    def wandering(self) -> float:
        """Posterior mean of how far the exponent wanders per root octave of width."""
        return float(self._given.weight_H @ self._given.wander_HA[:, 0])

    @property
    def exponent(self) -> Mixture:
        """The average slope over the fitted widths: least squares of the law, irregularities left out."""
        assert len(self.widths) > 1
        return slope(self._given, self._z_WA, 0)

    def line(self, width: float) -> Mixture:
        assert len(self.widths) > 1
        mean, variance = self._given.smooth(np.ones(1), self._z(width)[None], level=1.0)
        return _mixture(mean, variance, self._given.weight_H)

    def at(self, width: float) -> Mixture:
        return self._own(self.widths.index(width)) if width in self.widths else self.pair(width).of(0)

    def pair(self, width: float) -> Pair:
        """At a width that was not fitted. Without an `edge` its second member says nothing."""
        return Pair(self._given.weight_H, *self._given.pair(self._z(width)))

    # -----------------------------------------------------------------------------------------------------------------

    @cached_property
    def _middle(self) -> float:
        return float(np.log2(np.array(self.widths, dtype=np.float64)).mean())

    def _z(self, width: float) -> Floats:
        return np.array([math.log2(width) - self._middle])

    @cached_property
    def _z_WA(self) -> Floats:
        return np.stack([self._z(width) for width in self.widths])

    @cached_property
    def _given(self) -> Given:
        edge = self.edge
        edge_z = np.stack([self._z(width) for width in edge.widths]) if edge is not None else np.zeros((0, 1))
        return solve(self.weight_C, self.mean_CW, self.variance_CW, self._z_WA, edge, edge_z, (self.wander,))

    def _own(self, place: int) -> Mixture:
        """What the width says itself, times what the other widths say of it."""
        if len(self.widths) == 1 and self.optima is not None:
            return _table(self.optima.places_WX[0], self.weight_C @ self.optima.likelihood_WCX[0])
        if len(self.widths) == 1:
            return _mixture(self.mean_CW[:, 0], self.variance_CW[:, 0], self.weight_C)
        if self.optima is not None:
            return own_place(self._given, self.optima, place)
        _, mean_H, variance_H, component_H = self._given.others(place)
        own_mean, own = self.mean_CW[component_H, place], self.variance_CW[component_H, place]
        variance = 1 / (1 / own + 1 / variance_H)
        return _mixture(variance * (own_mean / own + mean_H / variance_H), variance, self._given.weight_H)


def wandering_by(weights: Wander) -> Prior:
    """`WANDER` along an axis."""
    return (WANDER[0], weights) if weights else WANDER


def slope(given: Given, z_WA: Floats, axis: int) -> Mixture:
    """Of the law along an axis, by least squares over places whose mean is 0."""
    weight = np.linalg.pinv(z_WA)[axis]
    mean, variance = given.smooth(weight, z_WA, level=0.0)
    return _mixture(mean, variance, given.weight_H)


def own_place(given: Given, optima: Optima, place: int) -> Mixture:
    """What a width or cell says itself, times what the others say of it."""
    weight_H, mean_H, variance_H, component_H = given.others(place)
    x, table_CX = optima.places_WX[place], optima.likelihood_WCX[place]
    density = np.exp(-0.5 * (x - mean_H[:, None]) ** 2 / variance_H[:, None]) / np.sqrt(variance_H)[:, None]
    return _table(x, np.einsum("h,hx,hx->x", weight_H, density, table_CX[component_H]))


def _table(x: Floats, weight: Floats) -> Mixture:
    return Mixture(x, np.full(len(x), (x[1] - x[0]) / math.sqrt(12)), weight / weight.sum())


def _mixture(mean: Floats, variance: Floats, weight: Floats) -> Mixture:
    kept = weight > _LEAST * weight.max()
    return Mixture(mean[kept], np.sqrt(np.maximum(variance[kept], 1e-10)), weight[kept] / weight[kept].sum())


def solve(
    weight_C: Floats,
    mean_CW: Floats,
    variance_CW: Floats,
    z_WA: Floats,
    edge: EdgePlaces | None,
    edge_z: Floats,
    wander: Sequence[Prior],
) -> Given:
    """The posterior over all hypotheses: components of the optima, jitter, and how far each axis wanders, of which
    `wander` has priors."""
    z = np.concatenate([z_WA, edge_z if edge is not None else edge_z[:0]])
    is_edge = np.r_[np.zeros(len(z_WA)), np.ones(len(z) - len(z_WA))]
    jitters = np.array(JITTER[0])
    wanders_VA = np.array(list(itertools.product(*(values for values, _ in wander))))
    of_wander = np.array([math.prod(weights) for weights in itertools.product(*(weights for _, weights in wander))])
    prior = np.log(np.outer(JITTER[1], of_wander))  # (jitter, wander)
    shape = (len(weight_C), len(jitters), len(wanders_VA))
    component, at_jitter, at_wander = (index.ravel() for index in np.indices(shape))
    mean, variance = mean_CW, variance_CW
    if edge is not None:
        repeated = np.ones((len(weight_C), 1))
        mean = np.concatenate([mean, repeated * edge.mean], axis=1)
        variance = np.concatenate([variance, repeated * edge.variance], axis=1)
    smooth = []
    for values in wanders_VA:
        optimum, gap = covariance_of(z, z, values)
        smooth.append(optimum + gap * np.outer(is_edge, is_edge))
    irregular = np.where(is_edge > 0, EDGE_JITTER**2, (jitters**2)[:, None])
    diagonal = variance[component] + irregular[at_jitter]
    covariance = np.stack(smooth)[at_wander] + diagonal[:, :, None] * np.eye(len(z))
    inverse = np.linalg.inv(covariance)
    given = Given(
        z, is_edge, np.ones(len(component)), jitters[at_jitter], wanders_VA[at_wander], component, mean[component],
        variance[component], inverse
    )  # fmt: skip
    level, level_covariance, rest = given.levels
    misfit = np.einsum("hr,hr->h", given.value_HR - level @ given.design_RL.T, rest)
    log_det = np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(level_covariance)[1]
    log = np.log(weight_C)[component] + prior[at_jitter, at_wander] - 0.5 * (misfit + log_det)
    return replace(given, weight_H=normalized(log))

"""Posteriors of a power law lr = 2^mu n^alpha, with irregular widths, from estimated optima and from edge intervals.

x_n = mu + alpha z_n + xi_n, xi_n ~ N(0, s^2): single widths lie off the line by s, which is unknown and integrated over
(`posterior.jitter_prior`).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from pipeline.analysis.fit.posterior import Mixture, jitter_prior, normalized
from pipeline.analysis.fit.valley import Valley
from pipeline.analysis.study.runs import Floats

# Prior scale of a width's irregularity, octaves.
OPTIMUM_JITTER = 0.1


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
        """Posterior mean of s, the irregularity of single widths, octaves."""
        ...

    @property
    def observed(self) -> tuple[Floats, Floats]:
        """Mean and covariance of what each width says by itself, octaves."""
        ...

    def line(self, width: float) -> Mixture:
        """log2 of the learning rate on the power law at `width`: what widths scatter around."""
        ...

    def at(self, width: float) -> Mixture:
        """log2 of the learning rate at `width`, its irregularity included; a fitted width's own data count."""
        ...


@dataclass(frozen=True)
class OptimumLaw:
    """Posterior given estimates x ~ N(x_n, covariance), a mixture over s. One width: location only, the exponent is
    flat."""

    widths: tuple[float, ...]
    x: Floats
    covariance: Floats
    scale: float = OPTIMUM_JITTER
    tail: int = 8
    """Points of the prior's tail (`jitter_prior`); 0: no width lies far off the line."""

    @cached_property
    def _z(self) -> Floats:
        return np.log2(np.array(self.widths, dtype=np.float64))

    @cached_property
    def _given_s(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Per s: weight, mean (mu at z = mean, alpha), their covariance; and the values of s."""
        s, prior = jitter_prior(self.scale, 20, self.tail)
        z = self._z - self._z.mean()
        design = np.stack([np.ones_like(z), z], axis=1)
        v = self.covariance[None] + (s**2)[:, None, None] * np.eye(len(z))
        inverse = np.linalg.inv(v)
        precision = design.T @ inverse @ design
        covariance = np.linalg.inv(precision)
        mean = np.einsum("sij,sj->si", covariance, (design.T @ inverse) @ self.x)
        residual = self.x - mean @ design.T
        misfit = np.einsum("si,sij,sj->s", residual, inverse, residual)
        _, log_v = np.linalg.slogdet(v)
        _, log_p = np.linalg.slogdet(precision)
        return normalized(np.log(prior) - 0.5 * (log_v + log_p + misfit)), mean, covariance, s

    @property
    def exponent(self) -> Mixture:
        assert len(self.widths) > 1
        weight, mean, covariance, _ = self._given_s
        return Mixture(mean[:, 1], np.sqrt(covariance[:, 1, 1]), weight)

    @property
    def observed(self) -> tuple[Floats, Floats]:
        return self.x, self.covariance

    def at(self, width: float) -> Mixture:
        if width in self.widths:
            return self._at_fitted(self.widths.index(width))
        line = self.line(width)
        return Mixture(line.location, np.hypot(line.sd, self._given_s[3]), line.weight)

    def line(self, width: float) -> Mixture:
        assert len(self.widths) > 1
        weight, mean, covariance, _ = self._given_s
        z = np.array([1.0, math.log2(width) - self._z.mean()])
        return Mixture(mean @ z, np.sqrt(np.einsum("i,sij,j->s", z, covariance, z)), weight)

    @property
    def jitter(self) -> float:
        weight, _, _, s = self._given_s
        return float(weight @ s)

    def _at_fitted(self, place: int) -> Mixture:
        """The width's own estimate, drawn to the line as far as s allows."""
        if len(self.widths) == 1:
            return Mixture(self.x.copy(), np.sqrt(np.diag(self.covariance)), np.ones(1))
        weight, mean, covariance, s = self._given_s
        z = self._z - self._z.mean()
        design = np.stack([np.ones_like(z), z], axis=1)
        inverse = np.linalg.inv(self.covariance[None] + (s**2)[:, None, None] * np.eye(len(z)))
        residual = self.x - mean @ design.T
        own = self.covariance[place]
        location = self.x[place] - np.einsum("j,sjk,sk->s", own, inverse, residual)
        hat = inverse @ design
        p = inverse - hat @ covariance @ np.swapaxes(hat, 1, 2)
        variance = self.covariance[place, place] - np.einsum("j,sjk,k->s", own, p, own)
        return Mixture(location, np.sqrt(np.maximum(variance, 0)), weight)


def optimum_law(valley: Valley) -> OptimumLaw:
    return OptimumLaw(valley.widths, valley.x, valley.covariance)

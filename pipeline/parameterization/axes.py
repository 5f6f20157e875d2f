"""The tables of batch and horizon rules: factors on learning rate, decay, epsilon and betas along z and t.

z is the batch over the base batch, t the tokens over the base run's. Rules are powers of them. SGD's rate is linear in
z and Adam's like its root as long as gradients are noise, that is below the critical batch (Malladi et al. 2022).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from pipeline.parameterization.rules import Family


@dataclass(frozen=True)
class AxisRule:
    """Exponents of z or t."""

    lr: float
    """Of every learning rate."""
    decay: float = 0.0
    """Of the weight decay."""
    eps: float = 0.0
    """Of Adam's epsilon."""
    beta1: float = 0.0
    """Of 1 - beta1."""
    beta2: float = 0.0
    """Of 1 - beta2."""
    families: frozenset[Family] = frozenset(get_args(Family))
    """Of which it is known."""

    def mirrored(self) -> "AxisRule":
        """Of 1 / t."""
        signs = {name: -getattr(self, name) for name in ("lr", "decay", "eps", "beta1", "beta2")}
        return replace(self, **signs)


_COMPLETEDP = AxisRule(0.5, decay=0.5, eps=-0.5, beta1=1, beta2=1, families=frozenset({"adam"}))
"""Complete(d)P in r = z / t: the SDE that AdamW follows stays the same over its whole run."""

BATCH_RULES: Mapping[str, AxisRule] = {
    "sqrt": AxisRule(0.5, eps=-0.5, beta2=1),  # beta1 stays: the second moment alone averages over many batches
    "linear": AxisRule(1),
    "completedp": _COMPLETEDP,
}
"""By their `--batch_scaling` names, in z."""

STEPS_RULES: Mapping[str, AxisRule] = {
    "power": AxisRule(0),  # with the exponent that is asked for
    "completedp": _COMPLETEDP.mirrored(),
}
"""By their `--steps_scaling` names, in t."""


@dataclass(frozen=True)
class Axes:
    """Where a run stands along batch and horizon, and the factors of its rules."""

    lr: float = 1.0
    decay: float = 1.0
    eps: float = 1.0
    beta1: float = 1.0
    """Of 1 - beta1."""
    beta2: float = 1.0
    """Of 1 - beta2."""
    steps: float = 1.0
    """Optimizer steps over the base run's: t / z."""

    def betas(self, betas: tuple[float, float]) -> tuple[float, float]:
        """Of a run, from those of the base run."""
        one, other = (
            beta if factor == 1 else 1 - (1 - beta) * factor
            for beta, factor in zip(betas, (self.beta1, self.beta2), strict=True)
        )
        return one, other


def axes_of(c: Any) -> Axes:
    """The factors that the batch and horizon rules of a `RunConfig` ask for."""
    z = c.global_batch / (c.base_batch or c.global_batch)
    steps = c.steps / (c.base_steps or c.steps)
    at = []
    if c.batch_scaling != "none":
        at.append((z, BATCH_RULES[c.batch_scaling]))
    if c.steps_scaling != "none":
        rule = STEPS_RULES[c.steps_scaling]
        at.append((z * steps, replace(rule, lr=c.steps_exponent) if c.steps_scaling == "power" else rule))

    names = ("lr", "decay", "eps", "beta1", "beta2")
    return Axes(**{name: float(math.prod(x ** getattr(rule, name) for x, rule in at)) for name in names}, steps=steps)

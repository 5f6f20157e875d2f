"""The two-layer linear model (paper, C.4) as a study: the largest stable learning rate of every width and seed, and its
width exponent, measured and predicted; and what figures C.2 and C.3 show of SP.

Shapes: W widths, S seeds, L learning rates, T steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipeline.analysis.inside.slopes import fit_slopes
from pipeline.analysis.study.runs import Floats
from pipeline.parameterization import rules
from pipeline.theory.edges import edges
from pipeline.theory.linear import Update, after, largest_stable, starts, trajectory
from pipeline.theory.network import Setting


@dataclass(frozen=True)
class LinearEdge:
    """The stability edge of one parameterization over widths."""

    param: str
    update: Update
    widths: tuple[int, ...]
    lr_WS: Floats
    """Largest stable learning rates."""
    exponent: float
    """Least squares of log lr, averaged over seeds, on log width."""
    half_width: float
    """Of its 95 % interval, from seeds and from how closely a power law fits."""
    lr_at_1: float
    """Of the fitted line, at width 1."""
    lr_times_kernel: float
    """Median over the seeds of the widest width: 2 is the edge of stability of a quadratic loss, 4 of catapults."""
    predicted: Fraction | None
    """By `theory`, for a linear net of depth 2 under SGD and MSE."""

    @property
    def lr_W(self) -> Floats:
        """Geometric means over seeds."""
        means: Floats = np.exp(np.log(self.lr_WS).mean(1))
        return means


def linear_edge(param: str, widths: Sequence[int], n_seeds: int, steps: int, update: Update) -> LinearEdge:
    """Raises `ValueError` for a parameterization that is not in the table."""
    rule = rules.get(param)
    start = starts(rule, widths, range(n_seeds))
    lr_WS = largest_stable(start, steps, update)
    found = fit_slopes(np.array(widths), lr_WS[..., None])
    setting = Setting(rule, "sgd", "mse", "mlp", depth=2, activation="linear")
    return LinearEdge(
        param,
        update,
        tuple(widths),
        lr_WS,
        float(found.exponent[0]),
        float(found.half_width[0]),
        float(2 ** found.intercept[0]),
        float(np.median(lr_WS[-1] * start.kernel_WS[-1])),
        edges(setting).max_stable.exponent,
    )


UPDATES: tuple[Update, ...] = ("simultaneous", "published")


@dataclass(frozen=True)
class Curves:
    """f and lambda = K / n of SP along an axis (A): the learning rate, or the step."""

    widths: tuple[int, ...]
    x_AW: Floats
    f_AWS: Mapping[Update, Floats]
    """By the order of the update; what diverged is nan."""
    lambda_AWS: Mapping[Update, Floats]


def after_training(widths: Sequence[int], n_seeds: int, steps: int) -> Curves:
    """Against lr, from 1/8 to 5 times 1/n (Figure C.2)."""
    start, n = starts(rules.get("sp"), widths, range(n_seeds)), np.array(widths)
    lr_LW = np.exp2(np.arange(-3, np.log2(5), 1 / 32))[:, None] / n
    ends = {
        update: after(start.f_WS, start.kernel_WS, lr_LW[..., None], start.coupling_W[:, None], steps, update)
        for update in UPDATES
    }
    return _curves(widths, lr_LW, ends)


def course(widths: Sequence[int], seed: int, eta_0: float, steps: int) -> Curves:
    """Of one seed over the steps of training under lr = eta_0 / n (Figure C.3)."""
    start, n = starts(rules.get("sp"), widths, [seed]), np.array(widths)
    paths = {
        update: trajectory(start.f_WS, start.kernel_WS, (eta_0 / n)[:, None], start.coupling_W[:, None], steps, update)
        for update in UPDATES
    }
    return _curves(widths, np.repeat(np.arange(steps + 1.0)[:, None], len(n), 1), paths)


def _curves(widths: Sequence[int], x_AW: Floats, found: Mapping[Update, tuple[Floats, Floats]]) -> Curves:
    n_W1 = np.array(widths)[:, None]
    lost = {update: ~(np.isfinite(f) & np.isfinite(kernel)) for update, (f, kernel) in found.items()}
    return Curves(
        tuple(widths),
        x_AW,
        {update: np.where(lost[update], np.nan, f) for update, (f, _) in found.items()},
        {update: np.where(lost[update], np.nan, kernel / n_W1) for update, (_, kernel) in found.items()},
    )

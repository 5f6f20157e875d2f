"""The two-layer linear model f = v . u on one point, x = 1 and label y = 1, under the loss (f - y)^2 / 2 (paper, C.4).

Gradient descent on (u, v) with rates lr * lr_u and lr * lr_v moves two numbers only, f and the update kernel
K = lr_u |v|^2 + lr_v |u|^2, so that with k = lr_u lr_v and chi = f - y

    f' = f (1 + k lr^2 chi^2) - lr chi K        K' = K + k lr chi (lr chi K - 4 f)

from f and K of one and the same step: (C.1), (C.2), and the like of NTP and SP, where the paper's lambda is K / n. The
base width is 1, where the factors of `rules` are C.4's: SP draws v with std n^-1/2 and has k = 1, muP n^-1 and k = 1,
NTP n^-1/2 and k = 1/n. numpy, float64.

Shapes: W widths, L learning rates, S seeds, T steps, N neurons; what broadcasts together may be given.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.parameterization.rules import Parameterization, Width

Floats = NDArray[np.float64]
Update = Literal["simultaneous", "published"]
"""published: the order of the paper's code, in which K' takes f' in the place of f. That is no gradient descent: K, a
sum of squares, may fall below zero."""

Y = 1.0


@dataclass(frozen=True)
class Scales:
    """A parameterization at one width: stds of the initial u and v, factors of their learning rates."""

    width: int
    std_u: float
    std_v: float
    lr_u: float
    lr_v: float

    @property
    def coupling(self) -> float:
        """k."""
        return self.lr_u * self.lr_v

    def weights(self, seeds: Sequence[int]) -> tuple[Floats, Floats]:
        """Initial u_SN and v_SN."""
        drawn = np.stack([np.random.default_rng((seed, self.width)).standard_normal((2, self.width)) for seed in seeds])
        return self.std_u * drawn[:, 0], self.std_v * drawn[:, 1]

    def state(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """f and K of weights (..., N)."""
        f: Floats = np.einsum("...n,...n->...", u, v)
        kernel: Floats = self.lr_u * np.einsum("...n,...n->...", v, v) + self.lr_v * np.einsum("...n,...n->...", u, u)
        return f, kernel


def scales(param: Parameterization, width: int) -> Scales:
    """Of a parameterization under SGD, u its input layer and v its readout."""
    at = Width(width, 1, 1)
    rates = [param.lr_factor(role, "sgd", at) for role in ("input", "output")]
    return Scales(width, param.init_factor("input", at), param.init_factor("output", at), *rates)


@dataclass(frozen=True)
class Starts:
    """What runs of several widths and seeds start from."""

    widths: tuple[int, ...]
    f_WS: Floats
    kernel_WS: Floats
    coupling_W: Floats


def starts(param: Parameterization, widths: Sequence[int], seeds: Sequence[int]) -> Starts:
    at = [scales(param, width) for width in widths]
    states = [one.state(*one.weights(seeds)) for one in at]
    f, kernel = (np.stack([state[i] for state in states]) for i in range(2))
    return Starts(tuple(widths), f, kernel, np.array([one.coupling for one in at]))


def step(f: Floats, kernel: Floats, lr: Any, coupling: Any, update: Update = "simultaneous") -> tuple[Floats, Floats]:
    """f and K after one update; what overflows is inf or nan."""
    with np.errstate(over="ignore", invalid="ignore"):
        push = lr * (f - Y)
        f_after = f * (1 + coupling * push**2) - push * kernel
        return f_after, kernel + coupling * push * (push * kernel - 4 * (f if update == "simultaneous" else f_after))


def trajectory(
    f: Floats, kernel: Floats, lr: Any, coupling: Any, steps: int, update: Update = "simultaneous"
) -> tuple[Floats, Floats]:
    """f and K after 0, 1, ..., `steps` updates: arrays (T, ...) of all that broadcasts together."""
    shape = np.broadcast_shapes(f.shape, kernel.shape, np.shape(lr), np.shape(coupling))
    fs, kernels = np.empty((2, steps + 1, *shape))
    fs[0], kernels[0] = f, kernel
    for t in range(steps):
        fs[t + 1], kernels[t + 1] = step(fs[t], kernels[t], lr, coupling, update)
    return fs, kernels


def after(
    f: Floats, kernel: Floats, lr: Any, coupling: Any, steps: int, update: Update = "simultaneous"
) -> tuple[Floats, Floats]:
    """f and K after `steps` updates alone."""
    for _ in range(steps):
        f, kernel = step(f, kernel, lr, coupling, update)
    return f, kernel


def descend(at: Scales, u: Floats, v: Floats, lr: Any, steps: int) -> tuple[Floats, Floats]:
    """The same by explicit gradient descent on the weights (..., N), for learning rates that broadcast with (...)."""
    states = [at.state(u, v)]
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            push = lr * (states[-1][0] - Y)
            u, v = u - (at.lr_u * push)[..., None] * v, v - (at.lr_v * push)[..., None] * u
            states.append(at.state(u, v))
    shape = np.broadcast_shapes(*(f.shape for f, _ in states))
    f, kernel = (np.stack([np.broadcast_to(state[i], shape) for state in states]) for i in range(2))
    return f, kernel


def sharpness(f: Floats, kernel: Floats, coupling: Any) -> Floats:
    """Largest eigenvalue of the loss's Hessian in the coordinates u lr_u^-1/2, v lr_v^-1/2, in which one learning rate
    serves all weights; under SP the weights themselves. At f = y it is K, which the paper calls the sharpness.

    The Hessian is g g^T + chi k^1/2 P, with P exchanging u and v: beside +-chi k^1/2 it has the two eigenvalues of the
    plane of g and P g, which sum to K and multiply to -k chi (2 f + chi).
    """
    chi = f - Y
    largest: Floats = (kernel + np.sqrt(kernel**2 + 4 * coupling * chi * (2 * f + chi))) / 2
    return largest


_GRID = 8  # learning rates per octave that are tried
_RANGE = 4  # octaves to either side of 2 / K_0, the edge of stability of a quadratic loss
_BISECTIONS = 24


def largest_stable(start: Starts, steps: int, update: Update = "simultaneous") -> Floats:
    """lr_WS: the largest learning rate below the first one that diverges, f or K not being finite within `steps`
    updates. What diverges first is found on a grid of 8 learning rates per octave around 2 / K_0, and the edge below it
    by bisection: beyond the edge stable islands may follow. nan: it does not lie on the grid.
    """
    f, kernel, coupling = start.f_WS, start.kernel_WS, start.coupling_W[:, None]

    def stable(lr: Floats) -> NDArray[np.bool_]:
        ends = after(f, kernel, lr, coupling, steps, update)
        return np.isfinite(ends[0]) & np.isfinite(ends[1])

    octaves_L = np.arange(-_RANGE, _RANGE + 1 / _GRID, 1 / _GRID)
    bad_LWS = ~stable(2 ** octaves_L[:, None, None] * 2 / kernel)
    first = bad_LWS.argmax(0)
    seen = bad_LWS.any(0) & (first > 0)
    high = octaves_L[first]
    low = high - 1 / _GRID
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fine = stable(2**middle * 2 / kernel)
        low, high = np.where(fine, middle, low), np.where(fine, high, middle)
    return np.where(seen, 2**low * 2 / kernel, np.nan)
